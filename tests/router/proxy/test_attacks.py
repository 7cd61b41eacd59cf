"""Hostile clients, model servers and operators' inputs: what they send stays theirs, and bounded."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accede.router.counters import Counters
from accede.router.facts import Placed, Table
from accede.router.parent.disk import ROUTES
from accede.router.parent.sync import Memory, RouteKeeper, Slots
from accede.router.proxy.heads import MAX_HEAD, Malformed, Names, parse_request, parse_response
from accede.router.proxy.reach import Upstreams
from accede.router.proxy.table import _REMEMBERED, RouteTable
from accede.store.open import open_store
from accede.store.protocol import Commit
from tests.router.conftest import Connection, UpstreamProcess, WorkerProcess, exchange, post, route
from tests.router.parent.test_parent import RouterProcess, poll
from tests.router.parent.test_sync import NOW, found, held
from tests.router.parent.test_sync import route as stored_route

MIB = 2**20


class _Canned:
    """A model server that answers every request head with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        seen = b""
        with end:
            try:
                while data := end.recv(65536):
                    seen += data
                    while b"\r\n\r\n" in seen:
                        seen = seen.partition(b"\r\n\r\n")[2]
                        end.sendall(self.answer)
            except OSError:
                return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def canned() -> Iterator[Callable[[bytes], _Canned]]:
    started: list[_Canned] = []

    def start(answer: bytes) -> _Canned:
        started.append(_Canned(answer))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_long_targets_and_names_are_not_remembered(
    start_worker: Callable[..., WorkerProcess], stable: UpstreamProcess
) -> None:
    """A table remembers thousands of lines and spellings: of 30 KiB each they would fill gigabytes."""
    worker = start_worker(Placed(route(stable.url, stable.url, 100), 0))
    client = Connection(worker.port)
    filler = b"a" * (MAX_HEAD - 2048)
    before = 0
    for number in range(600):
        client.send(b"GET /p/%d%b HTTP/1.1\r\nHost: x\r\n\r\n" % (number, filler))
        client.answer()
        client.send(b"GET /p HTTP/1.1\r\nHost: x\r\nn%d%b: 1\r\n\r\n" % (number, filler))
        client.answer()
        if number == 100:
            before = worker.rss()
    assert worker.rss() - before < 20 * MIB
    client.close()


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("status", [b"103 Early Hints", b"204 No Content"])
def test_an_answer_that_has_no_body_announces_none(status: bytes, framing: bytes) -> None:
    head = parse_response(
        b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\nA: b\r\n\r\n", Names(), bodyless=False
    )
    assert head is not None
    assert (head.length, head.fields) == (0, b"A: b\r\n")


def test_a_head_may_arrive_cut_anywhere() -> None:
    data = b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    assert [parse_request(data[:cut], Names()) for cut in range(len(data))] == [None] * len(data)
    assert parse_request(data, Names()) is not None


@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"1.2", b"11", b"3"])
def test_another_version_is_named_as_such(version: bytes) -> None:
    with pytest.raises(Malformed) as refused:
        parse_request(b"POST /p HTTP/" + version + b"\r\nHost: x\r\n\r\n", Names())
    assert refused.value.status == 505


def test_lengths_of_bodies_that_are_left_out_stay() -> None:
    data = b"HTTP/1.1 %b\r\nContent-Length: 5\r\n\r\n"
    for status, bodyless in ((b"200 OK", True), (b"304 Not Modified", False)):
        head = parse_response(data % status, Names(), bodyless=bodyless)
        assert head is not None
        assert (head.length, head.fields) == (0, b"Content-Length: 5\r\n")


