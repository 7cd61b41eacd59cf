"""Chunked framing (RFC 9112 §7.1), checked strictly and passed on as it stands."""

from __future__ import annotations

import re
from typing import Final

from .heads import Malformed

_LONGEST_LINE: Final = 4096
_LONGEST_TRAILERS: Final = 16 * 1024
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]{0,1024})?\r\n")
_TRAILER = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+)?\r\n")
LAST: Final = b"0\r\n\r\n"

_AT_SIZE, _IN_DATA, _AT_CRLF, _IN_TRAILERS, _DONE = range(5)


class ChunkReader:
    """Follows a chunked body over any number of reads.

    `payload`: bytes of payload seen. `rest`: bytes behind the body, once `done`.
    """

    __slots__ = ("_held", "_left", "_state", "_trailers", "payload", "rest")

    def __init__(self) -> None:
        self._state = _AT_SIZE
        self._left = 0
        self._held: bytes = b""
        self._trailers = 0
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
        if found is None:
            if b"\n" in data[at : at + _LONGEST_LINE] or len(data) - at > _LONGEST_LINE:
                raise Malformed(400, "a chunk's size line or trailer is malformed")
            return -1
        if self._state == _AT_SIZE:
            self._left = int(found.group(1), 16)
            self._state = _IN_DATA if self._left else _IN_TRAILERS
        elif found.end() - at == len(b"\r\n"):
            self._state = _DONE
        else:
            self._trailers += found.end() - at
            if self._trailers > _LONGEST_TRAILERS:
                raise Malformed(431, "the trailers are too long")
        return found.end()


def chunk(data: bytes) -> bytes:
    """`data` as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
