"""Bounds of time and size that no client waits for: what a copy may take at once, what nobody wants any more.

Time is passed in. What needs a running worker to be seen is tested where its story is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from time import monotonic
from typing import Any

import pytest
import uvloop

from accede.router.counters import Counters
from accede.router.facts import MirrorTally
from accede.router.proxy.bounds import Bounds
from accede.router.proxy.capture import ObserverLink
from accede.router.proxy.client import _LINGER, Client
from accede.router.proxy.datapath import DataPath, Limits
from accede.router.proxy.readiness import _Once
from accede.router.proxy.retrying import _DISCARDED, _PATIENCE, Discarded
from accede.router.proxy.upstream import Upstream
from accede.router.proxy.warming import LONGEST, Warmth
from accede.store.routes import MirrorTarget

Story = Callable[[Callable[[DataPath], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def story(tmp_path: Any) -> Iterator[Story]:
    """Runs a story with a data path of its own; nobody serves it and no time passes there."""
    counters = Counters(tmp_path / "counters", 1, create=True)
    cells = counters.cells(0)

    def run(tell: Callable[[DataPath], Coroutine[Any, Any, None]]) -> None:
        async def told() -> None:
            link = ObserverLink(str(tmp_path / "nobody"))
            limits = Limits(head=10.0, body=30.0, idle=75.0, connect=5.0)
            await tell(DataPath(0, "boot", limits, cells, link, lambda _: None))

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(told())

    yield run
    cells.release()
    counters.close()


def test_a_rate_comes_at_once_for_a_tenth_of_a_second_at_most() -> None:
    rule = MirrorTarget("43", ("http://127.0.0.1:9",), 1_000_000, max_rps=100.0)
    bounds, tally = Bounds(0.0), MirrorTally(0, 0, 0, 0, 0, 0, 0)

    def admitted(now: float) -> int:
        return sum(bounds.admit(rule, 1, 1000, tally, now) for _ in range(50))

    assert admitted(60.0) == 10, "a minute of silence saves nothing up"
    assert admitted(60.055) == 5
    assert tally.dropped_rate == 85


def test_users_wait_for_a_warm_up_for_half_a_minute_at_most() -> None:
    warmth = Warmth(5)
    assert not warmth.warm(1e9), "nobody waits yet"
    warmth.held_since = 100.0
    assert not warmth.warm(100.0 + LONGEST - 0.1)
    assert warmth.warm(100.0 + LONGEST)


def test_an_unwanted_answer_is_read_for_a_second_and_no_further_than_a_page(story: Story) -> None:
    async def tell(path: DataPath) -> None:
        def discarded(now: float) -> tuple[Discarded, Callable[[], bool]]:
            upstream = Upstream(_Once())
            upstream.lost = True  # there is no socket to close
            return Discarded(path, upstream, now, head_only=False), lambda: upstream.closed

        long, cut = discarded(monotonic())
        long.piece(b"x" * _DISCARDED, None, _DISCARDED)
        assert not cut()
        long.piece(b"x", None, 1)
        assert cut()
        now = monotonic()
        _, cut = discarded(now)
        path._sweep(now + _PATIENCE - 0.1)
        assert not cut()
        path._sweep(now + _PATIENCE)
        assert cut()
        assert path.discarded == set()

    story(tell)


def test_a_client_that_sends_on_after_its_refusal_is_cut_after_two_seconds(story: Story) -> None:
    async def tell(path: DataPath) -> None:
        loop = asyncio.get_running_loop()
        client: Any = Client(path)
        server = await loop.create_server(lambda: client, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"no request\r\n\r\n")
        assert b" 503 " in await reader.readline()  # there is no table
        now = monotonic()
        writer.write(b"and on")
        client.look(now + _LINGER - 0.5)
        await asyncio.sleep(0.01)
        assert len(path.clients) == 1
        client.look(now + _LINGER + 0.1)
        async with asyncio.timeout(5):
            while path.clients:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
        writer.close()
        server.close()

    story(tell)
