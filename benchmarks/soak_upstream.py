"""A model whose answer is derived from the request: `python -m benchmarks.soak_upstream PORT PATTERN`.

PATTERN: `steady`, or the phases of a flapping model, `good:4,hang:3,error:2,abort:2,refuse:2` (seconds).
A hung request is never answered, also not later; while it refuses, nobody listens.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

import uvloop
import xxhash

STEADY = "good:3600"


def check_of(path: bytes, body: bytes) -> bytes:
    """The value that an answer must carry: a wrong request, path or byte gives another one."""
    return xxhash.xxh64_hexdigest(path + b"\n" + body).encode()


class _Model:
    def __init__(self, port: int, pattern: str) -> None:
        self._port = port
        self._phases = [phase.split(":") for phase in pattern.split(",")]
        self.phase = "good"
        self.open: set[_Exchange] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        server: asyncio.Server | None = None
        for phase, seconds in itertools.cycle(self._phases):
            self.phase = phase
            if phase == "refuse":
                if server is not None:
                    server.close()
                    server = None
                for exchange in tuple(self.open):
                    exchange.abort()
            elif server is None:
                server = await loop.create_server(
                    lambda: _Exchange(self), "127.0.0.1", self._port, backlog=4096, reuse_address=True
                )
            await asyncio.sleep(float(seconds))


class _Exchange(asyncio.Protocol):
    def __init__(self, model: _Model) -> None:
        self._model = model
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._model.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._model.open.discard(self)
        self._transport = None

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            at = head.lower().find(b"content-length:")
            stop = head.find(b"\r", at)
            length = int(head[at + 15 : stop if stop > 0 else end]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        transport, phase = self._transport, self._model.phase
        if transport is None or phase == "hang":
            return
        if phase == "abort":
            transport.abort()
        elif phase == "error":
            transport.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n{}")
        else:
            at = body.find(b'"size": ')
            size = int(body[at + 8 : body.find(b",", at)]) if at >= 0 else 0
            said = b'{"predictions": [{"score": 0.5}], "check": "%b", "pad": "%b"}' % (
                check_of(path, body),
                b"p" * size,
            )
            transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(said), said)
            )


if __name__ == "__main__":
    uvloop.run(_Model(int(sys.argv[1]), STEADY if sys.argv[2] == "steady" else sys.argv[2]).run())
