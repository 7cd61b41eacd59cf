"""When facts go to the observer, and how far each flush says that the reports reach."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from accede.router.facts import Placed
from tests.router.conftest import Connection, Observer, WorkerProcess, post, route, wait_for

Worker = Callable[..., WorkerProcess]
MANY = 64  # facts that do not wait for the next tick


class Quick:
    """A model server fast enough for hundreds of answers between two ticks; it never answers `hang`."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self._server.accept()
            except OSError:
                return
            self._ends.append(end)
            threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        with end:
            while data := end.recv(1 << 16):
                if b"hang" not in data:
                    end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def close(self) -> None:
        self._server.close()
        for end in self._ends:
            end.close()


@pytest.fixture
def quick() -> Iterator[Quick]:
    made = Quick()
    yield made
    made.close()


def run_until_many_at_once(client: Connection, observer: Observer) -> None:
    """One request after another, until some flush has had no time to wait for its tick."""

    def many() -> bool:
        client.send(post("/p", b"{}") * 500)
        for _ in range(500):
            assert client.answer().status == 200
        return any(len(flush.facts) >= MANY for flush in list(observer.flushes))

    wait_for(many)


def test_many_facts_go_at_once_and_are_all_below_their_line(
    start_worker: Worker, start_observer: Callable[[WorkerProcess], Observer], quick: Quick
) -> None:
    worker = start_worker(Placed(route(quick.url), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    run_until_many_at_once(client, observer)
    for flush in list(observer.flushes):
        assert all(fact.number < flush.line for fact in flush.facts), "the observer would have to keep them"
    numbers = [fact.number for fact in observer.facts]
    assert numbers == sorted(set(numbers))
    client.close()


def test_the_line_stays_at_the_oldest_that_is_open(
    start_worker: Worker, start_observer: Callable[[WorkerProcess], Observer], quick: Quick
) -> None:
    worker = start_worker(Placed(route(quick.url), 0))
    observer = start_observer(worker)
    client, hanging = Connection(worker.port), Connection(worker.port)
    client.send(post("/p", b"{}"))
    assert client.answer().status == 200
    (first,) = observer.wait_facts(1)
    hanging.send(post("/p", b"hang"))
    wait_for(lambda: observer.flushes[-1].open)
    run_until_many_at_once(client, observer)
    assert all(flush.line <= first.number + 1 for flush in list(observer.flushes))
    hanging.close()
    wait_for(lambda: observer.flushes[-1].line > max(fact.number for fact in observer.facts))
    client.close()
