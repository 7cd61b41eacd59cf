"""Chunked framing (RFC 9112 §7.1), checked strictly and passed on as it stands."""

from __future__ import annotations

import re
from typing import Final

from .heads import Malformed

LONGEST_LINE: Final = 4096  # bytes of a size line or trailer, its CRLF included
LONGEST_TRAILERS: Final = 16 * 1024
_PLAIN_LINE: Final = 17  # 15 digits of size and CRLF; what is longer has extensions
# Bytes of extensions beyond twice the content, so that they can be no load of their own; as Go's net/http.
_MOST_EXTENSIONS: Final = 16 * 1024
_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
# Extensions as the grammar has them, without its "bad" whitespace: the usual parsers disagree on all else.
_SIZE = re.compile(
    rb"([0-9a-fA-F]{1,15})(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN
    + rb'|"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"))?+)*+\r\n'
)  # fmt: skip
_TRAILER = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+)?\r\n")
LAST: Final = b"0\r\n\r\n"

# A receiver that merges trailers into the head would frame, route or trust by these (RFC 9110 §6.5.1).
_NEVER_TRAILERS: Final = frozenset(
    (
        b"authorization", b"connection", b"content-encoding", b"content-length", b"content-range",
        b"content-type", b"cookie", b"expect", b"forwarded", b"host", b"http2-settings", b"keep-alive",
        b"proxy-authorization", b"proxy-connection", b"set-cookie", b"te", b"trailer", b"transfer-encoding",
        b"upgrade", b"via", b"x-request-id",
    )
)  # fmt: skip
_NEVER_BEGIN: Final = (b"x-accede-", b"x-forwarded-")

_AT_SIZE, _IN_DATA, _AT_CRLF, _IN_TRAILERS, _DONE = range(5)


class ChunkReader:
    """Follows a chunked body over any number of reads.

    `payload`: bytes of payload seen. `rest`: bytes behind the body, once `done`.
    """

    __slots__ = ("_extra", "_held", "_left", "_state", "_trailers", "payload", "rest")

    def __init__(self) -> None:
        self._state = _AT_SIZE
        self._left = 0
        self._held: bytes = b""
        self._trailers = 0
        self._extra = 0
        self.payload = 0
        self.rest: bytes = b""

    @property
    def done(self) -> bool:
        """Whether the last chunk and the trailers have passed."""
        return self._state == _DONE

    def feed(self, data: bytes, pieces: list[bytes] | None) -> bytes:
        """The checked bytes that may travel on; payload is appended to `pieces`. Raises Malformed.

        An incomplete framing line is held until it is whole; payload never is.
        """
        if self._held:
            data = self._held + data
            self._held = b""
        at, end = 0, len(data)
        while at < end and self._state != _DONE:
            if self._state == _IN_DATA:
                upto = min(end, at + self._left)
                if pieces is not None:
                    pieces.append(data[at:upto])
                self.payload += upto - at
                self._left -= upto - at
                at = upto
                if not self._left:
                    self._state = _AT_CRLF
                continue
            after = self._line(data, at)
            if after < 0:
                self._held = data[at:]
                return data[:at]
            at = after
        if self._state == _DONE:
            self.rest = data[at:]
        return data if at == end else data[:at]

    def _line(self, data: bytes, at: int) -> int:
        """Take one framing line at `at`; the index behind it, or -1 if it is incomplete."""
        if self._state == _AT_CRLF:
            if data.startswith(b"\r\n", at):
                self._state = _AT_SIZE
                return at + 2
            if data[at:] == b"\r":
                return -1
            raise Malformed(400, "a chunk is longer than its size")
        pattern = _SIZE if self._state == _AT_SIZE else _TRAILER
        found = pattern.match(data, at)
        if found is None or found.end() - at > LONGEST_LINE:
            if found or b"\n" in data[at : at + LONGEST_LINE] or len(data) - at > LONGEST_LINE:
                raise Malformed(400, "a chunk's size line or trailer is malformed")
            return -1
        if self._state == _AT_SIZE:
            self._left = int(found.group(1), 16)
            if found.end() - at > _PLAIN_LINE:
                self._extra = max(0, self._extra + found.end() - at - 2 * self._left)
                if self._extra > _MOST_EXTENSIONS:
                    raise Malformed(400, "the chunks' extensions are far longer than their content")
            self._state = _IN_DATA if self._left else _IN_TRAILERS
        elif found.end() - at == len(b"\r\n"):
            self._state = _DONE
        else:
            self._trailers += found.end() - at
            if self._trailers > LONGEST_TRAILERS:
                raise Malformed(431, "the trailers are too long")
            name = data[at : data.index(b":", at)].lower().replace(b"_", b"-")
            if name in _NEVER_TRAILERS or name.startswith(_NEVER_BEGIN):
                raise Malformed(400, "a trailer is a field that may only stand in the head")
        return found.end()


def chunk(data: bytes) -> bytes:
    """`data` as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
