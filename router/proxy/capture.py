"""What is waiting to be handed to the observer, within bounds, and the socket it goes over.

Nothing here ever waits. While the observer is slow or gone, facts gather up to FACTS and bodies up to
BODY_BYTES. At the bound all gathered bodies go at once: dropping only those that do not fit would lose
large answers, or one arm's, more often than others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time
from typing import Final, cast

from ..counters import FACTS_LOST, FIELDS, PAIRS_LOST
from ..facts import Body, Fact, Flush, MirrorTally, Pair, encode_flush

BODY_BYTES: Final = 8 * 2**20
FACTS: Final = 65_536
_BY_DESIGN, _CAPTURED, _LOST = 0, 1, 2
_HEARTBEAT: Final = 0.25  # seconds between flushes that say nothing but the line
_FIRST_RETRY, _LAST_RETRY = 0.05, 2.0


class Lines:
    """How far the reports reach at a flush: see Flush."""

    __slots__ = ("line", "line_time", "open", "pair_line", "pair_line_time")

    def __init__(self, line: int, line_time: float, pair_line: int, pair_line_time: float) -> None:
        self.line = line
        self.line_time = line_time
        self.pair_line = pair_line
        self.pair_line_time = pair_line_time
        self.open: list[tuple[int, int, int]] = []


class Gathered:
    """Facts, bodies and pairs since the last flush. `room`: bytes of bodies that may wait."""

    def __init__(self, cells: memoryview[int]) -> None:
        self.facts: list[Fact] = []
        self.bodies: list[Body] = []
        self.pairs: list[Pair] = []
        self.tallies: dict[tuple[int, int], MirrorTally] = {}
        self.room = BODY_BYTES
        self.facts_lost = 0
        self.pairs_lost = 0
        self._cells = cells
        self._bytes = 0

    def add(self, fact: Fact, body: Body | None, size: int) -> None:
        """Gather one exchange; `size`: bytes of its body, request and response."""
        if len(self.facts) >= FACTS:
            self.facts_lost += 1
            self._cells[fact.slot * FIELDS + FACTS_LOST] += 1
            return
        if body is not None:
            if self._bytes + size > self.room:
                self._strip()
            if size > self.room:
                fact.captured = _LOST
            else:
                self._bytes += size
                self.bodies.append(body)
        self.facts.append(fact)

    def add_pair(self, pair: Pair) -> None:
        """Gather one pair."""
        if len(self.pairs) >= FACTS:
            self.pairs_lost += 1
            self._cells[pair.slot * FIELDS + PAIRS_LOST] += 1
            return
        size = len(pair.request) + len(pair.stable_response) + len(pair.shadow_response)
        if self._bytes + size > self.room:
            self._strip()
        if size > self.room:
            _lose(pair)
        else:
            self._bytes += size
        self.pairs.append(pair)

    def tally(self, slot: int, kind: int) -> MirrorTally:
        """The tally of copies of a kind under `slot` to count in."""
        tally = self.tallies.get((slot, kind))
        if tally is None:
            tally = self.tallies[slot, kind] = MirrorTally(slot, 0, 0, 0, 0, 0, 0, kind)
        return tally

    @property
    def anything(self) -> bool:
        """Whether there is something to report."""
        return bool(self.facts or self.pairs or self.tallies or self.facts_lost or self.pairs_lost)

    def take(self, worker: int, boot: str, lines: Lines) -> Flush:
        """Everything as one flush; gathering begins anew."""
        flush = Flush(
            worker=worker, boot=boot, sent_at=time(), line=lines.line, line_time=lines.line_time,
            pair_line=lines.pair_line, pair_line_time=lines.pair_line_time, open=lines.open,
            facts=self.facts, bodies=self.bodies, pairs=self.pairs, mirrors=list(self.tallies.values()),
            facts_lost=self.facts_lost, pairs_lost=self.pairs_lost,
        )  # fmt: skip
        self.facts, self.bodies, self.pairs, self.tallies = [], [], [], {}
        self.facts_lost = self.pairs_lost = self._bytes = 0
        return flush

    def _strip(self) -> None:
        self.bodies = []
        self._bytes = 0
        for fact in self.facts:
            if fact.captured == _CAPTURED:
                fact.captured = _LOST
        for pair in self.pairs:
            _lose(pair)


def _lose(pair: Pair) -> None:
    pair.lost = True
    pair.request = pair.stable_response = pair.shadow_response = b""


class ObserverLink(asyncio.Protocol):
    """The socket to the observer: connects by itself, takes a flush whenever there is room."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._blocked = False
        self._connecting: asyncio.Task[None] | None = None
        self._pause = _FIRST_RETRY
        self._retry_at = 0.0
        self._sent_at = 0.0
        self._stopped = False

    @property
    def connected(self) -> bool:
        """Whether the observer is there."""
        return self._transport is not None

    def ready(self, now: float) -> bool:
        """Whether a flush may be sent; if there is no connection, one is made in the background."""
        if self._transport is not None:
            return not self._blocked
        if self._connecting is None and now >= self._retry_at and not self._stopped:
            self._connecting = self._loop.create_task(self._connect(now))
        return False

    def due(self, now: float) -> bool:
        """Whether silence has lasted so long that a flush without news should go."""
        return now - self._sent_at >= _HEARTBEAT

    def send(self, flush: Flush, now: float) -> None:
        """Hand a flush to the socket."""
        if self._transport is not None:
            self._sent_at = now
            self._transport.write(encode_flush(flush))

    def soon(self, act: Callable[[], None]) -> None:
        """Let the loop call `act` when what runs now is over."""
        self._loop.call_soon(act)

    def pending(self) -> int:
        """Bytes handed over that the observer has not taken."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Send what was handed over, then close."""
        self._stopped = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.close()

    async def _connect(self, now: float) -> None:
        try:
            await self._loop.create_unix_connection(lambda: self, self._path)
        except OSError:
            self._retry_at = now + self._pause
            self._pause = min(_LAST_RETRY, 2 * self._pause)
        finally:
            self._connecting = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._blocked = False
        self._pause = _FIRST_RETRY

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio calls it
        """Part of asyncio.Protocol."""
        self._transport = None

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._blocked = False
