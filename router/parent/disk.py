"""The router's directory: its lock, its sockets, and the last table for a start without a store."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

import msgspec

from ...errors import AccedeError, Conflict
from ...store.routes import check_route
from .sync import Memory

ADMIN, OBSERVER, COUNTERS, ROUTES = "admin.sock", "observer.sock", "counters", "routes.json"
_LONGEST_SOCKET = 100  # bytes: sun_path holds 104 to 108 of them, by system

_memory = msgspec.json.Decoder(Memory)


class RouterFolder:
    """`<data>/router`, used by one router at a time."""

    def __init__(self, data: str) -> None:
        """Make and lock it. Raises AccedeError where it cannot be used, Conflict where it is in use."""
        self.path = Path(data).absolute() / "router"
        self._short: tempfile.TemporaryDirectory[str] | None = None
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock: IO[bytes] = (self.path / "lock").open("ab")
        except OSError as problem:
            raise AccedeError(
                f"the data directory {data!r} cannot be used: {problem.strerror}; "
                "name one that this user may write to"
            ) from problem
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            self._lock.close()
            raise Conflict(
                f"another router uses the data directory {data!r}; stop it, or name another directory"
            ) from problem

    def fresh(self, name: str) -> Path:
        """The path of a file of this life; one that an earlier life left is unlinked, never reused.

        Orphans of a killed router may still be finishing requests on it.
        """
        path = self.path / name
        if name.endswith(".sock") and len(os.fsencode(path)) > _LONGEST_SOCKET:
            if self._short is None:
                self._short = tempfile.TemporaryDirectory(prefix="accede-")
            path = Path(self._short.name) / name
        path.unlink(missing_ok=True)
        return path

    def recall(self) -> Memory | None:
        """What an earlier life knew, None if nothing. Raises AccedeError where it is unreadable."""
        path = self.path / ROUTES
        try:
            memory = _memory.decode(path.read_bytes())
            for route in memory.routes.values():
                check_route(route)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, AccedeError) as problem:
            raise AccedeError(f"{path} cannot be read and is not used: {problem}") from problem
        return memory

    def remember(self, data: bytes) -> None:
        """Replace what `recall` reads, whole. Raises OSError."""
        path = self.path / ROUTES
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def close(self) -> None:
        """Remove the sockets and give up the lock."""
        for name in (ADMIN, OBSERVER):
            (self.path / name).unlink(missing_ok=True)
        if self._short is not None:
            self._short.cleanup()
        self._lock.close()


def encoded(memory: Memory) -> bytes:
    """What `remember` takes."""
    return msgspec.json.encode(memory)
