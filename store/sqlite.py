"""The embedded store: one SQLite file for one machine, used by many processes and threads at once.

Two connections, one that reads and one that writes, each behind a lock: with a write-ahead log a
reader never waits for a writer, so polling routes goes on while another process commits. Commits are
flushed to the disk before they return. Evidence, reports and leases are not: after a loss of power they
are some moments old, which their sources mend by publishing again, and never half-written.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import contextmanager
from os.path import samestat
from pathlib import Path
from threading import Lock
from time import sleep
from typing import Literal, TypeVar

from ..errors import AccedeError, StoreError, WireError
from .closing import CLOSED_MARK, closed_source
from .commits import refuse_stale, writing
from .evidence import Evidence, encode_evidence
from .protocol import Commit, Lead, Leadership, Routes
from .reading import Decode, plainly
from .rollouts import AuditEntry, Decision, ReplicaReport, RolloutRecord, decode_record, encode_record
from .routes import ServiceRoute, decode_route
from .sqlite_closing import close_sources
from .sqlite_commits import stored, write
from .sqlite_evidence import RememberedEvidence
from .sqlite_faults import store_error
from .sqlite_forgetting import forget_ended, forget_reports
from .sqlite_labels import SqliteLabels
from .sqlite_leads import LocalLead
from .sqlite_schema import begin_write, connect, prepare

POLL = 0.15  # s between two readings of the routes
WAIT = 2.5  # s for a lock of this process, and again for one of another: never a hang

_RENEW = "UPDATE routes SET lease = ? WHERE service = ?"

T = TypeVar("T")
R = TypeVar("R", RolloutRecord, AuditEntry, Decision, ReplicaReport)


class SqliteStore:
    """A Store (store.protocol has the guarantees) in the file `path`, made where it is missing.

    `wait`: seconds to wait for a lock held by another thread, and again by another process. `decode`: how
    evidence is read. Raises
    StoreError where the file cannot be used, with the reason and the way out.
    """

    def __init__(self, path: Path, *, wait: float = WAIT, decode: Decode = plainly) -> None:
        self._path = path.absolute()
        self._wait = wait
        self._process = os.getpid()
        self._closed = False
        self._read_lock, self._write_lock = Lock(), Lock()
        self._decoded: dict[str, tuple[bytes, ServiceRoute | str]] = {}
        self._evidence = RememberedEvidence(decode)
        self._labels = SqliteLabels(self._reading, self._writing)
        self._lead = LocalLead()
        prepare(self._path, wait)
        try:
            self._reader, self._writer = connect(self._path, wait), connect(self._path, wait)
            self._file = self._path.stat()
        except sqlite3.Error as problem:
            raise store_error(self._path, problem) from problem

    def close(self) -> None:
        """Let go of the file; every later call raises StoreError."""
        for lock, connection in ((self._read_lock, self._reader), (self._write_lock, self._writer)):
            with self._held(lock):
                self._closed = True
                if os.getpid() == self._process:
                    connection.close()

    @property
    def labels(self) -> SqliteLabels:
        """Where predictions and labels meet."""
        return self._labels

    # Routers

    def revision(self) -> int:
        """The number of the last commit that changed a route: one row by its key."""
        with self._reading() as connection:
            return _revision(connection)

    def routes(self) -> Routes:
        """All routes and leases of one snapshot; decodes only what has changed since the last call."""
        with self._reading() as connection:
            revision = _revision(connection)
            rows: list[tuple[str, int, float | None, bytes]] = connection.execute(
                "SELECT service, generation, lease, body FROM routes ORDER BY service"
            ).fetchall()
            self._decoded = {service: (body, self._decode(service, body)) for service, _, _, body in rows}
            routes: list[ServiceRoute] = []
            broken: dict[str, str] = {}
            for service, generation, _, _ in rows:
                route = self._decoded[service][1]
                if isinstance(route, str):
                    broken[service] = route
                elif (route.service, route.generation) != (service, generation):
                    broken[service] = (
                        f"the stored route of {service!r}, generation {generation}, is another's"
                    )
                else:
                    routes.append(route)
        leases = {service: lease for service, _, lease, _ in rows if lease is not None}
        return Routes(revision=revision, routes=tuple(routes), broken=broken, leases=leases)

    def publish_evidence(self, evidence: Evidence) -> None:
        """Replace this source's evidence for the same service, rollout and epoch."""
        body = encode_evidence(evidence)
        row = (evidence.service, evidence.rollout, evidence.epoch, evidence.source, body)
        with self._writing("NORMAL") as connection:
            found = connection.execute(
                "SELECT body FROM evidence WHERE (service, rollout, epoch, source) = (?, ?, ?, ?)"
                " AND length(body) < 64 AND substr(body, 1, length(?5)) = ?5",
                (*row[:4], CLOSED_MARK),
            ).fetchone()
            if found is not None:
                raise closed_source(evidence, found[0])
            connection.execute("INSERT OR REPLACE INTO evidence VALUES (?, ?, ?, ?, ?)", row)

    def publish_report(self, report: ReplicaReport) -> None:
        """Replace this source's report."""
        row = (report.source, encode_record(report))
        with self._writing("NORMAL") as connection:
            connection.execute("INSERT OR REPLACE INTO reports VALUES (?, ?)", row)

    def wait(self, longest: float = POLL) -> None:
        """Until the next look, which is cheap: `revision` and the routes that changed."""
        sleep(min(longest, POLL))

    # Controllers

    def claim(self, holder: str, seconds: float) -> Lead:
        """Always this process: whoever holds the data directory's lock leads."""
        return self._lead.claim(holder, seconds)

    def resign(self, holder: str) -> None:
        """Only said: the lock ends with its process."""
        self._lead.resign(holder)

    def leadership(self) -> Leadership:
        """What was claimed here: of other processes that read the file nothing is known, and none leads."""
        return self._lead.leadership()

    def commit(self, change: Commit) -> None:
        """Write all of `change` or nothing, flushed to the disk."""
        wire = writing(change)
        with self._writing("FULL") as connection:
            refuse_stale(change, stored(connection, change))
            write(connection, change, wire)

    def renew(self, service: str, now: float) -> None:
        """Renew the lease of the service's route; without a route, nothing."""
        with self._writing("NORMAL") as connection:
            connection.execute(_RENEW, (now, service))

    def renew_all(self, services: Collection[str], now: float) -> dict[str, str]:
        """The leases of all of them, in one transaction."""
        with self._writing("NORMAL") as connection:
            done = self._each(services, lambda name: connection.execute(_RENEW, (now, name)))
        return {name: str(problem) for name, problem in done.items() if isinstance(problem, StoreError)}

    def rollout(self, service: str) -> RolloutRecord | None:
        """The newest rollout of the service, open or ended."""
        query = "SELECT id, body FROM rollouts WHERE service = ? ORDER BY number DESC LIMIT 1"
        found = self._records(query, (service,), RolloutRecord, "rollout")
        return found[0] if found else None

    def newest_of(self, services: Collection[str]) -> dict[str, tuple[str, int] | StoreError | None]:
        """Id and version of what `rollout` would return for each, of one snapshot."""
        query = "SELECT id, version FROM rollouts WHERE service = ? ORDER BY number DESC LIMIT 1"
        with self._reading() as connection:
            return self._each(services, lambda name: connection.execute(query, (name,)).fetchone())

    def rollouts(self, service: str | None = None) -> tuple[RolloutRecord, ...]:
        """All rollouts, oldest first."""
        query = "SELECT id, body FROM rollouts WHERE ?1 IS NULL OR service = ?1 ORDER BY number"
        return self._records(query, (service,), RolloutRecord, "rollout")

    def evidence(self, service: str, rollout: str) -> tuple[Evidence, ...]:
        """The latest of every source and epoch, by epoch and source; reads only what was replaced since."""
        with self._reading() as connection:
            return self._evidence.read(connection, service, rollout)

    def evidence_of(self, rollouts: Mapping[str, str]) -> dict[str, tuple[Evidence, ...] | AccedeError]:
        """The evidence of several rollouts, of one snapshot."""

        def read(service: str) -> tuple[Evidence, ...] | AccedeError:
            try:
                return self._evidence.read(connection, service, rollouts[service])
            except WireError as problem:
                return problem

        with self._reading() as connection:
            return self._each(rollouts, read)

    def close_sources(self, service: str, rollout: str, sources: Collection[str]) -> int:
        """Add what these have said to the total of closed sources."""
        with self._writing("FULL") as connection:
            return close_sources(connection, service, rollout, sources)

    def reports(self) -> tuple[ReplicaReport, ...]:
        """The latest of every source, in order of their names."""
        query = "SELECT source, body FROM reports ORDER BY source"
        return self._records(query, (), ReplicaReport, "report of source")

    def forget_reports(self, reports: Collection[ReplicaReport]) -> int:
        """Remove these, unless their source has said something since; how many."""
        with self._writing("NORMAL") as connection:
            return forget_reports(connection, reports)

    def forget_ended(self, service: str, before: float, limit: int) -> int:
        """Remove what rollouts that ended before then have kept, `limit` parts at most; how many."""
        with self._writing("NORMAL") as connection:
            return forget_ended(connection, service, before, limit)

    def audit(self, service: str | None = None, limit: int = 200) -> tuple[AuditEntry, ...]:
        """Oldest first, the last `limit`."""
        query = (
            "SELECT number, body FROM audit WHERE ?1 IS NULL OR service = ?1 ORDER BY number DESC LIMIT ?2"
        )
        return self._records(query, (service, max(0, limit)), AuditEntry, "audit entry")[::-1]

    def decisions(self, rollout: str) -> tuple[Decision, ...]:
        """The rollout's decisions, by number."""
        query = "SELECT number, body FROM decisions WHERE rollout = ? ORDER BY number"
        return self._records(query, (rollout,), Decision, f"decision of rollout {rollout}, number")

    # Inside

    def _decode(self, service: str, body: bytes) -> ServiceRoute | str:
        """The route, or why it cannot be used; what was decoded before is not decoded again."""
        known = self._decoded.get(service)
        if known is not None and known[0] == body:
            return known[1]
        try:
            return decode_route(body)
        except WireError as problem:
            return str(problem)

    def _records(
        self, query: str, values: tuple[str | int | None, ...], kind: type[R], what: str
    ) -> tuple[R, ...]:
        """The records of a query for (name, body)."""
        with self._reading() as connection:
            rows = connection.execute(query, values).fetchall()
        found: list[R] = []
        for name, body in rows:
            try:
                found.append(decode_record(body, kind))
            except WireError as problem:
                raise WireError(f"{what} {name}: {problem}") from problem
        return tuple(found)

    def _each(self, names: Collection[str], act: Callable[[str], T]) -> dict[str, T | StoreError]:
        """What an act within a transaction gives for each; what is damaged for one leaves the others."""
        done: dict[str, T | StoreError] = {}
        for name in names:
            try:
                done[name] = act(name)
            except sqlite3.Error as problem:
                done[name] = store_error(self._path, problem)
        return done

    @contextmanager
    def _held(self, lock: Lock) -> Generator[None]:
        if not lock.acquire(timeout=self._wait):
            raise StoreError(
                f"store {self._path} is in use by another thread for over {self._wait:g} s: try again"
            )
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection]:
        """One snapshot."""
        with self._held(self._read_lock):
            self._check()
            with self._transaction(self._reader) as connection:
                connection.execute("BEGIN")
                yield connection

    @contextmanager
    def _writing(self, flush: Literal["NORMAL", "FULL"]) -> Generator[sqlite3.Connection]:
        """One write, all or nothing. FULL: flushed to the disk before it returns; NORMAL: some time later."""
        with self._held(self._write_lock):
            self._check()
            with self._transaction(self._writer) as connection:
                connection.execute(f"PRAGMA synchronous = {flush}")
                begin_write(connection, self._wait)
                yield connection

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Generator[sqlite3.Connection]:
        try:
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:  # whatever went wrong, nothing of it stays
                    connection.execute("ROLLBACK")
        except sqlite3.Error as problem:
            raise store_error(self._path, problem) from problem

    def _check(self) -> None:
        if self._closed:
            raise StoreError(f"store {self._path} is closed")
        if os.getpid() != self._process:
            raise StoreError(
                f"store {self._path} was opened before this process was forked: open it in this process"
            )
        try:
            here = samestat(self._path.stat(), self._file)
        except OSError:
            here = False
        if not here:
            raise StoreError(
                f"store {self._path} was moved, removed or replaced while in use: put it back, or restart"
            )


def _revision(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT value FROM counters WHERE name = 'revision'").fetchone()[0])
