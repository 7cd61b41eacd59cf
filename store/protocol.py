"""The Store: what the two planes exchange through, as two narrow Protocols with their guarantees.

Guarantees every implementation gives (tests/store/contract.py holds them to it):

1. `commit` writes record, route, audit entries and decision together or not at all. It raises
   StaleWrite, having written nothing, unless the stored record's version (0: none, or an ended
   rollout of another id) and the stored route's generation are the expected ones.
2. What `commit` has returned from survives a kill of any process and is seen by every later read.
3. A source's evidence and report replace that source's earlier ones whole. Publishing twice changes
   nothing. Evidence is never deleted while its rollout is open.
4. `routes` returns each service's newest route; one that cannot be decoded is left out and named in
   `broken`, the others are unaffected.
5. `revision` grows with every commit that changes a route and is cheap enough to poll 5 times a second.
6. Every method may be called from several processes and threads. A store that cannot be reached raises
   StoreError within seconds, never hangs.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from .evidence import Evidence
from .rollouts import AuditEntry, Decision, ReplicaReport, RolloutRecord
from .routes import ServiceRoute


class Commit(msgspec.Struct, frozen=True):
    """One atomic write for one service.

    `expected_version`: the stored version of this rollout id (0 to create it; creation is refused as
    StaleWrite while another rollout of the service is open). `expected_generation`: of the stored
    route (0: none). None for record or route leaves that one alone.
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

    `leases`: service -> epoch seconds of the last renewal.
    """

    revision: int
    routes: tuple[ServiceRoute, ...]
    broken: dict[str, str]
    leases: dict[str, float]


class RouterStore(Protocol):
    """What a router needs."""

    def revision(self) -> int: ...

    def routes(self) -> Routes: ...

    def publish_evidence(self, evidence: Evidence) -> None: ...

    def publish_report(self, report: ReplicaReport) -> None: ...

    def close(self) -> None: ...


class Store(RouterStore, Protocol):
    """What a controller needs besides."""

    def commit(self, change: Commit) -> None: ...

    def renew(self, service: str, now: float) -> None: ...

    def rollout(self, service: str) -> RolloutRecord | None:
        """The newest rollout of the service, open or ended."""
        ...

    def rollouts(self, service: str | None = None) -> tuple[RolloutRecord, ...]:
        """All rollouts, oldest first."""
        ...

    def evidence(self, service: str, rollout: str) -> tuple[Evidence, ...]:
        """The latest of every source and epoch."""
        ...

    def reports(self) -> tuple[ReplicaReport, ...]: ...

    def audit(self, service: str | None = None, limit: int = 200) -> tuple[AuditEntry, ...]:
        """Oldest first, the last `limit`."""
        ...

    def decisions(self, rollout: str) -> tuple[Decision, ...]: ...
