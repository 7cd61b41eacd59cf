"""Whose look is told in full and stored at a round: about each second, but only for a share of the time.

Findings and intervals take many times what it takes to see that nothing is to be done, and nobody reads
those of hundreds of rollouts each second. Those that were stored longest ago come first; one that somebody
looks at comes before all. What acts is always told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

SAVE_EVERY: Final = 1.0  # seconds between stored looks that moved nothing
ASKED_FOR: Final = 10.0  # seconds for which one that was asked for comes first
_SHARE: Final = 0.1  # of the time between rounds
_LEAST: Final = 0.05  # seconds in any round
_LONGEST: Final = 10.0  # seconds between rounds of which a share is taken


class Telling:
    """`timer`: seconds that pass, whatever the clock says."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._stored: dict[str, float] = {}  # by the clock
        self._asked: dict[str, float] = {}  # by the timer
        self._cost = _LEAST  # seconds that one took lately
        self._began: float | None = None  # by the clock
        self._due: set[str] = set()

    def begin(self, names: Iterable[str], now: float) -> None:
        """Choose among the rollouts of a round at `now`."""
        passed = 0.0 if self._began is None else min(max(0.0, now - self._began), _LONGEST)
        self._began = now
        waiting = [name for name in names if abs(now - self._stored.get(name, 0.0)) >= SAVE_EVERY]
        room = max(1, int(max(_LEAST, _SHARE * passed) / self._cost))
        if len(waiting) > room:
            recent = self._timer() - ASKED_FOR
            waiting.sort(
                key=lambda name: (self._asked.get(name, recent) <= recent, self._stored.get(name, 0.0))
            )
        self._due = set(waiting[:room])

    def due(self, name: str) -> bool:
        """Whether this round tells and stores it."""
        return name in self._due

    def stored(self, name: str, now: float) -> None:
        """It was stored at `now`."""
        self._stored[name] = now

    def took(self, seconds: float) -> None:
        """What one look in full took."""
        self._cost = max(1e-6, 0.8 * self._cost + 0.2 * seconds)

    def ask(self, name: str) -> None:
        """Somebody looks at it. Any thread may say so."""
        self._asked[name] = self._timer()

    def keep(self, names: Iterable[str]) -> None:
        """Forget all others."""
        known = set(names)
        for of in (self._stored, self._asked):
            for name in [name for name in of if name not in known]:
                del of[name]
