"""Bodies larger than any buffer, and streams whose first piece counts: passed on as they come."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from accede.router.facts import Placed
from tests.router.conftest import Connection, WorkerProcess, dechunked, route

Worker = Callable[..., WorkerProcess]
MIB = 2**20
BLOCK = os.urandom(MIB)
SIZE = 100  # blocks
DIGEST = hashlib.sha256(BLOCK * SIZE).hexdigest().encode()
ROOM = 32 * MIB  # what a worker may grow by; its buffers are below 1 MiB


class Large:
    """A model server for large bodies: GET sends 100 MiB, POST answers with the digest of what it got.

    A path ending in `chunked` sends chunks; in `slow`, nothing is read for a while; `/p/sse` streams.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.written: list[float] = []
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:
                return
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(end)
            threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        with end, end.makefile("rb") as stream, contextlib.suppress(OSError, ValueError):
            while line := stream.readline():
                fields = {}
                while (field := stream.readline()) != b"\r\n":
                    name, _, value = field.partition(b":")
                    fields[name.lower()] = value.strip()
                target = line.split(b" ")[1]
                if line.startswith(b"GET") and target.endswith(b"sse"):
                    self._stream(end)
                elif line.startswith(b"GET"):
                    self._send(end, chunked=target.endswith(b"chunked"))
                else:
                    digest = self._take(stream, fields)
                    end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(digest), digest))

    def _send(self, end: socket.socket, *, chunked: bool) -> None:
        if chunked:
            end.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for _ in range(SIZE):
                end.sendall(b"%x\r\n%b\r\n" % (MIB, BLOCK))
            end.sendall(b"0\r\n\r\n")
        else:
            end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (SIZE * MIB))
            for _ in range(SIZE):
                end.sendall(BLOCK)

    def _stream(self, end: socket.socket) -> None:
        end.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        end.sendall(b"Transfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            time.sleep(0.005)  # the model thinks
            piece = b"data: %d\n\n" % number
            self.written.append(time.monotonic())
            end.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        end.sendall(b"0\r\n\r\n")

    @staticmethod
    def _take(stream: object, fields: dict[bytes, bytes]) -> bytes:
        read = stream.read  # type: ignore[attr-defined]
        seen = hashlib.sha256()
        if fields.get(b"transfer-encoding") == b"chunked":
            while size := int(stream.readline(), 16):  # type: ignore[attr-defined]
                seen.update(read(size))
                read(2)
            read(2)
        else:
            left = int(fields[b"content-length"])
            while left:
                data = read(min(MIB, left))
                left -= len(data)
                seen.update(data)
        return seen.hexdigest().encode()

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def large() -> Iterator[Large]:
    running = Large()
    yield running
    running.close()


class Memory:
    """The most memory a worker has, looked at while it works."""

    def __init__(self, worker: WorkerProcess) -> None:
        self.most = 0
        self._worker = worker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.most = max(self.most, self._worker.rss())

    def __enter__(self) -> Self:
        self._before = self._worker.rss()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.grown = self.most - self._before
        print(f"the worker grew by {self.grown / MIB:.1f} MiB")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_hundred_mebibytes_go_up(start_worker: Worker, large: Large, chunked: bool) -> None:
    worker = start_worker(Placed(route(large.url, max_body=2 * SIZE * MIB), 0))
    client = Connection(worker.port)
    with Memory(worker) as memory:
        head = b"POST /p HTTP/1.1\r\nHost: x\r\n"
        if chunked:
            client.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(SIZE):
                client.send(b"%x\r\n%b\r\n" % (MIB, BLOCK))
            client.send(b"0\r\n\r\n")
        else:
            client.send(head + b"Content-Length: %d\r\n\r\n" % (SIZE * MIB))
            for _ in range(SIZE):
                client.send(BLOCK)
        assert client.answer().body == DIGEST
    assert memory.grown < ROOM
    client.close()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_hundred_mebibytes_come_down_to_a_client_that_pauses(
    start_worker: Worker, large: Large, chunked: bool
) -> None:
    worker = start_worker(Placed(route(large.url), 0))
    client = Connection(worker.port)
    with Memory(worker) as memory:
        client.send(b"GET /p/%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"chunked" if chunked else b"plain"))
        time.sleep(0.5)  # the client does something else; whatever arrives must wait outside of the worker
        pieces = bytearray()
        client.more()
        head, _, rest = client.buffer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        pieces += rest
        while not (len(pieces) == SIZE * MIB or (chunked and pieces.endswith(b"0\r\n\r\n"))):
            data = client.socket.recv(1 << 20)
            assert data
            pieces += data
    assert memory.grown < ROOM
    if chunked:
        seen, at = hashlib.sha256(), 0
        while size := int(pieces[at : (end := pieces.index(b"\r\n", at))], 16):
            seen.update(pieces[end + 2 : end + 2 + size])
            at = end + 2 + size + 2
    else:
        seen = hashlib.sha256(pieces)
    assert seen.hexdigest().encode() == DIGEST
    client.close()


def test_an_upload_to_a_server_that_does_not_read_waits_outside(start_worker: Worker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        worker = start_worker(
            Placed(route(f"http://127.0.0.1:{deaf.getsockname()[1]}", max_body=2 * SIZE * MIB, deadline=3), 0)
        )
        client = Connection(worker.port)
        with Memory(worker) as memory:
            client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (SIZE * MIB))
            client.socket.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                for _ in range(SIZE):
                    client.send(BLOCK)
                raise AssertionError("100 MiB went into a server that reads nothing")
            client.socket.settimeout(15)
            assert client.answer().status == 504
        assert memory.grown < ROOM
        client.close()


@pytest.mark.slow
def test_the_first_chunk_of_a_stream_is_not_held_back(start_worker: Worker, large: Large) -> None:
    """Paired: one stream directly and one through the router, in turn; it adds the difference."""
    worker = start_worker(Placed(route(large.url), 0))
    together = 0  # chunks that lay there with the one before: this thread may be late now and then

    def delays(client: Connection) -> list[float]:
        """Seconds from the server's write of each chunk to its arrival."""
        nonlocal together
        large.written.clear()
        client.send(b"GET /p/sse HTTP/1.1\r\nHost: x\r\n\r\n")
        arrived = []
        for number in range(3):
            while b"data: %d\n\n" % number not in client.buffer:
                assert client.more()
            arrived.append(time.monotonic())
            together += b"data: %d\n\n" % (number + 1) in client.buffer
        body = client.answer().body
        assert dechunked(body).count(b"data") == 3
        return [came - went for came, went in zip(arrived, large.written, strict=True)]

    direct, routed = Connection(large.port), Connection(worker.port)
    pairs = [(delays(direct), delays(routed)) for _ in range(300)]
    added = [[through - straight for straight, through in zip(*pair, strict=True)] for pair in pairs]
    first = statistics.median(pair[0] for pair in added)
    later = statistics.median(pair[1] for pair in added)
    print(f"added at the median: first chunk {first * 1e3:.3f} ms, later ones {later * 1e3:.3f} ms")
    assert first < 0.001
    assert together < 0.05 * 6 * len(pairs)
    direct.close()
    routed.close()
