"""Passive outlier ejection: an address that fails several times in a row is left out for a while.

Each worker judges by what it saw itself. Only an address that has others beside it is judged at all.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Final

from ...store.routes import RouteBalance

_LONGEST: Final = 300.0  # seconds; ejections grow no longer than that (Envoy's max_ejection_time)


class Changes:
    """Counts what changed at any address, so that balancers look again only then."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Health:
    """How one address did lately. `failures` in a row; `ejections` in a row, without a success after them.

    `ejected_at`, `until`: monotonic seconds of the ejection in force, if `ejected`. `say` is told of every
    change, as the end of a sentence that begins with the address.
    """

    __slots__ = ("_changes", "_rule", "_say", "ejected", "ejected_at", "ejections", "failures", "until")

    def __init__(
        self, rule: RouteBalance, changes: Changes, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._rule = rule
        self._changes = changes
        self._say = say
        self.failures = 0
        self.ejections = 0
        self.ejected = False
        self.ejected_at = 0.0
        self.until = 0.0

    def record(self, *, failed: bool) -> None:
        """Count how a request ended; failed: no connection, no answer in time, 5xx, a broken answer."""
        if not failed:
            self.failures = 0
            if not self.ejected:  # an answer begun before does not prove that it is well again
                self.ejections = 0
            return
        self.failures += 1
        if self.failures >= self._rule.eject_after and not self.ejected:
            self._eject(monotonic())

    def sweep(self, now: float) -> None:
        """Let it back in when its time is over."""
        if self.ejected and now >= self.until:
            self.ejected = False
            self.failures = 0
            self._changes.count += 1
            self._say("gets requests again, its ejection is over")

    def _eject(self, now: float) -> None:
        first = self._rule.eject_for
        self.ejections += 1
        self.ejected = True
        self.ejected_at = now
        lasts = min(first * self.ejections, max(first, _LONGEST))
        self.until = now + lasts
        self._changes.count += 1
        self._say(f"is ejected for {lasts:g} s after {self.failures} failures in a row")
