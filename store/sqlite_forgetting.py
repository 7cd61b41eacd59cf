"""Removing what nobody needs any more from the embedded store, within a write transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from ..errors import WireError
from .rollouts import ReplicaReport, RolloutRecord, decode_record

# The oldest rollout of a service that has anything left; its newest is left alone, open or not.
_OLDEST = """
SELECT id, body FROM rollouts WHERE service = ?1 AND ended
  AND number < (SELECT max(number) FROM rollouts WHERE service = ?1)
  AND (EXISTS (SELECT 1 FROM decisions WHERE rollout = id)
    OR EXISTS (SELECT 1 FROM evidence WHERE evidence.service = ?1 AND rollout = id))
ORDER BY number LIMIT 1
"""
_DECISIONS = "DELETE FROM decisions WHERE rowid IN (SELECT rowid FROM decisions WHERE rollout = ? LIMIT ?)"
_EVIDENCE = (
    "DELETE FROM evidence WHERE rowid IN"
    " (SELECT rowid FROM evidence WHERE service = ? AND rollout = ? LIMIT ?)"
)


def forget_reports(connection: sqlite3.Connection, reports: Collection[ReplicaReport]) -> int:
    """Remove these unless their source has reported since; how many."""
    gone = 0
    for report in reports:
        row = connection.execute("SELECT body FROM reports WHERE source = ?", (report.source,)).fetchone()
        if row is not None and decode_record(row[0], ReplicaReport).at == report.at:
            connection.execute("DELETE FROM reports WHERE source = ?", (report.source,))
            gone += 1
    return gone


def forget_ended(connection: sqlite3.Connection, service: str, before: float, limit: int) -> int:
    """Remove what the service's rollouts that ended before then have kept, `limit` rows at most; how many."""
    gone = 0
    while gone < limit:
        row = connection.execute(_OLDEST, (service,)).fetchone()
        if row is None:
            break
        rollout, body = row
        try:
            record = decode_record(body, RolloutRecord)
        except WireError as problem:
            raise WireError(f"rollout {rollout}: {problem}") from problem
        if not record.ended_before(before):
            break
        gone += connection.execute(_DECISIONS, (rollout, limit - gone)).rowcount
        gone += connection.execute(_EVIDENCE, (service, rollout, limit - gone)).rowcount
    return gone
