"""What the leader removes: what nobody needs any more, in small bites, whenever it is time.

Nothing depends on it, so what fails waits for the next time. What an open rollout needs is never removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Final

import structlog

from ...errors import AccedeError
from ...store.protocol import Store
from ...store.rollouts import ReplicaReport
from .gone import SILENT, gone_reports

LABELS_EVERY: Final = 10.0  # seconds between forgetting old predictions and labels
LABELS_AT_ONCE: Final = 5000  # of each kind
REPORTS_EVERY: Final = 60.0
ENDED_EVERY: Final = 10.0  # seconds between two services' turns
ENDED_AT_ONCE: Final = 5  # decisions, each up to a MiB: some milliseconds of a store that others wait for
KEEP_DECISIONS: Final = 90 * 86400.0  # seconds after a rollout's end

log = structlog.get_logger("accede.controller")


class Tidying:
    """Of one store; lost with the process, and nothing depends on it."""

    def __init__(self, store: Store, keep_decisions: float = KEEP_DECISIONS) -> None:
        self._store = store
        self._keep_decisions = keep_decisions
        self._labels = self._reports = self._ended = -inf
        self._turns: list[str] = []  # services that come after this one, of a round over all of them

    def tidy(self, services: Sequence[str], reports: Sequence[ReplicaReport], now: float) -> None:
        """Do what is due. `services`: all that the store may have a rollout of."""
        if not 0 <= now - self._labels < LABELS_EVERY:
            self._labels = now
            self._guarded("old predictions and labels", lambda: self._forget_labels(now))
        if not 0 <= now - self._reports < REPORTS_EVERY:
            self._reports = now
            self._guarded(
                "reports of routers that are gone", lambda: self._forget_reports(services, reports, now)
            )

        if not 0 <= now - self._ended < ENDED_EVERY:
            self._ended = now
            self._turns = self._turns or [*services]
            if self._turns and now > self._keep_decisions:
                name = self._turns[0]
                self._guarded(f"decisions of ended rollouts of {name!r}", lambda: self._forget_ended(now))

    def _forget_ended(self, now: float) -> None:
        """A bite of one service; it has its turn again where there was more."""
        name = self._turns.pop(0)
        if self._store.forget_ended(name, now - self._keep_decisions, ENDED_AT_ONCE) == ENDED_AT_ONCE:
            self._turns.insert(0, name)
            self._ended = -inf

    def _forget_labels(self, now: float) -> None:
        self._store.labels.expire(now, LABELS_AT_ONCE)

    def _forget_reports(self, services: Iterable[str], reports: Sequence[ReplicaReport], now: float) -> None:
        if not any(now - report.at > SILENT for report in reports):
            return
        newest = [self._store.rollout(service) for service in services]
        still_open = [record for record in newest if record is not None and not record.phase.ended]
        gone = gone_reports(reports, still_open, now)
        if gone and (count := self._store.forget_reports(gone)):
            log.info("reports of routers that are gone were removed", count=count)

    def _guarded(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except AccedeError as problem:
            log.warning("what nobody needs cannot be removed", what=what, reason=str(problem))
