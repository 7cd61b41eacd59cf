"""What the fact and the body of an exchange say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accede.router.facts import Ending, Placed
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

Worker = Callable[..., WorkerProcess]
Observing = Callable[..., Observer]


def test_a_stream_is_timed_piece_by_piece(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    observer = start_observer(worker)
    exchange(worker.port, post("/p", b"{}", "x-script: sse=5"))
    (fact,) = observer.wait_facts(1)
    assert 0 < fact.first < fact.latency
    assert 0.05 < fact.gap < fact.latency
    (body,) = observer.bodies
    sizes = [size for size, _ in body.marks]
    times = [seconds for _, seconds in body.marks]
    assert sizes == [9, 18, 27, 36, 45]
    assert times == sorted(times)
    assert times[0] == fact.first
    assert times[-1] <= fact.latency


def test_only_the_first_pieces_are_marked(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    observer = start_observer(worker)
    assert exchange(worker.port, post("/p", b"{}", "x-script: pieces=300")).body == b"x" * 300
    observer.wait_facts(1)
    marks = observer.bodies[0].marks
    assert len(marks) == 64
    assert [size for size, _ in marks] == sorted({size for size, _ in marks})


def test_an_answer_in_one_piece_has_no_gap_and_no_marks(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    observer = start_observer(worker)
    exchange(worker.port, post("/p", b"{}"))
    exchange(worker.port, post("/p", b"{}", "x-script: empty=204"))
    whole, empty = observer.wait_facts(2)
    assert (whole.first, whole.gap) == (whole.latency, 0.0)
    assert (empty.first, empty.gap) == (0.0, 0.0)
    assert [body.marks for body in observer.bodies] == [[], []]


@pytest.mark.parametrize(("given", "known"), [("2", 2), ("two", -1), ("-2", -1), ("9" * 40, -1)])
def test_the_json_before_binary_tensors_is_measured(
    start_worker: Worker, start_upstream: Callable[..., UpstreamProcess], start_observer: Observing,
    given: str, known: int,
) -> None:  # fmt: skip
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url), 0))
    observer = start_observer(worker)
    field = f"Inference-Header-Content-Length: {given}"
    answer = exchange(worker.port, post("/p", b"{}\0\xff", field, "x-script: tensors"))
    assert answer.field("Inference-Header-Content-Length".lower()) == "2"
    assert upstream.seen()[0]["headers"]["inference-header-content-length"] == given
    observer.wait_facts(1)
    assert (observer.bodies[0].request_head, observer.bodies[0].response_head) == (known, 2)
    exchange(worker.port, post("/p"))
    observer.wait_facts(2)
    assert (observer.bodies[1].request_head, observer.bodies[1].response_head) == (-1, -1)


def test_every_way_to_end_is_accounted_once(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, deadline=0.5), 2))
    observer = start_observer(worker)
    scripts = ["nan", "status=500", "truncate", "garbage", "close-silently", "hang", "stall", "sse=2"]
    for script in scripts:
        client = Connection(worker.port)
        client.send(post("/p", b"{}", f"x-script: {script}", "Connection: close"))
        while client.more():
            pass
        client.close()
    gone = Connection(worker.port)
    gone.send(post("/p", b"{}", "x-script: hang"))
    wait_for(lambda: worker.counters.read(2).assigned[0] == len(scripts) + 1)
    gone.close()
    facts = observer.wait_facts(len(scripts) + 1)
    assert sorted(fact.number for fact in facts) == list(range(1, len(scripts) + 2))
    endings = {fact.number: fact.ending for fact in facts}
    assert [endings[number] for number in range(1, 8)] == [
        Ending.ANSWERED, Ending.ANSWERED, Ending.TRUNCATED, Ending.TRUNCATED, Ending.TRUNCATED,
        Ending.TIMEOUT, Ending.TIMEOUT,
    ]  # fmt: skip
    assert endings[9] == Ending.DISCONNECTED
    wait_for(lambda: observer.flushes[-1].line == len(scripts) + 2)
    assert worker.counters.read(2)[:2] == ((9, 0), (9, 0))
