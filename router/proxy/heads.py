"""Request and response heads: strict parsing, and the fields that may travel on.

One regular expression decides whether a head is well formed (RFC 9112 §2-5): CRLF only, token names
followed at once by a colon, no obs-fold, no control characters. It also finds where the body begins,
which llhttp's Python binding cannot tell, so Content-Length bodies pass as raw bytes. Names are classified
by a dictionary that learns spellings, so a head whose fields all may pass is forwarded as one slice.
"""

from __future__ import annotations

import re
from typing import Final

MAX_HEAD: Final = 32 * 1024  # bytes of a whole head; nginx's default is the same (4 buffers of 8 KiB)
MAX_FIELDS: Final = 128
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

# What a field means to a proxy. 0 passes untouched.
CONNECTION, HOP, UPGRADE, OURS, HOST, LENGTH, CODING, EXPECT, REQUEST_ID, ENCODING = range(1, 11)
_LAST_DROPPED: Final = OURS  # kinds up to here never travel on
FIRST_UNIT: Final = 100  # kinds from here on are the table's unit headers

_PLAIN: Final = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"proxy-connection": HOP,
    b"keep-alive": HOP,
    b"te": HOP,
    b"expect": EXPECT,
    b"upgrade": UPGRADE,
    b"http2-settings": HOP,
    b"x-request-id": REQUEST_ID,
    b"content-encoding": ENCODING,
}
_NEVER_NAMED: Final = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"content-encoding", b"expect", b"trailer")
)
_USUAL: Final = frozenset((b"keep-alive", b"Keep-Alive"))
_LEARNED: Final = 4096  # spellings kept; more are classified each time
_LEARNABLE: Final = 64  # bytes of a spelling worth keeping: strangers choose them, up to the size of a head

_FIELDS = rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+)\r\n"
_REQUEST = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]++ [\x21-\x7e]++) HTTP/1\.([01])\r\n" + _FIELDS,
)
_RESPONSE = re.compile(rb"HTTP/1\.([01]) (([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n)" + _FIELDS)
# Only once it is certain: a head may be cut anywhere, also within its version.
_OTHER_VERSION = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [\x21-\x7e]+ HTTP/(?:[02-9]|1[^.\r]|1\.[^01\r])")
_NEVER_VALID = re.compile(rb"(?<!\r)\n|\r[^\n]|\0")
_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_LONGEST_LENGTH: Final = 15  # digits: a petabyte


