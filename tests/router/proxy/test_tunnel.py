"""Upgraded connections: a tunnel that changes, adds and loses nothing, bounded like everything else."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from accede.router.facts import Placed
from accede.router.proxy.tls import TlsFiles
from accede.store.routes import UpstreamTls
from tests.router.conftest import Connection, UpstreamProcess, WorkerProcess, exchange, post, route, wait_for

Worker = Callable[..., WorkerProcess]
MIB = 2**20
ASK = (
    b"GET /p/socket HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: Chat/2, WebSocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nX-Kept: 1\r\n\r\n"
)
HELLO = b"HTTP/1.1\r\nHost: x\r\n"


class RawServer:
    """A server whose connections the test itself reads and writes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(15)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []

    def accept(self) -> socket.socket:
        end, _ = self._listener.accept()
        end.settimeout(15)
        self._open.append(end)
        return end

    def head(self) -> tuple[socket.socket, bytes]:
        """The next connection, and the head of its first request."""
        end = self.accept()
        seen = b""
        while b"\r\n\r\n" not in seen:
            data = end.recv(65536)
            assert data
            seen += data
        return end, seen

    def close(self) -> None:
        for end in self._open:
            end.close()
        self._listener.close()


@pytest.fixture
def server() -> Iterator[RawServer]:
    running = RawServer()
    yield running
    running.close()


def quiet(end: socket.socket, seconds: float = 0.2) -> bool:
    return not select.select([end], [], [], seconds)[0]


def exactly(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = end.recv(count - len(data))
        assert piece, data
        data += piece
    return data


class Listening(Protocol):
    """A worker, or a whole router."""

    @property
    def port(self) -> int: ...


def tunnel(worker: Listening, server: RawServer) -> tuple[Connection, socket.socket]:
    """Both ends of an open tunnel."""
    client = Connection(worker.port)
    client.send(ASK)
    end, _ = server.head()
    end.sendall(SWITCHED)
    assert client.answer().status == 101
    return client, end


class Echo:
    """A WebSocket server, in a thread of its own, that sends every message back."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self._tls = tls
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self._thread.start()
        assert self._started.wait(15)

    async def _run(self) -> None:
        async def echo(link: ServerConnection) -> None:
            async for message in link:
                await link.send(message)

        async with serve(echo, "127.0.0.1", 0, ssl=self._tls, max_size=2 * MIB, compression=None) as server:
            self.port = server.sockets[0].getsockname()[1]
            self._started.set()
            await self._stop.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(15)
        self._loop.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    running = Echo()
    yield running
    running.close()


async def messages_return(port: int, count: int, tls: ssl.SSLContext | None = None) -> None:
    """Send `count` messages of 1 B to 1 MiB, up to 8 ahead, and compare what comes back."""
    rng = random.Random(7)
    block = rng.randbytes(MIB)
    sizes = [1, MIB, *(int(2 ** rng.uniform(0, 20)) for _ in range(count - 2))]
    rng.shuffle(sizes)
    texts = {number: number % 3 == 0 for number in range(count)}
    digests: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(8)
    url = f"{'ws' if tls is None else 'wss'}://127.0.0.1:{port}/p/socket"
    async with connect(url, ssl=tls, max_size=2 * MIB, compression=None, proxy=None) as link:

        async def send() -> None:
            for number, size in enumerate(sizes):
                at = rng.randrange(MIB - size + 1)
                data = block[at : at + size]
                if texts[number]:
                    data = data.hex().encode()[:size]
                await digests.put((size, hashlib.sha256(data).digest()))
                await link.send(data.decode() if texts[number] else data)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            for number in range(count):
                got = await link.recv()
                size, digest = await digests.get()
                assert isinstance(got, str) == texts[number]
                data = got.encode() if isinstance(got, str) else got
                assert (len(data), hashlib.sha256(data).digest()) == (size, digest)


def test_websocket_messages_of_every_size_come_back_whole(start_worker: Worker, echo: Echo) -> None:
    worker = start_worker(Placed(route(f"http://127.0.0.1:{echo.port}"), 0))
    asyncio.run(messages_return(worker.port, 300))


@pytest.fixture
def secured(tmp_path: Path) -> tuple[TlsFiles, ssl.SSLContext]:
    """Files for a worker, and a client's context that trusts them."""
    ca = trustme.CA()
    cert = ca.issue_cert("127.0.0.1")
    files = TlsFiles(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))
    cert.cert_chain_pems[0].write_to_path(files.certificate)
    cert.private_key_pem.write_to_path(files.key)
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return files, context


def test_websocket_messages_come_back_whole_over_tls(
    start_worker: Worker, echo: Echo, secured: tuple[TlsFiles, ssl.SSLContext]
) -> None:
    files, context = secured
    worker = start_worker(Placed(route(f"http://127.0.0.1:{echo.port}"), 0), tls=files)
    asyncio.run(messages_return(worker.port, 100, context))


