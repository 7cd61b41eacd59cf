"""Where the pieces meet: second attempts, copies, held bodies, full queues, drains and swaps at one time."""

from __future__ import annotations

import errno
import gzip
import hashlib
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accede.router.facts import PAIR_BACK, Ending, Placed
from accede.router.proxy.descriptors import Descriptors
from accede.router.proxy.holding import HELD_BYTES
from accede.store.routes import MirrorTarget, RouteReadiness
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
from tests.router.raw_upstream import RawUpstream, Step

Worker = Callable[..., WorkerProcess]
Upstreams = Callable[..., UpstreamProcess]
Watching = Callable[[WorkerProcess], Observer]

EMPTY = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def raw() -> Iterator[RawUpstream]:
    upstream = RawUpstream()
    yield upstream
    upstream.close()


def counts_agree(worker: WorkerProcess, slot: int = 0) -> bool:
    counts = worker.counters.read(slot)
    return counts.assigned == counts.finished and counts.mirrors_chosen == counts.mirrors_finished


class TestHeldBodies:
    def test_many_refused_in_one_breath(self, start_worker: Worker, stable: UpstreamProcess) -> None:
        """Each refusal is answered at once and begins the next: a loop, not a stack that grows."""
        worker = start_worker(Placed(route(stable.url, unit_path="user", max_body=HELD_BYTES * 2), 0))
        filler = Connection(worker.port)
        filler.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (HELD_BYTES + 1))
        filler.send(b" " * (HELD_BYTES - 1))
        probe = Connection(worker.port)
        for _ in range(500):
            probe.send(post("/p", b"{}"))
            if probe.answer().status == 503:
                break
        else:
            raise AssertionError("never full")
        probe.send(post("/p", b"{}") * 900)
        for _ in range(900):
            assert probe.answer().status == 503
        filler.close()
        wait_for(lambda: exchange(worker.port, post("/p", b"{}")).status == 200)
        probe.close()

    def test_the_deadline_counts_from_the_start(
        self, start_worker: Worker, start_upstream: Upstreams
    ) -> None:
        """Also where the body came so late that a first look as late as everybody's would be too late."""
        hung = start_upstream("stable", "hang")
        both = (
            Placed(route(hung.url, unit_path="user", deadline=1.0), 0),
            Placed(route(hung.url, service="other", path="/o", deadline=1.0), 1),
        )
        worker = start_worker(*both)
        held, other = Connection(worker.port), Connection(worker.port)
        held.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{")
        time.sleep(0.4)  # due before the other one, however late both are looked at
        other.send(post("/o"))
        time.sleep(0.5)
        held.send(b"}")
        first = select.select([held.socket, other.socket], [], [], 10)[0]
        assert held.socket in first
        assert held.answer().status == 504
        assert other.answer().status == 504
        held.close()
        other.close()


class TestDescriptors:
    def test_a_hung_shadow_takes_none_from_clients(
        self, start_worker: Worker, start_upstream: Upstreams, start_observer: Watching
    ) -> None:
        """Copies that want more connections than there are lose their pairs, and nobody is blamed."""
        stable, candidate = start_upstream("stable"), start_upstream("candidate", "hang")
        mirrors = (MirrorTarget("43", (candidate.url,), 1_000_000, deadline=1.0),)
        worker = start_worker(Placed(route(stable.url, candidate.url, mirrors=mirrors), 0), descriptors=64)
        observer = start_observer(worker)
        clients = [Connection(worker.port) for _ in range(12)]
        for wave in (1, 2):  # what the first has taken is given back
            for _ in range(6):
                for client in clients:
                    client.send(post("/p"))
                assert [client.answer().status for client in clients] == [200] * 12
            pairs = observer.wait_pairs(72 * wave)[72 * (wave - 1) :]
            lost = [pair for pair in pairs if pair.lost]
            assert {pair.shadow_ending for pair in pairs if not pair.lost} == {Ending.TIMEOUT}
            assert 48 <= len(lost) < 72, len(lost)
            wait_for(lambda: observer.tally.unconnected == sum(pair.lost for pair in observer.pairs))
        observer.wait_facts(144)
        assert {(fact.ending, fact.status) for fact in observer.facts} == {(Ending.ANSWERED, 200)}
        wait_for(lambda: counts_agree(worker))
        for client in clients:
            client.close()

    def test_running_out_is_no_failure_of_a_model(
        self, start_worker: Worker, start_upstream: Upstreams, start_observer: Watching
    ) -> None:
        """Connections that idle elsewhere are closed first; then it is this side's refusal, and said once."""
        hung, quick = start_upstream("stable", "hang"), start_upstream("stable")
        both = (
            Placed(route(hung.url, service="hung", path="/h", deadline=2.0), 0),
            Placed(route(quick.url), 1),
        )
        worker = start_worker(*both, descriptors=64)
        observer = start_observer(worker)
        clients = [Connection(worker.port) for _ in range(10)]
        for client in clients:
            client.send(post("/p"))
        assert [client.answer().status for client in clients] == [200] * 10  # idle now, as many connections
        had = len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir()))
        resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (had - 4, 64))
        for client in clients:
            client.send(post("/h"))
        answers = [client.answer() for client in clients]
        refused = [answer for answer in answers if answer.status == 503]
        assert {answer.status for answer in answers} == {503, 504}
        assert b"descriptor" in refused[0].body
        observer.wait_facts(20)
        endings = {(fact.status, fact.ending) for fact in observer.facts if fact.slot == 0}
        assert endings == {(0, Ending.DISCONNECTED), (0, Ending.TIMEOUT)}
        clients[0].send(post("/p"))
        assert clients[0].answer().status == 200
        for client in clients:
            client.close()
        wait_for(lambda: counts_agree(worker))
        told = worker.stop()
        assert told.count("descriptors") == 1, told
        assert len(told.splitlines()) == 1, told
        worker.errors = ""


