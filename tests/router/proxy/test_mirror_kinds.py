"""Copies back to stable and to stable twice, what they carry, what warms up, and what nobody reads on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from accede.router.facts import PAIR_BACK, PAIR_FLOOR, PAIR_SHADOW, Ending, Placed
from accede.store.routes import MirrorTarget, RouteReadiness
from tests.router.conftest import (
    Connection,
    Observer,
    UpstreamProcess,
    WorkerProcess,
    post,
    route,
    wait_for,
)

Worker = Callable[..., WorkerProcess]
Watch = Callable[[WorkerProcess], Observer]
Upstreams = Callable[..., UpstreamProcess]

UNPROBED = RouteReadiness(probe=False)


def target(kind: Any, url: str, **changes: Any) -> MirrorTarget:
    version = "43" if kind == "shadow" else "42"
    settings: dict[str, Any] = {"version": version, "addresses": (url,), "rate": 1_000_000, "kind": kind}
    return MirrorTarget(**{**settings, **changes})


def ask(worker: WorkerProcess, times: int, body: bytes = b"q", *fields: str) -> list[str]:
    """Which arms answered so many requests on one connection."""
    client = Connection(worker.port)
    arms = []
    for _ in range(times):
        client.send(post("/p", body, *fields))
        arms.append(client.answer().field("x-accede-arm") or "")
    client.close()
    return arms


def test_what_the_candidate_served_goes_back_to_stable_and_the_pair_keeps_its_sides(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams
) -> None:
    stable, candidate = start_upstream("stable"), start_upstream("candidate", "gzip")
    back = route(stable.url, candidate.url, 10_000, mirrors=(target("back", stable.url),), readiness=UNPROBED)
    worker = start_worker(Placed(back, 3))
    observer = start_observer(worker)
    assert ask(worker, 4) == ["candidate"] * 4
    pairs = observer.wait_pairs(4)
    for pair in pairs:
        assert (pair.kind, pair.slot) == (PAIR_BACK, 3)
        assert (pair.stable_response, pair.stable_encoding) == (b"q", "")
        assert pair.shadow_encoding == "gzip"
        assert (pair.stable_status, pair.shadow_status) == (200, 200)
    assert observer.tally_of(PAIR_BACK).sent == 4
    assert observer.tally.chosen == 0
    assert {copy["headers"]["x-accede-shadow"] for copy in stable.seen()} == {"1"}
    assert all("x-accede-shadow" not in seen["headers"] for seen in candidate.seen())


def test_stable_is_asked_twice_and_all_three_kinds_run_side_by_side(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams
) -> None:
    stable, candidate = start_upstream("stable"), start_upstream("candidate")
    every = tuple(
        target(kind, url)
        for kind, url in (("shadow", candidate.url), ("back", stable.url), ("floor", stable.url))
    )
    worker = start_worker(
        Placed(route(stable.url, candidate.url, 5000, mirrors=every, readiness=UNPROBED), 0)
    )
    observer = start_observer(worker)
    arms = ask(worker, 60)
    ours, theirs = arms.count("stable"), arms.count("candidate")
    assert min(ours, theirs) > 10
    pairs = observer.wait_pairs(2 * ours + theirs)
    kinds = [pair.kind for pair in pairs]
    assert [kinds.count(kind) for kind in (PAIR_SHADOW, PAIR_BACK, PAIR_FLOOR)] == [ours, theirs, ours]
    assert len({pair.number for pair in pairs}) == len(pairs)
    for kind, count in ((PAIR_SHADOW, ours), (PAIR_BACK, theirs), (PAIR_FLOOR, ours)):
        assert (observer.tally_of(kind).chosen, observer.tally_of(kind).sent) == (count, count)
    wait_for(lambda: observer.flushes[-1].pair_line == len(pairs) + 1)
    assert len(observer.pairs) == len(pairs)
    assert len(stable.seen()) == 2 * ours + theirs


def test_copies_lack_what_is_stripped_and_what_belongs_to_the_connection(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams, stable: UpstreamProcess
) -> None:
    shadow = start_upstream("shadow")
    stripped = target("shadow", shadow.url, strip=("authorization", "cookie"))
    worker = start_worker(Placed(route(stable.url, mirrors=(stripped,)), 0))
    observer = start_observer(worker)
    fields = (
        "Authorization: Bearer secret", "COOKIE: a=b", "Connection: keep-alive, x-mine", "X-Mine: 1",
        "x-accede-arm: candidate", "x-accede-token: secret", "X-Kept: 2",
    )  # fmt: skip
    ask(worker, 1, b"q", *fields)
    observer.wait_pairs(1)
    (copy,) = shadow.seen()
    served = stable.last()
    assert served["headers"]["authorization"] == "Bearer secret"
    assert served["headers"]["cookie"] == "a=b"
    gone = {"authorization", "cookie", "connection", "x-mine", "x-accede-arm", "x-accede-token"}
    assert not gone & set(copy["headers"])
    assert copy["headers"]["x-kept"] == "2"
    assert copy["headers"]["x-accede-shadow"] == "1"
    assert (copy["headers"]["host"], copy["text"]) == ("models", "q")
    assert copy["headers"]["x-request-id"] == served["headers"]["x-request-id"]


def test_a_request_that_stable_answered_in_the_candidates_place_makes_no_pair(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams
) -> None:
    stable, candidate = start_upstream("stable"), start_upstream("candidate", "status=503")
    back = route(stable.url, candidate.url, 10_000, mirrors=(target("back", stable.url),), readiness=UNPROBED)
    worker = start_worker(Placed(back, 0))
    observer = start_observer(worker)
    assert ask(worker, 1) == ["stable"]
    wait_for(lambda: observer.tally_of(PAIR_BACK).unpaired == 1)
    tally = observer.tally_of(PAIR_BACK)
    assert (tally.chosen, tally.sent, tally.unpaired) == (1, 1, 1)
    wait_for(lambda: observer.flushes[-1].pair_line == 2)
    assert observer.pairs == []
    (fact,) = observer.wait_facts(1)
    assert (fact.arm, fact.served) == (1, 0)


def test_a_candidate_that_fails_before_its_users_makes_a_pair(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams
) -> None:
    """Nobody answered in its place: then the failure is what the pair tells."""
    stable, candidate = start_upstream("stable"), start_upstream("candidate", "status=503")
    failing = route(
        stable.url, candidate.url, 10_000, mirrors=(target("back", stable.url),), fallback=False,
        readiness=UNPROBED,
    )  # fmt: skip
    worker = start_worker(Placed(failing, 0))
    observer = start_observer(worker)
    ask(worker, 1)
    (pair,) = observer.wait_pairs(1)
    assert (pair.stable_status, pair.shadow_status, pair.lost) == (200, 503, False)


def test_the_first_copies_warm_the_candidate_up_and_make_no_pairs(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams, stable: UpstreamProcess
) -> None:
    shadow = start_upstream("shadow")
    warmed = route(stable.url, mirrors=(target("shadow", shadow.url, warm_up=5),))
    worker = start_worker(Placed(warmed, 0))
    observer = start_observer(worker)
    ask(worker, 12)
    observer.wait_pairs(7)
    wait_for(lambda: observer.tally.warmed == 5)
    tally = observer.tally
    assert (tally.chosen, tally.sent, tally.warmed, tally.held) == (7, 7, 5, 0)
    assert len(shadow.seen()) == 12
    assert len(observer.wait_facts(12)) == 12  # the requests themselves count as ever
    again = route(stable.url, mirrors=(target("shadow", shadow.url, warm_up=5),), generation=2)
    worker.apply(Placed(again, 0))
    ask(worker, 3)
    observer.wait_pairs(10)  # a new table warms nothing anew
    assert observer.tally.warmed == 5


def test_users_wait_for_a_cold_candidate_and_what_stable_answers_meanwhile_is_no_sample(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams, stable: UpstreamProcess
) -> None:
    candidate = start_upstream("candidate")
    canary = route(
        stable.url, candidate.url, 10_000, mirrors=(target("shadow", candidate.url, rate=0, warm_up=6),),
        readiness=UNPROBED,
    )  # fmt: skip
    worker = start_worker(Placed(canary, 2))
    observer = start_observer(worker)
    client = Connection(worker.port)
    arms: list[str] = []

    def served_by_candidate() -> bool:
        client.send(post("/p", b"q"))
        arms.append(client.answer().field("x-accede-arm") or "")
        return arms[-1] == "candidate"

    wait_for(served_by_candidate)
    cold = len(arms) - 1
    assert cold >= 6
    client.send(post("/p", b"q") * 5)
    assert [client.answer().field("x-accede-arm") for _ in range(5)] == ["candidate"] * 5
    client.close()
    facts = observer.wait_facts(6)
    assert {(fact.arm, fact.slot) for fact in facts} == {(1, 2)}
    wait_for(lambda: observer.tally.held == cold)
    assert (observer.tally.warmed, observer.tally.chosen) == (6, 0)
    copies = [seen for seen in candidate.seen() if "x-accede-shadow" in seen["headers"]]
    assert len(copies) == 6
    assert worker.counters.read(2).assigned == (0, 6)
    assert observer.pairs == []


@contextmanager
def endless(head: bytes, piece: bytes) -> Iterator[tuple[str, list[int]]]:
    """A server that never stops sending, and how many bytes each connection took until it was closed."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(16)
    taken: list[int] = []

    def serve(end: socket.socket) -> None:
        sent = 0
        with end:
            end.recv(65_536)
            try:
                end.sendall(head)
                while True:
                    end.sendall(piece)
                    sent += len(piece)
            except OSError:
                taken.append(sent)

    def accept() -> None:
        while True:
            try:
                end, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(end,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", taken
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"Transfer-Encoding: chunked", b"2000\r\n" + b"x" * 0x2000 + b"\r\n"),
        (b"Content-Type: text/event-stream\r\nConnection: close", b"data: tick\n\n" * 500),
        (b"Content-Length: 99999999999", b"x" * 8192),
    ],
)
def test_an_endless_shadow_is_not_read_on(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess, head: bytes, piece: bytes
) -> None:
    with endless(b"HTTP/1.1 206 Partial\r\n" + head + b"\r\n\r\n", piece) as (url, taken):
        mirrored = route(stable.url, capture_response=50_000, mirrors=(target("shadow", url, deadline=20.0),))
        worker = start_worker(Placed(mirrored, 0))
        observer = start_observer(worker)
        assert ask(worker, 2) == ["stable"] * 2
        pairs = observer.wait_pairs(2)
        assert {pair.shadow_ending for pair in pairs} == {Ending.ANSWERED}
        assert {pair.shadow_status for pair in pairs} == {206}
        assert {pair.lost for pair in pairs} == {True}
        wait_for(lambda: len(taken) == 2)  # long before the deadline
        assert max(taken) < 16 * 2**20  # what sockets of both sides may hold


