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
_MAX_LINES: Final = MAX_FIELDS + 1  # split at CRLF, the last one is empty
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2

# What a field means to a proxy. 0 passes untouched.
CONNECTION, HOP, UPGRADE, OURS, TIMEOUT, HOST, LENGTH, CODING, EXPECT, REQUEST_ID, ENCODING = range(1, 12)
JSON_BYTES: Final = 12  # bytes of JSON before binary tensors
_LAST_DROPPED: Final = TIMEOUT  # kinds up to here never travel on
FIRST_UNIT: Final = 100  # kinds from here on are the table's unit headers
COOKIE: Final = 98  # only where a service finds its units there
CHOICE, TOKEN = -2, -1  # x-accede-arm and x-accede-token of a request: dropped like everything of ours

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
    b"x-envoy-upstream-rq-timeout-ms": TIMEOUT,
    b"inference-header-content-length": JSON_BYTES,
}
_CHOOSING: Final = {b"x-accede-arm": CHOICE, b"x-accede-token": TOKEN}
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
_PROTOCOLS = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++(?:/[!#$%&'*+\-.^_`|~0-9A-Za-z]++)?")
_NO_TUNNEL: Final = frozenset((b"h2c", b"h2", b"http", b"tls"))  # they change how we would have to speak
_SWITCHING: Final = 101
_SAYS_UPGRADE: Final = frozenset((_SWITCHING, 426))  # answers whose Upgrade field is for the client


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
            dashed = lower.replace(b"_", b"-")
            if dashed.startswith(b"x-accede-"):
                kind = _CHOOSING.get(lower, OURS)
            elif dashed != lower and dashed in _PLAIN:
                kind = HOP  # a server that names fields as CGI does would take it for the real one
            elif lower in self.units:
                kind = COOKIE if lower == b"cookie" else FIRST_UNIT + self.units.index(lower)
        if len(self) < _LEARNED and len(name) <= _LEARNABLE:
            self[name] = kind
        return kind


class RequestHead:
    """A well-formed request head.

    `fields`: what is forwarded, each line with its CRLF. `length`: body bytes or CHUNKED.
    `request_id`: the client's, None if there was none worth keeping. `unit`: by kind. `upgrade`: the
    protocols (lower case, comma between) a request without a body asks to switch to, b"" for any other.
    """

    __slots__ = (
        "encoding", "end", "expect", "fields", "host", "keep_alive", "length", "line", "minor", "request_id",
        "seen", "upgrade",
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
    upgrade: bytes


class ResponseHead:
    """A well-formed response head. `line`: status, reason and CRLF. `length`: bytes, CHUNKED, UNTIL_CLOSE.

    `upgrade`: of a 101 alone, the protocol it names (lower case). `seen`: values by kind. `minor`: of the
    upstream's HTTP/1 version.
    """

    __slots__ = (
        "encoding", "end", "fields", "keep_alive", "length", "line", "minor", "seen", "status", "upgrade",
    )  # fmt: skip

    line: bytes
    status: int
    fields: bytes
    end: int
    length: int
    keep_alive: bool
    encoding: bytes
    upgrade: bytes
    minor: bool
    seen: dict[int, bytes]


def incomplete(data: bytes, known: int = 0) -> None:
    """Look at a head that has not ended yet. Raises Malformed once it can no longer become a valid one.

    `known`: bytes in front that were looked at before, so that a head in many pieces costs one look.
    """
    if len(data) > MAX_HEAD:
        if b"\r\n" not in data:
            raise Malformed(414, f"the request target is longer than {MAX_HEAD} bytes")
        raise Malformed(431, f"the request head is longer than {MAX_HEAD} bytes")
    if _NEVER_VALID.search(data, max(0, known - 1)):
        raise Malformed(400, "the request head has a bare CR, LF or NUL")


def grown(data: bytes, known: int) -> bool:
    """Whether a head whose first `known` bytes were incomplete may have ended by now. Raises Malformed."""
    if data.find(b"\r\n\r\n", max(0, known - 3)) >= 0:
        return True
    incomplete(data, known)
    return False


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
    odd = head.length == CHUNKED and not any(
        line[17:] == b": chunked" and names[line[:17]] == CODING for line in lines
    )
    if odd:  # blanks and large letters mean the same by the RFC, but not to every server
        drop.extend(line for line in lines if names[line.partition(b":")[0]] == CODING)
    head.keep_alive = head.minor
    if CONNECTION in seen:
        head.keep_alive = _connection(seen[CONNECTION], lines, drop, keep_alive=head.minor)
    head.upgrade = _upgrade(seen, head) if UPGRADE in seen else b""
    head.expect = EXPECT in seen and _expects(seen, drop, lines, minor=head.minor)
    head.request_id = seen.get(REQUEST_ID)
    if head.request_id is not None and not _SANE_ID.fullmatch(head.request_id):
        head.request_id = None
        drop.extend(line for line in lines if names[line.partition(b":")[0]] == REQUEST_ID)
    head.encoding = seen.get(ENCODING, b"")
    head.fields = _without(lines, drop) if drop else fields
    if odd:
        head.fields += b"transfer-encoding: chunked\r\n"
    if HOST not in seen:  # HTTP/1.0 may leave it out; what goes on is HTTP/1.1 (RFC 9112 §3.2)
        head.fields += b"host: \r\n"
    if head.upgrade:
        head.fields += b"connection: Upgrade\r\nupgrade: " + head.upgrade + b"\r\n"
    return head


def parse_response(data: bytes, names: Names, *, bodyless: bool) -> ResponseHead | None:  # noqa: C901, PLR0912
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
    head.seen = seen
    drop = _sort(lines, names, seen)
    head.minor = head.keep_alive = minor == b"1"
    if CONNECTION in seen:
        head.keep_alive = _connection(seen[CONNECTION], lines, drop, keep_alive=head.keep_alive)
    if REQUEST_ID in seen:
        drop.extend(line for line in lines if names[line.partition(b":")[0]] == REQUEST_ID)
    head.encoding = seen.get(ENCODING, b"")
    if LENGTH in seen and CODING in seen:
        raise Malformed(502, "the upstream sent both content-length and transfer-encoding")
    if bodyless or head.status in {204, 304} or head.status < 200:  # noqa: PLR2004 - RFC 9110 §6.4.1
        head.length = 0
        if CODING in seen or seen.get(LENGTH, b"0") != b"0":
            head.keep_alive = False  # some servers send the body they announced: not before the next answer
        if LENGTH in seen:
            _length(seen[LENGTH], 502)
        if CODING in seen:
            drop.extend(line for line in lines if names[line.partition(b":")[0]] == CODING)
        if head.status < 200 or head.status == 204:  # noqa: PLR2004 - they have none: RFC 9110 §8.6, 9112 §6.1
            drop.extend(line for line in lines if names[line.partition(b":")[0]] == LENGTH)
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
    if head.status in _SAYS_UPGRADE:
        _says_upgrade(head, seen)
    return head


def _sort(lines: list[bytes], names: Names, seen: dict[int, bytes]) -> list[bytes]:
    """Collect the fields that mean something to us in `seen`; the result are the lines to drop."""
    drop: list[bytes] = []
    if len(lines) > _MAX_LINES:
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
    if kind == COOKIE:
        return first + b"; " + value
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
    if LENGTH not in seen:
        return 0
    if seen[LENGTH][:1] == b"0" and seen[LENGTH] != b"0":
        raise Malformed(400, "Content-Length begins with a zero, which some servers read as octal")
    return _length(seen[LENGTH], 400)


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
    tokens = _tokens(value)
    named = tokens - {b"close", b"keep-alive", b"upgrade", b""}
    if named & _NEVER_NAMED:
        raise Malformed(400, "Connection names a field that is not hop-by-hop")
    if named:
        drop.extend(line for line in lines if line.partition(b":")[0].lower() in named)
    return b"close" not in tokens and (keep_alive or b"keep-alive" in tokens)


def _upgrade(seen: dict[int, bytes], head: RequestHead) -> bytes:
    """The protocols to ask the upstream for (RFC 9110 §7.8).

    A server may ignore Upgrade, and that is what happens where it is no hop-by-hop field (not named by
    Connection), from HTTP/1.0, with a body, and for other versions of HTTP and TLS: those would carry
    requests that nobody here sees (h2c smuggling).
    """
    if not head.minor or head.length or b"upgrade" not in _tokens(seen.get(CONNECTION, b"")):
        return b""
    asked = [name.strip(b" \t").lower() for name in seen[UPGRADE].split(b",")]
    return b", ".join(
        name for name in asked if _PROTOCOLS.fullmatch(name) and name.partition(b"/")[0] not in _NO_TUNNEL
    )


def _says_upgrade(head: ResponseHead, seen: dict[int, bytes]) -> None:
    """Let the Upgrade field of a 101 and a 426 pass: the next hop is spoken to as this one was."""
    head.upgrade = seen.get(UPGRADE, b"").lower()
    if head.upgrade:
        head.fields += b"connection: Upgrade\r\nupgrade: " + seen[UPGRADE] + b"\r\n"


def _tokens(value: bytes) -> set[bytes]:
    return {token.strip(b" \t").lower() for token in value.split(b",")}


def _without(lines: list[bytes], drop: list[bytes]) -> bytes:
    return b"\r\n".join([line for line in lines if line not in drop])


def _explain(data: bytes) -> None:
    """Why no request head matches `data`: not yet (returns), or never (raises Malformed)."""
    if _OTHER_VERSION.match(data):
        raise Malformed(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
    if data.find(b"\r\n\r\n", 0, MAX_HEAD) >= 0:
        raise Malformed(400, "the request head is malformed")
    incomplete(data)
