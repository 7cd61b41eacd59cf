"""Copies to a shadow: paired, bounded, and never felt by clients."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from accede.router.facts import Ending, Placed
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
)

Worker = Callable[..., WorkerProcess]
Watch = Callable[[WorkerProcess], Observer]
Upstreams = Callable[..., UpstreamProcess]


def mirror(url: str, **changes: Any) -> tuple[MirrorTarget, ...]:
    return (MirrorTarget(**{"version": "43", "addresses": (url,), "rate": 1_000_000, **changes}),)


def test_a_pair_has_both_answers_and_the_copy_says_that_it_is_one(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams, stable: UpstreamProcess
) -> None:
    shadow = start_upstream("shadow", "nan")
    tensorflow = route(
        stable.url, protocol="tensorflow-serving", path="/v1/models/fraud", mirrors=mirror(shadow.url)
    )
    worker = start_worker(Placed(tensorflow, 4))
    observer = start_observer(worker)
    answer = exchange(
        worker.port,
        post("/v1/models/fraud:predict", b'{"instances": [1]}', "x-request-id: r-1", host="my-host"),
    )
    assert answer.body == b'{"instances": [1]}'
    chunked = b"POST /v1/models/fraud:predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    chunked += b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    client = Connection(worker.port)
    client.send(chunked)
    while client.answer().status == 100:
        pass
    client.close()
    first, second = sorted(observer.wait_pairs(2), key=lambda pair: pair.number)
    assert (first.number, first.slot, first.stable_ending, first.shadow_ending) == (1, 4, 0, 0)
    assert (first.stable_status, first.shadow_status, first.lost) == (200, 200, False)
    assert (first.request, first.stable_response) == (b'{"instances": [1]}', b'{"instances": [1]}')
    assert first.shadow_response.startswith(b'{"predictions": [NaN')
    assert first.shadow_latency > 0
    assert (second.request, second.stable_response) == (b"ab", b"ab")
    copies = shadow.seen()
    assert copies[0]["line"] == "POST /v1/models/fraud/versions/43:predict HTTP/1.1"
    assert copies[0]["headers"]["x-accede-shadow"] == "1"
    assert copies[0]["headers"]["host"] == "my-host"
    assert copies[0]["headers"]["x-request-id"] == "r-1"
    assert copies[1]["headers"]["content-length"] == "2"
    assert "expect" not in copies[1]["headers"]
    assert observer.tally.chosen == observer.tally.sent == 2


def test_a_copy_is_sent_though_stable_fails(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams, free_port: Callable[[], int]
) -> None:
    shadow = start_upstream("shadow")
    worker = start_worker(Placed(route(f"http://127.0.0.1:{free_port()}", mirrors=mirror(shadow.url)), 0))
    observer = start_observer(worker)
    assert exchange(worker.port, post("/p", b"abc")).status == 502
    (pair,) = observer.wait_pairs(1)
    assert (pair.stable_ending, pair.shadow_ending) == (Ending.CONNECT, Ending.ANSWERED)
    assert (pair.stable_response, pair.shadow_response, pair.lost) == (b"", b"abc", False)


@pytest.mark.parametrize(
    ("script", "ending"),
    [("hang", Ending.TIMEOUT), ("garbage", Ending.TRUNCATED), ("truncate", Ending.TRUNCATED)],
)
def test_a_shadow_that_fails_makes_a_pair_and_touches_nobody(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams, stable: UpstreamProcess,
    script: str, ending: Ending,
) -> None:  # fmt: skip
    shadow = start_upstream("shadow", script)
    worker = start_worker(Placed(route(stable.url, mirrors=mirror(shadow.url, deadline=0.3)), 0))
    observer = start_observer(worker)
    for _ in range(5):
        assert exchange(worker.port, post("/p", b"x")).body == b"x"
    pairs = observer.wait_pairs(5)
    assert {pair.shadow_ending for pair in pairs} == {ending}
    assert max(pair.shadow_latency for pair in pairs) < 3, "a copy has a deadline of its own"
    assert {pair.stable_ending for pair in pairs} == {Ending.ANSWERED}
    assert {pair.lost for pair in pairs} == {False}


def test_a_refusing_shadow_makes_pairs_too(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess, free_port: Callable[[], int]
) -> None:
    worker = start_worker(Placed(route(stable.url, mirrors=mirror(f"http://127.0.0.1:{free_port()}")), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    for _ in range(50):
        client.send(post("/p"))
        assert client.answer().status == 200
    client.close()
    assert {pair.shadow_ending for pair in observer.wait_pairs(50)} == {Ending.CONNECT}


def test_a_hung_shadow_is_bounded_in_flight_and_bytes(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess
) -> None:
    with socket.socket() as hole:  # accepts connections and never reads
        hole.bind(("127.0.0.1", 0))
        hole.listen(64)
        url = f"http://127.0.0.1:{hole.getsockname()[1]}"
        bounded = route(
            stable.url,
            capture_request=1 << 20,
            mirrors=mirror(url, max_in_flight=20, max_bytes=8 << 20, deadline=5.0),
        )
        worker = start_worker(Placed(bounded, 0))
        observer = start_observer(worker)
        client = Connection(worker.port)
        client.send(post("/p", b"z" * 1_000_000))
        client.answer()
        before = worker.rss()
        for _ in range(40):
            client.send(post("/p", b"z" * 1_000_000))
            assert client.answer().status == 200
        assert worker.rss() - before < 8 * 2**20 + 32 * 2**20
        for _ in range(60):
            client.send(post("/p", b"z"))
            assert client.answer().status == 200
        client.close()
        wait_for(lambda: observer.tally.chosen == 101)
        tally = observer.tally
        assert tally.dropped_bytes >= 30
        assert tally.dropped_in_flight >= 30
        assert tally.chosen == tally.sent + tally.dropped_bytes + tally.dropped_in_flight
        assert tally.sent <= 20


def test_rates_and_sizes_are_kept_and_counted(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams, stable: UpstreamProcess
) -> None:
    shadow = start_upstream("shadow")
    worker = start_worker(
        Placed(route(stable.url, capture_request=10, mirrors=mirror(shadow.url, max_rps=1.0)), 0)
    )
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p", b"x" * 11) + post("/p", b"x") * 30)
    for _ in range(31):
        assert client.answer().status == 200
    client.close()
    wait_for(lambda: observer.tally.chosen == 31)
    tally = observer.tally
    assert tally.dropped_size == 1
    assert tally.dropped_rate >= 20
    assert tally.sent + tally.dropped_rate == 30
    worker.apply(Placed(route(stable.url, generation=2, mirrors=mirror(shadow.url, rate=200_000)), 0))
    client = Connection(worker.port)
    client.send(post("/p", b"x") * 1000)
    for _ in range(1000):
        client.answer()
    client.close()
    wait_for(lambda: worker.counters.read(0).mirrors_chosen > 31)
    assert 120 < worker.counters.read(0).mirrors_chosen - 31 < 280  # 200 ± 6 standard errors


def test_pairs_of_a_hanging_stable_come_at_account_after(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams
) -> None:
    stable, shadow = start_upstream("stable", "slow=1.5"), start_upstream("shadow")
    worker = start_worker(
        Placed(route(stable.url, plan=plan(account_after=0.4), mirrors=mirror(shadow.url)), 0)
    )
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p", b"q"))
    (pair,) = observer.wait_pairs(1)
    assert (pair.stable_ending, pair.shadow_ending) == (Ending.OPEN, Ending.ANSWERED)
    assert client.answer().body == b"ok"
    client.close()
    wait_for(lambda: observer.flushes[-1].pair_line == 2)
    assert len(observer.pairs) == 1
