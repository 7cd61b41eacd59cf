"""Requests that are assigned and sent only once their body is complete."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import pytest

from accede.router.facts import CANDIDATE, STABLE, Ending, Placed
from accede.router.proxy.assignment import cluster_of, share_of
from accede.router.proxy.holding import HELD_BYTES
from accede.store.routes import Arm, ServiceRoute
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
Upstreams = Callable[..., UpstreamProcess]
Observing = Callable[..., Observer]
CHAT = "/v1/chat/completions"


def _models(stable: str, candidate: str, weight: int, **changes: Any) -> ServiceRoute:
    arms = (
        Arm("stable", "42", (stable,), 10_000 - weight, model="model-of-stable"),
        Arm("candidate", "43", (candidate,), weight, model="c"),
    )
    return route(stable, arms=arms, path="/v1", protocol="openai", **changes)


def test_users_are_assigned_by_what_the_body_says(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    held = route(
        stable.url, candidate.url, 5000, unit_path="user.id", salt="fraud/r1", plan=plan(sticky=True)
    )
    worker = start_worker(Placed(held, 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    users = [f"u{number}" for number in range(40)]
    for user in users:
        client.send(post("/p", json.dumps({"x": [1, 2], "user": {"id": user}}).encode()))
        expected = share_of(b"fraud/r1\0" + user.encode()) >= 5000
        assert client.answer().field("x-accede-arm") == ("candidate" if expected else "stable")
    client.send(post("/p", b'{"x": 1}'))
    assert client.answer().field("x-accede-arm") == "stable"
    client.close()
    facts = observer.wait_facts(41)
    assert [fact.unit for fact in facts[:40]] == [cluster_of(b"fraud/r1\0" + user.encode()) for user in users]
    assert [fact.excluded for fact in facts] == [False] * 40 + [True]


def test_a_sequence_stays_on_one_arm_also_while_the_weight_grows(
    start_worker: Worker, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    def placed(weight: int, generation: int) -> Placed:
        return Placed(
            route(
                stable.url, candidate.url, weight, protocol="open-inference", path="/v2/models/m",
                unit_path="parameters.sequence_id", salt="m/r1", plan=plan(sticky=True),
                side_effects="writes", generation=generation,
            ), 0,
        )  # fmt: skip

    def arms(sequence: int) -> list[str | None]:
        found = []
        for start, end in ((True, False), (False, False), (False, True)):
            told = {"sequence_id": sequence, "sequence_start": start, "sequence_end": end}
            body = json.dumps({"parameters": told, "inputs": []}).encode()
            answer = exchange(worker.port, post("/v2/models/m/infer", body))
            assert answer.status == 200
            found.append(answer.field("x-accede-arm"))
        return found

    worker = start_worker(placed(3000, 1))
    before = [arms(sequence) for sequence in range(1, 31)]
    assert all(len(set(one)) == 1 for one in before)
    assert {one[0] for one in before} == {"stable", "candidate"}
    worker.apply(placed(6000, 2))
    after = [arms(sequence) for sequence in range(1, 31)]
    assert all(len(set(one)) == 1 for one in after)
    moved = {(was[0], now[0]) for was, now in zip(before, after, strict=True)}
    assert ("stable", "candidate") in moved
    assert ("candidate", "stable") not in moved


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("weight", [0, 10_000])
def test_each_arm_gets_its_own_model_name(
    start_worker: Worker, start_upstream: Upstreams, start_observer: Observing, weight: int, chunked: bool
) -> None:
    upstream = start_upstream("both")
    worker = start_worker(Placed(_models(upstream.url, upstream.url, weight), 0))
    observer = start_observer(worker)
    body = b'{"model": "gpt", "messages": [],  "x": 1e400}'
    client = Connection(worker.port)
    if chunked:
        client.send(
            b"POST %b HTTP/1.1\r\nHost: models\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5\r\n%b\r\n%x\r\n%b\r\n0\r\nx-sum: 1\r\n\r\n"
            % (CHAT.encode(), body[:5], len(body) - 5, body[5:])
        )
    else:
        client.send(post(CHAT, body[:9]).replace(b"Length: 9", b"Length: %d" % len(body)))
        client.send(body[9:])
    model = b'"c"' if weight else b'"model-of-stable"'
    sent = body.replace(b'"gpt"', model)
    assert client.answer().body == sent  # echoed
    (seen,) = upstream.seen()
    assert seen["headers"]["content-length"] == str(len(sent))
    assert not {"transfer-encoding", "trailer"} & set(seen["headers"])
    (fact,) = observer.wait_facts(1)
    assert (fact.arm, fact.request_bytes) == (CANDIDATE if weight else STABLE, len(body))
    assert observer.bodies[0].request == body  # as the client sent it: the same for both arms
    client.close()


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"not json", ()),
        (b"[1]", ()),
        (gzip.compress(b'{"model": "gpt"}', mtime=0), ("Content-Encoding: gzip",)),
    ],
    ids=["no JSON", "no object", "compressed"],
)
def test_a_body_that_cannot_be_rewritten_passes_as_it_is(
    start_worker: Worker, stable: UpstreamProcess, body: bytes, fields: tuple[str, ...]
) -> None:
    worker = start_worker(Placed(_models(stable.url, stable.url, 0), 0))
    assert exchange(worker.port, post(CHAT, body, *fields)).body == body


def test_stable_gets_its_own_model_name_in_a_fallback(
    start_worker: Worker, start_upstream: Upstreams, candidate: UpstreamProcess
) -> None:
    upstream = start_upstream("stable")
    failing = f"{candidate.url}/as/status=500"
    worker = start_worker(Placed(_models(upstream.url, failing, 10_000, capture_request=4), 0))
    answer = exchange(worker.port, post(CHAT, b'{"model": "gpt"}'))  # held whole, whatever is captured
    assert (answer.status, answer.body) == (200, b'{"model": "model-of-stable"}')
    assert answer.field("x-accede-arm") == "stable"


def test_a_client_that_waits_for_100_gets_it_from_the_router(
    start_worker: Worker, start_upstream: Upstreams
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(_models(upstream.url, upstream.url, 0), 0))
    client = Connection(worker.port)
    client.send(post(CHAT, b"", "Expect: 100-continue").replace(b"Length: 0", b"Length: 14"))
    assert client.answer().status == 100
    assert upstream.seen() == []
    client.send(b'{"model": "g"}')
    answer = client.answer()
    assert (answer.status, answer.body) == (200, b'{"model": "model-of-stable"}')
    assert "expect" not in upstream.seen()[0]["headers"]
    client.send(post(CHAT, b"{}"))
    assert client.answer().status == 200
    client.close()


def test_the_deadline_counts_from_the_start_and_an_unfinished_request_is_nobodys(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(_models(stable.url, stable.url, 0, deadline=0.4), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post(CHAT, b"{").replace(b"Length: 1", b"Length: 2"))
    answer = client.answer()
    assert answer.status == 408
    assert answer.field("x-accede-arm") is None
    assert client.ended()
    client.close()
    gone = Connection(worker.port)
    gone.send(post(CHAT, b"{").replace(b"Length: 1", b"Length: 2"))
    gone.close()
    late = exchange(worker.port, post(CHAT, b"{}", "x-script: hang"))
    assert late.status == 504
    (fact,) = observer.wait_facts(1)
    assert (fact.ending, worker.counters.read(0)[:2]) == (Ending.TIMEOUT, ((1, 0), (1, 0)))


def test_all_held_bodies_together_are_bounded(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(_models(stable.url, stable.url, 0), 0))
    part = b"x" * (8 * 2**20 - 1)
    head = post(CHAT, b"").replace(b"Length: 0", b"Length: %d" % (len(part) + 1))
    holding = [Connection(worker.port) for _ in range(HELD_BYTES // 2**23)]
    for client in holding:
        client.send(head + part)

    def full() -> bool:
        probe = exchange(worker.port, post(CHAT, b"{" + b" " * 4096 + b"}"))
        assert probe.status in {200, 503}
        if probe.status == 503:
            assert probe.field("retry-after") == "1"
        return probe.status == 503

    wait_for(full)
    for client in holding:
        client.close()
    wait_for(lambda: exchange(worker.port, post(CHAT, b"{}")).status == 200)


def test_calls_that_predict_nothing_are_not_held(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(_models(stable.url, stable.url, 0), 0))
    assert exchange(worker.port, b"GET /v1/models HTTP/1.1\r\nHost: models\r\n\r\n").status == 200
