"""Server-sent events: `python -m benchmarks.streams serve PORT` and `… read CONFIG`.

The server sends every stream an event at a fixed pace, streams spread evenly over a period, so that a proxy
sees them one by one as from many model servers. The reader counts events and, asked by a line on its
standard input, prints the count so far.
"""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter

import msgspec
import uvloop

PERIOD = 0.01  # seconds between the events of one stream: a fast language model
_SLOTS = 10  # ticks of a period
_EVENT = b'data: {"choices": [{"delta": {"content": "token of text"}, "index": 0}], "object": "chunk"}\n\n'
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class _Stream(asyncio.Protocol):
    def __init__(self, streams: list[set[asyncio.Transport]]) -> None:
        self._streams = streams
        self._mine: set[asyncio.Transport] = set()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:  # noqa: ARG002 (one short request per connection)
        if self._transport is not None and not self._mine:
            self._transport.write(_HEAD)
            self._mine = min(self._streams, key=len)
            self._mine.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._transport is not None:
            self._mine.discard(self._transport)


async def _serve(port: int) -> None:
    streams: list[set[asyncio.Transport]] = [set() for _ in range(_SLOTS)]
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: _Stream(streams), "127.0.0.1", port, backlog=4096)
    began, tick = perf_counter(), 0
    while True:
        tick += 1
        await asyncio.sleep(max(0.0, began + tick * PERIOD / _SLOTS - perf_counter()))
        for transport in tuple(streams[tick % _SLOTS]):
            transport.write(_CHUNK)


class ReadConfig(msgspec.Struct, frozen=True):
    """`streams`: how many to open at `port`."""

    port: int
    streams: int


class _Reader(asyncio.Protocol):
    def __init__(self, counts: list[int], index: int) -> None:
        self._counts = counts
        self._index = index

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        body = b'{"stream": true}'
        transport.write(  # type: ignore[attr-defined]
            b"POST /p/predict HTTP/1.1\r\nHost: models\r\nContent-Type: application/json\r\n"
            b"X-User-Id: user-%d\r\nContent-Length: %d\r\n\r\n%b" % (self._index, len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        self._counts[self._index] += data.count(b"data: ")  # events are written whole, in one piece

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._counts[self._index] = -(10**9)  # a stream that ends spoils the run, visibly


async def _read(config: ReadConfig) -> None:
    loop = asyncio.get_running_loop()
    counts = [0] * config.streams
    for index in range(config.streams):
        await loop.create_connection(lambda index=index: _Reader(counts, index), "127.0.0.1", config.port)  # type: ignore[misc]
    asked = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(asked), sys.stdin)
    while await asked.readline():
        print(sum(counts) if min(counts) > 0 else -1, flush=True)


def main() -> None:
    if sys.argv[1] == "serve":
        uvloop.run(_serve(int(sys.argv[2])))
    else:
        uvloop.run(_read(msgspec.json.decode(sys.argv[2].encode(), type=ReadConfig)))


if __name__ == "__main__":
    main()