def test_websocket_messages_come_back_whole_from_a_server_over_tls(
    start_worker: Worker, tmp_path: Path
) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    echo = Echo(context)
    one = route(f"https://127.0.0.1:{echo.port}")
    arm = msgspec.structs.replace(one.arms[0], tls=UpstreamTls(ca=str(tmp_path / "ca.pem")))
    worker = start_worker(Placed(msgspec.structs.replace(one, arms=(arm,)), 0))
    asyncio.run(messages_return(worker.port, 50))
    echo.close()


def test_over_tls_either_end_ends_both(
    start_worker: Worker, server: RawServer, secured: tuple[TlsFiles, ssl.SSLContext]
) -> None:
    files, context = secured
    worker = start_worker(Placed(route(server.url), 0), tls=files)
    for server_first in (True, False):
        client = Connection(worker.port)
        client.socket = context.wrap_socket(client.socket, server_hostname="127.0.0.1")
        client.send(ASK)
        end, _ = server.head()
        end.sendall(SWITCHED + b"x" * 300_000)
        assert client.answer().status == 101
        if server_first:
            end.close()
            while client.more():
                pass
            assert client.buffer == b"x" * 300_000
        else:
            client.send(b"bye")
            assert exactly(end, 3) == b"bye"
            client.socket.close()
            with contextlib.suppress(ConnectionResetError):
                assert end.recv(1) == b""
        client.close()


@pytest.mark.slow
def test_ten_thousand_websocket_messages_come_back_whole(start_worker: Worker, echo: Echo) -> None:
    worker = start_worker(Placed(route(f"http://127.0.0.1:{echo.port}"), 0))
    before = worker.rss()
    asyncio.run(messages_return(worker.port, 10_000))
    assert worker.rss() - before < 16 * MIB


def test_both_heads_say_upgrade_and_early_bytes_wait_for_the_101(
    start_worker: Worker, server: RawServer
) -> None:
    worker = start_worker(Placed(route(server.url), 0))
    client = Connection(worker.port)
    client.send(ASK + b"early")
    end, seen = server.head()
    assert seen.endswith(b"\r\n\r\n")
    lines = seen.lower().split(b"\r\n")
    assert b"connection: upgrade" in lines
    assert b"upgrade: chat/2, websocket" in lines
    assert b"sec-websocket-key: dghlihnhbxbszsbub25jzq==" in lines
    assert quiet(end)
    end.sendall(SWITCHED + b"greeting")
    answer = client.answer()
    assert answer.status == 101
    assert answer.field("Connection".lower()) == "Upgrade"
    assert answer.field("upgrade") == "WebSocket"
    assert answer.field("x-kept") == "1"
    assert answer.field("x-accede-arm") == "stable"
    assert exactly(end, 5) == b"early"
    while client.buffer != b"greeting":
        assert client.more()
    client.close()
    assert end.recv(10) == b""


def test_a_half_close_passes_and_the_other_direction_lives_on(
    start_worker: Worker, server: RawServer
) -> None:
    worker = start_worker(Placed(route(server.url), 0))
    client, end = tunnel(worker, server)
    client.send(b"last words")
    client.socket.shutdown(socket.SHUT_WR)
    assert exactly(end, 10) == b"last words"
    assert end.recv(1) == b""
    end.sendall(b"answer " * 10_000)
    end.close()
    assert exactly(client.socket, 70_000) == b"answer " * 10_000
    assert client.ended()
    client.close()


@pytest.mark.parametrize("from_client", [True, False])
def test_a_side_that_does_not_read_stops_the_other(
    start_worker: Worker, server: RawServer, from_client: bool
) -> None:
    worker = start_worker(Placed(route(server.url), 0))
    client, end = tunnel(worker, server)
    writer, reader = (client.socket, end) if from_client else (end, client.socket)
    before = worker.rss()
    writer.setblocking(False)
    sent = 0
    block = os.urandom(MIB)
    until = time.monotonic() + 10
    idle = 0
    while idle < 20 and time.monotonic() < until:  # 20 looks without room: everything is full
        if select.select([], [writer], [], 0.02)[1]:
            idle = 0
            sent += writer.send(block[sent % MIB :])
        else:
            idle += 1
        assert sent < 64 * MIB, "nothing stops the writer"
    assert worker.rss() - before < 8 * MIB
    writer.setblocking(True)
    got = hashlib.sha256(exactly(reader, sent)).digest()
    whole = block * (sent // MIB + 1)
    assert got == hashlib.sha256(whole[:sent]).digest()
    client.close()


def test_a_silent_tunnel_ends_and_a_used_one_outlives_the_deadline(
    start_worker: Worker, server: RawServer
) -> None:
    worker = start_worker(Placed(route(server.url, deadline=0.3), 0), tunnel_timeout=1.0)
    client, end = tunnel(worker, server)
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        client.send(b"x")
        assert exactly(end, 1) == b"x"
        assert quiet(end, 0.1)
    began = time.monotonic()
    assert client.ended()
    assert time.monotonic() - began > 0.5
    assert end.recv(1) == b""
    client.close()


def test_without_a_101_in_time_the_deadline_answers(start_worker: Worker, server: RawServer) -> None:
    worker = start_worker(Placed(route(server.url, deadline=0.3), 0))
    client = Connection(worker.port)
    client.send(ASK)
    end, _ = server.head()
    assert client.answer().status == 504
    assert end.recv(1) == b""
    client.close()


def test_any_other_answer_is_an_ordinary_one(start_worker: Worker, server: RawServer) -> None:
    worker = start_worker(Placed(route(server.url), 0))
    client = Connection(worker.port)
    client.send(ASK)
    end, _ = server.head()
    end.sendall(
        b"HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: chat\r\n"
        b"Content-Length: 2\r\n\r\nno"
    )
    answer = client.answer()
    assert (answer.status, answer.body, answer.field("upgrade")) == (426, b"no", "chat")
    client.send(b"GET /p HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"pgrade" not in end.recv(65536)  # and both connections went on as HTTP
    end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert client.answer().body == b"ok"
    client.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /p " + HELLO + b"\r\n",
        b"GET /p " + HELLO + b"Upgrade: websocket\r\n\r\n",
        b"GET /p " + HELLO + b"Connection: upgrade\r\n\r\n",
        b"GET /p HTTP/1.0\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"POST /p " + HELLO + b"Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi",
        b"GET /p "
        + HELLO
        + b"Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
        b"GET /p " + HELLO + b"Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n\r\n",
    ],
)
def test_a_101_nobody_may_have_is_an_error(
    start_worker: Worker, server: RawServer, request_bytes: bytes
) -> None:
    worker = start_worker(Placed(route(server.url), 0))
    client = Connection(worker.port)
    client.send(request_bytes)
    end, seen = server.head()
    assert b"upgrade" not in seen.lower()
    assert b"http2-settings" not in seen.lower()
    end.sendall(SWITCHED)
    assert client.answer().status == 502
    assert end.recv(100) in (b"", b"hi")
    client.close()