def test_an_interim_answer_speaks_for_no_arm(
    start_worker: Callable[..., WorkerProcess], canned: Callable[[bytes], _Canned]
) -> None:
    upstream = canned(
        b"HTTP/1.1 103 Early Hints\r\nx-accede-arm: candidate\r\nLink: </x>\r\nContent-Length: 9\r\n"
        b"Connection: close\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    )
    worker = start_worker(Placed(route(upstream.url), 0))
    client = Connection(worker.port)
    client.send(post("/p"))
    assert client.answer().raw == b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    assert client.answer().body == b"ok"
    client.close()


def test_after_an_early_answer_to_an_expectation_nothing_is_taken_for_the_next_request(
    start_worker: Callable[..., WorkerProcess], canned: Callable[[bytes], _Canned]
) -> None:
    """Whether its body still comes is the client's choice, so what follows could be body or request."""
    upstream = canned(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    worker = start_worker(Placed(route(upstream.url), 0))
    client = Connection(worker.port)
    client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\nExpect: 100-continue\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer.field("connection")) == (403, "close")
    client.send(post("/p", b"x" * 40))
    client.socket.shutdown(1)
    assert client.ended()
    client.close()


def test_requests_given_up_in_the_line_for_a_connection_hold_no_memory(
    start_worker: Callable[..., WorkerProcess],
) -> None:
    with socket.socket() as full:  # a backlog of one, taken: the kernel answers no connection more
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        taken = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(full.getsockname())
            taken.append(one)
        worker = start_worker(
            Placed(route(f"http://127.0.0.1:{full.getsockname()[1]}"), -1), connect_timeout=60.0
        )
        body = b"x" * 60_000
        before = 0
        for number in range(1000):
            client = Connection(worker.port)
            client.send(post("/p", body))
            client.socket.shutdown(socket.SHUT_WR)
            assert client.ended()  # it has taken the request, and let go of it
            client.close()
            if number == 200:
                before = worker.rss()
        assert worker.rss() - before < 25 * MIB
        for one in taken:
            one.close()


class TestTheAdminSocket:
    def test_a_reason_no_text_can_carry_aborts_and_brings_no_router_down(self, tmp_path: Path) -> None:
        router = RouterProcess(tmp_path)
        store = open_store(str(tmp_path / "store"))
        store.commit(Commit("s", None, 0, stored_route(rollout=None, weight=0), 0))
        poll(lambda: router.status().get("generations"))
        reply = self.ask(router.admin, {"do": "abort", "service": "s", "reason": "caf\udce9\n" + "x" * 5000})
        assert reply["workers"] == 2
        assert router.status()["held"]["s"].startswith("aborted here: caf??xxx")
        poll(lambda: router.report().direct.get("s", "").startswith("caf??"))
        memory = json.loads((tmp_path / "router" / ROUTES).read_text())
        assert len(memory["direct"]["s"]["reason"]) == 1000
        store.close()
        assert router.end() == 0

    def ask(self, path: Path, request: dict[str, str]) -> dict[str, int]:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(10)
            link.connect(str(path))
            link.sendall(json.dumps(request).encode() + b"\n")
            reply: dict[str, int] = json.loads(link.recv(65536))
            return reply


class TestHoldsThatMustNotBeLost:
    @pytest.fixture
    def keeper(self, tmp_path: Path) -> Iterator[RouteKeeper]:
        counters = Counters(tmp_path / "counters", 1, create=True)
        yield RouteKeeper(Slots(counters))
        counters.close()

    def test_where_the_memory_cannot_be_read_what_shares_waits_for_a_decision(
        self, keeper: RouteKeeper
    ) -> None:
        keeper.forgot("lost")
        keeper.learn(found(stored_route(), stored_route("idle", rollout=None, weight=0)), NOW)
        keeper.look(NOW)
        assert held(keeper) == {"s": "lease: lost"}
        keeper.learn(found(stored_route(), leases={"s": NOW + 1}), NOW + 1)
        keeper.look(NOW + 1)
        assert held(keeper) == {"s": "lease: lost"}
        keeper.learn(found(stored_route(generation=2)), NOW + 2)
        keeper.look(NOW + 2)
        assert held(keeper) == {}

    def test_after_a_restart_an_older_store_gives_the_candidate_nothing(self, keeper: RouteKeeper) -> None:
        keeper.recall(Memory(routes={"s": stored_route(generation=5, weight=0, rollout=None)}))
        keeper.learn(found(stored_route(generation=3)), NOW)
        keeper.look(NOW)
        assert "gone back from generation 5 to 3" in held(keeper)["s"]
        keeper.learn(found(stored_route(generation=4)), NOW)
        keeper.look(NOW)
        assert held(keeper) == {}

    def test_a_sign_of_life_from_the_future_buys_no_time(self, keeper: RouteKeeper) -> None:
        """The clock was a day ahead when the lease was seen; then it was set, and the controller died."""
        keeper.recall(Memory(routes={"s": stored_route()}, leases={"s": NOW + 86400}))
        keeper.trust_memory()
        keeper.look(NOW)
        assert held(keeper) == {}
        keeper.look(NOW + 61)
        assert "no controller has renewed it" in held(keeper)["s"]


def test_a_pool_gives_no_more_attempts_than_its_limit_and_fails_all_that_wait(
    start_worker: Callable[..., WorkerProcess], free_port: Callable[[], int]
) -> None:
    worker = start_worker(Placed(route(f"http://127.0.0.1:{free_port()}"), 0))
    clients = [Connection(worker.port) for _ in range(50)]
    for client in clients:
        client.send(post("/p") * 30)
    for client in clients:
        assert [client.answer().status for _ in range(30)] == [502] * 30
        client.close()
    assert exchange(worker.port, post("/p")).status == 502


def test_a_table_remembers_what_is_short(canned: Callable[[bytes], _Canned]) -> None:
    table = RouteTable(Table(1, (Placed(route("http://127.0.0.1:9"), 0),)), Upstreams(1.0))
    short = table.resolve(b"GET /p", b"x")
    assert table.resolve(b"GET /p", b"x") is short
    long = b"GET /p/" + b"a" * 4000
    assert table.resolve(long, b"x") is not table.resolve(long, b"x")


def test_a_table_remembers_no_more_lines_than_its_bound_and_forgets_no_busy_one() -> None:
    table = RouteTable(Table(1, (Placed(route("http://127.0.0.1:9"), 0),)), Upstreams(1.0))
    busy, rare = table.resolve(b"GET /p/busy", b"x"), table.resolve(b"GET /p/rare", b"x")
    for number in range(3 * _REMEMBERED):  # a stranger's, each another one
        table.resolve(b"GET /p/%d" % number, b"x")
        if number % 1000 == 0:
            assert table.resolve(b"GET /p/busy", b"x") is busy
    assert table.resolve(b"GET /p/rare", b"x") is not rare
