"""Predictions and labels in the embedded store: two more tables of the same file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Literal

from ..errors import StaleWrite
from .evidence import LABELS, Evidence, encode_evidence
from .labels import (
    MAX_LABELS,
    MAX_PREDICTION_BYTES,
    MAX_PREDICTIONS,
    TOMBSTONES,
    Due,
    Held,
    Joined,
    Kept,
    Label,
    LabelCounts,
    Prediction,
    decode_label,
    decode_prediction,
    encode_label,
    encode_prediction,
    fitting,
    settle,
)

# `due`: 1 there is something to fold, 0 there is not, -1 expired: only its key is left.
TABLES: Final = """
CREATE TABLE predictions (
    service TEXT NOT NULL, request BLOB NOT NULL, rollout TEXT NOT NULL, kind INTEGER NOT NULL,
    at REAL NOT NULL, until REAL NOT NULL, due INTEGER NOT NULL, folded INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (service, request, rollout, kind)
) WITHOUT ROWID;
CREATE INDEX predictions_due ON predictions (service, rollout, at) WHERE due = 1;
CREATE INDEX predictions_until ON predictions (until) WHERE due >= 0;
CREATE INDEX predictions_gone ON predictions (until) WHERE due < 0;
CREATE TABLE labels (
    service TEXT NOT NULL, request BLOB NOT NULL, until REAL NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (service, request)
) WITHOUT ROWID;
CREATE INDEX labels_until ON labels (until);
CREATE TABLE folds (
    service TEXT NOT NULL, rollout TEXT NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (service, rollout)
) WITHOUT ROWID;
CREATE TABLE label_totals (
    service TEXT NOT NULL, name TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (service, name)
) WITHOUT ROWID;
"""

# What a store that did not count bytes holds of them.
COUNTED: Final = (
    "INSERT OR REPLACE INTO label_totals"
    " SELECT service, 'bytes', sum(length(body)) FROM predictions GROUP BY service"
)

_ROW: Final = "(?, ?, ?, ?, ?, ?, 1, 0, ?)"
_ROWS: Final = 100  # of one statement: SQLite may have as few as 999 parameters

_Stored = tuple[str, bytes, str, int, float, float, bytes]  # all but due and folded
Reading = Callable[[], AbstractContextManager[sqlite3.Connection]]
Writing = Callable[[Literal["NORMAL", "FULL"]], AbstractContextManager[sqlite3.Connection]]


class SqliteLabels:
    """A LabelStore (store.labels has the guarantees) within a SqliteStore, by its transactions."""

    def __init__(
        self,
        reading: Reading,
        writing: Writing,
        *,
        most_predictions: int = MAX_PREDICTIONS,
        most_labels: int = MAX_LABELS,
        most_bytes: int = MAX_PREDICTION_BYTES,
    ) -> None:
        self._most_bytes = most_bytes
        self._reading = reading
        self._writing = writing
        self._most_predictions = most_predictions
        self._most_labels = most_labels

    def publish_predictions(self, service: str, predictions: Sequence[Prediction]) -> Kept:
        """Keep those that are new, as far as there is room."""
        rows = [
            (service, one.request, one.rollout, one.kind, one.at, one.until, encode_prediction(one))
            for one in predictions
        ]
        with self._writing("NORMAL") as connection:
            left = self._most_bytes - _total(connection, service, "bytes")
            room = max(0, self._most_predictions - _total(connection, service, "stored"))
            room = min(room, fitting((len(row[-1]) for row in rows), left))
            new = size = 0
            for first in range(0, min(room, len(rows)), _ROWS):
                count, its = _insert(connection, rows[first : min(first + _ROWS, room)])
                new, size = new + count, size + its
            no_room = len(rows[room:])
            told = {"stored": new, "bytes": size, "predictions": new, "dropped": no_room}
            _count(connection, service, told)
        return Kept(new, no_room)

    def add_labels(self, service: str, labels: Sequence[Label], until: float) -> LabelCounts:
        """Keep those that are new until then, flushed to the disk: who sent them will not send them again."""
        counts = dict.fromkeys(LabelCounts.__struct_fields__, 0)
        with self._writing("FULL") as connection:
            room = self._most_labels - _total(connection, service, "labels")
            for label in labels:
                for name in _add(connection, service, label, until, room - counts["new"]):
                    counts[name] += 1
            _count(connection, service, {f"label {name}": count for name, count in counts.items()})
            _count(connection, service, {"labels": counts["new"]})
        return LabelCounts(**counts)

    def due(self, service: str, rollout: str, before: float, limit: int) -> Due:
        """Predictions assigned before, with something to fold, oldest first."""
        with self._reading() as connection:
            number = _number(connection, service, rollout)
            rows = connection.execute(
                "SELECT p.body, p.folded, l.body FROM predictions AS p"
                " LEFT JOIN labels AS l ON l.service = p.service AND l.request = p.request"
                " WHERE p.service = ? AND p.rollout = ? AND p.due = 1 AND p.at <= ? ORDER BY p.at LIMIT ?",
                (service, rollout, before, limit),
            ).fetchall()
        return Due(
            number,
            tuple(
                Joined(decode_prediction(body), None if label is None else decode_label(label), folded)
                for body, folded, label in rows
            ),
        )

    def fold(
        self, service: str, rollout: str, number: int, rows: Sequence[Joined], sums: Sequence[Evidence]
    ) -> None:
        """Mark `rows` with their new `folded` and replace this source's evidence by `sums`."""
        bodies = [(service, rollout, one.epoch, LABELS, encode_evidence(one)) for one in sums]
        marks = [(row.folded, service, row.prediction.request, rollout, row.prediction.kind) for row in rows]
        with self._writing("FULL") as connection:
            found = _number(connection, service, rollout)
            if found != number:
                raise StaleWrite(
                    f"labels of service {service!r}, rollout {rollout}: fold {found} has been written, not "
                    f"{number}: somebody else folded first"
                )
            connection.execute(
                "INSERT OR REPLACE INTO folds VALUES (?, ?, ?)", (service, rollout, number + 1)
            )
            connection.executemany("INSERT OR REPLACE INTO evidence VALUES (?, ?, ?, ?, ?)", bodies)
            connection.executemany(
                "UPDATE predictions SET due = 0, folded = ?"
                " WHERE service = ? AND request = ? AND rollout = ? AND kind = ? AND due = 1",
                marks,
            )
            # A label that came between `due` and here is not in these sums: it stays due.
            connection.executemany(
                "UPDATE predictions SET due = 1 WHERE service = ? AND request = ? AND due = 0",
                [
                    (service, row.prediction.request)
                    for row in rows
                    if _label(connection, service, row.prediction.request) != row.label
                ],
            )

    def expire(self, now: float, limit: int) -> int:
        """Forget at most so many old predictions and labels of all services; how many there were."""
        with self._writing("NORMAL") as connection:
            freed = dict[str, int]()
            gone: list[tuple[str, bytes, str, int]] = []
            for service, request, rollout, kind, size in connection.execute(
                "SELECT service, request, rollout, kind, length(body) FROM predictions"
                " WHERE due >= 0 AND until < ? LIMIT ?",
                (now, limit),
            ).fetchall():
                gone.append((service, request, rollout, kind))
                freed[service] = freed.get(service, 0) + size
            connection.executemany(
                "UPDATE predictions SET due = -1, body = x''"
                " WHERE (service, request, rollout, kind) = (?, ?, ?, ?)",
                gone,
            )
            buried = connection.execute(
                "SELECT service, request, rollout, kind FROM predictions WHERE due < 0 AND until < ? LIMIT ?",
                (now - TOMBSTONES, limit),
            ).fetchall()
            connection.executemany(
                "DELETE FROM predictions WHERE (service, request, rollout, kind) = (?, ?, ?, ?)",
                buried,
            )
            labels = connection.execute(
                "SELECT service, request FROM labels WHERE until < ? LIMIT ?", (now, limit)
            ).fetchall()
            connection.executemany("DELETE FROM labels WHERE service = ? AND request = ?", labels)
            for service, size in freed.items():
                _count(connection, service, {"bytes": -size})
            for service, *_ in buried:
                _count(connection, service, {"stored": -1})
            for service, _ in labels:
                _count(connection, service, {"labels": -1})
        return len(gone) + len(buried) + len(labels)

    def held(self, service: str) -> Held:
        """What has come in."""
        with self._reading() as connection:
            found: dict[str, int] = dict(
                connection.execute("SELECT name, value FROM label_totals WHERE service = ?", (service,))
            )
        labels = {name: found.get(f"label {name}", 0) for name in LabelCounts.__struct_fields__}
        return Held(found.get("predictions", 0), found.get("dropped", 0), LabelCounts(**labels))


