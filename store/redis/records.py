"""Reading rollouts, decisions, the audit trail and reports."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from heapq import merge
from typing import TypeVar

from ...errors import WireError
from ..rollouts import AuditEntry, Decision, ReplicaReport, RolloutRecord, decode_record, encode_record
from .bodies import unpacked
from .connection import Connection
from .keys import STAMP
from .routes import RouteReader
from .scripts import FORGET

R = TypeVar("R", RolloutRecord, AuditEntry, Decision, ReplicaReport)


class Records:
    """What a controller reads. Raises WireError naming what cannot be read and whose it is."""

    def __init__(self, connection: Connection, routes: RouteReader) -> None:
        self._connection = connection
        self._routes = routes

    def rollout(self, service: str) -> RolloutRecord | None:
        """The newest rollout of the service."""
        keys, connection = self._connection.keys, self._connection
        newest = connection.call("HGET", keys.of(service, "head"), "newest")
        if newest is None:
            return None
        body = connection.call("HGET", keys.of(service, "records"), newest)
        return None if body is None else _read(body, RolloutRecord, f"rollout {newest.decode()}")

    def newest(self, service: str) -> tuple[str, int] | None:
        """Id and version of the newest rollout of the service."""
        head = self._connection.keys.of(service, "head")
        newest, version = self._connection.call("HMGET", head, "newest", "newest_version")
        return None if newest is None else (newest.decode(), int(version))

    def rollouts(self, service: str | None) -> tuple[RolloutRecord, ...]:
        """All rollouts, oldest first: of several services, by their server's clock."""
        keys = self._connection.keys
        found: list[list[tuple[bytes, str, bytes]]] = []
        for name in self._of(service):
            order, metas, bodies = self._connection.calls(
                [
                    ("LRANGE", keys.of(name, "order"), 0, -1),
                    ("HGETALL", keys.of(name, "meta")),
                    ("HGETALL", keys.of(name, "records")),
                ]
            )
            metas, bodies = _mapping(metas), _mapping(bodies)
            one = [(metas[id_][-STAMP:], id_.decode(), bodies[id_]) for id_ in order if id_ in bodies]
            found.append(one)
        ordered = merge(*found, key=lambda row: row[0])
        return tuple(_read(body, RolloutRecord, f"rollout {name}") for _, name, body in ordered)

    def audit(self, service: str | None, limit: int) -> tuple[AuditEntry, ...]:
        """Oldest first, the last `limit`: of several services, by their server's clock."""
        if limit <= 0:
            return ()
        keys = self._connection.keys
        names = self._of(service)
        trails: list[list[bytes]] = self._connection.calls(
            [("LRANGE", keys.of(name, "audit"), -limit, -1) for name in names]
        )
        rows = list(merge(*trails, key=lambda row: row[:STAMP]))[-limit:]
        return tuple(
            _read(row[STAMP + 1 :], AuditEntry, f"audit entry {row[:STAMP].decode()}") for row in rows
        )

    def decisions(self, rollout: str) -> tuple[Decision, ...]:
        """The rollout's decisions, by number."""
        keys, connection = self._connection.keys, self._connection
        owner = connection.call("HGET", keys.owners, rollout)
        if owner is None:
            return ()
        found = _mapping(connection.call("HGETALL", keys.of(owner.decode(), "decisions", rollout)))
        what = f"decision of rollout {rollout}, number"
        return tuple(
            _read(found[number], Decision, f"{what} {number.decode()}") for number in sorted(found, key=int)
        )

    def publish_report(self, report: ReplicaReport) -> None:
        """Replace this source's report."""
        self._connection.call("HSET", self._connection.keys.reports, report.source, encode_record(report))

    def reports(self) -> tuple[ReplicaReport, ...]:
        """The latest of every source, in order of their names."""
        found = _mapping(self._connection.call("HGETALL", self._connection.keys.reports))
        return tuple(
            _read(found[source], ReplicaReport, f"report of source {source.decode()}")
            for source in sorted(found)
        )

    def forget_reports(self, reports: Collection[ReplicaReport]) -> int:
        """Remove these unless their source has reported since, in which case another body lies there."""
        key, connection = self._connection.keys.reports, self._connection
        gone = 0
        for report in reports:
            body = connection.call("HGET", key, report.source)
            if (
                body is not None
                and _read(body, ReplicaReport, f"report of source {report.source}").at == report.at
            ):
                gone += int(connection.run(FORGET, (key,), (report.source, body), writes=True))
        return gone

    def forget_ended(self, service: str, before: float, limit: int) -> int:
        """Remove decisions of the service's rollouts that ended before then, `limit` at most; how many.

        Every step may be repeated: a rollout that is not the newest does not open again.
        """
        keys, connection = self._connection.keys, self._connection
        head, gone = keys.of(service, "head"), 0
        while gone < limit:
            newest, done = connection.call("HMGET", head, "newest", "forgotten")
            rollout = connection.call("LINDEX", keys.of(service, "order"), int(done or 0))
            if rollout is None or rollout == newest:
                break
            body = connection.call("HGET", keys.of(service, "records"), rollout)
            name = rollout.decode()
            if body is not None and not _read(body, RolloutRecord, f"rollout {name}").ended_before(before):
                break
            place = keys.of(service, "decisions", name)
            numbers = sorted(connection.call("HKEYS", place), key=int)
            some = numbers[: limit - gone]
            if some:
                gone += int(connection.call("HDEL", place, *some))
            if len(some) == len(numbers):
                connection.call("HSET", head, "forgotten", int(done or 0) + 1)
        return gone

    def _of(self, service: str | None) -> Iterable[str]:
        return self._routes.services() if service is None else [service]


def _mapping(found: dict[bytes, bytes] | list[bytes]) -> dict[bytes, bytes]:
    """A hash, which the client gives in one of two shapes."""
    return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))


def _read(body: bytes, kind: type[R], what: str) -> R:
    try:
        return decode_record(unpacked(body), kind)
    except WireError as problem:
        raise WireError(f"{what}: {problem}") from problem
