"""The observer as a process: flushes on its socket, evidence in the store, whatever happens around it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from accede.errors import AccedeError
from accede.router.facts import (
    Body,
    Drain,
    Ending,
    Fact,
    Flush,
    encode_flush,
    encode_message,
)
from accede.store.closing import CLOSED
from accede.store.evidence import SeriesKey, merge
from accede.store.open import open_store
from tests.router.observer.alone import ObserverProcess, poll
from tests.store.servers import Server


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


@pytest.mark.parametrize("kind", ["sqlite", "valkey"])
def test_a_source_that_was_closed_goes_on_under_another_name_and_counts_each_request_once(
    start: Callable[..., ObserverProcess], tmp_path: Path, kind: str
) -> None:
    server = Server(tmp_path / "valkey") if kind == "valkey" else None
    address = str(tmp_path / "store") if server is None else f"redis://127.0.0.1:{server.port}"
    try:
        observer = start(address=address)
        observer.obey()
        worker = observer.worker()
        worker.sendall(flush(1, 2, 3))
        with closing(open_store(address)) as store:

            def counted() -> tuple[int, float]:
                total = merge(store.evidence("s", "r"))
                if total is None or "stable" not in total.arms:
                    return 0, 0.0
                series = total.series[SeriesKey("stable", "", "mean")]
                assert sum(series.n) == total.arms["stable"].accounted
                return total.arms["stable"].accounted, sum(series.sum)

            def arrived(requests: int) -> None:
                poll(lambda: counted() == (requests, 0.5 * requests))

            arrived(3)
            for name, numbers in ((1, (11, 12)), (2, (21, 22, 23))):
                sources = {one.source for one in store.evidence("s", "r")} - {CLOSED}
                assert store.close_sources("s", "r", sources) == 1
                worker.sendall(flush(*numbers))
                arrived(5 if name == 1 else 8)
                assert {one.source for one in store.evidence("s", "r")} == {CLOSED, f"replica:boot.{name}"}
        observer.control.sendall(encode_message(Drain()))
        worker.close()
        code, said = observer.end()
        assert code == 0
        assert said.count("it goes on as") == 2
        assert "lost" not in said
    finally:
        if server is not None:
            server.end()


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
