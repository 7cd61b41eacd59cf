"""Removing what nobody needs any more from the embedded store, within a write transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from .rollouts import ReplicaReport, decode_record


def forget_reports(connection: sqlite3.Connection, reports: Collection[ReplicaReport]) -> int:
    """Remove these unless their source has reported since; how many."""
    gone = 0
    for report in reports:
        row = connection.execute("SELECT body FROM reports WHERE source = ?", (report.source,)).fetchone()
        if row is not None and decode_record(row[0], ReplicaReport).at == report.at:
            connection.execute("DELETE FROM reports WHERE source = ?", (report.source,))
            gone += 1
    return gone
