"""What a worker holds beside forwarding is bounded, and no client fails for it."""

from __future__ import annotations

import contextlib
import platform
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from accede.router.facts import Placed
from accede.router.proxy.bounds import CAPTURED, COPIED
from accede.store.routes import MirrorTarget
from tests.router.conftest import (
    Connection,
    Observer,
    UpstreamProcess,
    WorkerProcess,
    exchange,
    post,
    route,
    wait_for,
)

BODY = 8 * 2**20
KEPT = 16 * 2**20  # freed bytes that a worker does not give back to the system (worker.keep_freed)
ABOVE_FORWARDING = 40 * 2**20  # buffers of two dozen connections, and what the allocator keeps


class Patient:
    """A model server that reads whole requests, keeps nothing of them, and answers when it is told to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.complete = 0
        self.answers = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        with end, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = end.recv(4096)
                if not piece:
                    return
                head += piece
            text, _, rest = head.partition(b"\r\n\r\n")
            left = int(text.lower().partition(b"content-length: ")[2].partition(b"\r")[0]) - len(rest)
            room = bytearray(1 << 18)
            while left > 0 and (size := end.recv_into(room)):
                left -= size
            if not left:
                self.complete += 1
                self.answers.wait()
                end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    def close(self) -> None:
        self.answers.set()
        self._listener.close()


def test_captured_requests_are_bounded_over_all_and_every_client_gets_its_answer(
    start_worker: Callable[..., WorkerProcess], start_observer: Callable[[WorkerProcess], Observer]
) -> None:
    server = Patient()
    count = CAPTURED // BODY + 8
    worker = start_worker(Placed(route(server.url, capture_request=BODY), 0))
    observer = start_observer(worker)
    exchange(worker.port, b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
    before = worker.rss()
    clients = [Connection(worker.port) for _ in range(count)]
    sending = [threading.Thread(target=client.send, args=(post("/p", bytes(BODY)),)) for client in clients]
    for thread in sending:
        thread.start()
    for thread in sending:
        thread.join()
    wait_for(lambda: server.complete == count)
    assert worker.rss() - before < CAPTURED + ABOVE_FORWARDING
    server.answers.set()
    for client in clients:
        assert client.answer().status == 200
        client.close()
    facts = observer.wait_facts(count)
    assert [fact.captured for fact in facts].count(2) >= 8  # lost by a bound of ours, not by design
    assert exchange(worker.port, post("/p", b"{}")).status == 200
    assert observer.wait_facts(count + 1)[-1].captured == 1  # what was held is given back
    server.close()


def test_copies_of_all_services_leave_room_for_what_is_captured(
    start_worker: Callable[..., WorkerProcess], start_observer: Callable[[WorkerProcess], Observer],
    stable: UpstreamProcess,
) -> None:  # fmt: skip
    shadow = Patient()
    services = COPIED // (4 * BODY) + 2

    def placed(at: int) -> Placed:
        mirror = MirrorTarget(
            "43", (shadow.url,), rate=1_000_000, max_in_flight=100, max_bytes=5 * BODY, deadline=60.0
        )
        name = f"s{at}"
        return Placed(
            route(
                stable.url, service=name, path=f"/{name}", capture_request=BODY, mirrors=(mirror,),
                arms=route(stable.url, "http://127.0.0.1:9").arms,
            ),
            at,
        )  # fmt: skip

    worker = start_worker(*(placed(at) for at in range(services)))
    observer = start_observer(worker)
    for at in range(services):
        client = Connection(worker.port)
        for _ in range(4):
            client.send(post(f"/s{at}", bytes(BODY), "x-script: status=404"))
            assert client.answer().status == 404
        client.close()
    wait_for(lambda: observer.tally.chosen == 4 * services)
    tally = observer.tally
    assert tally.sent + tally.dropped_bytes == tally.chosen
    assert 0 < tally.sent <= COPIED // BODY
    shadow.close()


def faults(worker: WorkerProcess) -> int:
    """Pages that the system has given the worker so far (minflt of proc(5))."""
    fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told to keep memory")
def test_long_answers_are_passed_on_in_memory_that_is_kept_and_bounded(
    start_worker: Callable[..., WorkerProcess], stable: UpstreamProcess
) -> None:
    """Else what an answer of 1 MiB is read into is given back and taken again: a hundred pages each time."""
    worker = start_worker(Placed(route(stable.url), 0))
    clients = [Connection(worker.port) for _ in range(8)]

    def long_answers(each: int) -> None:
        for client in clients * each:
            client.send(post("/p", b"{}", "x-script: big"))
            assert len(client.answer().body) == 2**20

    long_answers(2)
    before, rss = faults(worker), worker.rss()
    long_answers(10)
    taken = (faults(worker) - before) / 80
    print(f"{taken:.0f} pages an answer, {(worker.rss() - rss) / 2**20:.1f} MiB more")
    assert taken < 32
    assert worker.rss() - rss < KEPT + 8 * 2**20
    for client in clients:
        client.close()