@pytest.mark.parametrize("named", [b"Upgrade: h2c\r\n", b"Upgrade: chat\r\n", b""])
def test_a_101_to_a_protocol_that_was_not_offered_is_an_error(
    start_worker: Worker, server: RawServer, named: bytes
) -> None:
    worker = start_worker(Placed(route(server.url), 0))
    client = Connection(worker.port)
    client.send(ASK.replace(b"Chat/2, WebSocket", b"websocket, h2c"))
    end, seen = server.head()
    assert b"h2c" not in seen
    end.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n" + named + b"\r\n")
    assert client.answer().status == 502
    client.close()


def test_an_upgrade_is_no_prediction_and_its_connection_never_comes_back(
    start_worker: Worker, server: RawServer, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    """Even a POST: stable answers it, and nothing is assigned or counted."""
    worker = start_worker(Placed(route(server.url, candidate.url, 10_000), 0))
    client = Connection(worker.port)
    client.send(ASK.replace(b"GET", b"POST"))
    end, _ = server.head()
    end.sendall(SWITCHED)
    assert client.answer().field("x-accede-arm") == "stable"
    assert list(worker.counters.cells(0)[:4]) == [0, 0, 0, 0]
    client.close()
    assert end.recv(1) == b""
    other = Connection(worker.port)
    other.send(b"GET /p HTTP/1.1\r\nHost: x\r\n\r\n")
    second, _ = server.head()  # a new connection
    second.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert other.answer().body == b"ok"
    other.close()


def test_a_tunnel_lives_through_a_drain_until_its_time_is_over(
    start_worker: Worker, server: RawServer
) -> None:
    worker = start_worker(Placed(route(server.url), 0), drain_timeout=1.0)
    client, end = tunnel(worker, server)
    worker.drain()
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        client.send(b"x")
        assert exactly(end, 1) == b"x"
        assert quiet(end, 0.05)
    end.sendall(b"bye")
    assert exactly(client.socket, 3) == b"bye"
    assert client.ended()
    assert end.recv(1) == b""
    assert worker.process.wait(10) == 0
    client.close()


def test_tunnels_end_with_their_upstream_and_leave_nothing_behind(
    start_worker: Worker, server: RawServer
) -> None:
    worker = start_worker(Placed(route(server.url), 0))

    def descriptors() -> int:
        return len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir()))

    client, end = tunnel(worker, server)  # what a worker opens once, it has opened then
    during = descriptors()
    client.close()
    assert end.recv(1) == b""
    end.close()
    wait_for(lambda: descriptors() <= during - 2)
    before = descriptors()
    ends = [tunnel(worker, server) for _ in range(20)]
    assert descriptors() >= before + 40
    for client, end in ends[:10]:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        end.close()  # a reset
        assert client.ended()
        client.close()
    for client, end in ends[10:]:
        client.close()
        assert end.recv(1) == b""
        end.close()
    wait_for(lambda: descriptors() <= before)


def test_other_requests_are_served_beside_tunnels(
    start_worker: Worker, server: RawServer, stable: UpstreamProcess
) -> None:
    worker = start_worker(
        Placed(route(server.url), 0), Placed(route(stable.url, service="other", path="/q"), -1)
    )
    client, end = tunnel(worker, server)
    for _ in range(20):
        assert exchange(worker.port, post("/q", b"beside")).body == b"beside"
    client.send(b"still")
    assert exactly(end, 5) == b"still"
    client.close()
