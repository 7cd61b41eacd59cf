"""The Lua scripts of predictions and labels. All keys of one service, so of one slot.

pred      hash: request -> list of {rollout, kind, due, folded, at, until, body}, packed
          (due: 1 there is something to fold, 0 there is not, -1 expired: only its key is left)
kept      sorted set: "request kind rollout" -> until, of those that are not expired;  gone: of those that are
due:…     sorted set per rollout: "request kind" -> at, of what is to be folded
labels    hash: request -> label;  labels_until: sorted set: request -> until
folds     hash: rollout -> number of folds;  totals: hash: name -> count
Requests are 16 bytes, a kind is one digit. Keys `due:…` are made from their beginning, which has the slot.
"""

from __future__ import annotations

from typing import Final

from .scripts import Script

_SHARED: Final = """
local function entries(key, request)
  local packed = redis.call('HGET', key, request)
  return packed and cmsgpack.unpack(packed) or {}
end
local function keep(key, request, found)
  if #found == 0 then redis.call('HDEL', key, request)
  else redis.call('HSET', key, request, cmsgpack.pack(found)) end
end
"""

# KEYS: pred, kept, totals, beginning of due. ARGV: most, most bytes, rollout, then request, kind, at, until,
# body of each. Answers how many are new, and how many found no room.
PREDICTIONS: Final = Script(
    _SHARED
    + """
local room = math.max(0, tonumber(ARGV[1]) - tonumber(redis.call('HGET', KEYS[3], 'stored') or '0'))
local left = tonumber(ARGV[2]) - tonumber(redis.call('HGET', KEYS[3], 'bytes') or '0')
local rollout, new, dropped, bytes = ARGV[3], 0, 0, 0
for i = 4, #ARGV, 5 do
  left = left - #ARGV[i + 4]
  if (i - 4) / 5 >= room or left < 0 then dropped, left = dropped + 1, -1
  else
    local request, kind = ARGV[i], ARGV[i + 1]
    local found, known = entries(KEYS[1], request), false
    for _, one in ipairs(found) do known = known or (one[1] == rollout and one[2] == kind) end
    if not known then
      found[#found + 1] = {rollout, kind, 1, 0, ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]}
      keep(KEYS[1], request, found)
      redis.call('ZADD', KEYS[2], ARGV[i + 3], request .. kind .. rollout)
      redis.call('ZADD', KEYS[4] .. rollout, ARGV[i + 2], request .. kind)
      new, bytes = new + 1, bytes + #ARGV[i + 4]
    end
  end
end
redis.call('HINCRBY', KEYS[3], 'stored', new)
redis.call('HINCRBY', KEYS[3], 'bytes', bytes)
redis.call('HINCRBY', KEYS[3], 'predictions', new)
redis.call('HINCRBY', KEYS[3], 'dropped', dropped)
return {new, dropped}
"""
)

# KEYS: pred, labels. ARGV: requests. Answers for each: how many predictions, how many not expired, the label.
KNOWN: Final = Script(
    _SHARED
    + """
local answer = {}
for _, request in ipairs(ARGV) do
  local found, kept = entries(KEYS[1], request), 0
  for _, one in ipairs(found) do if one[3] >= 0 then kept = kept + 1 end end
  answer[#answer + 1] = #found
  answer[#answer + 1] = kept
  answer[#answer + 1] = redis.call('HGET', KEYS[2], request) or ''
end
return answer
"""
)

# KEYS: pred, labels, labels_until, totals, beginning of due. ARGV: until, then request, label that the caller
# saw ('' for none), label of each. Answers those whose label is another one by now, which are left alone.
LABELS_IN: Final = Script(
    _SHARED
    + """
local changed = {}
for i = 2, #ARGV, 3 do
  local request, seen = ARGV[i], ARGV[i + 1]
  if (redis.call('HGET', KEYS[2], request) or '') ~= seen then changed[#changed + 1] = request
  else
    redis.call('HSET', KEYS[2], request, ARGV[i + 2])
    if seen == '' then
      redis.call('ZADD', KEYS[3], ARGV[1], request)
      redis.call('HINCRBY', KEYS[4], 'labels', 1)
    end
    local found, touched = entries(KEYS[1], request), false
    for _, one in ipairs(found) do
      if one[3] == 0 then
        one[3], touched = 1, true
        redis.call('ZADD', KEYS[5] .. one[1], one[5], request .. one[2])
      end
    end
    if touched then keep(KEYS[1], request, found) end
  end
end
return changed
"""
)

