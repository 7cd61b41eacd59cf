"""A small HTTP/1.1 server for the model servers of the demo and the tests: one thread, keep-alive.

It answers one request after the other on a connection, as a proxy sends them; a client that pipelines
waits in the socket. It is no part of the data path.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import cast

import httptools
import msgspec

# A reason phrase per status that our servers use; any other is sent with an empty one.
_REASONS = {200: b"OK", 400: b"Bad Request", 404: b"Not Found", 500: b"Internal Server Error"}


class Request(msgspec.Struct, frozen=True):
    """One request, whole. Header names are lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Reply(msgspec.Struct, frozen=True):
    """One answer. `after`: seconds to wait before it is sent, without holding up other connections.

    `drop`: close the connection in place of an answer.
    """

    body: bytes
    status: int = 200
    after: float = 0.0
    content_type: str = "application/json"
    drop: bool = False


Answer = Callable[[Request], Reply]


class _Connection(asyncio.Protocol):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        self._transport = None
        if self._waiting is not None:
            self._waiting.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.close()

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", {}, []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        request = Request(
            method=self._parser.get_method().decode("latin-1"),
            path=self._url.decode("latin-1"),
            headers=self._headers,
            body=b"".join(self._body),
        )
        reply = self._answer(request)
        if reply.after > 0:
            loop = asyncio.get_running_loop()
            self._waiting = loop.call_later(reply.after, self._send, reply, self._parser.should_keep_alive())
        else:
            self._send(reply, keep=self._parser.should_keep_alive())

    def _send(self, reply: Reply, keep: bool) -> None:
        self._waiting = None
        if self._transport is None:
            return
        if reply.drop:
            self._transport.abort()
            return
        self._transport.write(
            b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n%s"
            % (
                reply.status,
                _REASONS.get(reply.status, b""),
                reply.content_type.encode("latin-1"),
                len(reply.body),
                reply.body,
            )
        )
        if not keep:
            self._transport.close()


async def listen(answer: Answer, port: int, host: str = "127.0.0.1") -> asyncio.Server:
    """Start to serve on host:port. Raises OSError where the port is taken."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Connection(answer), host, port, backlog=512)


async def serve_until_stopped(answer: Answer, port: int, ready: str) -> None:
    """Serve on 127.0.0.1:port and print the line `ready`, until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await listen(answer, port)
    print(ready, flush=True)  # noqa: T201  (the parent process reads this line)
    await stop.wait()
    server.close()
