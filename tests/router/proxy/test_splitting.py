"""Who answers: hash, salt, stickiness, versions in URLs, matching, and tables that change under load."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from accede.router.facts import Placed, Table
from accede.router.proxy.assignment import cluster_of, salted, share_of
from accede.router.proxy.heads import Malformed
from accede.router.proxy.reach import Upstreams
from accede.router.proxy.table import RouteTable
from accede.router.proxy.targets import addressed, call_kind
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


@given(st.binary(min_size=1), st.one_of(st.none(), st.text(alphabet=st.characters(codec="utf-8"))))
def test_the_split_is_xxh64_of_the_salted_key(key: bytes, salt: str | None) -> None:
    hashed = salted(salt, key)
    assert hashed == (key if salt is None else salt.encode() + b"\0" + key)
    assert share_of(hashed) == xxhash.xxh64(hashed, seed=0).intdigest() % 10_000
    assert cluster_of(hashed) == xxhash.xxh64(hashed, seed=1).intdigest() % 128


def _arms(worker: WorkerProcess, keys: list[str]) -> dict[str, str]:
    client = Connection(worker.port)
    found = {}
    for key in keys:
        client.send(post("/p", b"{}", f"X-User-Id: {key}"))
        answer = client.answer()
        found[key] = answer.field("x-accede-arm") or ""
        served = answer.field("x-served-by")
        assert served == found[key]
        assert answer.field("x-accede-version") == {"stable": "42", "candidate": "43"}[found[key]]
    client.close()
    return found


def test_users_stay_where_the_hash_puts_them_and_only_move_forward(
    start_worker: Worker, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    worker = start_worker()
    keys = [f"user-{number}" for number in range(400)]
    before: set[str] = set()
    for generation, weight in enumerate((0, 100, 2500, 10_000), 1):
        settled = route(
            stable.url, candidate.url, weight, unit_header="x-user-id", salt="fraud/r1", generation=generation
        )
        worker.apply(Placed(settled, 0))
        found = _arms(worker, keys)
        expected = {key for key in keys if share_of(b"fraud/r1\0" + key.encode()) >= 10_000 - weight}
        now = {key for key, arm in found.items() if arm == "candidate"}
        assert now == expected
        assert before <= now
        before = now


def test_requests_without_a_unit_are_split_at_random(
    start_worker: Worker,
    start_observer: Callable[..., Observer],
    stable: UpstreamProcess,
    candidate: UpstreamProcess,
) -> None:
    worker = start_worker(Placed(route(stable.url, candidate.url, 3000), 5))
    client = Connection(worker.port)
    client.send(post("/p", b"{}", "x-request-id: always-the-same") * 2000)
    arms = [client.answer().field("x-accede-arm") for _ in range(2000)]
    client.close()
    assert 450 < arms.count("candidate") < 750  # 600 ± 7 standard errors
    expected = (arms.count("stable"), arms.count("candidate"))
    wait_for(lambda: worker.counters.read(5)[:2] == (expected, expected))
    observer = start_observer(worker)
    facts = observer.wait_facts(2000)
    assert [fact.arm for fact in facts].count(1) == arms.count("candidate")
    assert {fact.unit for fact in facts} == {-1}


@pytest.mark.parametrize("missing", ["stable", "random"])
def test_a_missing_unit_is_excluded(
    start_worker: Worker, start_observer: Callable[..., Observer], stable: UpstreamProcess,
    candidate: UpstreamProcess, missing: str,
) -> None:  # fmt: skip
    sticky = route(
        stable.url, candidate.url, 5000, unit_header="X-User-Id", missing_unit=missing, plan=plan(sticky=True)
    )
    worker = start_worker(Placed(sticky, 1))
    observer = start_observer(worker)
    client = Connection(worker.port)
    client.send(post("/p") * 60 + post("/p", b"{}", "x-user-id:") + post("/p", b"{}", "x-user-id: u7"))
    arms = [client.answer().field("x-accede-arm") for _ in range(62)]
    client.close()
    facts = sorted(observer.wait_facts(62), key=lambda fact: fact.number)
    assert [fact.excluded for fact in facts] == [True] * 61 + [False]
    assert facts[-1].unit == cluster_of(b"u7")
    assert {fact.captured for fact in facts[:61]} == {0}
    assert ("candidate" in arms[:61]) == (missing == "random")


def test_tensorflow_urls_are_rewritten_to_the_arms_version(
    start_worker: Worker, start_upstream: Callable[..., UpstreamProcess]
) -> None:
    upstream = start_upstream("both")
    both = route(
        upstream.url, upstream.url, 10_000, protocol="tensorflow-serving", path="/v1/models/fraud",
        arms=(
            Arm("stable", "42", (upstream.url + "/base",), 0),
            Arm("candidate", "43", (upstream.url,), 10_000),
        ),
    )  # fmt: skip
    worker = start_worker(Placed(both, 0))
    cases = {
        "/v1/models/fraud:predict?a=b": ("/v1/models/fraud/versions/43:predict?a=b", "candidate"),
        "/v1/models/fraud:classify": ("/v1/models/fraud/versions/43:classify", "candidate"),
        "/v1/models/fraud/versions/42:predict": ("/base/v1/models/fraud/versions/42:predict", "stable"),
        "/v1/models/fraud/versions/43:regress": ("/v1/models/fraud/versions/43:regress", "candidate"),
        "/v1/models/fraud/versions/7:predict": ("/base/v1/models/fraud/versions/7:predict", "stable"),
        "/v1/models/fraud/labels/canary:predict": ("/base/v1/models/fraud/labels/canary:predict", "stable"),
        "/v1/models/fraud/metadata": ("/base/v1/models/fraud/metadata", "stable"),
    }
    for path, (sent, arm) in cases.items():
        answer = exchange(worker.port, post(path))
        assert answer.field("x-accede-arm") == arm, path
        assert upstream.last()["line"] == f"POST {sent} HTTP/1.1"
    assert worker.counters.read(0).assigned == (0, 2)  # only unpinned prediction calls are analysed
    assert exchange(worker.port, post("/v1/models/fraud-eu:predict")).status == 404


@pytest.mark.parametrize(
    ("protocol", "method", "path", "predicts"),
    [
        ("kserve-v1", "POST", "/v1/models/m:predict", True),
        ("kserve-v1", "POST", "/v1/models/m:explain", False),
        ("kserve-v1", "GET", "/v1/models/m", False),
        ("json", "POST", "/anything", True),
        ("json", "GET", "/anything", False),
        ("tensorflow-serving", "GET", "/v1/models/m:predict", False),
    ],
)
def test_only_prediction_calls_count(protocol: str, method: str, path: str, predicts: bool) -> None:
    assert call_kind(protocol, method, path).predicts is predicts


def test_a_version_that_is_no_number_leaves_the_url_alone() -> None:
    kind = call_kind("tensorflow-serving", "POST", "/v1/models/m:predict")
    assert addressed(kind, "/v1/models/m:predict", "v43") == "/v1/models/m:predict"


def _table(*routes: ServiceRoute, before: RouteTable | None = None) -> RouteTable:
    return RouteTable(Table(1, tuple(Placed(each, -1) for each in routes)), Upstreams(1.0), before)


def _service(table: RouteTable, path: str, host: str = "any") -> str:
    return table.resolve(b"POST " + path.encode(), host.encode()).service.name


def test_the_longest_path_wins_in_whole_segments_and_a_named_host_first() -> None:
    table = _table(
        route("http://a:1", service="root", path="/"),
        route("http://a:1", service="short", path="/m"),
        route("http://a:1", service="long", path="/m/deep/"),
        route("http://a:1", service="host", path=None, host="Models.Example"),
        route("http://a:1", service="both", path="/m", host="models.example"),
    )
    assert _service(table, "/m") == "short"
    assert _service(table, "/m?x=/deep") == "short"
    assert _service(table, "/mm") == "root"
    assert _service(table, "/m/deep") == "long"
    assert _service(table, "/m/deeper") == "short"
    assert _service(table, "/m/deep", "models.example:8080") == "both"
    assert _service(table, "/other", "MODELS.example") == "host"
    with pytest.raises(Malformed, match="only"):
        _service(_table(route("http://a:1", service="only", path="/m")), "/n")


def test_one_bad_route_keeps_its_service_as_it_was_and_leaves_the_others() -> None:
    before = _table(route("http://a:1", service="one"), route("http://a:1", service="two", path="/q"))
    broken = route("ftp://a:1", service="one", generation=2, unit_header="x-new")
    after = _table(broken, route("http://a:1", service="two", path="/q", generation=2), before=before)
    assert len(after.refused) == 1
    assert "one" in after.refused[0]
    assert after.services["one"].route.generation == 1
    assert after.services["two"].route.generation == 2


def test_held_services_serve_stable_alone_and_are_not_analysed(
    start_worker: Worker, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, candidate.url, 10_000), 0, held="lease"))
    assert exchange(worker.port, post("/p")).field("x-accede-arm") == "stable"
    assert worker.counters.read(0).assigned == (0, 0)


def test_declared_headers_come_with_the_arm(start_worker: Worker, stable: UpstreamProcess) -> None:
    arm = Arm("stable", "42", (stable.url,), 10_000, (("x-accede-training-data", "2026-02"),))
    worker = start_worker(Placed(route(stable.url, arms=(arm,)), 0))
    assert exchange(worker.port, post("/p")).field("x-accede-training-data") == "2026-02"


def test_tables_change_under_load_without_a_failed_request(
    start_worker: Worker, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, candidate.url, 5000), 0))
    stop = threading.Event()
    failures: list[object] = []
    served = [0]

    def load() -> None:
        client = Connection(worker.port)
        while not stop.is_set():
            client.send(post("/p", b"payload"))
            try:
                answer = client.answer()
            except EOFError as problem:
                failures.append(problem)
                return
            served[0] += 1
            if answer.status != 200 or answer.body != b"payload":
                failures.append(answer)
        client.close()

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for generation in range(2, 60):
        weight = (generation * 700) % 10_001
        worker.apply(Placed(route(stable.url, candidate.url, weight, generation=generation), generation % 7))
        least = served[0] + 1
        wait_for(lambda: failures or served[0] >= least)  # noqa: B023  (every table sees traffic)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]
    assert served[0] > 58
    total = [worker.counters.read(slot) for slot in range(7)]
    assert sum(sum(counts.assigned) for counts in total) == served[0]


def test_draining_finishes_what_is_open_and_says_so(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    idle, busy = Connection(worker.port), Connection(worker.port)
    idle.send(post("/p"))
    idle.answer()
    busy.send(post("/p", b"{}", "x-script: sse=3"))
    while b"data: 0" not in busy.buffer:
        assert busy.more()
    worker.drain()
    assert idle.ended()
    assert b"data: 2" in busy.answer().body
    assert busy.ended()
    assert worker.process.wait(10) == 0
    idle.close()
    busy.close()
