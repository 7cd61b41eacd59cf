"""Which store an address means."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import NotSupportedYet, UsageError
from .protocol import Store
from .sqlite import SqliteStore

FILE_NAME = "accede.db"  # in a data directory

_SUFFIXES = {".db", ".sqlite", ".sqlite3"}
_REMOTE = {"redis", "rediss", "valkey", "valkeys", "unix"}


def open_store(address: str) -> Store:
    """The store at `address`: a data directory, a database file, or `sqlite:///path` (an absolute path).

    A path is a file if it is one already or ends with .db, .sqlite or .sqlite3, else a directory.
    Raises UsageError for an address that means nothing, NotSupportedYet for Redis, StoreError where
    the store cannot be used.
    """
    return SqliteStore(store_path(address))


def store_path(address: str) -> Path:
    """The database file that `address` means; see `open_store`."""
    if "://" not in address:
        if not address:
            raise UsageError("the store's address is empty: give a directory or sqlite:///path")
        return _file(Path(address))
    parts = urlsplit(address)
    if parts.scheme in _REMOTE:
        raise NotSupportedYet(
            f"a store at {parts.scheme}:// is not supported yet: give a directory or sqlite:///path"
        )
    if parts.scheme != "sqlite":
        raise UsageError(f"store address has scheme {parts.scheme!r}: give a directory or sqlite:///path")
    if parts.netloc or len(parts.path) <= 1 or parts.query or parts.fragment:
        raise UsageError("a sqlite address is sqlite:///path: three slashes, an absolute path, nothing after")
    return _file(Path(unquote(parts.path)))


def _file(path: Path) -> Path:
    try:
        file, directory = path.is_file(), path.is_dir()
    except OSError:  # not allowed to look; opening it says so in full
        file, directory = False, False
    return path if file or (path.suffix in _SUFFIXES and not directory) else path / FILE_NAME
