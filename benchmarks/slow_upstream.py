"""A model that takes its time: `python -m benchmarks.slow_upstream PORT DELAY` (negative: for ever)."""

from __future__ import annotations

import asyncio
import sys

import uvloop

_ANSWER = b'{"predictions": [{"score": 0.5}]}'
_REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_ANSWER),
    _ANSWER,
)


class _Slow(asyncio.Protocol):
    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        # Requests of the benchmark are small and come whole, but may come in two pieces: heads are counted.
        if self._delay >= 0:
            for _ in range(data.count(b"POST ")):
                asyncio.get_running_loop().call_later(self._delay, self._answer)

    def _answer(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_REPLY)


async def _serve(port: int, delay: float) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: _Slow(delay), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
