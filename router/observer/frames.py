"""Messages on a stream: a 4-byte big-endian length, then so many bytes."""

from __future__ import annotations

from ...errors import WireError

_HEAD = 4


class Frames:
    """Cuts a stream into messages. Holds at most one message of `limit` bytes and one read besides."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages completed by these bytes. Raises WireError for one above the limit: then close."""
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        at = 0
        while len(buffer) - at >= _HEAD:
            length = int.from_bytes(buffer[at : at + _HEAD], "big")
            if length > self._limit:
                raise WireError(f"a message of {length} bytes; at most {self._limit} are allowed")
            end = at + _HEAD + length
            if len(buffer) < end:
                break
            messages.append(bytes(buffer[at + _HEAD : end]))
            at = end
        if at:
            del buffer[:at]
        return messages
