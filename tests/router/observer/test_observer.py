"""The observer as a process: flushes on its socket, evidence in the store, whatever happens around it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from accede.errors import AccedeError
from accede.router.facts import (
    Applied,
    Body,
    Drain,
    Ending,
    Fact,
    Flush,
    Placed,
    Table,
    decode_message,
    encode_flush,
    encode_message,
)
from accede.router.observer.process import ObserverConfig
from accede.store.evidence import Evidence, SeriesKey
from accede.store.measurement import Extraction, MeasurementPlan
from accede.store.open import open_store
from accede.store.routes import WIRE, Arm, ServiceRoute

PLAN = MeasurementPlan(
    rollout="r",
    epoch=1,
    stage="canary",
    extraction=Extraction("p", "number"),
    batch=1.0,
    account_after=10.0,
    limits=(0, 1),
)
ROUTE = ServiceRoute(
    wire=WIRE, service="s", generation=1, path="/", host=None, protocol="json",
    arms=(Arm("stable", "1", ("http://a",), 10_000),), plan=PLAN,
)  # fmt: skip


def poll(ready: Callable[[], Any], seconds: float = 15.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


class ObserverProcess:
    """An observer; the test plays parent and workers."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.store = store
        self.path = str(folder / "o.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        self.control, theirs = socket.socketpair()
        self.control.settimeout(15)
        config = ObserverConfig("replica:boot", str(store), listener.fileno(), theirs.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-m", "accede.router.observer.process", msgspec.json.encode(config).decode()],
            pass_fds=(listener.fileno(), theirs.fileno()),
            stderr=subprocess.PIPE,
        )
        listener.close()
        theirs.close()
        self.workers: list[socket.socket] = []

    def obey(self, number: int = 1) -> None:
        self.control.sendall(encode_message(Table(number, (Placed(ROUTE, 0),))))
        size = self.control.recv(4, socket.MSG_WAITALL)
        data = self.control.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
        assert decode_message(data) == Applied(-1, number)

    def worker(self) -> socket.socket:
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(15)
        one.connect(self.path)
        self.workers.append(one)
        return one

    def evidence(self) -> Evidence | None:
        store = open_store(str(self.store))
        try:
            return next(iter(store.evidence("s", "r")), None)
        finally:
            store.close()

    def accounted(self) -> int:
        evidence = self.evidence()
        return 0 if evidence is None or "stable" not in evidence.arms else evidence.arms["stable"].accounted

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said, after it was told or left to end."""
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said.decode()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ObserverProcess]]:
    started: list[ObserverProcess] = []

    def begin(store: Path = tmp_path / "store") -> ObserverProcess:
        started.append(ObserverProcess(tmp_path, store))
        return started[-1]

    yield begin
    for one in started:
        for worker in one.workers:
            worker.close()
        one.control.close()
        one.process.kill()
        one.process.communicate()


def flush(*numbers: int, answer: bytes = b'{"p": 0.5}', worker: int = 0, line: int = 10**9) -> bytes:
    now = time.time()
    facts = [Fact(n, 0, 0, 0, now, Ending.ANSWERED, 200, 0.01, -1, False, 1, 1, 1) for n in numbers]
    bodies = [Body(n, b"{}", answer, "", "") for n in numbers]
    return encode_flush(Flush(worker, "boot", now, line, now, 0, now, [], facts, bodies, [], []))


def test_what_workers_report_is_in_the_store_soon(start: Callable[..., ObserverProcess]) -> None:
    observer = start()
    observer.obey()
    data = flush(1, 2) + flush(3)
    observer.worker().sendall(data[:50])
    observer.worker().sendall(flush(1, worker=1))
    observer.workers[0].sendall(data[50:])
    poll(lambda: observer.accounted() == 4)
    evidence = observer.evidence()
    assert evidence is not None
    assert evidence.source == "replica:boot"
    assert list(evidence.series[SeriesKey("stable", "", "mean")].sum) == [2.0]
    assert evidence.watermark > time.time() - 10


def test_a_flush_that_overtakes_its_table_is_not_lost(start: Callable[..., ObserverProcess]) -> None:
    observer = start()
    observer.worker().sendall(flush(1))
    observer.obey()
    poll(lambda: observer.accounted() == 1)


def test_hostile_bodies_cost_their_prediction_and_nothing_else(start: Callable[..., ObserverProcess]) -> None:
    observer = start()
    observer.obey()
    worker = observer.worker()
    for number, answer in enumerate(
        [b"[" * 200_000, b'{"p":' * 20_000, b"\xff\xfe", b'{"p": NaN}', b"9" * 5000]
    ):
        worker.sendall(flush(number, answer=answer))
    worker.sendall(flush(9))
    poll(lambda: observer.accounted() == 6)
    evidence = observer.evidence()
    assert evidence is not None
    assert sum(evidence.series[SeriesKey("stable", "", "missing")].sum) == 5


def test_a_connection_that_sends_no_flush_is_closed_and_the_others_go_on(
    start: Callable[..., ObserverProcess],
) -> None:
    observer = start()
    observer.obey()
    for nonsense in (b"\xff\xff\xff\xff", (5).to_bytes(4, "big") + b"hello"):
        stranger = observer.worker()
        stranger.sendall(nonsense)
        assert stranger.recv(1) == b""
    observer.worker().sendall(flush(1))
    poll(lambda: observer.accounted() == 1)


def test_a_store_that_is_gone_is_tried_on_while_sums_are_kept(
    start: Callable[..., ObserverProcess], tmp_path: Path
) -> None:
    place = tmp_path / "later"
    place.touch()  # a file, so that no store can be made under it
    observer = start(place / "accede.db")
    observer.obey()
    worker = observer.worker()
    worker.sendall(flush(1))
    assert observer.process.stderr is not None
    assert b"cannot publish, trying on" in observer.process.stderr.readline()
    worker.sendall(flush(2))
    place.unlink()
    place.mkdir()

    def arrived() -> bool:
        with contextlib.suppress(AccedeError):
            return observer.accounted() == 2
        return False

    poll(arrived)


@pytest.mark.parametrize("told", [True, False], ids=["drained", "orphaned"])
def test_at_the_end_everything_reported_is_published(
    start: Callable[..., ObserverProcess], told: bool
) -> None:
    observer = start()
    observer.obey()
    worker = observer.worker()
    worker.sendall(flush(1, 2, 3, line=2))
    if told:
        observer.control.sendall(encode_message(Drain()))
    else:
        observer.control.close()
    worker.sendall(flush(4, line=2))
    worker.close()
    assert observer.end() == (0, "")
    assert observer.accounted() == 4


def test_bodies_never_appear_in_what_it_says(start: Callable[..., ObserverProcess]) -> None:
    observer = start()
    observer.obey()
    worker = observer.worker()
    worker.sendall(flush(1, answer=json.dumps({"p": "secret"}).encode()))
    worker.sendall((20).to_bytes(4, "big") + b"secret secret secret")
    assert worker.recv(1) == b""
    observer.control.sendall(encode_message(Drain()))
    code, said = observer.end()
    assert code == 0
    assert "a worker's connection is closed" in said
    assert "secret" not in said
