"""Closing sources in the embedded store: one transaction adds them and leaves their marks."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from .closing import CLOSED, closed_total, is_closed, mark_of
from .evidence import encode_evidence
from .reading import read_evidence


def close_sources(
    connection: sqlite3.Connection, service: str, rollout: str, sources: Collection[str]
) -> int:
    """Within a write transaction: add these sources' evidence to that of CLOSED, epoch by epoch."""
    rows = connection.execute(
        "SELECT epoch, source, body FROM evidence WHERE service = ? AND rollout = ? ORDER BY epoch, source",
        (service, rollout),
    ).fetchall()
    done = 0
    for epoch in sorted({row[0] for row in rows}):
        bodies = {source: body for at, source, body in rows if at == epoch}
        gone = [name for name in bodies if name in sources and not is_closed(bodies[name])]
        if not gone:
            continue
        names = [*gone, *([CLOSED] if CLOSED in bodies else [])]
        parts = {name: read_evidence(service, rollout, epoch, name, bodies[name]) for name in names}
        total = closed_total([*parts.values()])
        marks = [(service, rollout, epoch, name, mark_of(parts[name])) for name in gone]
        connection.executemany("INSERT OR REPLACE INTO evidence VALUES (?, ?, ?, ?, ?)", marks)
        connection.execute(
            "INSERT OR REPLACE INTO evidence VALUES (?, ?, ?, ?, ?)",
            (service, rollout, epoch, CLOSED, encode_evidence(total)),
        )
        done += len(gone)
    return done
