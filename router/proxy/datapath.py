"""What all connections of a worker share: the table in force, what is open, and the one clock tick.

Deadlines, the line of the facts and the flush are all looked at in one tick, so a request costs no timer.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from math import inf
from time import monotonic, time
from typing import TYPE_CHECKING, Final

from ..facts import UNWELL, Ending, Health, Table, Tripped, Unwell
from .ages import Ages
from .capture import Gathered, Lines, ObserverLink
from .mirror import Mirrors
from .reach import Upstreams
from .table import RouteTable

if TYPE_CHECKING:
    from .client import Client
    from .exchange import Exchange
    from .retrying import Discarded
    from .secured import Secured
    from .tunnel import Tunnel

_SWEEP: Final = 0.25  # seconds between looks at connections without a request
_SLICE: Final = 0.002  # seconds that a request may wait for a new table at one time
_LOW_BITS: Final = 0xFFF
_LOW: Final = tuple(b"%03x" % low for low in range(_LOW_BITS + 1))  # formatting costs more than looking up
_BODY_ROOM: Final = 8 * 2**20
_BATCH: Final = 64  # facts that do not wait for the tick: encoding a whole tick's at once holds requests up


class Limits:
    """Times of connections in seconds (see WorkerConfig)."""

    __slots__ = ("body", "clients", "connect", "copies", "head", "idle", "tunnel")

    def __init__(
        self, head: float, body: float, idle: float, connect: float, tunnel: float = 300.0,
        clients: int = 8192, copies: int = 4096,
    ) -> None:  # fmt: skip
        self.tunnel = tunnel
        self.clients = clients
        self.copies = copies
        self.head = head
        self.body = body
        self.idle = idle
        self.connect = connect


class DataPath:
    """The shared state of one worker.

    `cells`: its block of the counters. `open`: exchanges by number, oldest first. `offset`: epoch time
    minus monotonic time. `told` hears when a breaker opens and which
    addresses are left out, `tell` takes lines of the log. `number`: of
    the newest exchange; they grow by assignment. `held_bytes`: of bodies that are waited for. `captured`:
    bytes of requests and answers kept for analysis, copies and second attempts. `discarded`: answers nobody
    wants any more. `shaking`: those in their TLS handshake, the oldest first.
    """

    def __init__(
        self, worker: int, boot: str, limits: Limits, cells: memoryview[int], link: ObserverLink,
        told: Callable[[Tripped | Health], None], tell: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.worker = worker
        self.boot = boot
        self.limits = limits
        self.cells = cells
        self.link = link
        self.table: RouteTable | None = None
        self._begun: RouteTable | None = None  # the next one, on which slices of time are spent
        self.pools = Upstreams(limits.connect, tell, limits.copies)
        self.gathered = Gathered(cells)
        self.mirrors = Mirrors(self)
        self.open: dict[int, Exchange] = {}
        self.ages = Ages(self.open, monotonic())
        self.number = 0
        self.held_bytes = self.captured = 0
        self.discarded: set[Discarded] = set()
        self.clients: set[Client | Tunnel] = set()
        self.shaking: dict[Secured, None] = {}
        self.draining = False
        self._flushing = False
        self.offset = time() - monotonic()
        self.random = random.Random(int.from_bytes(os.urandom(8), "big")).random  # noqa: S311 - a split, no secret
        self._told = told
        self._ids = os.urandom(10).hex().encode()
        self._prefix = b""
        self._prefix_until = 0
        self._swept_at = 0.0
        self._judged = (-1, -1)  # changes of addresses and the table that the parent was told the state of
        self._unwell: list[Unwell] = []

    def next_number(self) -> int:
        """A number for an exchange; they grow by assignment."""
        self.number += 1
        return self.number

    def new_request_id(self) -> bytes:
        """An id for a request that brought none: this process's random part and a count."""
        number = self.number
        if number >= self._prefix_until:
            self._prefix = b"%b%09x" % (self._ids, number >> 12)
            self._prefix_until = (number | _LOW_BITS) + 1
        return self._prefix + _LOW[number & _LOW_BITS]

    def apply(self, table: Table) -> None:
        """Begin to put a table in force; `go_on` does the rest. A service that it holds is held at once."""
        current = self.table
        if current is not None:
            for placed in table.placed:
                if placed.held:
                    service = current.services.get(placed.route.service)
                    if service is not None and not service.closed:
                        service.stable_alone()
        self._begun = RouteTable(table, self.pools, current, self._begun, at_once=False)

    def go_on(self) -> RouteTable | None:
        """Spend a slice of time on the table that was begun; that table once it is in force.

        Requests go on in between, by the table before.
        """
        begun = self._begun
        # Before the first table nobody can be served, so nobody waits.
        if begun is None or not begun.go_on(inf if self.table is None else monotonic() + _SLICE):
            return None
        self._begun = None
        for service in begun.services.values():  # a breaker may have opened meanwhile
            if service.breaker is not None and service.breaker.open and not service.closed:
                service.stable_alone()
        self.table = begun
        self.mirrors.adopt(begun.services.values())
        self.pools.probe(monotonic())
        return begun

    def brake(self, exchange: Exchange, ending: Ending, now: float) -> None:
        """Count one of the candidate's answers; past the limit send it nothing more."""
        service = exchange.call.service
        breaker = service.breaker
        if breaker is None or ending == Ending.DISCONNECTED:
            return
        reason = breaker.record(error=service.fails(ending, exchange.status), now=now)
        if reason:
            service.stable_alone()
            current = self.table.services.get(service.name) if self.table is not None else None
            if current is not None and current.breaker is breaker:
                current.stable_alone()
            self._told(Tripped(self.worker, service.name, breaker.generation, reason))

    def tick(self) -> None:
        """Deadlines, lines, flush; every TICK seconds."""
        now = monotonic()
        self.ages.admit(self.number)
        self.ages.look(now)
        self.mirrors.sweep(now)
        if now - self._swept_at >= min(_SWEEP, self.limits.head / 4):
            self._swept_at = now
            self._sweep(now)
        self.flush(now)

    def reported(self) -> None:
        """A fact more is gathered. Once they are many, they go as soon as what runs now is over."""
        if len(self.gathered.facts) % _BATCH == 0 and not self._flushing:
            self._flushing = True
            self.link.soon(self._flush_early)

    def _flush_early(self) -> None:
        self._flushing = False
        self.flush(monotonic())

    def flush(self, now: float) -> None:
        """Hand what is gathered to the observer, if it takes anything now."""
        link, gathered = self.link, self.gathered
        ready = link.ready(now)
        gathered.room = max(0, _BODY_ROOM - link.pending())
        if ready and (gathered.anything or link.due(now)):
            link.send(gathered.take(self.worker, self.boot, self._lines(now)), now)

    def _lines(self, now: float) -> Lines:
        wall = now + self.offset
        lines = Lines(self.number + 1, wall, self.mirrors.next_pair, wall)
        oldest = self._oldest_unreported()
        if oldest is not None:
            lines.line, lines.line_time = oldest.number, oldest.assigned_at
        lines.open = self.ages.counts()
        for number, copy in self.mirrors.open_pairs.items():
            lines.pair_line, lines.pair_line_time = number, copy.exchange.assigned_at
            break
        return lines

    def _oldest_unreported(self) -> Exchange | None:
        """Of those that are analysed. What began since the last tick is not among the ages yet."""
        for exchange in self.ages.unreported.values():
            return exchange
        oldest: Exchange | None = None
        for exchange in reversed(self.open.values()):
            if exchange.number <= self.ages.newest:
                break
            if exchange.slot >= 0 and not exchange.reported:
                oldest = exchange
        return oldest

    def _sweep(self, now: float) -> None:
        self.offset = time() - monotonic()  # follows the clock when it is set
        self.pools.sweep(now)
        for discarded in tuple(self.discarded):
            if now >= discarded.until:
                discarded.drop()
        if self.table is not None:
            for service in self.table.services.values():
                service.budget.roll(now)
        self._judge()
        for client in tuple(self.clients):
            client.look(now)

    def _judge(self) -> None:
        """Tell the parent which addresses are left out, where that may have changed."""
        judged = (self.pools.changes.count, self.table.number if self.table is not None else -1)
        if judged == self._judged:
            return
        self._judged = judged
        unwell = self.pools.unwell()
        if unwell != self._unwell:
            self._unwell = unwell
            self._told(Health(self.worker, tuple(unwell[:UNWELL]), max(0, len(unwell) - UNWELL)))

    def drain(self) -> None:
        """Close every connection as soon as its request is answered."""
        self.draining = True
        for client in tuple(self.clients):
            client.drain()
