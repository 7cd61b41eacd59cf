"""Warming a candidate up: the first copies of a worker to its addresses, which nobody counts.

A cold server answers its first requests slowly or not at all, which says nothing about the version. In a
shadow step those copies make no pair. Before its first users (a canary weight above 0) stable answers alone
until the copies have been answered, and what it answers meanwhile belongs to no epoch: left in, it would be
stable's alone, and the arms would not have their shares. The same holds until a candidate was ready once.
"""

from __future__ import annotations

from typing import Final

LONGEST: Final = 30.0  # seconds that stable answers alone: a service with little traffic must get its canary


class Warmth:
    """How warm one version's addresses are for this worker. It outlives route tables.

    `taken`: copies sent for warming, `ended` of them are over. `held_since`: monotonic seconds since the
    candidate's users have waited for it, None while nobody does.
    """

    __slots__ = ("ended", "held_since", "needed", "taken")

    def __init__(self, needed: int) -> None:
        self.needed = needed
        self.taken = 0
        self.ended = 0
        self.held_since: float | None = None

    def warm(self, now: float) -> bool:
        """Whether all copies are over, or users have waited long enough for them."""
        waited = self.held_since is not None and now - self.held_since >= LONGEST
        return waited or self.ended >= self.needed

    @property
    def wants(self) -> bool:
        """Whether another copy is to be sent."""
        return self.taken < self.needed

    def take(self) -> bool:
        """Take the copy that is being sent as one of those that warm; False when there are enough."""
        if self.taken >= self.needed:
            return False
        self.taken += 1
        return True

    def give_back(self) -> None:
        """A copy that is about to end could not be sent: another one is to warm in its place."""
        self.needed += 1
