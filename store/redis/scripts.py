"""The Lua scripts of the store: each runs whole or not at all, on keys of one slot.

Every one may run twice with the same arguments and have the effect of once. They begin by comparing what the
caller saw with what is there, and write nothing unless it is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from typing import Final


@dataclass(frozen=True)
class Script:
    """A script's text, and the name under which a server that has seen it keeps it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        # The name is the protocol's, no security: the server compares texts by it.
        object.__setattr__(self, "sha", sha1(self.text.encode(), usedforsecurity=False).hexdigest())


# KEYS: head, meta. ARGV: rollout ('' for none). What the rules of a commit are held against.
STORED: Final = Script("""
local head = redis.call('HMGET', KEYS[1], 'nonce', 'generation', 'newest', 'newest_version', 'newest_ended')
return {head[1], head[2], head[3], head[4], head[5], redis.call('HGET', KEYS[2], ARGV[1])}
""")

# KEYS: head, meta, records, order, audit, decisions, evidence, versions, changes.
# ARGV: seen nonce, nonce, token, channel, rollout ('' for none), version, ended, record, generation
# (0: no route), route, decision's number (0: none), decision, seconds that evidence outlives its rollout,
# audit entries. Answers DONE, CHANGED (somebody else wrote) or FENCED (somebody else leads).
COMMIT: Final = Script("""
local head = redis.call('HMGET', KEYS[1], 'nonce', 'fence')
local nonce, fence, token = head[1] or '', tonumber(head[2] or '0'), tonumber(ARGV[3])
if nonce == ARGV[2] then return 'DONE' end
if nonce ~= ARGV[1] then return 'CHANGED' end
if token < fence then return 'FENCED' end
local time = redis.call('TIME')
local stamp = time[1] .. string.rep('0', 6 - #time[2]) .. time[2]
redis.call('HSET', KEYS[1], 'nonce', ARGV[2], 'fence', ARGV[3])
local rollout = ARGV[5]
if rollout ~= '' then
  local known = redis.call('HGET', KEYS[2], rollout)
  if known then stamp = string.match(known, '%S+$') else redis.call('RPUSH', KEYS[4], rollout) end
  redis.call('HSET', KEYS[3], rollout, ARGV[8])
  redis.call('HSET', KEYS[2], rollout, ARGV[6] .. ' ' .. ARGV[7] .. ' ' .. stamp)
  redis.call('HSET', KEYS[1], 'newest', rollout, 'newest_version', ARGV[6], 'newest_ended', ARGV[7])
  for key = 7, 9 do
    if ARGV[7] == '1' then redis.call('EXPIRE', KEYS[key], ARGV[13]) else redis.call('PERSIST', KEYS[key]) end
  end
end
if ARGV[11] ~= '0' then redis.call('HSET', KEYS[6], ARGV[11], ARGV[12]) end
local now = time[1] .. string.rep('0', 6 - #time[2]) .. time[2]
for entry = 14, #ARGV do redis.call('RPUSH', KEYS[5], now .. ' ' .. ARGV[entry]) end
if ARGV[9] ~= '0' then
  redis.call('HSET', KEYS[1], 'generation', ARGV[9], 'route', ARGV[10], 'tag', ARGV[2])
  redis.call('HINCRBY', KEYS[1], 'changes', 1)
  redis.call('PUBLISH', ARGV[4], '')
end
return 'DONE'
""")

# KEYS: identity, services, owners, leader. ARGV: identity, token, service, rollout ('' for none).
# Makes a service known, and a rollout's name its own. Answers whose the rollout is, REPLACED or FENCED.
REGISTER: Final = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'REPLACED'} end
if tonumber(ARGV[2]) < tonumber(redis.call('HGET', KEYS[4], 'token') or '0') then return {'FENCED'} end
redis.call('SADD', KEYS[2], ARGV[3])
if ARGV[4] == '' then return {'DONE', ARGV[3]} end
redis.call('HSETNX', KEYS[3], ARGV[4], ARGV[3])
return {'DONE', redis.call('HGET', KEYS[3], ARGV[4])}
""")

# KEYS: head. ARGV: epoch seconds. A lease is renewed where there is a route.
RENEW: Final = Script("""
if redis.call('HEXISTS', KEYS[1], 'route') == 1 then redis.call('HSET', KEYS[1], 'lease', ARGV[1]) end
""")

# KEYS: identity, leader, controllers. ARGV: identity, who, milliseconds of the lead, of silence after which a
# controller is forgotten, and between two notes of one that goes on as before. Answers token and who leads
# until it runs out.
CLAIM: Final = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {'REPLACED'} end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leader = redis.call('HMGET', KEYS[2], 'holder', 'token', 'until')
local holder, token, role = leader[1] or '', tonumber(leader[2] or '0'), 'leads'
if holder ~= ARGV[2] then
  if holder ~= '' and tonumber(leader[3]) > now then
    role = 'stands'
  else
    holder, token = ARGV[2], token + 1
  end
end
if role == 'leads' then
  redis.call('HSET', KEYS[2], 'holder', holder, 'token', token, 'until', string.format('%d', now + ARGV[3]))
end
local before, since, heard = string.match(redis.call('HGET', KEYS[3], ARGV[2]) or '', '^(%a+) (%d+) (%d+)$')
if before ~= role then since = string.format('%d', now) end
if before ~= role or now - heard >= tonumber(ARGV[5]) then
  redis.call('HSET', KEYS[3], ARGV[2], role .. ' ' .. since .. string.format(' %d', now))
  local all = redis.call('HGETALL', KEYS[3])
  for i = 1, #all, 2 do
    if now - (string.match(all[i + 1], '%d+$') or 0) > tonumber(ARGV[4]) then
      redis.call('HDEL', KEYS[3], all[i])
    end
  end
end
return {role == 'leads' and 'MINE' or 'HELD', token, holder}
""")

