"""Who leads on one machine: whoever holds the data directory's lock, which is one process at most."""

from __future__ import annotations

from time import time

from .protocol import Claimant, Lead, Leadership


class LocalLead:
    """What one handle has claimed. Nothing of it is written: no other process could do anything with it."""

    def __init__(self) -> None:
        self._claimed: tuple[str, float, float] | None = None  # holder, since, until

    def claim(self, holder: str, seconds: float) -> Lead:
        """Always leads; for so long unless it is claimed again."""
        now, before = time(), self._claimed
        goes_on = before is not None and before[0] == holder and now <= before[2]
        since = before[1] if before is not None and goes_on else now
        self._claimed = holder, since, now + seconds
        return Lead(0, holder, mine=True)

    def resign(self, holder: str) -> None:
        """Lead no more."""
        if self._claimed is not None and self._claimed[0] == holder:
            self._claimed = holder, self._claimed[1], min(time(), self._claimed[2])

    def leadership(self) -> Leadership:
        """What is claimed now."""
        now = time()
        if self._claimed is None:
            return Leadership(now, None, ())
        holder, since, until = self._claimed
        if now < until:
            return Leadership(now, Claimant(holder, since), ())
        return Leadership(now, None, (), until)
