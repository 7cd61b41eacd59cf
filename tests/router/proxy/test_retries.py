"""A stale connection is retried once where that is safe, and within the budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accede.router.facts import Ending, Placed
from accede.router.proxy.retrying import FLOOR, SHARE, WINDOW, RetryBudget
from tests.router.conftest import Connection, Observer, UpstreamProcess, WorkerProcess, post, route

Worker = Callable[..., WorkerProcess]
Upstreams = Callable[..., UpstreamProcess]


def _chunked(*fields: str) -> bytes:
    lines = ["POST /p HTTP/1.1", "Host: models", "Transfer-Encoding: chunked", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "changes", "status"),
    [
        (post("/p", b"payload"), {}, 200),
        (post("/p", b"payload"), {"side_effects": "writes"}, 502),
        (post("/p", b"payload"), {"side_effects": "shadow-aware"}, 502),
        (b"GET /p HTTP/1.1\r\nHost: models\r\n\r\n", {"side_effects": "writes"}, 200),
        (b"DELETE /p HTTP/1.1\r\nHost: models\r\n\r\n", {"side_effects": "writes"}, 200),
        (post("/p", b"p" * 200), {"capture_request": 100}, 502),
        (_chunked(), {}, 200),
        (post("/p", b"payload", "Expect: 100-continue"), {}, 502),  # its 100 came, so it was not stale
    ],
)
def test_only_what_may_be_repeated_is(
    start_worker: Worker, start_upstream: Upstreams, request_bytes: bytes, changes: dict[str, Any],
    status: int,
) -> None:  # fmt: skip
    upstream = start_upstream("stable", "once")
    worker = start_worker(Placed(route(upstream.url, **changes), 0))
    client = Connection(worker.port)
    client.send(post("/p", b"first"))
    assert client.answer().status == 200
    client.send(request_bytes)
    answer = client.answer()
    while answer.status == 100:
        answer = client.answer()
    assert answer.status == status
    seen = upstream.seen()
    assert len(seen) == (3 if status == 200 else 2)
    assert seen[-1]["text"] == seen[1]["text"]
    client.close()


def test_an_answer_that_has_begun_is_never_retried(
    start_worker: Worker, start_upstream: Upstreams, start_observer: Callable[..., Observer]
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p"))
    assert client.answer().status == 200
    client.send(post("/p", b"{}", "x-script: truncate"))
    with pytest.raises(EOFError):
        client.answer()
    client.close()
    assert len(upstream.seen()) == 2
    assert [fact.ending for fact in observer.wait_facts(2)] == [Ending.ANSWERED, Ending.TRUNCATED]


def test_retries_beyond_the_budget_show_the_error(start_worker: Worker, start_upstream: Upstreams) -> None:
    upstream = start_upstream("stable", "once")
    worker = start_worker(Placed(route(upstream.url), 0))
    client = Connection(worker.port)
    found = []
    for _ in range(FLOOR + 2):
        client.send(post("/p"))
        found.append(client.answer().status)
    assert found == [200] * (FLOOR + 1) + [502]
    client.close()


def test_the_budget_is_a_tenth_of_the_requests_of_the_window() -> None:
    budget = RetryBudget(0.0)
    now = 0.0
    spent = 0
    for _ in range(1000):
        now += 0.01
        budget.requests += 1
        budget.roll(now)
        spent += budget.spend(now)
    assert 0.9 * SHARE * 1000 <= spent <= SHARE * 1000 + FLOOR
    for second in range(30):  # silence
        budget.roll(now + second)
    later = now + 30
    assert [budget.spend(later) for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
    assert budget.spend(later + WINDOW + 1)


def test_the_budget_outlives_a_table(start_worker: Worker, start_upstream: Upstreams) -> None:
    upstream = start_upstream("stable", "once")
    worker = start_worker(Placed(route(upstream.url), 0))
    client = Connection(worker.port)
    found = []
    for generation in range(2, FLOOR + 4):
        client.send(post("/p"))
        found.append(client.answer().status)
        worker.apply(Placed(route(upstream.url, generation=generation), 0))
    assert found[-1] == 502
    client.close()
