"""What SQLite's errors mean to the user: one line each, with the path and the way out."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from ..errors import StoreError

_PRIMARY = 0xFF  # extended result codes carry the primary one in their low byte

_MEANING = {
    sqlite3.SQLITE_BUSY: (
        "is locked by another process",
        "try again; if it stays so, end the process that holds it (`fuser` names it)",
    ),
    sqlite3.SQLITE_LOCKED: ("is locked within this process", "try again"),
    sqlite3.SQLITE_READONLY: (
        "is read-only",
        "make the file and its directory writable for this user, or choose another data directory",
    ),
    sqlite3.SQLITE_PERM: (
        "may not be used by this user",
        "give this user the file and its directory, or choose another data directory",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "cannot be opened",
        "check that it is a file and that this user may write to its directory",
    ),
    sqlite3.SQLITE_FULL: ("cannot grow, the disk is full", "free space on its disk; nothing was written"),
    sqlite3.SQLITE_NOTADB: (
        "is no SQLite database",
        "move it away, or choose another data directory",
    ),
    sqlite3.SQLITE_CORRUPT: (
        "is damaged",
        "move it away together with its -wal and -shm files and restore a copy of all three",
    ),
    sqlite3.SQLITE_IOERR: ("could not be read or written", "check its disk and the system's log"),
}
_UNKNOWN = ("cannot be used", "check the file, its directory and its disk")


def store_error(path: Path, problem: sqlite3.Error) -> StoreError:
    """The error a user sees for one of SQLite's."""
    code = getattr(problem, "sqlite_errorcode", None)
    finding, way_out = _UNKNOWN if code is None else _MEANING.get(code & _PRIMARY, _UNKNOWN)
    return StoreError(f"store {path} {finding} ({problem}): {way_out}")
