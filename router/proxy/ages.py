"""Exchanges that have outlived a tick: when to look at each again, and how far the reports reach.

Most requests are over before the next tick and never get here, so deadlines cost them nothing. The others
lie in a wheel of ticks by the time of their next look, and the wheel keeps numbers, not exchanges: one that
ended leaves nothing behind but its number, until its slot comes round (at most LOOK later).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .exchange import Exchange

TICK: Final = 0.02  # seconds between flushes
LOOK: Final = 1.0  # seconds after which an open exchange is looked at again at the latest


class Ages:
    """The old ones among `open` (exchanges by number, oldest first). `newest`: the last number seen."""

    __slots__ = ("_counts", "_open", "_slot", "_wheel", "newest", "unreported")

    def __init__(self, open_ones: dict[int, Exchange], now: float) -> None:
        self.newest = 0
        self.unreported: dict[int, Exchange] = {}  # analysed and not yet reported, oldest first
        self._open = open_ones
        self._counts: dict[tuple[int, int], int] = {}
        self._wheel: dict[int, list[int]] = {}
        self._slot = int(now / TICK)

    def admit(self, newest: int) -> None:
        """Take in what began since the last tick and is still open."""
        fresh: list[Exchange] = []
        for exchange in reversed(self._open.values()):
            if exchange.number <= self.newest:
                break
            fresh.append(exchange)
        self.newest = newest
        for exchange in reversed(fresh):
            if exchange.slot >= 0 and not exchange.reported:
                self.unreported[exchange.number] = exchange
                key = (exchange.slot, exchange.assigned_arm)
                self._counts[key] = self._counts.get(key, 0) + 1
            self._place(exchange.number, exchange.first_look())

    def reported(self, exchange: Exchange) -> None:
        """One that was taken in has made its fact."""
        if self.unreported.pop(exchange.number, None) is not None:
            key = (exchange.slot, exchange.assigned_arm)
            left = self._counts[key] - 1
            if left:
                self._counts[key] = left
            else:
                del self._counts[key]

    def look(self, now: float) -> None:
        """Let those whose time has come obey their deadlines."""
        slot = int(now / TICK)
        for due in range(self._slot + 1, slot + 1):
            for number in self._wheel.pop(due, ()):
                exchange = self._open.get(number)
                if exchange is not None:
                    at = exchange.look(now)
                    if at:
                        self._place(number, at)
        self._slot = max(slot, self._slot)

    def counts(self) -> list[tuple[int, int, int]]:
        """(slot, assigned arm, count) of what is not yet reported."""
        return [(slot, arm, count) for (slot, arm), count in self._counts.items()]

    def _place(self, number: int, at: float) -> None:
        slot = max(int(at / TICK), self._slot) + 1
        placed = self._wheel.get(slot)
        if placed is None:
            self._wheel[slot] = [number]
        else:
            placed.append(number)