def test_no_fact_comes_below_a_line_that_was_told(
    start_worker: Worker, stable: UpstreamProcess, start_observer: Watching
) -> None:
    """A deadline ends one request, and the next of its connection begins within the same tick."""
    worker = start_worker(Placed(route(stable.url, deadline=0.1), 0))
    observer = start_observer(worker)
    clients = [Connection(worker.port) for _ in range(4)]
    for client in clients:
        client.send(post("/p", b"{}", "x-script: hang") * 5)
    for client in clients:
        assert [client.answer().status for _ in range(5)] == [504] * 5
        client.close()
    observer.wait_facts(20)
    line = 0
    for flush in observer.flushes:
        assert all(fact.number >= line for fact in flush.facts)
        line = flush.line


@pytest.mark.parametrize(
    ("number", "ours"),
    [
        (errno.EMFILE, True),
        (errno.ENFILE, True),
        (errno.ECONNREFUSED, False),
        (errno.ETIMEDOUT, False),
        (errno.EADDRNOTAVAIL, False),  # ::1 without IPv6 says so: a dead model must not hide behind it
    ],
)
def test_which_failures_are_this_side_s(number: int, ours: bool) -> None:
    descriptors = Descriptors(1, lambda _: None, lambda: None)
    assert descriptors.ours(OSError(number, "x")) is ours
    assert not descriptors.ours(socket.gaierror(socket.EAI_NONAME, "unknown"))


