"""Commits in the embedded store: what a change rests on, and what it writes, within one transaction."""

from __future__ import annotations

import sqlite3

from .commits import Stored, Writing
from .protocol import Commit


def stored(connection: sqlite3.Connection, change: Commit) -> Stored:
    """What lies there where a change would be written."""
    newest = connection.execute(
        "SELECT id, version, ended FROM rollouts WHERE service = ? ORDER BY number DESC LIMIT 1",
        (change.service,),
    ).fetchone()
    same = None
    if change.record is not None:
        same = connection.execute(
            "SELECT service, version FROM rollouts WHERE id = ?", (change.record.id,)
        ).fetchone()
    generation = connection.execute(
        "SELECT generation FROM routes WHERE service = ?", (change.service,)
    ).fetchone()
    return Stored(
        newest=None if newest is None else newest[0],
        newest_version=0 if newest is None else newest[1],
        open=newest is not None and not newest[2],
        owner=None if same is None else same[0],
        version=0 if same is None else same[1],
        generation=0 if generation is None else generation[0],
    )


def write(connection: sqlite3.Connection, change: Commit, wire: Writing) -> None:
    """Write all of a change."""
    if change.record is not None:
        connection.execute(
            "INSERT INTO rollouts (id, service, version, ended, body) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id)"
            " DO UPDATE SET version = excluded.version, ended = excluded.ended, body = excluded.body",
            (change.record.id, change.service, change.record.version, change.record.phase.ended, wire.record),
        )
    if change.route is not None:
        connection.execute(
            "INSERT INTO routes (service, generation, body) VALUES (?, ?, ?) ON CONFLICT (service)"
            " DO UPDATE SET generation = excluded.generation, body = excluded.body",
            (change.service, change.route.generation, wire.route),
        )
        connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'revision'")
    connection.executemany(
        "INSERT INTO audit (service, body) VALUES (?, ?)", [(change.service, entry) for entry in wire.audit]
    )
    if change.decision is not None:
        row = (change.decision.rollout, change.decision.number, wire.decision)
        connection.execute("INSERT INTO decisions VALUES (?, ?, ?)", row)