def _insert(connection: sqlite3.Connection, rows: Sequence[_Stored]) -> tuple[int, int]:
    """Predictions that are not there yet: how many those are, and the bytes of their bodies.

    In one statement: after each, Python's lock has to be got back, for which a busy thread lets this one wait
    5 ms, and all other writers with it. Where some had been there, which is after a failure, the bytes are
    those of that many of them at the mean: which are new nobody says, and a savepoint would cost half as much
    as the insertion.
    """
    before = connection.total_changes
    places = ", ".join([_ROW] * len(rows))
    statement = f"INSERT OR IGNORE INTO predictions VALUES {places}"  # noqa: S608 (places for values only)
    connection.execute(statement, [value for row in rows for value in row])
    new = connection.total_changes - before
    return new, sum(len(row[-1]) for row in rows) * new // len(rows)


def _add(
    connection: sqlite3.Connection, service: str, label: Label, until: float, room: int
) -> tuple[str, ...]:
    """Keep one label; the counts it belongs to."""
    known, kept = connection.execute(
        "SELECT count(*), count(CASE WHEN due >= 0 THEN 1 END) FROM predictions"
        " WHERE service = ? AND request = ?",
        (service, label.request),
    ).fetchone()
    stored = _label(connection, service, label.request)
    told: tuple[str, ...] = ("new",) if known else ("new", "unknown")
    if stored is not None:
        label, what = settle(stored, label)
        if what != "new":
            return (what + "s",)
        connection.execute(
            "UPDATE labels SET body = ? WHERE service = ? AND request = ?",
            (encode_label(label), service, label.request),
        )
        told = ()  # the rest of a label that has been counted
    elif known and not kept:
        return ("expired",)
    elif room <= 0:
        return ("no_room",)
    else:
        connection.execute(
            "INSERT INTO labels VALUES (?, ?, ?, ?)", (service, label.request, until, encode_label(label))
        )
    connection.execute(
        "UPDATE predictions SET due = 1 WHERE service = ? AND request = ? AND due = 0",
        (service, label.request),
    )
    return told


def _label(connection: sqlite3.Connection, service: str, request: bytes) -> Label | None:
    row = connection.execute(
        "SELECT body FROM labels WHERE service = ? AND request = ?", (service, request)
    ).fetchone()
    return None if row is None else decode_label(row[0])


def _number(connection: sqlite3.Connection, service: str, rollout: str) -> int:
    row = connection.execute(
        "SELECT number FROM folds WHERE service = ? AND rollout = ?", (service, rollout)
    ).fetchone()
    return 0 if row is None else int(row[0])


def _total(connection: sqlite3.Connection, service: str, name: str) -> int:
    row = connection.execute(
        "SELECT value FROM label_totals WHERE service = ? AND name = ?", (service, name)
    ).fetchone()
    return 0 if row is None else int(row[0])


def _count(connection: sqlite3.Connection, service: str, more: dict[str, int]) -> None:
    connection.executemany(
        "INSERT INTO label_totals VALUES (?, ?, ?) ON CONFLICT (service, name)"
        " DO UPDATE SET value = value + excluded.value",
        [(service, name, count) for name, count in more.items() if count],
    )