# KEYS: pred, labels, folds, due of the rollout. ARGV: rollout, before, limit. Answers the number of folds,
# then body, folded, label ('' for none) of each, oldest first.
DUE: Final = Script(
    _SHARED
    + """
local answer = {tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or '0')}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])) do
  local request, kind = string.sub(member, 1, 16), string.sub(member, 17)
  for _, one in ipairs(entries(KEYS[1], request)) do
    if one[1] == ARGV[1] and one[2] == kind then
      answer[#answer + 1] = one[7]
      answer[#answer + 1] = one[4]
      answer[#answer + 1] = redis.call('HGET', KEYS[2], request) or ''
    end
  end
end
return answer
"""
)

# KEYS: pred, labels, folds, evidence, versions, beginning of due. ARGV: rollout, number, how many sums,
# their version, then "epoch|source" and body of each, then request, kind, folded, label that is in the sums
# ('' for none) of each row. Answers the number that is there instead, or -1 when it is done.
FOLD: Final = Script(
    _SHARED
    + """
local rollout, number = ARGV[1], tonumber(redis.call('HGET', KEYS[3], ARGV[1]) or '0')
if number ~= tonumber(ARGV[2]) then return number end
redis.call('HSET', KEYS[3], rollout, number + 1)
local rows = 5 + 2 * tonumber(ARGV[3])
for i = 5, rows - 1, 2 do
  redis.call('HSET', KEYS[4], ARGV[i], ARGV[i + 1])
  redis.call('HSET', KEYS[5], ARGV[i], ARGV[4])
end
for i = rows, #ARGV, 4 do
  local request, kind = ARGV[i], ARGV[i + 1]
  local found = entries(KEYS[1], request)
  -- A label that came between reading and here is not in these sums: it stays to be folded.
  local came = (redis.call('HGET', KEYS[2], request) or '') ~= ARGV[i + 3]
  for _, one in ipairs(found) do
    if one[1] == rollout and one[2] == kind and one[3] == 1 then
      one[3], one[4] = 0, tonumber(ARGV[i + 2])
      redis.call('ZREM', KEYS[6] .. rollout, request .. kind)
    end
    if came and one[3] == 0 then
      one[3] = 1
      redis.call('ZADD', KEYS[6] .. one[1], one[5], request .. one[2])
    end
  end
  keep(KEYS[1], request, found)
end
return -1
"""
)

# KEYS: pred, kept, gone, labels, labels_until, totals, beginning of due. ARGV: now, oldest tombstone, limit.
# Answers how many were forgotten.
EXPIRE: Final = Script(
    _SHARED
    + """
local function old(key, before)
  return redis.call('ZRANGEBYSCORE', key, '-inf', '(' .. before, 'LIMIT', 0, ARGV[3])
end
local function each(member)
  return string.sub(member, 1, 16), string.sub(member, 17, 17), string.sub(member, 18)
end
local forgotten, bytes = old(KEYS[2], ARGV[1]), 0
for _, member in ipairs(forgotten) do
  local request, kind, rollout = each(member)
  local found, before = entries(KEYS[1], request), redis.call('ZSCORE', KEYS[2], member)
  for _, one in ipairs(found) do
    if one[1] == rollout and one[2] == kind then bytes, one[3], one[7] = bytes + #one[7], -1, '' end
  end
  keep(KEYS[1], request, found)
  redis.call('ZREM', KEYS[7] .. rollout, request .. kind)
  redis.call('ZREM', KEYS[2], member)
  redis.call('ZADD', KEYS[3], before, member)
end
local buried = old(KEYS[3], ARGV[2])
for _, member in ipairs(buried) do
  local request, kind, rollout = each(member)
  local left = {}
  for _, one in ipairs(entries(KEYS[1], request)) do
    if not (one[1] == rollout and one[2] == kind) then left[#left + 1] = one end
  end
  keep(KEYS[1], request, left)
  redis.call('ZREM', KEYS[3], member)
end
local labels = old(KEYS[5], ARGV[1])
for _, request in ipairs(labels) do
  redis.call('HDEL', KEYS[4], request)
  redis.call('ZREM', KEYS[5], request)
end
redis.call('HINCRBY', KEYS[6], 'stored', 0 - #buried)
redis.call('HINCRBY', KEYS[6], 'bytes', 0 - bytes)
redis.call('HINCRBY', KEYS[6], 'labels', 0 - #labels)
return #forgotten + #buried + #labels
"""
)
