"""The database file: where it may be, how connections are set up, and its tables with their version.

A file is ours if its application_id is; its user_version is the version of these tables. An empty
file becomes ours, one of an older version gets what it lacks. Nothing is ever written to a file that is
somebody else's or of a newer version.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from time import monotonic, sleep

from ..errors import StoreError
from . import sqlite_labels
from .sqlite_faults import store_error

APPLICATION = 0x41434345  # "ACCE"
VERSION = 3  # 1: without the tables of store.sqlite_labels, 2: where bytes of predictions are not counted

# A second of publications at most stays in the log between two checkpoints: 16 MiB, in pages of 4 KiB.
_CHECKPOINT_PAGES = 4096
_LOG_BYTES = 64 * 2**20  # what a checkpoint leaves of a log that a long reader let grow
_RETRY = 0.02  # s
_TURN = 0.002  # s between two attempts to get the write lock

_TABLES = """
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('revision', 0);
CREATE TABLE routes (
    service TEXT PRIMARY KEY, generation INTEGER NOT NULL, lease REAL, body BLOB NOT NULL
);
CREATE TABLE rollouts (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, service TEXT NOT NULL,
    version INTEGER NOT NULL, ended INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE UNIQUE INDEX rollouts_open ON rollouts (service) WHERE NOT ended;
CREATE INDEX rollouts_service ON rollouts (service, number);
CREATE TABLE evidence (
    service TEXT NOT NULL, rollout TEXT NOT NULL, epoch INTEGER NOT NULL, source TEXT NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY (service, rollout, epoch, source)
);
CREATE TABLE reports (source TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT, service TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX audit_service ON audit (service, number);
CREATE TABLE decisions (
    rollout TEXT NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (rollout, number)
);
"""


def prepare(path: Path, wait: float) -> None:
    """Make directory, file and tables where they are missing; refuse what cannot be a store of ours.

    Several processes may do so at once. Raises StoreError, at the latest after about `wait` seconds.
    """
    _check_place(path)
    deadline = monotonic() + wait
    while True:
        try:
            _prepare(path, wait)
            return
        except sqlite3.Error as problem:
            # SQLite answers at once, without waiting, where two processes switch a new file to WAL.
            if not _is_busy(problem) or monotonic() > deadline:
                raise store_error(path, problem) from problem
        sleep(_RETRY)


def connect(path: Path, wait: float) -> sqlite3.Connection:
    """A connection in autocommit mode that waits up to `wait` seconds for a lock. Raises sqlite3.Error."""
    connection = sqlite3.connect(path, timeout=wait, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def begin_write(connection: sqlite3.Connection, wait: float) -> None:
    """Begin a transaction that holds the write lock, within about `wait` seconds. Raises sqlite3.Error.

    SQLite's own waiting backs off to 100 ms between attempts, so that a commit loses against processes
    that publish without pause. Short, even turns give each waiting writer the same chance.
    """
    deadline = monotonic() + wait
    connection.execute("PRAGMA busy_timeout = 0")
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as problem:
            if not _is_busy(problem) or monotonic() > deadline:
                raise
        sleep(_TURN)


def _is_busy(problem: sqlite3.Error) -> bool:
    return getattr(problem, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _check_place(path: Path) -> None:
    directory = path.parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise StoreError(
            f"store {path}: directory {directory} cannot be made ({problem.strerror}): "
            f"make it for this user, or choose another data directory"
        ) from problem
    _check_access(path, directory, os.R_OK | os.W_OK | os.X_OK)
    if path.is_dir():
        raise StoreError(f"store {path} is a directory: name a file in it, for instance {path / 'accede.db'}")
    if path.exists():
        _check_access(path, path, os.R_OK | os.W_OK)


def _check_access(path: Path, place: Path, needed: int) -> None:
    if not os.access(place, needed):
        raise StoreError(
            f"store {path}: this user may not write to {place}, or its file system is read-only: "
            f"make it writable, or choose another data directory"
        )


def _prepare(path: Path, wait: float) -> None:
    connection = connect(path, wait)
    try:
        connection.execute("BEGIN")  # one snapshot: another process may be making the tables
        ours = _is_ours(connection, path)
        connection.execute("COMMIT")
        if ours:
            return
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreError(
                f"store {path}: its file system has no shared memory for SQLite's write-ahead log "
                f"(journal mode {mode!r}): choose a data directory on a local disk"
            )
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        if not _is_ours(connection, path):  # nobody was first
            made = connection.execute("PRAGMA user_version").fetchone()[0]
            lacking = "" if made > 1 else sqlite_labels.TABLES if made else _TABLES + sqlite_labels.TABLES
            for statement in (*lacking.split(";"), sqlite_labels.COUNTED):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        connection.close()


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """True for a store of this version, False for an empty file or one of an older version.

    Raises StoreError for anything else.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application == APPLICATION and version == VERSION:
        return True
    if application == APPLICATION and version in {1, 2}:
        return False
    if application == APPLICATION:
        made_by = "a newer version" if version > VERSION else "another version"
        raise StoreError(
            f"store {path} was made by {made_by} of accede (tables {version}, this one reads {VERSION}): "
            f"use that version, or choose another data directory"
        )
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] or version or application:
        raise StoreError(
            f"store {path} is another program's SQLite database: choose another file or data directory"
        )
    return False