def test_a_somewhat_large_answer_is_read_to_its_end_and_keeps_its_connection(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess
) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + b"x" * 500_000
    accepted = 0
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            nonlocal accepted
            while True:
                try:
                    end, _ = server.accept()
                except OSError:
                    return
                accepted += 1
                with end:
                    while end.recv(65_536):
                        end.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        worker = start_worker(
            Placed(route(stable.url, capture_response=10, mirrors=(target("shadow", url),)), 0)
        )
        observer = start_observer(worker)
        for count in range(1, 4):
            ask(worker, 1)
            observer.wait_pairs(count)
        assert {(pair.shadow_ending, pair.lost) for pair in observer.pairs} == {(Ending.ANSWERED, True)}
        assert accepted == 1


def test_a_service_with_side_effects_is_never_mirrored(
    start_worker: Worker, start_upstream: Upstreams, stable: UpstreamProcess
) -> None:
    """The controller refuses it long before; a router that is told so all the same keeps the old route."""
    shadow = start_upstream("shadow")
    worker = start_worker(Placed(route(stable.url), 0))
    worker.apply(
        Placed(
            route(stable.url, side_effects="writes", generation=2, mirrors=(target("shadow", shadow.url),)), 0
        )
    )
    assert ask(worker, 5) == ["stable"] * 5
    assert shadow.seen() == []
    errors = worker.stop()
    assert "requests with side effects (writes) are mirrored" in errors
    worker.errors = ""


