"""Whether this controller decides: the lead is claimed in the store again and again."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Final

import structlog

from ...store.protocol import Lead, Store

LEAD: Final = 6.0  # seconds for which the lead is claimed: so long nobody decides after a leader's death
CLAIM_EVERY: Final = 1.0  # seconds between claims while this one leads

log = structlog.get_logger("accede.controller")


class Leading:
    """One controller's claim. `name` is of this process alone: a restarted one is not the one before.

    `lead`: who leads, as the last claim told.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name
        self._claimed = -inf
        self.lead: Lead | None = None

    def holds(self) -> bool:
        """Whether this controller leads; asks the store where the last answer is old. Raises StoreError.

        A leader that was stopped since it asked is no danger: the store refuses what it writes.
        """
        began = monotonic()
        if self.lead is not None and self.lead.mine and began - self._claimed < CLAIM_EVERY:
            return True
        before, self.lead = self.lead, self._store.claim(self.name, LEAD)
        self._claimed = began
        if before is None or before.holder != self.lead.holder:
            log.info("this controller leads" if self.lead.mine else "stands by", leader=self.lead.holder)
        return self.lead.mine

    def resign(self) -> None:
        """Let another one lead at once. Raises StoreError."""
        self._store.resign(self.name)
