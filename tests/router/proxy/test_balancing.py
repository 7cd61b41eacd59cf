"""Several URLs of one version: who gets the next request, and what happens when one cannot be reached."""

from __future__ import annotations

import resource
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial

import msgspec
import psutil
import pytest

from accede.errors import WireError
from accede.router.facts import Ending, Placed
from accede.router.proxy.balance import Balancer
from accede.router.proxy.pool import Pool
from accede.router.proxy.reach import Reached, Upstreams
from accede.store.routes import MILLION, Arm, MirrorTarget, RouteBalance, ServiceRoute, UpstreamTls
from tests.router.conftest import (
    Answer,
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
Upstream = Callable[..., UpstreamProcess]


def spread(*urls: str, by: str = "least-requests", **changes: object) -> ServiceRoute:
    """A service whose stable version has all of `urls`."""
    balance = RouteBalance(by=by, **changes)  # type: ignore[arg-type]
    return route(urls[0], arms=(Arm("stable", "42", urls, 10_000),), balance=balance)


def served_by(port: int, *fields: str) -> str:
    answer = exchange(port, post("/p", b"{}", *fields))
    assert answer.status == 200, answer
    return answer.field("x-served-by") or ""


def nobody() -> tuple[socket.socket, str]:
    """A port that refuses, for as long as the socket is kept."""
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    return closed, f"http://127.0.0.1:{closed.getsockname()[1]}"


def unheard() -> tuple[socket.socket, list[socket.socket]]:
    """A listener whose backlog is full: what comes now is neither accepted nor refused."""
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    return full, fillers


@pytest.mark.parametrize("by", ["round-robin", "least-requests"])
def test_every_url_gets_its_share(start_worker: Worker, start_upstream: Upstream, by: str) -> None:
    urls = [start_upstream(name).url for name in "abc"]
    worker = start_worker(Placed(spread(*urls, by=by), 0))
    got = Counter(served_by(worker.port) for _ in range(120))
    if by == "round-robin":
        assert sorted(got.values()) == [40, 40, 40]
    else:
        assert set(got) == {"a", "b", "c"}
        assert min(got.values()) > 15


def test_the_less_busy_of_two_gets_the_next_request(start_worker: Worker, start_upstream: Upstream) -> None:
    a, b = start_upstream("a"), start_upstream("b")
    worker = start_worker(Placed(spread(a.url, b.url), 0))
    # Two on hold: with two addresses both are looked at each time, so one lies on each.
    held = [Connection(worker.port) for _ in range(2)]
    for number, connection in enumerate(held, start=1):
        connection.send(post("/p", b"{}", "x-script: hang"))
        wait_for(partial(lambda count: len(a.seen()) + len(b.seen()) == count, number))
    assert (len(a.seen()), len(b.seen())) == (1, 1)
    third = Connection(worker.port)
    third.send(post("/p", b"{}", "x-script: hang"))
    wait_for(lambda: len(a.seen()) + len(b.seen()) == 3)
    calm = "b" if len(a.seen()) == 2 else "a"
    assert {served_by(worker.port) for _ in range(20)} == {calm}
    for connection in (*held, third):
        connection.close()


@pytest.mark.parametrize("by", ["round-robin", "least-requests"])
def test_a_url_that_refuses_costs_no_client_an_error(
    start_worker: Worker,
    start_upstream: Upstream,
    start_observer: Callable[[WorkerProcess], Observer],
    by: str,
) -> None:
    a, b = start_upstream("a"), start_upstream("b")
    closed, refusing = nobody()
    changed = spread(refusing, a.url, b.url, by=by, eject_after=1000)
    changed = msgspec.structs.replace(changed, side_effects="writes")  # not even once may it be repeated
    worker = start_worker(Placed(changed, 0))
    observer = start_observer(worker)
    for _ in range(60):
        assert served_by(worker.port) in {"a", "b"}
    facts = observer.wait_facts(60)
    assert {(fact.ending, fact.status) for fact in facts} == {(int(Ending.ANSWERED), 200)}
    assert len(a.seen()) + len(b.seen()) == 60  # and nobody was asked twice
    closed.close()


def test_an_upload_that_waited_for_a_url_that_refuses_arrives_whole(
    start_worker: Worker, start_upstream: Upstream
) -> None:
    a = start_upstream("a")
    closed, refusing = nobody()
    worker = start_worker(Placed(spread(refusing, a.url, by="round-robin", eject_after=1000), 0))
    body = bytes(range(256)) * 8192
    for _ in range(4):
        assert exchange(worker.port, post("/p", body)).body == body
        chunks = b"".join(b"%x\r\n%b\r\n" % (256, body[at : at + 256]) for at in range(0, 65536, 256))
        head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert exchange(worker.port, head + chunks + b"0\r\n\r\n").body == body[:65536]
    closed.close()


def test_copies_are_balanced_over_the_urls_of_a_shadow(
    start_worker: Worker, start_upstream: Upstream, start_observer: Callable[[WorkerProcess], Observer]
) -> None:
    stable, a, b = (start_upstream(name) for name in ("stable", "a", "b"))
    closed, refusing = nobody()
    mirror = MirrorTarget("43", (a.url, refusing, b.url), MILLION)
    worker = start_worker(Placed(route(stable.url, mirrors=(mirror,)), 0))
    observer = start_observer(worker)
    for number in range(30):
        assert served_by(worker.port) == "stable"
        observer.wait_pairs(number + 1)
    assert {(pair.shadow_ending, pair.shadow_status) for pair in observer.pairs} == {(0, 200)}
    assert len(a.seen()) + len(b.seen()) == 30
    assert min(len(a.seen()), len(b.seen())) > 2
    closed.close()


def test_when_no_url_can_be_reached_the_version_cannot(
    start_worker: Worker, start_observer: Callable[[WorkerProcess], Observer]
) -> None:
    (one, first), (two, second) = nobody(), nobody()
    worker = start_worker(Placed(spread(first, second, eject_after=2), 0))
    observer = start_observer(worker)
    for _ in range(6):  # also when both have been ejected: then both are tried all the same
        answer = exchange(worker.port, post("/p"))
        assert answer.status == 502
        assert b"version 42 of fraud cannot be reached" in answer.body
    assert {fact.ending for fact in observer.wait_facts(6)} == {int(Ending.CONNECT)}
    one.close()
    two.close()


def test_a_silent_url_is_given_up_for_the_next_one_within_the_deadline(
    start_worker: Worker, start_upstream: Upstream
) -> None:
    full, fillers = unheard()
    silent = f"http://127.0.0.1:{full.getsockname()[1]}"
    a = start_upstream("a")
    worker = start_worker(Placed(spread(silent, a.url, by="round-robin"), 0), connect_timeout=0.2)
    assert [served_by(worker.port) for _ in range(4)] == ["a"] * 4
    # The deadline of the whole request ends a wait for a connection too.
    patient = start_worker(Placed(route(silent, deadline=0.3), 0), connect_timeout=60.0)
    answer = exchange(patient.port, post("/p"))
    assert answer.status == 504
    assert b"did not answer within the deadline" in answer.body
    for end in (*fillers, full):
        end.close()


@pytest.mark.parametrize("upload", ["at once", "in pieces"])
def test_time_spent_on_getting_a_connection_is_latency(
    start_worker: Worker,
    start_upstream: Upstream,
    start_observer: Callable[[WorkerProcess], Observer],
    upload: str,
) -> None:
    silent, fillers = unheard()
    a = start_upstream("a")
    arms = (Arm("stable", "42", (a.url, f"http://127.0.0.1:{silent.getsockname()[1]}"), 10_000),)
    told = route(a.url, arms=arms, balance=RouteBalance(by="round-robin", eject_after=1000))
    worker = start_worker(Placed(told, 0), connect_timeout=0.4)
    observer = start_observer(worker)
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
    for _ in range(2):  # one of the two asks the silent URL first
        client = Connection(worker.port)
        if upload == "in pieces":  # the end is not read before there is a connection
            client.send(head)
            client.send(b"2\r\n{}\r\n")
            client.send(b"0\r\n\r\n")
        else:  # in one: the clock of the latency must not begin after that of the connection
            client.send(head + b"0\r\n\r\n")
        assert client.answer().status == 200
        client.close()
    latencies = sorted(fact.latency for fact in observer.wait_facts(2))
    assert latencies[0] < 0.4 <= latencies[1]
    for end in (*fillers, silent):
        end.close()


def test_more_waiting_than_the_bound_are_refused_as_failures_of_the_version(
    start_worker: Worker, start_observer: Callable[[WorkerProcess], Observer]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    silent, fillers = unheard()
    worker = start_worker(
        Placed(route(f"http://127.0.0.1:{silent.getsockname()[1]}", deadline=60.0), 0), connect_timeout=60.0
    )
    observer = start_observer(worker)
    clients = [Connection(worker.port) for _ in range(1030)]
    for client in clients:
        client.send(post("/p"))
    facts = observer.wait_facts(6)
    assert [(fact.ending, fact.status) for fact in facts] == [(int(Ending.CONNECT), 0)] * 6
    poll = select.poll()  # select() knows no descriptor above 1023
    by_number = {client.socket.fileno(): client for client in clients}
    for number in by_number:
        poll.register(number, select.POLLIN)
    answers: list[Answer] = []
    while len(answers) < 6:
        ready = poll.poll(10_000)
        assert ready
        for number, _ in ready:
            poll.unregister(number)
            answers.append(by_number[number].answer())
    assert not poll.poll(0)
    assert [answer.status for answer in answers] == [503] * 6
    assert b"too many requests wait for version 42" in answers[0].body
    for client in clients:
        client.close()
    for end in (*fillers, silent):
        end.close()


def test_tables_change_the_urls_under_load_without_a_lost_request(
    start_worker: Worker, start_upstream: Upstream
) -> None:
    a, b, c = (start_upstream(name) for name in "abc")
    worker = start_worker(Placed(spread(a.url, b.url), 0))
    stop = threading.Event()
    wrong: list[int] = []
    seen: set[str] = set()

    def ask() -> None:
        connection = Connection(worker.port)
        while not stop.is_set():
            connection.send(post("/p"))
            answer = connection.answer()
            if answer.status != 200:
                wrong.append(answer.status)
            seen.add(answer.field("x-served-by") or "")
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for generation, urls in enumerate(
        [(b.url, c.url), (c.url,), (a.url, b.url, c.url), (a.url,)] * 3, start=2
    ):
        worker.apply(Placed(msgspec.structs.replace(spread(*urls), generation=generation), 0))
    wait_for(lambda: seen >= {"a"})
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert served_by(worker.port) == "a"


def test_connections_to_a_url_that_left_the_table_are_closed_after_their_answer(
    start_worker: Worker, start_upstream: Upstream
) -> None:
    a, b = start_upstream("a"), start_upstream("b", "slow=0.5")
    worker = start_worker(Placed(spread(a.url, b.url, by="round-robin"), 0))

    def connected(port: int) -> int:
        ends = psutil.Process(worker.process.pid).net_connections("tcp")
        return sum(bool(end.raddr) and end.raddr[1] == port for end in ends if end.status == "ESTABLISHED")

    clients = [Connection(worker.port) for _ in range(2)]
    for client in clients:  # one of them waits for b while the table changes
        client.send(post("/p"))
    wait_for(lambda: a.seen() and b.seen())
    worker.apply(Placed(msgspec.structs.replace(spread(a.url), generation=2), 0))
    assert connected(b.port) == 1
    assert sorted(client.answer().body for client in clients) == [b"ok", b"{}"]
    wait_for(lambda: connected(b.port) == 0, seconds=3.0)  # sooner than an idle connection is closed
    for client in clients:
        client.close()
    assert {served_by(worker.port) for _ in range(5)} == {"a"}


# --- decided when a table is applied


def reached(upstreams: Upstreams, *urls: str) -> Reached:
    return Reached(
        upstreams, spread("http://x:1"), "42", urls, UpstreamTls(), at_most=0, trusting=True
    )  # fmt: skip


def test_one_url_costs_nothing_more_than_its_pool() -> None:
    upstreams = Upstreams(1.0)
    one = reached(upstreams, "http://a:1/base")
    assert isinstance(one.source, Pool)
    assert one.source.health is None  # nothing is counted for it, so nothing can eject it
    assert one.base == "/base"
    assert isinstance(reached(upstreams, "http://a:1", "http://b:1").source, Balancer)


def test_urls_of_one_version_must_agree_in_their_path() -> None:
    with pytest.raises(WireError, match="version '42': its addresses differ in the path"):
        reached(Upstreams(1.0), "http://a:1/x", "http://b:1/y")


def test_the_view_names_each_url() -> None:
    upstreams = Upstreams(1.0)
    kept = reached(upstreams, "http://a:1", "https://[::1]:8443")
    assert [(view.version, view.address, view.ready, view.ejected) for view in upstreams.view()] == [
        ("42", "a:1", None, False),
        ("42", "[::1]:8443", None, False),
    ]
    del kept
    assert upstreams.view() == []
