"""What a worker reports: facts, bodies and the line, within bounds, whatever the observer does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accede.router.counters import FACTS_LOST, FIELDS, SLOTS, Counters
from accede.router.facts import Body, Ending, Fact, Pair, Placed
from accede.router.proxy.capture import BODY_BYTES, FACTS, Gathered, Lines
from accede.store.routes import MirrorTarget
from tests.router.conftest import (
    Connection,
    Observer,
    UpstreamProcess,
    WorkerProcess,
    exchange,
    plan,
    post,
    route,
    wait_for,
)  # fmt: skip

Worker = Callable[..., WorkerProcess]
Watch = Callable[[WorkerProcess], Observer]


def test_a_fact_and_a_body_say_what_happened(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url), 3))
    observer = start_observer(worker)
    before = time.time()
    exchange(worker.port, post("/p", b'{"a": NaN}', "x-script: slow=0.05", "Content-Encoding: gzip"))
    exchange(worker.port, post("/p", b"{}", "x-script: gzip"))
    exchange(worker.port, post("/p", b"{}", "x-script: chunked"))
    slow, _, chunked = facts = sorted(observer.wait_facts(3), key=lambda fact: fact.number)
    assert (slow.slot, slow.arm, slow.served, slow.ending, slow.status) == (3, 0, 0, Ending.ANSWERED, 200)
    assert 0.05 <= slow.latency < 5
    assert before <= slow.assigned_at <= time.time()
    assert (slow.request_bytes, slow.response_bytes, slow.captured) == (10, 2, 1)
    bodies = {body.number: body for body in observer.bodies}
    assert bodies[slow.number] == Body(slow.number, b'{"a": NaN}', b"ok", "gzip", "")
    assert bodies[facts[1].number].response_encoding == "gzip"
    assert bodies[chunked.number].response == b'{"predictions": [1, 2, 3]}'
    assert chunked.response_bytes == 26
    last = observer.flushes[-1]
    assert last.worker == 0
    assert last.boot == "boot-1"
    assert last.line > chunked.number


@pytest.mark.parametrize(
    ("script", "ending", "status"),
    [
        ("truncate", Ending.TRUNCATED, 200), ("truncate-chunked", Ending.TRUNCATED, 200),
        ("garbage", Ending.TRUNCATED, 0), ("status=503", Ending.ANSWERED, 503), ("hang", Ending.TIMEOUT, 0),
    ],
)  # fmt: skip
def test_endings_are_told_apart(
    start_worker: Worker,
    start_observer: Watch,
    stable: UpstreamProcess,
    script: str,
    ending: Ending,
    status: int,
) -> None:
    worker = start_worker(Placed(route(stable.url, deadline=0.4), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p", b"{}", f"x-script: {script}"))
    if script.startswith("truncate"):
        with pytest.raises(EOFError):
            client.answer()
    else:
        assert client.answer().status == (status or (504 if script == "hang" else 502))
    client.close()
    (fact,) = observer.wait_facts(1)
    assert (fact.ending, fact.status) == (ending, status)
    assert fact.captured == 1  # a failure's request tells its slices


def test_a_client_that_leaves_is_a_disconnect_with_its_age(
    start_worker: Worker, start_observer: Watch, start_upstream: Callable[..., UpstreamProcess]
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p", b"{}", "x-script: hang"))
    wait_for(upstream.seen)
    client.close()
    (fact,) = observer.wait_facts(1)
    assert fact.ending == Ending.DISCONNECTED
    assert fact.latency > 0


def test_a_hanging_exchange_holds_the_line_until_account_after_and_is_reported_once(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, plan=plan(account_after=0.6)), 2))
    observer = start_observer(worker)
    slow = Connection(worker.port)
    slow.send(post("/p", b"{}", "x-script: slow=1.2"))
    wait_for(lambda: worker.counters.read(2).assigned == (1, 0))
    for _ in range(3):
        exchange(worker.port, post("/p"))
    observer.wait_facts(3)
    held = [flush for flush in observer.flushes if flush.open]
    assert held
    assert {flush.line for flush in held} == {1}
    assert held[-1].open == [(2, 0, 1)]
    assert held[-1].line_time < held[-1].sent_at
    facts = observer.wait_facts(4)
    assert facts[-1].ending == Ending.OPEN
    assert facts[-1].number == 1
    assert 0.6 <= facts[-1].latency < 1.2
    assert slow.answer().body == b"ok"
    slow.close()
    wait_for(lambda: observer.flushes[-1].line == 5)
    assert len(observer.facts) == 4
    assert worker.counters.read(2).finished == (4, 0)


def test_an_error_is_seen_in_its_slices_and_pairs_however_long_it_is(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    failing = f"{candidate.url}/as/status-long=502"
    shadow = MirrorTarget(version="43", addresses=(failing,), rate=1_000_000)
    worker = start_worker(
        Placed(route(stable.url, mirrors=(shadow,)), 0),
        Placed(route(failing, service="long", path="/long"), 1),
    )
    observer = start_observer(worker)
    assert exchange(worker.port, post("/p", b"{}")).status == 200
    (pair,) = observer.wait_pairs(1)
    assert (pair.shadow_status, pair.lost, pair.request, pair.shadow_response) == (502, False, b"{}", b"")
    assert exchange(worker.port, post("/long", b"{}")).status == 502
    observer.wait_facts(2)
    assert [(body.request, body.response) for body in observer.bodies] == [(b"{}", b"{}"), (b"{}", b"")]


def test_bodies_beyond_the_limits_are_not_captured(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, capture_request=100, capture_response=30), 0))
    observer = start_observer(worker)
    exchange(worker.port, post("/p", b"x" * 101))
    exchange(worker.port, post("/p", b"x" * 31))
    exchange(worker.port, post("/p", b"x" * 30))
    exchange(worker.port, post("/p", b"x", "x-script: sse=4"))
    facts = sorted(observer.wait_facts(4), key=lambda fact: fact.number)
    assert [fact.captured for fact in facts] == [0, 0, 1, 0]
    assert facts[-1].response_bytes == 36


def test_without_an_observer_clients_see_nothing_and_memory_stays(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    client = Connection(worker.port)
    body = b"x" * 60_000
    for _ in range(30):
        client.send(post("/p", body))
        client.answer()
    before = worker.rss()
    for _ in range(300):
        client.send(post("/p", body))
        assert client.answer().status == 200
    assert worker.rss() - before < BODY_BYTES + 16 * 2**20
    client.close()
    observer = start_observer(worker)
    facts = observer.wait_facts(330)
    kept = {fact.number for fact in facts if fact.captured == 1}
    assert {fact.captured for fact in facts} == {1, 2}
    assert {body.number for body in observer.bodies} == kept
    assert kept == set(range(min(kept), 331))  # whole flushes are lost, never the large ones among them
    assert worker.counters.read(0).finished == (330, 0)


def test_a_restarted_observer_is_found_again(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    first = start_observer(worker)
    exchange(worker.port, post("/p"))
    first.wait_facts(1)
    first.close()
    worker.observer_path.unlink()
    second = start_observer(worker)
    wait_for(lambda: second.flushes)
    exchange(worker.port, post("/p"))
    assert second.wait_facts(1)[0].number == 2


def _fact(number: int, captured: int = 1) -> Fact:
    return Fact(number, 1, 0, 0, 0.0, 0, 200, 0.1, -1, False, captured, 1, 1)


def test_all_gathered_bodies_go_at_once_and_say_so() -> None:
    gathered = Gathered(memoryview(bytearray(SLOTS * FIELDS * 8)).cast("q"))
    part = BODY_BYTES // 4
    for number in range(5):
        gathered.add(_fact(number), Body(number, b"", b"", "", ""), part)
    gathered.add_pair(
        Pair(1, 1, 0.0, 0, 200, 0.1, 0, 200, 0.1, False, b"x" * (2 * part), b"y", b"z", "", "", "")
    )
    gathered.add(_fact(5, 0), None, 0)
    gathered.add(_fact(6), Body(6, b"", b"", "", ""), 2 * part)
    flush = gathered.take(0, "b", Lines(8, 0.0, 2, 0.0))
    assert [fact.captured for fact in flush.facts] == [2, 2, 2, 2, 2, 0, 1]
    assert [body.number for body in flush.bodies] == [6]
    assert flush.pairs[0].lost
    assert flush.pairs[0].request == b""
    assert not gathered.anything


def test_facts_beyond_their_bound_are_counted() -> None:
    cells = memoryview(bytearray(SLOTS * FIELDS * 8)).cast("q")
    gathered = Gathered(cells)
    for number in range(FACTS + 3):
        gathered.add(_fact(number), None, 0)
    assert cells[FIELDS + FACTS_LOST] == 3
    assert gathered.take(0, "b", Lines(0, 0.0, 0, 0.0)).facts_lost == 3


def test_counters_survive_and_add_over_workers(tmp_path: Path) -> None:
    counters = Counters(tmp_path / "map", 2, create=True)
    for worker in range(2):
        cells = Counters(tmp_path / "map", 2).cells(worker)
        cells[7 * FIELDS] += 2 + worker
        cells[7 * FIELDS + 3] += 1
    assert counters.read(7).assigned == (5, 0)
    assert counters.read(7, worker=1).assigned == (3, 0)
    assert counters.read(7).finished == (0, 2)
    assert counters.read(6).assigned == (0, 0)
    counters.clear(7)
    assert counters.read(7).finished == (0, 0)
    counters.close()
