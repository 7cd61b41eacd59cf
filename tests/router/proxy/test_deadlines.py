"""Deadlines: whole request, first byte, pauses, and the client's own."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from accede.router.facts import Ending, Placed
from accede.router.proxy.ages import LOOK, TICK, Ages
from tests.router.conftest import (
    Connection,
    Observer,
    UpstreamProcess,
    WorkerProcess,
    dechunked,
    exchange,
    plan,
    post,
    route,
    wait_for,
)

Worker = Callable[..., WorkerProcess]
Observing = Callable[..., Observer]


def test_an_answer_that_does_not_begin_in_time_is_504_long_before_the_deadline(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, first_byte=0.2, deadline=600.0), 0))
    observer = start_observer(worker)
    answer = exchange(worker.port, post("/p", b"{}", "x-script: hang"))
    assert answer.status == 504
    assert b"did not begin its answer" in answer.body
    (fact,) = observer.wait_facts(1)
    assert (fact.ending, fact.status) == (Ending.TIMEOUT, 0)
    assert fact.latency >= 0.2
    assert worker.counters.read(0)[:2] == ((1, 0), (1, 0))


def test_an_answer_that_has_begun_is_not_bound_by_the_first_bytes_deadline(
    start_worker: Worker, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, first_byte=0.25), 0))
    answer = exchange(worker.port, post("/p", b"{}", "x-script: sse=6"))  # 0.6 s
    assert dechunked(answer.body).endswith(b"data: 5\n\n")


def test_an_answer_that_pauses_too_long_is_cut(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, idle=0.2, deadline=600.0), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p", b"{}", "x-script: stall"))
    with pytest.raises(EOFError):
        client.answer()
    client.close()
    (fact,) = observer.wait_facts(1)
    assert (fact.ending, fact.status, fact.response_bytes) == (Ending.TIMEOUT, 200, 10)


def test_pauses_shorter_than_allowed_may_add_up(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url, idle=0.35), 0))
    answer = exchange(worker.port, post("/p", b"{}", "x-script: sse=8"))  # 0.8 s
    assert dechunked(answer.body).endswith(b"data: 7\n\n")


@pytest.mark.parametrize(("wanted", "status"), [("150", 504), ("0", 200), ("soon", 200), ("-1", 200)])
def test_a_client_may_shorten_the_deadline(
    start_worker: Worker, start_upstream: Callable[..., UpstreamProcess], wanted: str, status: int
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url, deadline=30.0), 0))
    name = "X-Envoy-Upstream-Rq-Timeout-Ms"
    assert (
        exchange(worker.port, post("/p", b"{}", "x-script: slow=0.6", f"{name}: {wanted}")).status == status
    )
    assert name.lower() not in upstream.last()["headers"]


def test_a_client_may_not_lengthen_the_deadline(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url, deadline=0.3), 0))
    fields = ("x-script: hang", "x-envoy-upstream-rq-timeout-ms: 60000")
    assert exchange(worker.port, post("/p", b"{}", *fields)).status == 504


def test_a_client_that_does_not_read_is_no_pause_of_the_upstreams(
    start_worker: Worker, start_upstream: Callable[..., UpstreamProcess]
) -> None:
    upstream = start_upstream("stable", "status-long=200")
    worker = start_worker(Placed(route(upstream.url, idle=0.2, deadline=60.0, max_body=2**24), 0))
    client = Connection(worker.port)
    client.send(post("/p") * 24)  # more than all buffers on the way take
    time.sleep(0.6)  # the pause itself is what is tried here
    for _ in range(24):
        assert len(client.answer().body) == 1 << 20
    client.close()


def test_a_client_that_does_not_read_until_the_deadline_is_no_failure_of_the_version(
    start_worker: Worker, start_observer: Observing, start_upstream: Callable[..., UpstreamProcess]
) -> None:
    upstream = start_upstream("stable", "status-long=200")
    worker = start_worker(Placed(route(upstream.url, deadline=0.5), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p") * 24)  # more than all buffers on the way take
    wait_for(lambda: any(fact.ending for fact in observer.facts))
    assert {fact.ending for fact in observer.facts} == {Ending.ANSWERED, Ending.DISCONNECTED}
    client.close()


def test_an_overdue_exchange_is_reported_once_as_open(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, plan=plan(account_after=0.15)), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p", b"{}", "x-script: slow=0.5"))
    assert client.answer().status == 200
    client.send(post("/p"))
    client.answer()
    late, soon = observer.wait_facts(2)
    assert (late.ending, soon.ending) == (Ending.OPEN, Ending.ANSWERED)
    assert late.latency >= 0.15
    wait_for(lambda: observer.flushes[-1].line == 3)
    assert len(observer.facts) == 2
    assert worker.counters.read(0)[:2] == ((2, 0), (2, 0))
    client.close()


@pytest.mark.parametrize("streams", [True, False])
def test_an_overdue_stream_tells_what_came_so_far(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess, streams: bool
) -> None:
    told = plan(account_after=0.25, streams=streams)
    worker = start_worker(Placed(route(stable.url, plan=told), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p", b"{}", "x-script: sse=8"))
    (fact,) = observer.wait_facts(1)
    assert fact.ending == Ending.OPEN
    (body,) = wait_for(lambda: observer.bodies)
    if streams:  # or its first token could only be guessed at, while that of one which has ended is known
        assert body.response.startswith(b"data: 0\n\n")
        assert not body.response.endswith(b"data: 7\n\n")
        assert body.marks[0] == (9, fact.first)
    else:
        assert (body.response, body.marks) == (b"", [])
    assert client.answer().status == 200
    client.close()


def test_the_line_waits_for_what_hangs_and_counts_it(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url), 3))
    observer = start_observer(worker)
    hanging = [Connection(worker.port) for _ in range(3)]
    for client in hanging:
        client.send(post("/p", b"{}", "x-script: hang"))
    wait_for(lambda: observer.flushes and observer.flushes[-1].open == [(3, 0, 3)])
    assert observer.flushes[-1].line == 1
    exchange(worker.port, post("/p"))
    observer.wait_facts(1)
    assert observer.flushes[-1].line == 1
    for client in hanging:
        client.close()
    wait_for(lambda: observer.flushes[-1].line == 5 and observer.flushes[-1].open == [])


class _Aged:
    """An exchange as Ages sees it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.slot, self.assigned_arm, self.reported = 0, 0, False
        self.looks = 0

    def first_look(self) -> float:
        return LOOK

    def look(self, now: float) -> float:
        self.looks += 1
        return now + LOOK


@pytest.mark.interpreted
def test_what_hangs_is_looked_at_once_a_second_and_not_at_every_tick() -> None:
    hanging = {number: _Aged(number) for number in range(1, 5001)}
    ages = Ages(hanging, 0.0)  # type: ignore[arg-type]
    for tick in range(500):  # ten seconds
        ages.admit(5000)
        ages.look(tick * TICK)
    assert {each.looks for each in hanging.values()} == {9}
    assert ages.counts() == [(0, 0, 5000)]
    for number in list(hanging)[:4999]:
        ages.reported(hanging.pop(number))  # type: ignore[arg-type]
    assert ages.counts() == [(0, 0, 1)]
    assert next(iter(ages.unreported)) == 5000
