"""A small HTTP/1.1 client for loads that wrk cannot make: whole answers by Content-Length, on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Done = Callable[["Connection", int, bytes, bytes], None]  # connection, status, head, body


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time.

    `done` is called with every answer, `lost` once when the connection ends; `waiting` says whether an
    answer was owed then.
    """

    __slots__ = ("_buffer", "_done", "_lost", "_transport", "since", "waiting", "what")

    def __init__(self, done: Done, lost: Callable[[Connection], None]) -> None:
        self._done = done
        self._lost = lost
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.waiting = False
        self.since = 0.0
        self.what: object = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def send(self, data: bytes, since: float, what: object = None) -> None:
        """Ask; `since` and `what` are the caller's."""
        self.waiting, self.since, self.what = True, since, what
        if self._transport is not None:
            self._transport.write(data)

    @property
    def local_port(self) -> int:
        """Of this side, 0 where the connection is gone."""
        name = self._transport.get_extra_info("sockname") if self._transport is not None else None
        return int(name[1]) if name else 0

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while self._buffer:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end]
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 : (head.find(b"\r", at) + 1 or end + 1) - 1]) if at >= 0 else 0
            whole = end + 4 + length
            if len(self._buffer) < whole:
                return
            answer, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self.waiting = False
            self._done(self, int(head[9:12]), head, answer)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._transport = None
        self._lost(self)


def post(path: str, body: bytes, user: str) -> bytes:
    """The bytes of one request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: models\r\nContent-Type: application/json\r\n"
        f"X-User-Id: {user}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
