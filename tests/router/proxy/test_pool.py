"""A pool's bounds, order and reuse, over real sockets and in this process, where they can be looked at."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self

import pytest
import uvloop

from accede.router.facts import Ending
from accede.router.proxy import connecting
from accede.router.proxy import pool as pools
from accede.router.proxy.connecting import Address
from accede.router.proxy.heads import ResponseHead
from accede.router.proxy.pool import Pool
from accede.router.proxy.receiver import Receiver
from accede.router.proxy.upstream import Upstream

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
Story = Callable[[Callable[["Server"], Coroutine[Any, Any, None]]], None]
pytestmark = pytest.mark.interpreted  # it asks as a Receiver of its own
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Asker(Receiver):
    """Asks a pool and notes what becomes of it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.head_only = self.wants_payload = False
        self.waiting = True
        self.name = name
        self.log = log
        self.upstream: Upstream | None = None
        self.done = asyncio.Event()

    def go(self, pool: Pool) -> Asker:
        upstream = pool.take()
        if upstream is None:
            pool.ask(self)
        else:
            self.connected(upstream)
        return self

    def connected(self, upstream: Upstream) -> None:
        self.waiting = False
        self.upstream = upstream
        self.log.append(f"{self.name} connected")
        upstream.start(self, REQUEST, more=False)

    def interim(self, raw: bytes) -> None:
        self.log.append(f"{self.name} interim")

    def answered(self, head: ResponseHead, body: bytes) -> None:
        self._end(f"{head.status}")

    def began(self, head: ResponseHead) -> None:
        self.log.append(f"{self.name} began")

    def piece(self, raw: bytes, payload: list[bytes] | None, size: int) -> None:
        pass

    def ended(self) -> None:
        self._end("ended")

    def failed(self, ending: Ending) -> None:
        self._end(ending.name)

    def refused(self) -> None:
        self._end("refused")

    def _end(self, how: str) -> None:
        self.log.append(f"{self.name} {how}")
        self.done.set()


class Server:
    """An HTTP server whose answers the test lets go one by one; `port` is set once it listens."""

    def __init__(self, port: int = 0) -> None:
        self.accepted = 0
        self.requests = 0
        self.writers: list[asyncio.StreamWriter] = []
        self.gate = asyncio.Semaphore(0)
        self.answer = OK
        self.port = port
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.writers.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.requests += 1
                await self.gate.acquire()
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.new_event_loop], ids=["uvloop", "asyncio"])
def story(request: pytest.FixtureRequest) -> Story:
    """Runs a story on the loop of production, and on the one where that is missing."""

    def run(tell: Callable[[Server], Coroutine[Any, Any, None]]) -> None:
        async def told() -> None:
            async with Server() as server:
                await asyncio.wait_for(tell(server), 20)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(told())

    return run


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - looks at what the pool knows, which tells nobody
            await asyncio.sleep(0.001)


async def all_done(*askers: Asker) -> None:
    waits: list[Awaitable[Any]] = [asker.done.wait() for asker in askers]
    await asyncio.wait_for(asyncio.gather(*waits), 10)


def pool_to(server: Server, at_most: int = 0) -> Pool:
    return Pool(Address("127.0.0.1", server.port, tls=False), at_most, 5.0)


def test_the_connection_used_last_is_used_again(story: Story) -> None:
    async def tell(server: Server) -> None:
        pool, log = pool_to(server), list[str]()
        both = [Asker(name, log).go(pool) for name in "ab"]
        await until(lambda: server.requests == 2)
        for _ in range(3):
            server.gate.release()
        await all_done(*both)
        assert (server.accepted, pool.idle, pool.load) == (2, 2, 0)
        last = both[1] if log[-1].startswith("b") else both[0]
        again = Asker("c", log).go(pool)
        assert again.upstream is last.upstream
        assert pool.load == 1
        await all_done(again)
        assert (server.accepted, pool.idle) == (2, 2)
        pool.close()

    story(tell)


