"""Upstreams, clients and parents that fail or dawdle."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from accede.router.facts import Placed
from accede.router.proxy.breaker import Breaker
from accede.store.routes import RouteBreaker
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
Upstreams = Callable[..., UpstreamProcess]


@pytest.mark.parametrize("script", ["truncate", "truncate-chunked"])
def test_a_truncated_answer_never_looks_complete(
    start_worker: Worker, stable: UpstreamProcess, script: str
) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    client = Connection(worker.port)
    client.send(post("/p", b"{}", f"x-script: {script}"))
    with pytest.raises(EOFError):
        client.answer()
    client.close()


def test_an_upstream_killed_in_its_answer_truncates_it(
    start_worker: Worker, start_upstream: Upstreams
) -> None:
    upstream = start_upstream("stable", "stall")
    worker = start_worker(Placed(route(upstream.url), 0))
    client = Connection(worker.port)
    client.send(post("/p"))
    while not client.buffer.endswith(b"\r\n\r\n" + b"x" * 10):
        assert client.more()
    upstream.kill()
    with pytest.raises(EOFError):
        client.answer()
    client.close()


def test_bytes_beyond_an_answer_never_reach_the_next_client(
    start_worker: Worker, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    client = Connection(worker.port)
    for _ in range(20):
        client.send(post("/p", b"{}", "x-script: extra") + post("/p", b"mine"))
        assert client.answer().body == b"ok"
        assert client.answer().body == b"mine"
    client.close()


def test_own_errors_name_request_and_version_but_no_address(
    start_worker: Worker, free_port: Callable[[], int]
) -> None:
    port = free_port()
    worker = start_worker(Placed(route(f"http://127.0.0.1:{port}"), 0))
    client = Connection(worker.port)
    for _ in range(2):  # the connection stays
        client.send(post("/p", b"{}", "x-request-id: r-9"))
        answer = client.answer()
        assert answer.status == 502
        assert answer.field("x-request-id") == "r-9"
        assert answer.field("x-accede-version") == "42"
        assert answer.field("x-accede-arm") == "stable"
        assert str(port).encode() not in answer.raw
    client.send(b"HEAD /p HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.answer(bodyless=True).status == 502
    client.send(post("/p"))
    assert client.answer().status == 502
    client.close()


def test_the_deadline_is_504_and_in_the_midst_of_an_answer_a_cut(
    start_worker: Worker, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, deadline=0.3), 0))
    client = Connection(worker.port)
    client.send(post("/p", b"{}", "x-script: hang"))
    assert client.answer().status == 504
    client.send(post("/p", b"{}", "x-script: stall"))
    with pytest.raises(EOFError):
        client.answer()
    client.close()


def test_slow_heads_bodies_and_idle_connections_end(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url), 0), head_timeout=0.4, body_timeout=0.4, idle_timeout=0.6)
    silent, slow_head, slow_body, idle = (Connection(worker.port) for _ in range(4))
    slow_head.send(b"POST /p HTTP/1.1\r\nHos")
    slow_body.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    idle.send(post("/p"))
    assert idle.answer().status == 200
    assert slow_head.answer().status == 408
    assert slow_body.answer().status == 408
    assert silent.ended()
    assert idle.ended()
    for client in (silent, slow_head, slow_body, idle):
        client.close()


def test_a_stale_connection_is_repeated_once_where_the_service_allows(
    start_worker: Worker, start_upstream: Upstreams, free_port: Callable[[], int]
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url), 0))
    assert exchange(worker.port, post("/p", b"first")).body == b"first"
    assert exchange(worker.port, post("/p", b"second", "x-script: close-silently")).status == 502
    seen = [request["text"] for request in upstream.seen()]
    assert seen == ["first", "second", "second"]
    worker.apply(Placed(route(upstream.url, generation=2, side_effects="writes"), 0))
    assert exchange(worker.port, post("/p", b"third")).body == b"third"
    assert exchange(worker.port, post("/p", b"fourth", "x-script: close-silently")).status == 502
    assert [request["text"] for request in upstream.seen()][3:] == ["third", "fourth"]


def test_a_failing_candidate_trips_the_breaker_and_stable_answers_alone(
    start_worker: Worker, start_observer: Callable[[WorkerProcess], Observer], start_upstream: Upstreams,
    stable: UpstreamProcess,
) -> None:  # fmt: skip
    broken = start_upstream("candidate", "status=500")
    rules = RouteBreaker(share=0.2, over=10, min_requests=20)
    worker = start_worker(Placed(route(stable.url, broken.url, 5000, breaker=rules, fallback=False), 0))
    client = Connection(worker.port)
    statuses = []
    for _ in range(300):
        client.send(post("/p", b"{}"))
        statuses.append(client.answer().status)
    assert statuses.count(500) == 20
    tripped = worker.tripped()
    assert (tripped.service, tripped.generation, tripped.worker) == ("fraud", 1, 0)
    assert "20 of 20" in tripped.reason
    worker.apply(
        Placed(route(stable.url, broken.url, 5000, breaker=rules, fallback=False), 0)
    )  # the same generation stays tripped
    for _ in range(30):
        client.send(post("/p", b"{}"))
        assert client.answer().status == 200
    worker.apply(
        Placed(route(stable.url, broken.url, 10_000, breaker=rules, fallback=False, generation=2), 0)
    )
    client.send(post("/p", b"{}"))
    assert client.answer().status == 500
    client.close()


def test_the_breaker_looks_at_its_seconds_only() -> None:
    breaker = Breaker(RouteBreaker(share=0.5, over=3, min_requests=4), 1)
    assert not any(breaker.record(error=True, now=10.0 + 0.1 * number) for number in range(3))
    assert not breaker.record(error=True, now=13.5)  # the first three are too old
    assert not breaker.record(error=False, now=14.0)
    assert not breaker.record(error=False, now=14.1)
    assert breaker.record(error=True, now=15.0)
    assert breaker.open


def test_a_worker_whose_parent_is_gone_drains(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    assert exchange(worker.port, post("/p")).status == 200
    assert worker.stop() == ""
    assert worker.process.returncode == 0


def test_a_terminated_worker_finishes_and_hands_over_its_last_facts(
    start_worker: Worker, start_observer: Callable[[WorkerProcess], Observer], start_upstream: Upstreams
) -> None:
    upstream = start_upstream("stable", "slow=0.5")
    worker = start_worker(Placed(route(upstream.url), 0))
    observer = start_observer(worker)
    wait_for(lambda: observer.flushes)
    client = Connection(worker.port)
    client.send(post("/p"))
    wait_for(upstream.seen)
    worker.process.send_signal(signal.SIGTERM)
    answer = client.answer()
    assert answer.status == 200
    assert answer.field("connection") == "close"
    client.close()
    assert worker.process.wait(10) == 0
    assert len(observer.wait_facts(1)) == 1


def test_a_log_that_nobody_reads_stops_nobody() -> None:
    reading, writing = os.pipe()
    with contextlib.suppress(BlockingIOError):
        os.set_blocking(writing, False)
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    code = "from accede.router.proxy.worker import log\nfor _ in range(100): log('x' * 5000)"
    try:
        ended = subprocess.run([sys.executable, "-c", code], stderr=writing, timeout=30, check=False)
        assert ended.returncode == 0
    finally:
        os.close(reading)
        os.close(writing)


def test_what_waits_for_a_new_worker_waits_for_its_first_table_too(
    start_worker: Worker, stable: UpstreamProcess
) -> None:
    worker = start_worker()
    client = Connection(worker.port)
    client.send(post("/p"))
    worker.apply(Placed(route(stable.url), 0))
    assert client.answer().status == 200
    client.close()


def test_a_worker_without_any_table_says_so_after_a_moment(start_worker: Worker) -> None:
    worker = start_worker()
    answer = exchange(worker.port, post("/p"))
    assert answer.status == 503
    assert b"no route table" in answer.body
