"""What all connections of a worker share: the table in force, what is open, and the one clock tick.

Deadlines, the line of the facts and the flush are all looked at in one tick, so a request costs no timer.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING, Final

from ..facts import Ending, Table, Tripped
from .capture import Gathered, Lines, ObserverLink
from .mirror import Mirrors
from .pool import Pools
from .table import RouteTable

if TYPE_CHECKING:
    from .client import Client
    from .exchange import Exchange

TICK: Final = 0.02  # seconds between flushes
_SWEEP: Final = 0.25  # seconds between looks at connections without a request
_BODY_ROOM: Final = 8 * 2**20


class Limits:
    """Times of connections in seconds (see WorkerConfig)."""

    __slots__ = ("body", "connect", "head", "idle")

    def __init__(self, head: float, body: float, idle: float, connect: float) -> None:
        self.head = head
        self.body = body
        self.idle = idle
        self.connect = connect


class DataPath:
    """The shared state of one worker.

    `cells`: its block of the counters. `open`: exchanges by number, oldest first. `offset`: epoch time
    minus monotonic time. `trip` is told when a breaker opens.
    """

    def __init__(
        self, worker: int, boot: str, limits: Limits, cells: memoryview[int], link: ObserverLink,
        trip: Callable[[Tripped], None],
    ) -> None:  # fmt: skip
        self.worker = worker
        self.boot = boot
        self.limits = limits
        self.cells = cells
        self.link = link
        self.table: RouteTable | None = None
        self.pools = Pools(limits.connect)
        self.gathered = Gathered(cells)
        self.mirrors = Mirrors(self)
        self.open: dict[int, Exchange] = {}
        self.clients: set[Client] = set()
        self.draining = False
        self.offset = time() - monotonic()
        self.random = random.Random(int.from_bytes(os.urandom(8), "big")).random  # noqa: S311 - a split, no secret
        self._trip = trip
        self._ids = os.urandom(10).hex().encode()
        self._number = 0
        self._turn = 0
        self._swept_at = 0.0

    def next_number(self) -> int:
        """A number for an exchange; they grow by assignment."""
        self._number += 1
        return self._number

    def new_request_id(self) -> bytes:
        """An id for a request that brought none: this process's random part and a count."""
        return b"%b%012x" % (self._ids, self._number)

    def turn(self, count: int) -> int:
        """Which of `count` addresses is next."""
        self._turn += 1
        return self._turn % count

    def apply(self, table: Table) -> list[str]:
        """Put a table in force for new requests; the result names the routes that could not be."""
        self.table = RouteTable(table, self.pools.get, self.table)
        return self.table.refused

    def brake(self, exchange: Exchange, ending: Ending, now: float) -> None:
        """Count one of the candidate's answers; past the limit send it nothing more."""
        service = exchange.call.service
        breaker = service.breaker
        if breaker is None or ending == Ending.DISCONNECTED:
            return
        rules = service.route.errors
        error = {
            Ending.ANSWERED: exchange.status in service.errors,
            Ending.CONNECT: rules.connect,
            Ending.TIMEOUT: rules.timeout,
        }.get(ending, True)
        reason = breaker.record(error=error, now=now)
        if reason:
            service.stable_alone()
            current = self.table.services.get(service.name) if self.table is not None else None
            if current is not None and current.breaker is breaker:
                current.stable_alone()
            self._trip(Tripped(self.worker, service.name, breaker.generation, reason))

    def tick(self) -> None:
        """Deadlines, lines, flush; every TICK seconds."""
        now = monotonic()
        self._expire(now)
        self.mirrors.sweep(now)
        if now - self._swept_at >= min(_SWEEP, self.limits.head / 4):
            self._swept_at = now
            self._sweep(now)
        self.flush(now)

    def flush(self, now: float) -> None:
        """Hand what is gathered to the observer, if it takes anything now."""
        link, gathered = self.link, self.gathered
        ready = link.ready(now)
        gathered.room = max(0, _BODY_ROOM - link.pending())
        if ready and (gathered.anything or link.due(now)):
            link.send(gathered.take(self.worker, self.boot, self._lines(now)), now)

    def _expire(self, now: float) -> None:
        late: list[Exchange] = []
        for exchange in self.open.values():
            age = now - exchange.assigned
            service = exchange.call.service
            if age > service.route.deadline or (
                age > service.account_after and exchange.slot >= 0 and not exchange.reported
            ):
                late.append(exchange)
        for exchange in late:
            service = exchange.call.service
            if now - exchange.assigned > service.route.deadline:
                exchange.expire(now)
            else:
                exchange.report(Ending.OPEN, now)
                if exchange.pair >= 0:
                    self.mirrors.overdue(exchange)

    def _lines(self, now: float) -> Lines:
        wall = now + self.offset
        lines = Lines(self._number + 1, wall, self.mirrors.next_pair, wall)
        counts: dict[tuple[int, int], int] = {}
        first = True
        for exchange in self.open.values():
            if exchange.slot < 0 or exchange.reported:
                continue
            if first:
                first = False
                lines.line, lines.line_time = exchange.number, exchange.assigned_at
            key = (exchange.slot, exchange.arm.index)
            counts[key] = counts.get(key, 0) + 1
        lines.open = [(slot, arm, count) for (slot, arm), count in counts.items()]
        for number, exchange in self.mirrors.open_pairs.items():
            lines.pair_line, lines.pair_line_time = number, exchange.assigned_at
            break
        return lines

    def _sweep(self, now: float) -> None:
        self.offset = time() - monotonic()  # follows the clock when it is set
        self.pools.sweep(now)
        if self.table is not None:
            used = {
                target.pool
                for service in self.table.services.values()
                for served in (*service.arms, *((service.mirror,) if service.mirror is not None else ()))
                for target in served.targets
            }
            used.update(target.pool for exchange in self.open.values() for target in exchange.arm.targets)
            self.pools.retain(used, now)
        for client in tuple(self.clients):
            client.look(now)

    def drain(self) -> None:
        """Close every connection as soon as its request is answered."""
        self.draining = True
        for client in tuple(self.clients):
            client.drain()
