"""What a server does that dies, hangs, forgets or is out of reach: an error that names place and way out."""

from __future__ import annotations

import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest

from accede.errors import StaleWrite, StoreError
from accede.store.open import open_store
from accede.store.protocol import Store
from accede.store.redis.scripts import COMMIT
from accede.store.rollouts import Decision
from tests.store.servers import Server

if TYPE_CHECKING:
    from tests.store.conftest import Records

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
WITHIN = 8.0  # seconds in which a call on a store that is gone has ended


@contextmanager
def refused(server: Server, pattern: str) -> Iterator[None]:
    """One line in time that names the place, what was found and a way out."""
    began = monotonic()
    with pytest.raises(StoreError, match=pattern) as caught:
        yield
    assert monotonic() - began < WITHIN
    assert not isinstance(caught.value, StaleWrite)
    message = str(caught.value)
    assert f"store 127.0.0.1:{server.port}" in message
    assert ": " in message
    assert "\n" not in message


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*options: str) -> Server:
        started.append(Server(tmp_path / f"server{len(started)}", options=options))
        return started[-1]

    yield start
    for server in started:
        server.end()


@pytest.fixture
def stores() -> Iterator[Callable[..., Store]]:
    opened: list[Store] = []

    def make(server: Server, options: str = "") -> Store:
        opened.append(open_store(f"redis://127.0.0.1:{server.port}{options}"))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def test_a_killed_server_is_an_error_and_what_it_had_acknowledged_is_there_when_it_is_back(
    serve: Callable[..., Server], stores: Callable[..., Store], records: Records
) -> None:
    server = serve(*DURABLE)
    store = stores(server)
    for version in range(1, 6):
        store.commit(records.commit(version=version))
        store.publish_evidence(records.evidence(n=version))
    server.kill()
    for call in (store.routes, lambda: store.commit(records.commit(version=6)), store.revision):
        with refused(server, "cannot be reached: check"):
            call()
    store.wait(0.01)  # never raises
    server.start()
    server.until(lambda client: client.ping())  # it reads what it had
    assert [decision.number for decision in store.decisions("r1")] == [1, 2, 3, 4, 5]
    assert store.evidence("fraud", "r1") == (records.evidence(n=5),)
    store.commit(records.commit(version=6))
    assert store.routes().routes == (records.route(generation=6),)


def read_again(store: Store) -> tuple[Decision, ...]:
    """What is there once the server has read its data after the last start."""
    for _ in range(200):
        with suppress(StoreError):
            return store.decisions("r1")
        sleep(0.05)
    return store.decisions("r1")


def test_a_writer_whose_server_is_killed_again_and_again_loses_nothing_it_was_told(
    serve: Callable[..., Server], stores: Callable[..., Store], records: Records
) -> None:
    server = serve(*DURABLE)
    store = stores(server)
    told = 0
    done = threading.Event()

    def kill() -> None:
        for _ in range(3):
            if done.wait(0.3):
                return
            server.kill()
            server.start()
        done.set()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        while not done.is_set():
            try:
                record = store.rollout("fraud")
                version = 0 if record is None else record.version
                assert version in {told, told + 1}  # the one more was written, and its answer lost
                store.commit(records.commit(version=version + 1))
                told = version + 1
            except StaleWrite:
                raise
            except StoreError:
                continue
    finally:
        done.set()
        killer.join()
    assert told > 3
    numbers = [decision.number for decision in read_again(store)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) in {told, told + 1}
    assert len(store.audit(limit=10**6)) == len(numbers)


@pytest.mark.slow
def test_a_stopped_server_is_an_error_in_time_and_a_commit_says_that_its_fate_is_unknown(
    serve: Callable[..., Server], stores: Callable[..., Store], records: Records
) -> None:
    server = serve()
    store = stores(server)
    store.commit(records.commit())
    server.signal(signal.SIGSTOP)
    with refused(server, "does not answer in time: check that it runs"):
        store.routes()
    with refused(server, "does not answer in time"):
        store.commit(records.commit(version=2))
    server.signal(signal.SIGCONT)
    record = store.rollout("fraud")
    assert record is not None
    assert record.version in {1, 2}
    if record.version == 1:
        store.commit(records.commit(version=2))
    assert [decision.number for decision in store.decisions("r1")] == [1, 2]


def test_a_server_that_came_back_empty_is_another_store(
    serve: Callable[..., Server], stores: Callable[..., Store], records: Records
) -> None:
    server = serve()
    store = stores(server)
    store.claim("me", 5.0)
    store.commit(records.commit())
    server.kill()
    server.start()
    emptied = "was emptied or replaced while in use: restore it from a copy, or restart"
    for call in (
        store.routes,
        store.revision,
        lambda: store.claim("me", 5.0),
        lambda: store.commit(records.commit("credit", rollout="r2")),
    ):
        with refused(server, emptied):
            call()
    with pytest.raises(StaleWrite):
        store.commit(records.commit(version=2))
    assert stores(server).routes().routes == ()  # whoever begins anew takes what there is