class TestFallback:
    """A candidate that fails in odd ways, and stable's answer in its place."""

    @pytest.mark.parametrize(
        "answer",
        [
            CHUNKED + b"3\r\nbad\r\n0\r\nX: 1\r\n\r\n",
            b"HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nbad",
            CHUNKED + b"10000\r\n" + b"x" * 65536 + b"\r\n10",
            b"HTTP/1.1 500 No\r\n\r\nuntil the end that never comes",
            b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
            CHUNKED + b"zz\r\n",
            b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            b"nonsense\r\n\r\n",
        ],
    )  # fmt: skip
    def test_whatever_the_failure_looks_like(
        self,
        start_worker: Worker,
        stable: UpstreamProcess,
        raw: RawUpstream,
        start_observer: Watching,
        answer: bytes,
    ) -> None:
        raw.script(b"/p", answer)
        mirrors = (MirrorTarget("42", (stable.url,), 1_000_000, kind="back"),)
        both = (
            Placed(route(stable.url, raw.url, 10_000, mirrors=mirrors), 0),
            Placed(route(stable.url, service="other", path="/o"), 1),
        )
        worker = start_worker(*both)
        observer = start_observer(worker)
        client = Connection(worker.port)
        client.send(post("/p", b"one") + post("/o", b"two") + post("/p", b"three") + post("/o", b"four"))
        answers = [client.answer() for _ in range(4)]
        assert [(answer.status, answer.body) for answer in answers] == [
            (200, b"one"), (200, b"two"), (200, b"three"), (200, b"four"),
        ]  # fmt: skip
        assert [answer.field("x-accede-arm") for answer in answers] == ["stable"] * 4
        facts = observer.wait_facts(4)
        assert sorted((fact.arm, fact.served) for fact in facts) == [(0, 0), (0, 0), (1, 0), (1, 0)]
        wait_for(lambda: observer.tally_of(PAIR_BACK).unpaired == 2)
        wait_for(lambda: counts_agree(worker))
        assert not observer.pairs
        client.close()

    def test_interim_answers_before_the_failure(
        self, start_worker: Worker, stable: UpstreamProcess, raw: RawUpstream, start_observer: Watching
    ) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        raw.script(
            b"/p",
            Step.EARLY,
            b"HTTP/1.1 100 Continue\r\n\r\n" + early,
            Step.GATE,
            b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        )
        worker = start_worker(Placed(route(stable.url, raw.url, 10_000), 0))
        observer = start_observer(worker)
        client = Connection(worker.port)
        client.send(
            b"POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        assert [client.answer().status for _ in range(2)] == [100, 103]
        client.send(b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")
        assert exchange(worker.port, post("/o")).status == 404  # what came before it has been read
        raw.gate.set()
        answer = client.answer()
        assert (answer.status, answer.body, answer.field("x-accede-arm")) == (200, b"abc", "stable")
        client.send(post("/o"))
        assert client.answer().status == 404  # the connection is in step
        (fact,) = observer.wait_facts(1)
        assert (fact.arm, fact.served, fact.status, fact.ending) == (1, 0, 500, Ending.ANSWERED)
        client.close()

    @pytest.mark.parametrize("leaves", ["before the failure", "before stable answers"])
    def test_a_client_that_leaves_is_accounted_once(
        self,
        start_worker: Worker,
        start_upstream: Upstreams,
        raw: RawUpstream,
        start_observer: Watching,
        leaves: str,
    ) -> None:
        hung = start_upstream("stable", "hang")
        raw.script(
            b"/p",
            *([Step.GATE] if leaves == "before the failure" else []),
            b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        )
        mirrors = (MirrorTarget("42", (hung.url,), 1_000_000, kind="back", deadline=1.0),)
        worker = start_worker(Placed(route(hung.url, raw.url, 10_000, mirrors=mirrors), 0))
        observer = start_observer(worker)
        client = Connection(worker.port)
        client.send(post("/p"))
        if leaves == "before the failure":
            wait_for(lambda: raw.wires)
        else:
            observer.wait_facts(1)
        client.close()
        (fact,) = observer.wait_facts(1)
        wait_for(lambda: counts_agree(worker))
        assert fact.arm == 1
        assert fact.ending == (Ending.DISCONNECTED if leaves == "before the failure" else Ending.ANSWERED)
        raw.gate.set()
        wait_for(lambda: exchange(worker.port, post("/none")).status == 404)
        assert len(observer.facts) == 1

    def test_a_held_body_keeps_its_bytes(
        self, start_worker: Worker, start_upstream: Upstreams, raw: RawUpstream
    ) -> None:
        """Chunked, compressed, waited for with Expect: stable gets what the candidate got."""
        stable = start_upstream("stable")
        packed = gzip.compress(b'{"user": "a"}', mtime=0)
        raw.script(b"/p", EMPTY)
        worker = start_worker(
            Placed(route(stable.url, raw.url, 10_000, unit_path="user", missing_unit="random"), 0)
        )
        client = Connection(worker.port)
        client.send(
            b"POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Encoding: gzip\r\n"
            b"Transfer-Encoding: chunked\r\nx-request-id: mine\r\n\r\n"
        )
        assert client.answer().status == 100
        for byte in packed:
            client.send(b"1\r\n%b\r\n" % bytes((byte,)))
        client.send(b"0\r\n\r\n")
        answer = client.answer()
        assert (answer.status, answer.body, answer.field("x-accede-arm")) == (200, packed, "stable")
        (wire,) = raw.wires
        head, _, body = wire.received.partition(b"\r\n\r\n")
        assert body == packed
        assert b"expect" not in head.lower()
        assert b"transfer-encoding" not in head.lower()
        (seen,) = stable.seen()
        assert seen["headers"]["x-request-id"] == "mine"
        assert seen["headers"]["content-length"] == str(len(packed))
        assert "expect" not in seen["headers"]
        client.close()

    def test_a_chosen_candidate_that_was_never_ready(
        self,
        start_worker: Worker,
        stable: UpstreamProcess,
        candidate: UpstreamProcess,
        start_observer: Watching,
    ) -> None:
        probed = RouteReadiness(path="/as/status=503/x", every=0.1, timeout=0.5)
        token = "a-token-of-at-least-sixteen"
        digest = hashlib.sha256(token.encode()).hexdigest()
        mirrors = (MirrorTarget("43", (candidate.url,), 1_000_000, warm_up=2),)
        asked = route(
            stable.url, candidate.url, 10_000, override=digest, readiness=probed, mirrors=mirrors,
            unit_path="user",
        )  # fmt: skip
        worker = start_worker(Placed(asked, 0))
        observer = start_observer(worker)
        client = Connection(worker.port)
        for _ in range(5):
            client.send(post("/p", b"{}", "x-accede-arm: candidate", f"x-accede-token: {token}"))
            answer = client.answer()
            assert (answer.status, answer.field("x-accede-arm")) == (200, "stable")
        client.close()
        assert worker.counters.read(0).assigned == (0, 0)
        assert not observer.facts


def test_a_copy_on_a_stale_connection_is_no_failure_of_the_shadow(
    start_worker: Worker, start_upstream: Upstreams, start_observer: Watching
) -> None:
    """As with requests: the server had closed a connection that idled, and has seen nothing."""
    stable, shadow = start_upstream("stable"), start_upstream("shadow", "once")
    mirrors = (MirrorTarget("43", (shadow.url,), 1_000_000),)
    worker = start_worker(Placed(route(stable.url, shadow.url, mirrors=mirrors), 0))
    observer = start_observer(worker)
    client = Connection(worker.port)
    for count in range(1, 6):
        client.send(post("/p"))
        assert client.answer().status == 200
        observer.wait_pairs(count)
    endings = {(pair.shadow_ending, pair.shadow_status) for pair in observer.pairs}
    assert endings == {(Ending.ANSWERED, 200)}
    client.close()


def test_a_route_that_cannot_be_served_is_named_once(start_worker: Worker, stable: UpstreamProcess) -> None:
    """Every later table brings it again."""
    good = Placed(route(stable.url), 0)
    bad = Placed(route("ftp://somewhere", service="bad", path="/bad"), 1)
    worker = start_worker(good)
    for _ in range(3):
        worker.apply(good, bad)
    worker.apply(good)
    worker.apply(good, bad)  # broken anew
    assert exchange(worker.port, post("/p")).status == 200
    told = worker.stop()
    assert told.count("cannot be served") == 2, told
    worker.errors = ""