def test_beyond_the_limit_requests_wait_in_order_and_are_refused_beyond_the_bound(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_WAITING", 3)

    async def tell(server: Server) -> None:
        pool, log = pool_to(server, at_most=1), list[str]()
        first = Asker("first", log).go(pool)
        await until(lambda: server.requests == 1)
        queue = [Asker(name, log).go(pool) for name in "abc"]
        assert (pool.waiting, pool.load, pool.connections) == (3, 4, 1)
        over = Asker("over", log).go(pool)
        assert not over.done.is_set()  # told later, never from within its own call
        await all_done(over)
        queue[1].waiting = False
        pool.leave(queue[1])
        for _ in range(3):
            server.gate.release()
        await all_done(first, queue[0], queue[2])
        assert log == [
            "first connected", "over refused",
            "a connected", "first 200", "c connected", "a 200", "c 200",
        ]  # fmt: skip
        assert server.accepted == 1
        pool.close()

    story(tell)


def test_clients_have_no_more_connections_to_one_address_than_its_limit(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_CLIENT_LIMIT", 3)

    async def tell(server: Server) -> None:
        pool, log = pool_to(server), list[str]()
        askers = [Asker(name, log).go(pool) for name in "abcde"]
        await until(lambda: server.requests == 3)
        assert (pool.connections, pool.waiting, pool.load) == (3, 2, 5)
        for _ in askers:
            server.gate.release()
        await all_done(*askers)
        assert server.accepted == 3
        pool.close()

    story(tell)


def test_an_address_of_a_mirror_that_refused_is_left_alone_for_a_moment(
    story: Story, free_port: Callable[[], int]
) -> None:
    """A dead shadow costs no attempt for each copy; clients' connections are tried each time."""

    async def tell(server: Server) -> None:
        log = list[str]()
        address = Address("127.0.0.1", free_port(), tls=False)
        mirror, clients = Pool(address, 4, 5.0), Pool(address, 0, 5.0)
        await all_done(Asker("mirror", log).go(mirror), Asker("client", log).go(clients))
        async with Server(address.port) as late:
            for _ in range(2):
                late.gate.release()
            at_once = Asker("mirror again", log).go(mirror)
            assert at_once.done.is_set(), "nothing is tried"
            await all_done(Asker("client again", log).go(clients))
            await asyncio.sleep(pools._REFUSED_FOR)
            await all_done(Asker("mirror later", log).go(mirror))
            mirror.close()
            clients.close()
        assert sorted(line for line in log if not line.endswith("connected")) == [
            "client CONNECT", "client again 200",
            "mirror CONNECT", "mirror again CONNECT", "mirror later 200",
        ]  # fmt: skip

    story(tell)


def test_a_lost_connection_lets_the_next_in_line_have_another_one_made_in_order(story: Story) -> None:
    async def tell(server: Server) -> None:
        pool, log = pool_to(server, at_most=1), list[str]()
        first = Asker("first", log).go(pool)
        await until(lambda: server.requests == 1)
        queue = [Asker(name, log).go(pool) for name in "ab"]
        server.writers[0].transport.abort()
        await until(lambda: server.requests == 2)
        for _ in range(3):
            server.gate.release()
        await all_done(first, *queue)
        assert log.index("first TRUNCATED") < log.index("a connected") < log.index("b connected")
        assert log[-1] == "b 200"
        pool.close()

    story(tell)


def test_connections_that_the_server_closes_while_they_idle_are_never_used_again(story: Story) -> None:
    async def tell(server: Server) -> None:
        pool, log = pool_to(server), list[str]()
        askers = [Asker(str(number), log).go(pool) for number in range(40)]
        await until(lambda: server.requests == 40)
        for _ in range(1000):
            server.gate.release()
        await all_done(*askers)
        assert (pool.idle, pool.connections) == (40, 40)
        for writer in server.writers[:39]:
            writer.close()
        await until(lambda: pool.connections == 1)
        assert (pool.idle, pool.load) == (1, 0)
        assert len(pool._idle) < 40  # the closed ones do not pile up
        await all_done(Asker("x", log).go(pool))
        assert (server.accepted, pool.idle) == (40, 1)
        for writer in server.writers:
            writer.close()
        await until(lambda: pool.connections == 0)
        await all_done(Asker("y", log).go(pool))
        assert log[-1] == "y 200"
        assert (server.accepted, pool.idle, pool.load) == (41, 1, 0)
        pool.close()

    story(tell)


def test_idle_connections_are_bounded_and_closed_after_their_time(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_KEPT_IDLE", 3)

    async def tell(server: Server) -> None:
        pool, log = pool_to(server), list[str]()
        askers = [Asker(str(number), log).go(pool) for number in range(5)]
        await until(lambda: server.requests == 5)
        for _ in range(5):
            server.gate.release()
        await all_done(*askers)
        await until(lambda: pool.connections == 3)
        assert (pool.idle, pool.load) == (3, 0)
        now = asyncio.get_running_loop().time()
        pool.sweep(now)
        assert pool.idle == 3
        pool.sweep(now + 60)
        assert pool.idle == 0
        await until(lambda: not pool.busy)

    story(tell)


def test_a_retired_pool_lets_open_requests_end_and_keeps_no_connection(story: Story) -> None:
    async def tell(server: Server) -> None:
        pool, log = pool_to(server), list[str]()
        server.gate.release()
        await all_done(Asker("idle", log).go(pool))
        busy = [Asker(name, log).go(pool) for name in "ab"]
        await until(lambda: server.requests == 3)
        pool.retire()
        assert pool.busy
        for _ in range(2):
            server.gate.release()
        await all_done(*busy)
        assert {"a 200", "b 200"} <= set(log)
        await until(lambda: not pool.busy)
        pool.revive()
        server.gate.release()
        await all_done(Asker("again", log).go(pool))
        assert pool.idle == 1
        pool.close()

    story(tell)


def test_a_refused_connection_fails_at_once_and_a_silent_one_after_its_time(story: Story) -> None:
    async def tell(server: Server) -> None:
        closed = socket.socket()
        closed.bind(("127.0.0.1", 0))
        log: list[str] = []
        pool = Pool(Address("127.0.0.1", closed.getsockname()[1], tls=False), 0, 60.0)
        await all_done(Asker("a", log).go(pool))
        assert log == ["a CONNECT"]
        assert not pool.busy
        closed.close()
        unknown = Pool(Address("no-such-host.invalid", 80, tls=False), 0, 60.0)
        await all_done(Asker("b", log).go(unknown))
        assert log[-1] == "b CONNECT"
        full = socket.socket()
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = Address("127.0.0.1", full.getsockname()[1], tls=False)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # fill the backlog: further SYNs are dropped
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        silent = Pool(address, 0, 0.3)
        await all_done(Asker("c", log).go(silent))
        assert log[-1] == "c CONNECT"
        for filler in (*fillers, full):
            filler.close()

    story(tell)


def test_a_server_that_hangs_up_on_every_connection_fails_requests_and_hangs_none(story: Story) -> None:
    async def tell(server: Server) -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        rude = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        log: list[str] = []
        pool = Pool(Address("127.0.0.1", rude.sockets[0].getsockname()[1], tls=False), 0, 5.0)
        for number in range(10):
            await all_done(Asker(str(number), log).go(pool))
        assert {line.split()[1] for line in log} <= {"connected", "CONNECT", "TRUNCATED"}
        await until(lambda: not pool.busy)
        rude.close()
        await rude.wait_closed()

    story(tell)


def test_every_address_of_a_host_is_tried(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(server: Server) -> None:
        server.gate = asyncio.Semaphore(100)
        closed = socket.socket()
        closed.bind(("127.0.0.1", 0))
        refusing = closed.getsockname()[1]
        full = socket.socket()
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        silent = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(silent)
        loop = asyncio.get_running_loop()
        asked: list[str] = []

        really = loop.getaddrinfo

        async def resolve(host: str, port: int, **how: Any) -> list[Any]:
            if host != "models.internal":  # uvloop looks up IPs too
                return await really(host, port, **how)
            asked.append(host)
            ends = [silent, ("127.0.0.1", refusing), ("127.0.0.1", server.port)]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", end) for end in ends]

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        log: list[str] = []
        pool = Pool(Address("models.internal", 80, tls=False), 0, 5.0)
        asker = Asker("a", log).go(pool)
        await all_done(asker)
        assert log == ["a connected", "a 200"]
        await until(lambda: asker.upstream is not None)
        other = pool.take()
        assert other is not None
        pool.ask(Asker("b", log))
        await until(lambda: len(asked) == 2)  # resolved anew for a new connection
        other.drop()
        await until(lambda: "b connected" in log)
        pool.close()
        for end in (*fillers, full, closed):
            end.close()

    story(tell)


def test_families_take_turns() -> None:
    four = [(socket.AF_INET, 1, 6, "", (f"1.2.3.{n}", 80)) for n in range(3)]
    six = [(socket.AF_INET6, 1, 6, "", ("::1", 80, 0, 0))]
    assert list(connecting._interleaved([*six, *four])) == [six[0], four[0], four[1], four[2]]
    assert list(connecting._interleaved([*four, *six])) == [four[0], six[0], four[1], four[2]]
    assert list(connecting._interleaved(four)) == four


def test_endless_interim_answers_are_no_answer(story: Story) -> None:
    async def tell(server: Server) -> None:
        server.gate = asyncio.Semaphore(100)
        pool, log = pool_to(server), list[str]()
        for count, end in ((32, "200"), (33, "TRUNCATED"), (5000, "TRUNCATED"), (32, "200")):
            server.answer = b"HTTP/1.1 102 Processing\r\n\r\n" * count + OK
            log.clear()
            await all_done(Asker("a", log).go(pool))
            assert log[-1] == f"a {end}"
            assert log.count("a interim") == min(count, 32)
        pool.close()

    story(tell)


def test_a_connection_is_not_reused_before_the_request_went_out_whole(story: Story) -> None:
    async def tell(server: Server) -> None:
        server.gate = asyncio.Semaphore(100)
        pool, log = pool_to(server), list[str]()
        await all_done(Asker("a", log).go(pool))

        class Sender(Asker):
            def connected(self, upstream: Upstream) -> None:
                self.waiting = False
                self.upstream = upstream
                body = b"content-length: 50000000\r\n\r\n" + b"x" * 50_000_000
                upstream.start(self, b"POST / HTTP/1.1\r\nhost: x\r\n" + body, more=False)

        over = asyncio.Event()

        async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await over.wait()
            writer.transport.abort()

        eager = await asyncio.start_server(early, "127.0.0.1", 0)
        other = Pool(Address("127.0.0.1", eager.sockets[0].getsockname()[1], tls=False), 0, 5.0)
        await all_done(Sender("early", log).go(other))
        assert log[-1] == "early 200"
        await until(lambda: not other.busy)  # closed: what is left of the body would come before the next one
        over.set()
        eager.close()
        await eager.wait_closed()
        pool.close()

    story(tell)