class Malformed(Exception):
    """A message that must not travel on. `status`: what a client gets for such a request."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        super().__init__(reason)


class Names(dict[bytes, int]):
    """Field name as spelled on the wire -> kind. `units`: lower-case unit headers, kinds FIRST_UNIT + i."""

    def __init__(self, units: tuple[bytes, ...] = ()) -> None:
        super().__init__()
        self.units = units

    def __missing__(self, name: bytes) -> int:
        lower = name.lower()
        kind = _PLAIN.get(lower, 0)
        if not kind:
            if lower.startswith(b"x-accede-"):
                kind = OURS
            elif lower in self.units:
                kind = FIRST_UNIT + self.units.index(lower)
        if len(self) < _LEARNED and len(name) <= _LEARNABLE:
            self[name] = kind
        return kind


class RequestHead:
    """A well-formed request head.

    `fields`: what is forwarded, each line with its CRLF. `length`: body bytes or CHUNKED.
    `request_id`: the client's, None if there was none worth keeping. `unit`: by kind.
    """

    __slots__ = (
        "encoding", "end", "expect", "fields", "host", "keep_alive", "length", "line", "minor", "request_id",
        "seen",
    )  # fmt: skip

    line: bytes
    minor: bool
    fields: bytes
    end: int
    host: bytes
    length: int
    keep_alive: bool
    expect: bool
    request_id: bytes | None
    encoding: bytes
    seen: dict[int, bytes]


class ResponseHead:
    """A well-formed response head. `line`: status, reason and CRLF. `length`: bytes, CHUNKED, UNTIL_CLOSE."""

    __slots__ = ("encoding", "end", "fields", "keep_alive", "length", "line", "status")

    line: bytes
    status: int
    fields: bytes
    end: int
    length: int
    keep_alive: bool
    encoding: bytes


def incomplete(data: bytes) -> None:
    """Look at a head that has not ended yet. Raises Malformed once it can no longer become a valid one."""
    if len(data) > MAX_HEAD:
        raise Malformed(431, f"the request head is longer than {MAX_HEAD} bytes")
    if _NEVER_VALID.search(data):
        raise Malformed(400, "the request head has a bare CR, LF or NUL")


def parse_request(data: bytes, names: Names) -> RequestHead | None:
    """The head at the start of `data`; None while it is incomplete. Raises Malformed."""
    found = _REQUEST.match(data, 0, MAX_HEAD)
    if found is None:
        _explain(data)
        return None
    head = RequestHead()
    head.end = found.end()
    head.line, minor, fields = found.groups()
    head.minor = minor == b"1"
    lines = fields.split(b"\r\n")
    seen: dict[int, bytes] = {}
    drop = _sort(lines, names, seen)
    head.seen = seen
    if HOST not in seen and head.minor:
        raise Malformed(400, "the request has no Host")
    head.host = seen.get(HOST, b"")
    head.length = _request_length(seen, head)
    head.keep_alive = head.minor
    if CONNECTION in seen:
        head.keep_alive = _connection(seen[CONNECTION], lines, drop, keep_alive=head.minor)
    if UPGRADE in seen and b"websocket" in seen[UPGRADE].lower():
        raise Malformed(501, "upgrading a connection is not supported")
    head.expect = EXPECT in seen and _expects(seen, drop, lines, minor=head.minor)
    head.request_id = seen.get(REQUEST_ID)
    if head.request_id is not None and not _SANE_ID.fullmatch(head.request_id):
        head.request_id = None
        drop.extend(line for line in lines if names[line.partition(b":")[0]] == REQUEST_ID)
    head.encoding = seen.get(ENCODING, b"")
    head.fields = _without(lines, drop) if drop else fields
    return head


def parse_response(data: bytes, names: Names, *, bodyless: bool) -> ResponseHead | None:
    """The head at the start of `data`; None: incomplete. `bodyless`: it answers HEAD. Raises Malformed."""
    found = _RESPONSE.match(data, 0, MAX_HEAD)
    if found is None:
        if len(data) > MAX_HEAD or b"\r\n\r\n" in data or _NEVER_VALID.search(data):
            raise Malformed(502, "the upstream's response head is malformed or too long")
        return None
    head = ResponseHead()
    head.end = found.end()
    minor, head.line, status, fields = found.groups()
    head.status = int(status)
    lines = fields.split(b"\r\n")
    seen: dict[int, bytes] = {}
    drop = _sort(lines, names, seen)
    head.keep_alive = minor == b"1"
    if CONNECTION in seen:
        head.keep_alive = _connection(seen[CONNECTION], lines, drop, keep_alive=head.keep_alive)
    if REQUEST_ID in seen:
        drop.extend(line for line in lines if names[line.partition(b":")[0]] == REQUEST_ID)
    head.encoding = seen.get(ENCODING, b"")
    if LENGTH in seen and CODING in seen:
        raise Malformed(502, "the upstream sent both content-length and transfer-encoding")
    if bodyless or head.status in {204, 304} or head.status < 200:  # noqa: PLR2004 - RFC 9110 §6.4.1
        head.length = 0
        if head.status < 200 or head.status == 204:  # noqa: PLR2004 - they have none: RFC 9110 §8.6, 9112 §6.1
            drop.extend(line for line in lines if names[line.partition(b":")[0]] in {LENGTH, CODING})
    elif CODING in seen:
        if seen[CODING].lower() != b"chunked" or minor == b"0":
            raise Malformed(502, "the upstream sent a transfer-encoding other than chunked")
        head.length = CHUNKED
        drop.extend(line for line in lines if names[line.partition(b":")[0]] == CODING)
    elif LENGTH in seen:
        head.length = _length(seen[LENGTH], 502)
    else:
        head.length = UNTIL_CLOSE
        head.keep_alive = False
    head.fields = _without(lines, drop) if drop else fields
    return head


def _sort(lines: list[bytes], names: Names, seen: dict[int, bytes]) -> list[bytes]:
    """Collect the fields that mean something to us in `seen`; the result are the lines to drop."""
    drop: list[bytes] = []
    if len(lines) > MAX_FIELDS:
        raise Malformed(431, f"the head has more than {MAX_FIELDS} fields")
    for line in lines:
        name, _, value = line.partition(b":")
        kind = names[name]
        if not kind:
            continue
        value = value.strip(b" \t")
        if kind in seen:
            value = _repeated(kind, seen[kind], value)
        seen[kind] = value
        if kind <= _LAST_DROPPED:
            drop.append(line)
    return drop


def _repeated(kind: int, first: bytes, value: bytes) -> bytes:
    if kind in {HOST, LENGTH, CODING}:
        raise Malformed(400, "Host, Content-Length and Transfer-Encoding may stand only once")
    if kind == REQUEST_ID:
        return b""  # two ids: neither is worth keeping
    if kind >= FIRST_UNIT:
        return first
    return first + b"," + value


def _length(value: bytes, status: int) -> int:
    if not value.isdigit() or len(value) > _LONGEST_LENGTH:
        raise Malformed(status, "Content-Length is not a plain number")
    return int(value)


def _request_length(seen: dict[int, bytes], head: RequestHead) -> int:
    if CODING in seen:
        if LENGTH in seen:
            raise Malformed(400, "the request has both Content-Length and Transfer-Encoding")
        if seen[CODING].lower() != b"chunked" or not head.minor:
            raise Malformed(501 if head.minor else 400, "the only transfer coding understood is chunked")
        return CHUNKED
    return _length(seen[LENGTH], 400) if LENGTH in seen else 0


def _expects(seen: dict[int, bytes], drop: list[bytes], lines: list[bytes], *, minor: bool) -> bool:
    if seen[EXPECT].lower() != b"100-continue":
        raise Malformed(417, "the only expectation understood is 100-continue")
    if not minor:  # RFC 9110 §10.1.1: ignored from an HTTP/1.0 client
        drop.extend(line for line in lines if line[:7].lower() == b"expect:")
    return minor


def _connection(value: bytes, lines: list[bytes], drop: list[bytes], *, keep_alive: bool) -> bool:
    """Obey a Connection field: drop what it names. Returns whether the connection stays."""
    if value in _USUAL:
        return True
    tokens = {token.strip(b" \t").lower() for token in value.split(b",")}
    named = tokens - {b"close", b"keep-alive", b"upgrade", b""}
    if named & _NEVER_NAMED:
        raise Malformed(400, "Connection names a field that is not hop-by-hop")
    if named:
        drop.extend(line for line in lines if line.partition(b":")[0].lower() in named)
    return b"close" not in tokens and (keep_alive or b"keep-alive" in tokens)


def _without(lines: list[bytes], drop: list[bytes]) -> bytes:
    return b"\r\n".join([line for line in lines if line not in drop])


def _explain(data: bytes) -> None:
    """Why no request head matches `data`: not yet (returns), or never (raises Malformed)."""
    if _OTHER_VERSION.match(data):
        raise Malformed(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    incomplete(data)
    if b"\r\n\r\n" in data:
        raise Malformed(400, "the request head is malformed")