# KEYS: leader, controllers. ARGV: who. Its token stays, so the next one's is higher.
RESIGN: Final = Script("""
redis.call('HDEL', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then
  local time = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'holder', '', 'until', time[1] .. string.sub('00000' .. time[2], -6, -4))
end
""")

# KEYS: leader, controllers. Answers the server's clock in milliseconds, holder and end of the lead, and all
# controllers with what is noted of them.
LEADERSHIP: Final = Script("""
local time = redis.call('TIME')
local leader = redis.call('HMGET', KEYS[1], 'holder', 'until')
local now = time[1] .. string.sub('00000' .. time[2], -6, -4)
return {now, leader[1] or '', leader[2] or '', redis.call('HGETALL', KEYS[2])}
""")

# KEYS: head. ARGV: token. Nothing with a lower one is committed from here on.
RAISE: Final = Script("""
if tonumber(redis.call('HGET', KEYS[1], 'fence') or '0') < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'fence', ARGV[1])
end
""")

# KEYS: evidence, versions, changes, meta. ARGV: "epoch|source", body, rollout, how the mark of what is closed
# begins, seconds that evidence outlives its rollout, a new version. A source whose last total has been added
# to `closed` is never added again. Answers DONE, or CLOSED with the mark.
PUBLISH: Final = Script("""
if redis.call('HSTRLEN', KEYS[1], ARGV[1]) < 64 then
  local there = redis.call('HGET', KEYS[1], ARGV[1])
  if there and string.sub(there, 1, #ARGV[4]) == ARGV[4] then return {'CLOSED', there} end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[6])
redis.call('HDEL', KEYS[3], ARGV[1])
local meta = redis.call('HGET', KEYS[4], ARGV[3])
if not meta or string.match(meta, '^%d+ 1') then
  for key = 1, 2 do redis.call('EXPIRE', KEYS[key], ARGV[5]) end
end
return {'DONE'}
""")

# KEYS: evidence, versions, changes, meta. ARGV: "epoch|source", changes, rollout, version of the body that
# they are of, seconds that evidence outlives its rollout, a new version. Answers DONE, or BASE where another
# body lies there now, or none: then nothing is written.
CHANGE: Final = Script("""
local there = redis.call('HGET', KEYS[2], ARGV[1]) or ''
if string.match(there, '^%x*') ~= ARGV[4] then return 'BASE' end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4] .. '+' .. ARGV[6])
local meta = redis.call('HGET', KEYS[4], ARGV[3])
if not meta or string.match(meta, '^%d+ 1') then
  for key = 1, 3 do redis.call('EXPIRE', KEYS[key], ARGV[5]) end
end
return 'DONE'
""")

# KEYS: evidence, versions, changes. ARGV: pairs of "epoch|source" and the version that the caller has. A
# version is the body's, with '+' and the changes' where there are any. Answers quadruples of each one's name,
# version, body and changes: the body where the caller's is another, the changes where there are any and the
# version is another, else nil.
EVIDENCE: Final = Script("""
local have, found = {}, {}
for i = 1, #ARGV, 2 do have[ARGV[i]] = ARGV[i + 1] end
local versions = redis.call('HGETALL', KEYS[2])
for i = 1, #versions, 2 do
  local name, version = versions[i], versions[i + 1]
  local known, body, changes = have[name] or '', false, false
  if known ~= version then
    local base = string.match(version, '^%x*')
    if string.match(known, '^%x*') ~= base then body = redis.call('HGET', KEYS[1], name) or '' end
    if base ~= version then changes = redis.call('HGET', KEYS[3], name) or '' end
  end
  local at = #found
  found[at + 1], found[at + 2], found[at + 3], found[at + 4] = name, version, body, changes
end
return found
""")

# KEYS: evidence, versions, changes. ARGV: "epoch|closed", its version ('' where there is none), the new
# total, a new version, then triples of the sources added to it, the versions that were added, and the marks
# that stay in their places. Answers DONE or CHANGED.
CLOSE: Final = Script("""
if (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[2] then return 'CHANGED' end
for i = 5, #ARGV, 3 do
  if redis.call('HGET', KEYS[2], ARGV[i]) ~= ARGV[i + 1] then return 'CHANGED' end
end
for i = 5, #ARGV, 3 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[4])
  redis.call('HDEL', KEYS[3], ARGV[i])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
return 'DONE'
""")

# KEYS: a hash. ARGV: field, value. Answers whether the field had that value, and removes it then.
FORGET: Final = Script("""
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
""")
