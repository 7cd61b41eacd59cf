"""The Store: what the two planes exchange through, as two narrow Protocols with their guarantees.

Guarantees every implementation gives (tests/store holds each of them to it):

1. `commit` writes record, route, audit entries and decision together or not at all. It raises
   StaleWrite, having written nothing, unless the stored record's version and the stored route's
   generation are the expected ones (see Commit).
2. What `commit` has returned from survives a kill of any process and a loss of power, and is seen by
   every later read. Where it raises StoreError, read again before acting: nothing is half-written, but
   whether it was written may be unknown.
3. A source's evidence and report replace that source's earlier ones whole. Publishing twice changes
   nothing. Evidence is never deleted while its rollout is open.
4. `routes` returns each service's newest route; one that cannot be decoded is left out and named in
   `broken`, the others are unaffected. Any other stored record that cannot be decoded raises WireError
   naming what and whose it is: a part of the evidence is never taken for all of it.
5. `revision` grows with every commit that changes a route (and with nothing else: not with a renewal)
   and is cheap enough to poll 5 times a second; so is `routes`, which decodes only what has changed.
6. Every method may be called from several processes and threads. A store that cannot be reached raises
   StoreError within seconds, never hangs. A store does not survive a fork: open one per process.
7. `commit` refuses, having written nothing, what could not be read back (WireError) and a change that
   contradicts itself (StoreError): other services' records, numbers that do not grow.
8. One holder leads at a time. Once a `claim` has said that another leads, no commit of a process whose last
   claim was before is written: StaleWrite. On one machine the data directory's lock sees to that, and every
   claim leads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from ..errors import AccedeError, StoreError
from .evidence import Evidence
from .labels import LabelStore
from .rollouts import AuditEntry, Decision, ReplicaReport, RolloutRecord
from .routes import ServiceRoute


class Commit(msgspec.Struct, frozen=True):
    """One atomic write for one service.

    `expected_version`: the stored version of the record's rollout id; 0 creates it, which is StaleWrite
    while another rollout of the service is open. The record's own version is the next one. Without a
    record: the version of the service's newest rollout, or 0 where none is open.
    `expected_generation`: of the stored route (0: none), also where no route is written. The new
    route's own generation is above it. None for record or route leaves that one alone.
    """

    service: str
    record: RolloutRecord | None
    expected_version: int
    route: ServiceRoute | None
    expected_generation: int
    audit: tuple[AuditEntry, ...] = ()
    decision: Decision | None = None


class Routes(msgspec.Struct, frozen=True):
    """All routes at one revision; `broken`: service -> why its stored route cannot be used.

    `leases`: service -> epoch seconds of the last renewal; absent before the first one.
    """

    revision: int
    routes: tuple[ServiceRoute, ...]
    broken: dict[str, str]
    leases: dict[str, float]


class Lead(msgspec.Struct, frozen=True):
    """Who decides at present. `token` grows from holder to holder; commits carry it."""

    token: int
    holder: str
    mine: bool


class Claimant(msgspec.Struct, frozen=True):
    """A controller that claims. `since`: epoch seconds from which it leads, or stands by; None: not known."""

    holder: str
    since: float | None


class Leadership(msgspec.Struct, frozen=True):
    """Who leads and who stands by, at `at` in epoch seconds; all times by one clock, the store's.

    `leader` None: nobody does, since `vacant`; None where nobody ever led.
    """

    at: float
    leader: Claimant | None
    standing_by: tuple[Claimant, ...]
    vacant: float | None = None


class RouterStore(Protocol):
    """What a router needs."""

    @property
    def labels(self) -> LabelStore:
        """Predictions and labels, which services with gates on outcomes need; guarantees of its own."""
        ...

    def revision(self) -> int:
        """The number of the last commit that changed a route, 0 before the first."""
        ...

    def routes(self) -> Routes:
        """All routes and leases, each service's as of one moment."""
        ...

    def wait(self, longest: float = ...) -> None:
        """Return when it is time to read routes again: soon after a change, after `longest` seconds at most.

        Never raises: whoever waits reads next. From one thread only. Without `longest`: what suits the store.
        """
        ...

    def publish_evidence(self, evidence: Evidence) -> None:
        """Replace this source's evidence for the same service, rollout and epoch.

        Raises SourceClosed for what `close_sources` has closed.
        """
        ...

    def publish_report(self, report: ReplicaReport) -> None:
        """Replace this source's report."""
        ...

    def close(self) -> None:
        """Let go of the store; every later call raises StoreError. Closing twice is allowed."""
        ...


class Store(RouterStore, Protocol):
    """What a controller needs besides."""

    def claim(self, holder: str, seconds: float) -> Lead:
        """Lead for so long from now on unless somebody else does; `holder` names this process alone.

        Guarantee 8. Commits of this store carry the token that the last claim told, whoever leads.
        """
        ...

    def resign(self, holder: str) -> None:
        """Let another one lead at once; nothing where `holder` does not lead."""
        ...

    def leadership(self) -> Leadership:
        """Who claims at present, longest first. The embedded store knows of its own handle's claims only."""
        ...

    def commit(self, change: Commit) -> None:
        """Write all of `change` or nothing: guarantees 1, 2 and 7."""
        ...

    def renew(self, service: str, now: float) -> None:
        """Renew the lease of the service's route, `now` in epoch seconds; without a route, nothing."""
        ...

    def renew_all(self, services: Collection[str], now: float) -> dict[str, str]:
        """`renew` of each of these; those that could not be renewed, and why. StoreError: none was."""
        ...

    def rollout(self, service: str) -> RolloutRecord | None:
        """The newest rollout of the service, open or ended."""
        ...

    def newest_of(self, services: Collection[str]) -> dict[str, tuple[str, int] | StoreError | None]:
        """Id and version of what `rollout` would return, or raise, for each of these, without reading it."""
        ...

    def rollouts(self, service: str | None = None) -> tuple[RolloutRecord, ...]:
        """All rollouts, oldest first. One that cannot be read raises; ask by service to keep others apart."""
        ...

    def evidence(self, service: str, rollout: str) -> tuple[Evidence, ...]:
        """The latest of every source and epoch, by epoch and source. WireError if any cannot be read."""
        ...

    def evidence_of(self, rollouts: Mapping[str, str]) -> dict[str, tuple[Evidence, ...] | AccedeError]:
        """What `evidence` returns, or raises, for the rollout of each service. StoreError: for none."""
        ...

    def close_sources(self, service: str, rollout: str, sources: Collection[str]) -> int:
        """Add what these sources have said to the total of `store.closing.CLOSED`, each once, for ever.

        Theirs are not among the evidence any more and they cannot publish again: SourceClosed tells them
        which of their publications was added. Returns how many parts were added; none already closed.
        """
        ...

    def reports(self) -> tuple[ReplicaReport, ...]:
        """The latest of every source, in order of their names."""
        ...

    def forget_reports(self, reports: Collection[ReplicaReport]) -> int:
        """Remove these, unless their source has said something since; how many. It may report again."""
        ...

    def forget_ended(self, service: str, before: float, limit: int) -> int:
        """Remove what the service's rollouts that ended before then have kept; how many parts that were.

        `limit` at most: decisions, oldest rollout first, and evidence where it is still there; records and
        the audit trail stay. Never of an open rollout, nor of the service's newest. WireError: its record
        cannot be read.
        """
        ...

    def audit(self, service: str | None = None, limit: int = 200) -> tuple[AuditEntry, ...]:
        """Oldest first, the last `limit`."""
        ...

    def decisions(self, rollout: str) -> tuple[Decision, ...]:
        """The rollout's decisions, by number."""
        ...
