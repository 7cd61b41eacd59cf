"""RedisStore: the parts of this package as one Store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from ...errors import AccedeError, StoreError
from ..evidence import Evidence
from ..protocol import Commit, Lead, Leadership, Routes
from ..rollouts import AuditEntry, Decision, ReplicaReport, RolloutRecord
from .address import Address
from .commits import Commits
from .connection import Connection
from .each import each
from .evidence import EvidenceStore
from .identity import Identity
from .labels import RedisLabels
from .leads import Leads
from .publishing import Publishing
from .records import Records
from .routes import RouteReader
from .scripts import RENEW

_POLL: Final = 0.5  # seconds between readings where no change is announced


class RedisStore:
    """A Store (store.protocol has the guarantees) on the server, Sentinels' primary or Cluster at `address`.

    Opening asks the server at once. Raises StoreError, with the place, the reason and the way out.
    """

    def __init__(self, address: Address) -> None:
        self._connection = Connection(address)
        try:
            _refuse_forgetful(self._connection)
            identity = Identity(self._connection)
        except StoreError:
            self._connection.close()
            raise
        self._routes = RouteReader(self._connection, identity)
        self._commits = Commits(self._connection, identity)
        self._records = Records(self._connection, self._routes)
        self._evidence = EvidenceStore(self._connection)
        self._publishing = Publishing(self._connection)
        self._leads = Leads(self._connection, identity, self._routes, self._commits)
        self._labels = RedisLabels(self._connection)

    def close(self) -> None:
        """Let go of the server; every later call raises StoreError."""
        self._routes.close()
        self._connection.close()

    @property
    def labels(self) -> RedisLabels:
        """Where predictions and labels meet."""
        return self._labels

    # Routers

    def revision(self) -> int:
        """How often any route changed."""
        return self._routes.revision()

    def routes(self) -> Routes:
        """All routes and leases."""
        return self._routes.routes()

    def wait(self, longest: float = _POLL) -> None:
        """Until a changed route is announced, `longest` at most."""
        self._routes.wait(longest)

    def publish_evidence(self, evidence: Evidence) -> None:
        """Replace this source's evidence for the same service, rollout and epoch."""
        self._publishing.publish(evidence)

    def publish_report(self, report: ReplicaReport) -> None:
        """Replace this source's report."""
        self._records.publish_report(report)

    # Controllers

    def claim(self, holder: str, seconds: float) -> Lead:
        """Lead for so long from now on, if nobody else does."""
        return self._leads.claim(holder, seconds)

    def resign(self, holder: str) -> None:
        """Let another one lead at once."""
        self._leads.resign(holder)

    def leadership(self) -> Leadership:
        """Who leads and who stands by."""
        return self._leads.leadership()

    def commit(self, change: Commit) -> None:
        """Write all of `change` or nothing."""
        self._commits.commit(change)

    def renew(self, service: str, now: float) -> None:
        """Renew the lease of the service's route; without a route, nothing."""
        self._connection.run(RENEW, (self._connection.keys.of(service, "head"),), (repr(now),), writes=True)

    def renew_all(self, services: Collection[str], now: float) -> dict[str, str]:
        """Renew the leases of all of them."""
        done = each(services, lambda service: self.renew(service, now), StoreError)
        return {name: str(problem) for name, problem in done.items() if problem is not None}

    def rollout(self, service: str) -> RolloutRecord | None:
        """The newest rollout of the service, open or ended."""
        return self._records.rollout(service)

    def newest_of(self, services: Collection[str]) -> dict[str, tuple[str, int] | StoreError | None]:
        """Id and version of what `rollout` would return for each."""
        return each(services, self._records.newest, StoreError)

    def rollouts(self, service: str | None = None) -> tuple[RolloutRecord, ...]:
        """All rollouts, oldest first."""
        return self._records.rollouts(service)

    def evidence(self, service: str, rollout: str) -> tuple[Evidence, ...]:
        """The latest of every source and epoch, by epoch and source."""
        return self._evidence.read(service, rollout)

    def evidence_of(self, rollouts: Mapping[str, str]) -> dict[str, tuple[Evidence, ...] | AccedeError]:
        """The evidence of several rollouts."""
        return each(rollouts, lambda service: self._evidence.read(service, rollouts[service]), AccedeError)

    def close_sources(self, service: str, rollout: str, sources: Collection[str]) -> int:
        """Add what these have said to the total of closed sources."""
        return self._evidence.close_sources(service, rollout, sources)

    def reports(self) -> tuple[ReplicaReport, ...]:
        """The latest of every source, in order of their names."""
        return self._records.reports()

    def forget_reports(self, reports: Collection[ReplicaReport]) -> int:
        """Remove these, unless their source has said something since; how many."""
        return self._records.forget_reports(reports)

    def forget_ended(self, service: str, before: float, limit: int) -> int:
        """Remove decisions of rollouts that ended before then, `limit` at most; evidence goes by itself."""
        return self._records.forget_ended(service, before, limit)

    def audit(self, service: str | None = None, limit: int = 200) -> tuple[AuditEntry, ...]:
        """Oldest first, the last `limit`."""
        return self._records.audit(service, limit)

    def decisions(self, rollout: str) -> tuple[Decision, ...]:
        """The rollout's decisions, by number."""
        return self._records.decisions(rollout)


def _refuse_forgetful(connection: Connection) -> None:
    """Raise StoreError for a server that throws keys away when it is full, whatever stands on them."""
    for policy in connection.eviction():
        if policy.startswith("allkeys"):
            raise StoreError(
                f"store {connection.place} throws away any key when its memory is full (maxmemory-policy "
                f"{policy}): set noeviction, or choose another server"
            )