@contextmanager
def cut(server: Server, last: bytes) -> Iterator[tuple[int, threading.Event, threading.Event]]:
    """A port that leads to the server. Once the first event is set, what contains `last` is the last that
    arrives on either side, until the second one is set again.
    """
    through, ends, armed = threading.Event(), threading.Event(), threading.Event()
    through.set()
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = [listener]

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                through.wait()
                if ends.is_set():
                    return
                if armed.is_set() and last in data:
                    through.clear()
                sink.sendall(data)
        except OSError:
            return

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", server.port))
            except OSError:
                return
            sockets.extend((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1]), armed, through
    finally:
        ends.set()
        through.set()
        for one in sockets:
            one.close()


@pytest.mark.slow
def test_a_lost_network_is_an_error_in_time_and_nothing_is_written_twice_when_it_is_back(
    serve: Callable[..., Server], records: Records
) -> None:
    server = serve()
    with cut(server, COMMIT.sha.encode()) as (port, armed, through):
        store = open_store(f"redis://127.0.0.1:{port}")
        store.commit(records.commit())
        armed.set()
        began = monotonic()
        with pytest.raises(StoreError, match="whether the write was made is not known: read again"):
            store.commit(records.commit(version=2))
        assert monotonic() - began < WITHIN
        armed.clear()
        through.set()
        record = store.rollout("fraud")
        assert record is not None
        assert record.version == 2  # its answer was lost, not the commit
        with pytest.raises(StaleWrite):
            store.commit(records.commit(version=2))
        assert [decision.number for decision in store.decisions("r1")] == [1, 2]
        assert len(store.audit()) == 2
        store.close()


def test_a_full_server_writes_nothing_and_works_again_with_room(
    serve: Callable[..., Server], stores: Callable[..., Store], records: Records
) -> None:
    server = serve("--maxmemory-policy", "noeviction")
    store = stores(server)
    store.commit(records.commit())
    with server.client() as client:
        client.config_set("maxmemory", "1mb")
        with refused(server, "is out of memory: raise its maxmemory"):
            store.commit(records.commit(version=2))
        client.config_set("maxmemory", "0")
    assert [decision.number for decision in store.decisions("r1")] == [1]
    store.commit(records.commit(version=2))


@pytest.mark.slow
def test_a_replica_as_the_store_is_refused_by_what_it_is(
    serve: Callable[..., Server], stores: Callable[..., Store]
) -> None:
    primary = serve()
    replica = serve("--replicaof", f"127.0.0.1 {primary.port}")
    replica.until(lambda client: client.info("replication")["master_link_status"] == "up")
    with refused(replica, re.escape("is a replica, which cannot write: name the primary")):
        stores(replica)


@pytest.mark.slow
def test_a_decision_waits_for_a_replica_and_says_when_there_is_none_in_time(
    serve: Callable[..., Server], stores: Callable[..., Store], records: Records
) -> None:
    primary = serve("--repl-diskless-sync-delay", "0")
    replica = serve("--replicaof", f"127.0.0.1 {primary.port}")
    replica.until(lambda client: client.info("replication")["master_link_status"] == "up")
    store = stores(primary)
    store.commit(records.commit())
    with replica.client() as client:  # at once: the commit has returned
        assert client.hget("accede:{fraud}:head", "generation") == b"1"
    replica.signal(signal.SIGSTOP)
    with refused(
        primary, r"0 of 1 replicas confirmed a decision within 1\.5 s; it is written on the primary"
    ):
        store.commit(records.commit(version=2))
    record = store.rollout("fraud")
    assert record is not None
    assert record.version == 2  # read again: it is there, and is not decided twice
    replica.signal(signal.SIGCONT)
    store.commit(records.commit(version=3))
    demanding = stores(primary, "?replicas=2")
    with refused(primary, "1 of 2 replicas"):
        demanding.commit(records.commit(version=4))


@pytest.mark.slow
def test_a_replica_that_lacked_the_last_decisions_and_was_made_primary_is_seen_by_its_generations(
    serve: Callable[..., Server], stores: Callable[..., Store], records: Records
) -> None:
    primary = serve()
    replica = serve("--replicaof", f"127.0.0.1 {primary.port}")
    replica.until(lambda client: client.info("replication")["master_link_status"] == "up")
    store = stores(primary, "?replicas=0")
    store.commit(records.commit())
    replica.until(lambda client: client.hget("accede:{fraud}:head", "generation") == b"1")
    with replica.client() as client:
        client.replicaof("NO", "ONE")
    store.commit(records.commit(version=2))
    primary.kill()
    after = stores(replica)
    assert [route.generation for route in after.routes().routes] == [1]  # controller.gone says the rest
    with pytest.raises(StaleWrite):  # who saw what was lost cannot go on from it
        after.commit(records.commit(version=3))
