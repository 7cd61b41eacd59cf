"""Who is assigned by what: units in headers, cookies and bodies, the split itself, and callers who choose."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from accede.errors import WireError
from accede.router.facts import CANDIDATE, STABLE, Placed
from accede.router.proxy.assignment import assign, cluster_of, salted, share_of
from accede.router.proxy.heads import COOKIE, ENCODING, FIRST_UNIT, Names, parse_request
from accede.router.proxy.units import cookie_reader, field_reader
from accede.store.routes import MirrorTarget, RouteReadiness
from tests.router.conftest import Connection, Observer, UpstreamProcess, WorkerProcess, plan, post, route

Worker = Callable[..., WorkerProcess]
Watch = Callable[[WorkerProcess], Observer]

UNPROBED = RouteReadiness(probe=False)
TOKEN = "a-token-of-some-length"
DIGEST = hashlib.sha256(TOKEN.encode()).hexdigest()
KEYS = [f"user-{number}".encode() for number in range(20_000)]


class Split:
    """A service as far as the assignment looks at one."""

    override = None
    unit_kind = FIRST_UNIT
    unit_of = None
    sticky = True

    def __init__(self, stable: int, salt: bytes = b"") -> None:
        self.stable_until = stable
        self.salt = salt


def arm_of(key: bytes, stable: int, salt: bytes = b"") -> int:
    split: Any = Split(stable, salt)
    arm, cluster, excluded = assign(split, {FIRST_UNIT: key}, random.random, None)
    assert (cluster, excluded) == (cluster_of(salt + key), False)
    return arm


# --- the split


@pytest.mark.interpreted
@given(st.binary(min_size=1), st.integers(0, 10_000), st.integers(0, 10_000), st.binary(max_size=20))
def test_growing_the_weight_moves_nobody_back_to_stable(key: bytes, one: int, two: int, salt: bytes) -> None:
    less, more = sorted((one, two))  # of stable
    if arm_of(key, less, salt) == STABLE:
        assert arm_of(key, more, salt) == STABLE
    if arm_of(key, more, salt) == CANDIDATE:
        assert arm_of(key, less, salt) == CANDIDATE
    assert arm_of(key, 10_000, salt) == STABLE
    assert arm_of(key, 0, salt) == CANDIDATE


@pytest.mark.parametrize("salt", [None, "fraud/fraud-1"])
def test_shares_are_uniform(salt: str | None) -> None:
    counts = [0] * 100
    for key in KEYS:
        counts[share_of(salted(salt, key)) // 100] += 1
    assert stats.chisquare(counts).pvalue > 1e-4


def test_rollouts_choose_their_users_independently_of_each_other() -> None:
    ours = [share_of(salted("fraud/fraud-1", key)) >= 9000 for key in KEYS]
    theirs = [share_of(salted("fraud/fraud-2", key)) >= 9000 for key in KEYS]
    table = [[0, 0], [0, 0]]
    for one, other in zip(ours, theirs, strict=True):
        table[one][other] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-4
    assert [share_of(salted(None, key)) for key in KEYS] == [share_of(key) for key in KEYS]


def test_a_cluster_does_not_tell_the_arm() -> None:
    table = [[0] * 128, [0] * 128]
    for key in KEYS:
        key = salted("fraud/fraud-1", key)  # noqa: PLW2901 (the same key, salted)
        table[share_of(key) >= 7000][cluster_of(key)] += 1
    assert stats.chi2_contingency(table).pvalue > 1e-4


# --- where the key stands


@pytest.mark.parametrize(
    ("header", "value"),
    [
        (b"uid=u1", b"u1"),
        (b"a=b; uid=u1; c=d", b"u1"),
        (b"a=b;uid=u1", b"u1"),
        (b"uid=u1; uid=u2", b"u1"),
        (b"xuid=u1; uid=u2", b"u2"),
        (b"a=uid=u1; uid=u2", b"u2"),
        (b'uid="u 1"', b'"u 1"'),
        (b"uid=a=b=", b"a=b="),
        (b"uid= u1 ;b=c", b"u1"),
        (b"UID=u1", None),
        (b"uid", None),
        (b"uid=", b""),
        (b"", None),
        (b"uidx=1; xuid=2", None),
    ],
)
def test_cookies(header: bytes, value: bytes | None) -> None:
    assert cookie_reader("uid")({COOKIE: header}, None) == value


def test_a_cookie_is_looked_for_in_linear_time() -> None:
    assert cookie_reader("uid")({COOKIE: b"; " * 100_000 + b"uid=u1"}, None) == b"u1"
    assert cookie_reader("a.b*c")({COOKIE: b"axb*c=1; a.b*c=2"}, None) == b"2"


def test_several_cookie_headers_are_one_and_cost_nothing_where_nobody_asks() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\ncookie: uid=u1\r\nCookie: uid=u2\r\n\r\n"
    head = parse_request(request, Names((b"cookie",)))
    assert head is not None
    assert head.seen[COOKIE] == b"a=b; uid=u1; uid=u2"
    assert head.fields.count(b"ookie:") == 3
    plain = parse_request(request, Names())
    assert plain is not None
    assert COOKIE not in plain.seen


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"user": {"id": "u1"}}', b"u1"),
        (b'{"user": {"id": "\\u00fc"}}', "ü".encode()),
        (b'{"user": {"id": 12345678901234567890}}', b"12345678901234567890"),
        (b'{"user": {"id": -7}, "x": NaN}', b"-7"),
        (b'{"user": {"id": 1.5}}', None),
        (b'{"user": {"id": true}}', None),
        (b'{"user": {"id": null}}', None),
        (b'{"user": {"id": ["u1"]}}', None),
        (b'{"user": "id"}', None),
        (b'{"user": {"id": "u1"}', None),
        (b"\xff\xfe", None),
        (b"", None),
        (None, None),
        (b"[" * 100_000, None),
        (b'{"user": {"id": ' + b"9" * 5000 + b"}}", None),
    ],
)
def test_fields_of_the_body(body: bytes | None, value: bytes | None) -> None:
    assert field_reader("user.id")({}, body) == value


def test_lone_surrogates_and_compressed_bodies() -> None:
    read = field_reader("users[0]")
    assert read({}, b'{"users": ["\\ud800"]}') not in (None, b"")
    assert read({ENCODING: b"identity"}, b'{"users": ["u"]}') == b"u"
    assert read({ENCODING: b"gzip"}, b'{"users": ["u"]}') is None
    with pytest.raises(WireError):
        field_reader("a..b")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_a_field_is_text_or_a_whole_number_or_missing(value: Any) -> None:
    found = field_reader("a")({}, json.dumps({"a": value}).encode())
    if isinstance(value, str):
        assert found == value.encode(errors="surrogatepass")
    elif isinstance(value, int) and not isinstance(value, bool):
        assert found == str(value).encode()
    else:
        assert found is None


@pytest.mark.parametrize(
    ("unit", "request_of"),
    [
        (
            {"unit_cookie": "session"},
            lambda key: post("/p", b"{}", "Cookie: theme=dark", f"Cookie: session={key}; a=b"),
        ),
        ({"unit_path": "user.id"}, lambda key: post("/p", json.dumps({"user": {"id": key}}).encode())),
    ],
)
def test_cookies_and_fields_assign_as_headers_do(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess, candidate: UpstreamProcess,
    unit: dict[str, str], request_of: Callable[[str], bytes],
) -> None:  # fmt: skip
    split = route(
        stable.url, candidate.url, 4000, salt="s", plan=plan(sticky=True), readiness=UNPROBED, **unit
    )
    worker = start_worker(Placed(split, 1))
    observer = start_observer(worker)
    keys = [f"u{number}" for number in range(120)]
    client = Connection(worker.port)
    arms = []
    for key in keys:
        client.send(request_of(key))
        arms.append(client.answer().field("x-accede-arm"))
    client.send(post("/p", b"{}", "Cookie: other=1"))
    assert client.answer().field("x-accede-arm") == "stable"
    client.close()
    salted_keys = [salted("s", key.encode()) for key in keys]
    assert arms == ["candidate" if share_of(key) >= 6000 else "stable" for key in salted_keys]
    facts = sorted(observer.wait_facts(121), key=lambda fact: fact.number)
    assert [fact.unit for fact in facts] == [*map(cluster_of, salted_keys), -1]
    assert [fact.excluded for fact in facts] == [False] * 120 + [True]


# --- callers who choose


def chosen(worker: WorkerProcess, *fields: str) -> tuple[int, str | None]:
    client = Connection(worker.port)
    client.send(post("/p", b"q", *fields))
    answer = client.answer()
    client.close()
    return answer.status, answer.field("x-accede-arm")


def test_a_caller_with_the_token_chooses_and_is_no_sample(
    start_worker: Worker, start_observer: Watch, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    mirrors = (MirrorTarget("43", (candidate.url,), 1_000_000),)
    split = route(stable.url, candidate.url, 0, override=DIGEST, mirrors=mirrors, readiness=UNPROBED)
    worker = start_worker(Placed(split, 0))
    observer = start_observer(worker)
    asks = "X-Accede-Arm: candidate"
    assert chosen(worker, asks, f"X-Accede-Token: {TOKEN}") == (200, "candidate")
    assert "x-accede-token" not in candidate.last()["headers"]
    assert "x-accede-arm" not in candidate.last()["headers"]
    assert chosen(worker, "x-accede-arm: STABLE", f"x-accede-token: {TOKEN}") == (200, "stable")
    assert chosen(worker, asks) == (200, "stable")
    assert chosen(worker, f"x-accede-token: {TOKEN}") == (200, "stable")
    assert chosen(worker, asks, "x-accede-token: wrong") == (403, None)
    assert chosen(worker, asks, f"x-accede-token: {TOKEN}", f"x-accede-token: {TOKEN}") == (403, None)
    assert chosen(worker, "x-accede-arm: both", f"x-accede-token: {TOKEN}") == (400, None)
    assert len(observer.wait_facts(2)) == 2
    observer.wait_pairs(2)
    assert worker.counters.read(0).assigned == (2, 0)


def test_a_refused_choice_leaves_its_connection_usable(
    start_worker: Worker, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, candidate.url, 0, override=DIGEST, readiness=UNPROBED), 0))
    client = Connection(worker.port)
    client.send(post("/p", b"secret", "x-accede-arm: candidate", "x-accede-token: guess") + post("/p", b"q"))
    refused = client.answer()
    assert refused.status == 403
    assert b"guess" not in refused.raw
    assert client.answer().body == b"q"
    client.close()


def test_nobody_chooses_without_an_override_or_while_the_candidate_is_closed(
    start_worker: Worker, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    fields = ("x-accede-arm: candidate", f"x-accede-token: {TOKEN}")
    worker = start_worker(Placed(route(stable.url, candidate.url, 0, readiness=UNPROBED), 0))
    assert chosen(worker, *fields) == (200, "stable")
    split = route(stable.url, candidate.url, 5000, generation=2, override=DIGEST, readiness=UNPROBED)
    worker.apply(Placed(split, 0, held="aborted"))
    assert chosen(worker, *fields) == (200, "stable")
    worker.apply(Placed(route(stable.url, generation=3, override=DIGEST), 0))
    assert chosen(worker, *fields) == (200, "stable")
    worker.apply(Placed(split, 0))
    assert chosen(worker, *fields) == (200, "candidate")


def test_a_choice_is_obeyed_where_the_unit_is_in_the_body(
    start_worker: Worker, stable: UpstreamProcess, candidate: UpstreamProcess
) -> None:
    split = route(stable.url, candidate.url, 0, override=DIGEST, unit_path="id", readiness=UNPROBED)
    worker = start_worker(Placed(split, 0))
    assert chosen(worker, "x-accede-arm: candidate", f"x-accede-token: {TOKEN}") == (200, "candidate")
    assert chosen(worker, "x-accede-arm: candidate", "x-accede-token: no") == (403, None)
