"""What the candidate cannot answer, stable does; the account stays with the candidate."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

from accede.router.facts import CANDIDATE, STABLE, Ending, Placed
from accede.router.proxy.retrying import FLOOR
from accede.store.routes import RouteBreaker, RouteErrors, RouteReadiness, ServiceRoute
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
Observing = Callable[..., Observer]


def _nobody() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def _chunked(body: bytes) -> bytes:
    head = b"POST /p HTTP/1.1\r\nHost: models\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize(
    ("script", "ending", "status"),
    [
        ("", Ending.CONNECT, 0),
        ("status=500", Ending.ANSWERED, 500),
        ("status=503", Ending.ANSWERED, 503),
        ("status-chunked=500", Ending.ANSWERED, 500),
        ("status-long=502", Ending.ANSWERED, 502),
        ("status-stalled=500", Ending.ANSWERED, 500),
        ("hang", Ending.TIMEOUT, 0),
        ("close-silently", Ending.TRUNCATED, 0),
        ("garbage", Ending.TRUNCATED, 0),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_stable_answers_in_the_candidates_place(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess, candidate: UpstreamProcess,
    script: str, ending: Ending, status: int, chunked: bool,
) -> None:  # fmt: skip
    url = f"{candidate.url}/as/{script}" if script else _nobody()
    worker = start_worker(Placed(route(stable.url, url, 10_000, first_byte=0.3), 4))
    observer = start_observer(worker)
    client = Connection(worker.port)
    body = b'{"x": 1}'
    client.send(_chunked(body) if chunked else post("/p", body))
    answer = client.answer()
    assert (answer.status, answer.body) == (200, body)
    assert answer.field("x-accede-arm") == "stable"
    assert answer.field("x-accede-version") == "42"
    assert answer.field("x-served-by") == "stable"
    (fact,) = observer.wait_facts(1)
    assert (fact.arm, fact.served, fact.ending, fact.status) == (CANDIDATE, STABLE, ending, status)
    assert fact.request_bytes == len(body)
    captured = wait_for(lambda: observer.bodies)[0]
    assert (captured.request, captured.response) == (body, b"")
    assert worker.counters.read(4)[:2] == ((0, 1), (0, 1))
    client.send(post("/p", b"again"))  # the connection is as good as before
    assert client.answer().body == b"again"
    client.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"side_effects": "writes"},
        {"side_effects": "shadow-aware"},
        {"fallback": False},
        {"capture_request": 1},
    ],
)
def test_without_leave_the_candidates_error_passes_through(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess, candidate: UpstreamProcess,
    changes: dict[str, Any],
) -> None:  # fmt: skip
    failing = f"{candidate.url}/as/status=500"
    worker = start_worker(Placed(route(stable.url, failing, 10_000, **changes), 0))
    observer = start_observer(worker)
    answer = exchange(worker.port, post("/p"))
    assert answer.status == 500
    assert answer.field("x-accede-arm") == "candidate"
    assert b"scripted 500" in answer.body
    (fact,) = observer.wait_facts(1)
    assert (fact.arm, fact.served, fact.status) == (CANDIDATE, CANDIDATE, 500)


@pytest.mark.parametrize(
    ("script", "errors", "status"),
    [
        ("status=501", RouteErrors(ranges=((500, 500), (502, 599))), 501),
        ("", RouteErrors(connect=False), 502),
    ],
)
def test_what_the_file_calls_no_error_is_the_candidates_own_answer(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess, candidate: UpstreamProcess,
    script: str, errors: RouteErrors, status: int,
) -> None:  # fmt: skip
    # Answered by stable it would count as an error of the candidate's, and of stable's the same would not.
    url = f"{candidate.url}/as/{script}" if script else _nobody()
    worker = start_worker(Placed(route(stable.url, url, 10_000, errors=errors), 0))
    observer = start_observer(worker)
    answer = exchange(worker.port, post("/p"))
    assert (answer.status, answer.field("x-accede-arm")) == (status, "candidate")
    (fact,) = observer.wait_facts(1)
    assert (fact.arm, fact.served) == (CANDIDATE, CANDIDATE)


def test_a_request_that_expected_100_is_sent_on_without_expecting(
    start_worker: Worker, start_upstream: Upstreams, candidate: UpstreamProcess
) -> None:
    behind = start_upstream("stable")
    worker = start_worker(Placed(route(behind.url, f"{candidate.url}/as/status=500", 10_000), 0))
    client = Connection(worker.port)
    client.send(post("/p", b"", "Expect: 100-continue").replace(b"Length: 0", b"Length: 7"))
    assert client.answer().status == 100
    client.send(b"payload")
    answer = client.answer()
    assert (answer.status, answer.body) == (200, b"payload")
    assert "expect" not in behind.last()["headers"]
    client.close()


def test_client_errors_are_answers(
    start_worker: Worker, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, f"{candidate.url}/as/status=422", 10_000), 0))
    answer = exchange(worker.port, post("/p"))
    assert (answer.status, answer.field("x-accede-arm")) == (422, "candidate")


def test_an_answer_that_has_begun_is_never_replayed(
    start_worker: Worker, start_upstream: Upstreams, start_observer: Observing
) -> None:
    behind, broken = start_upstream("stable"), start_upstream("candidate", "truncate-chunked")
    worker = start_worker(Placed(route(behind.url, broken.url, 10_000), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p"))
    with pytest.raises(EOFError):
        client.answer()
    client.close()
    (fact,) = observer.wait_facts(1)
    assert (fact.arm, fact.served, fact.ending) == (CANDIDATE, CANDIDATE, Ending.TRUNCATED)
    assert behind.seen() == []


def test_the_whole_deadline_leaves_no_time_for_stable(
    start_worker: Worker, start_upstream: Upstreams, start_observer: Observing
) -> None:
    behind, hanging = start_upstream("stable"), start_upstream("candidate", "hang")
    worker = start_worker(Placed(route(behind.url, hanging.url, 10_000, deadline=0.3), 0))
    observer = start_observer(worker)
    answer = exchange(worker.port, post("/p"))
    assert (answer.status, answer.field("x-accede-arm")) == (504, "candidate")
    (fact,) = observer.wait_facts(1)
    assert (fact.served, fact.ending) == (CANDIDATE, Ending.TIMEOUT)
    assert behind.seen() == []


def test_when_stable_fails_too_its_error_is_the_answer_and_the_fact_the_candidates(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    urls = f"{stable.url}/as/status=501", f"{candidate.url}/as/status=500"
    worker = start_worker(Placed(route(*urls, 10_000), 0))
    observer = start_observer(worker)
    answer = exchange(worker.port, post("/p"))
    assert (answer.status, answer.field("x-accede-arm")) == (501, "stable")
    (fact,) = observer.wait_facts(1)
    assert (fact.arm, fact.served, fact.status) == (CANDIDATE, STABLE, 500)


def test_beyond_the_budget_the_candidates_error_passes_through(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, f"{candidate.url}/as/status=500", 10_000), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p") * (FLOOR + 2))
    answers = [client.answer() for _ in range(FLOOR + 2)]
    assert [answer.status for answer in answers] == [200] * FLOOR + [500, 500]
    assert answers[-1].field("x-accede-arm") == "candidate"
    facts = observer.wait_facts(FLOOR + 2)
    assert [fact.served for fact in facts] == [STABLE] * FLOOR + [CANDIDATE] * 2
    assert {(fact.arm, fact.status) for fact in facts} == {(CANDIDATE, 500)}
    client.close()


def test_what_stable_answered_counts_against_the_breaker(
    start_worker: Worker, start_upstream: Upstreams, stable: UpstreamProcess
) -> None:
    failing = start_upstream("candidate", "status=500")
    breaker = RouteBreaker(share=0.5, over=10.0, min_requests=3)
    worker = start_worker(Placed(route(stable.url, failing.url, 10_000, breaker=breaker), 0))
    for _ in range(3):
        assert exchange(worker.port, post("/p")).status == 200
    assert "3 of 3" in worker.tripped().reason
    assert exchange(worker.port, post("/p")).field("x-accede-arm") == "stable"
    assert len(failing.seen()) == 3


def test_a_pinned_version_answers_for_itself(
    start_worker: Worker, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    failing = f"{candidate.url}/as/status=500"
    pinned = route(stable.url, failing, 10_000, protocol="tensorflow-serving", path="/v1/models/fraud")
    worker = start_worker(Placed(pinned, 0))
    answer = exchange(worker.port, post("/v1/models/fraud/versions/43:predict"))
    assert (answer.status, answer.field("x-accede-arm")) == (500, "candidate")


def test_a_request_whose_body_is_still_coming_is_not_repeated(
    start_worker: Worker, start_upstream: Upstreams
) -> None:
    behind, failing = start_upstream("stable"), start_upstream("candidate", "early-500")
    worker = start_worker(Placed(route(behind.url, failing.url, 10_000), 0))
    client = Connection(worker.port)
    client.send(b"POST /p HTTP/1.1\r\nHost: models\r\nContent-Length: 100\r\n\r\nhalf")
    answer = client.answer()
    assert (answer.status, answer.field("x-accede-arm")) == (500, "candidate")
    assert behind.seen() == []
    client.close()


def _probed(stable: str, candidate: str, **changes: Any) -> ServiceRoute:
    readiness = RouteReadiness(path="/_ready", every=0.05, timeout=1.0, unready_after=1)
    return route(stable, candidate, 10_000, readiness=readiness, **changes)


@pytest.mark.parametrize("side_effects", ["none", "writes"])
def test_a_candidate_that_was_never_ready_gets_nothing_and_nothing_is_analysed(
    start_worker: Worker, start_observer: Observing, stable: UpstreamProcess, side_effects: str
) -> None:
    worker = start_worker(Placed(_probed(stable.url, _nobody(), side_effects=side_effects), 0))
    observer = start_observer(worker)
    answer = exchange(worker.port, post("/p", b"x"))
    assert (answer.status, answer.field("x-accede-arm")) == (200, "stable")
    # Only stable would be counted, and the arms would not have their shares: so nothing is.
    wait_for(lambda: len(observer.flushes) >= 2)
    assert observer.facts == []
    assert worker.counters.read(0)[:2] == ((0, 0), (0, 0))


@pytest.mark.parametrize("side_effects", ["none", "writes"])
def test_a_candidate_that_is_ready_no_more_has_failed_and_costs_no_budget(
    start_worker: Worker, start_upstream: Upstreams, start_observer: Observing, stable: UpstreamProcess,
    side_effects: str,
) -> None:  # fmt: skip
    gone = start_upstream("candidate")
    probed = _probed(stable.url, gone.url, side_effects=side_effects)
    worker = start_worker(Placed(probed, 0))
    observer = start_observer(worker)
    client = Connection(worker.port)

    def arm() -> str | None:
        client.send(post("/p", b"x"))
        return client.answer().field("x-accede-arm")

    wait_for(lambda: arm() == "candidate")
    gone.kill()

    def noticed() -> bool:  # before a probe has, attempts fail and take their time
        arm()
        facts = observer.facts
        return bool(facts) and (facts[-1].ending, facts[-1].latency) == (Ending.CONNECT, 0.0)

    wait_for(noticed)
    wait_for(lambda: observer.flushes[-1].open == [])
    before = len(observer.facts)
    for _ in range(3 * FLOOR):
        assert arm() == "stable"
    facts = observer.wait_facts(before + 3 * FLOOR)[-3 * FLOOR :]
    assert {(fact.arm, fact.served, fact.ending, fact.status) for fact in facts} == {
        (CANDIDATE, STABLE, Ending.CONNECT, 0)
    }
    assert {(fact.latency, fact.response_bytes, fact.excluded) for fact in facts} == {(0.0, 0, False)}
    wait_for(lambda: len(observer.bodies) >= before)
    assert observer.bodies[-1].request == b"x"
    assert observer.bodies[-1].response == b""
    client.close()