def test_until_a_candidate_was_ready_once_nothing_is_a_sample(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams, stable: UpstreamProcess,
    free_port: Callable[[], int],
) -> None:  # fmt: skip
    port = free_port()
    probed = RouteReadiness(path="/healthz", every=0.1, timeout=1.0)
    split = route(stable.url, f"http://127.0.0.1:{port}", 5000, readiness=probed)
    worker = start_worker(Placed(split, 0))
    observer = start_observer(worker)
    assert ask(worker, 40) == ["stable"] * 40
    candidate = start_upstream("candidate", port=port)
    assert candidate.port == port
    wait_for(lambda: "candidate" in ask(worker, 1))
    before = sum(worker.counters.read(0).assigned)
    arms = ask(worker, 200)
    assert 60 < arms.count("candidate") < 140  # 100 ± 5.6 standard errors
    assert sum(worker.counters.read(0).assigned) == before + 200
    facts = observer.wait_facts(before + 200)
    assert not any(fact.excluded for fact in facts)
    assert before < 40


def test_clients_who_leave_do_not_keep_a_candidate_cold(
    start_worker: Worker, start_observer: Watch, start_upstream: Upstreams, stable: UpstreamProcess
) -> None:
    """What was chosen to warm it up and never sent is replaced by the next request."""
    candidate = start_upstream("candidate")
    canary = route(
        stable.url, candidate.url, 10_000, mirrors=(target("shadow", candidate.url, rate=0, warm_up=3),),
        readiness=UNPROBED,
    )  # fmt: skip
    worker = start_worker(Placed(canary, 0))
    observer = start_observer(worker)
    for _ in range(5):
        client = Connection(worker.port)
        client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        client.close()
    wait_for(lambda: observer.tally.held >= 5)
    wait_for(lambda: ask(worker, 1) == ["candidate"], 10.0)  # long before users stop waiting for it
    wait_for(lambda: observer.tally.warmed == 3)
