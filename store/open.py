"""Which store an address means."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import UsageError
from .protocol import Store
from .reading import Decode, plainly
from .sqlite import SqliteStore

FILE_NAME = "accede.db"  # in a data directory

_SUFFIXES = {".db", ".sqlite", ".sqlite3"}
_REMOTE = frozenset({"redis", "rediss", "valkey", "valkeys", "unix"})  # before a + (store.redis.address)

# Names of variables. With _FILE after it, one names a file whose first line is the password.
PASSWORD = "ACCEDE_STORE_PASSWORD"  # noqa: S105
SENTINEL_PASSWORD = "ACCEDE_SENTINEL_PASSWORD"  # noqa: S105


def open_store(address: str, decode: Decode = plainly) -> Store:
    """The store at `address`: a data directory, a database file, `sqlite:///path` (an absolute path), or a
    Redis or Valkey server (store.redis.address has the forms).

    A path is a file if it is one already or ends with .db, .sqlite or .sqlite3, else a directory. A server's
    passwords may stand in the environment instead, or in files (PASSWORD, SENTINEL_PASSWORD). `decode`: how
    an embedded store reads evidence.
    Raises UsageError for an address that means nothing or a client that is not installed, StoreError where
    the store cannot be used.
    """
    if not is_remote(address):
        return SqliteStore(store_path(address), decode=decode)
    try:
        from .redis.store import RedisStore  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError as problem:
        if problem.name != "redis":
            raise
        raise UsageError(
            "a store on Redis or Valkey needs its client, which is not installed: pip install 'accede[redis]'"
        ) from None
    from .redis.address import parse  # noqa: PLC0415

    return RedisStore(parse(address, _secret(PASSWORD), _secret(SENTINEL_PASSWORD)))


def is_remote(address: str) -> bool:
    """Whether the address is one of a server."""
    scheme, mark, _ = address.partition("://")
    return bool(mark) and scheme.partition("+")[0] in _REMOTE


def keep_secret(address: str) -> str:
    """The address without a password; what it had is put into the environment, which children inherit.

    An address is handed on, in arguments of processes too, and may come up in a message.
    """
    if not is_remote(address):
        return address
    from .redis.address import parse, without_secret, without_sentinel_secret  # noqa: PLC0415

    parse(address)
    for name, take_out in ((PASSWORD, without_secret), (SENTINEL_PASSWORD, without_sentinel_secret)):
        address, password = take_out(address)
        if password:
            os.environ[name] = password
    return address


def _secret(name: str) -> str:
    """What the variable holds, or the first line of the file that its sibling names. Raises UsageError."""
    told, file = os.environ.get(name, ""), os.environ.get(f"{name}_FILE", "")
    if told or not file:
        return told
    try:
        return Path(file).read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is no text"
        raise UsageError(
            f"{name}_FILE names {file!r}: {reason}; name a file that this user may read"
        ) from None


def store_path(address: str) -> Path:
    """The database file that an address on this machine means; see `open_store`."""
    if "://" not in address:
        if not address:
            raise UsageError("the store's address is empty: give a directory, sqlite:///path or redis://host")
        return _file(Path(address))
    parts = urlsplit(address)
    if parts.scheme != "sqlite":
        raise UsageError(
            f"store address has scheme {parts.scheme!r}: give a directory, sqlite:///path or redis://host"
        )
    if parts.netloc or len(parts.path) <= 1 or parts.query or parts.fragment:
        raise UsageError("a sqlite address is sqlite:///path: three slashes, an absolute path, nothing after")
    return _file(Path(unquote(parts.path)))


def _file(path: Path) -> Path:
    try:
        file, directory = path.is_file(), path.is_dir()
    except OSError:  # not allowed to look; opening it says so in full
        file, directory = False, False
    return path if file or (path.suffix in _SUFFIXES and not directory) else path / FILE_NAME
