"""Who may call the API, and as whom.

Without tokens the API is for this machine: it listens on loopback only and answers only requests that name
a loopback host and send JSON, since a page in a browser can do neither. With tokens it asks for
`authorization: Bearer TOKEN` (RFC 6750 section 2.1) from everybody, and what is done is done in the name
that the token was given to.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol

import structlog

from ...errors import FileError, Forbidden, Unauthorized, UsageError
from ...policies.text import read_file
from ...policies.tokens import ROLES, ApiToken, Role, parse_tokens

_LOOK_EVERY: Final = 1.0  # seconds between looks at the file
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
_LONGEST: Final = 4096  # bytes of a token

log = structlog.get_logger("accede.controller")


class Access(Protocol):
    """Decides who a request is from. `name` None: whoever the request says."""

    def caller(self, host: str, authorization: str | None) -> ApiToken | None:
        """Who asks, None where everybody on this machine may. Raises UsageError, Unauthorized."""
        ...

    def everybody(self) -> Iterable[ApiToken] | None:
        """Who may ask at all; None where everybody on this machine may."""
        ...


class LoopbackOnly:
    """Everybody on this machine, and no page that a browser of this machine shows."""

    def caller(self, host: str, authorization: str | None) -> None:  # noqa: ARG002 - nobody is asked
        """Part of Access."""
        name = host if host.endswith("]") else host.rpartition(":")[0] if ":" in host else host
        if name not in _LOOPBACK:
            raise UsageError("this API answers requests to a loopback address only; use http://127.0.0.1")

    def everybody(self) -> None:
        """Part of Access."""


class Tokens:
    """The tokens of a file, which is read again when it changes.

    A file that cannot be used replaces nothing: it is told in the log once, and the tokens before it stay
    in force. Raises FileError where it cannot be used at the start.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._stamp = _stamp(path)
        self._by_digest = _read(path)
        self._looked = clock()

    def caller(self, host: str, authorization: str | None) -> ApiToken:  # noqa: ARG002 - any name of this host
        """Part of Access."""
        self._look()
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthorized(
                "this API needs a token: set ACCEDE_TOKEN, or send authorization: Bearer TOKEN"
            )
        found = None
        if len(token) <= _LONGEST:
            # A lookup by digest: what its timing could tell is a digest's beginning, which is worth nothing.
            found = self._by_digest.get(digest(token.strip()))
        if found is None:
            raise Unauthorized("the token is not one of this controller's; ask whoever keeps its token file")
        return found

    def everybody(self) -> Iterable[ApiToken]:
        """Part of Access."""
        self._look()
        return tuple(self._by_digest.values())

    def _look(self) -> None:
        now = self._clock()
        if now < self._looked + _LOOK_EVERY:
            return
        self._looked = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._by_digest = _read(self._path)
        except FileError as problem:
            why = str(problem)
            log.warning("the token file cannot be used; the tokens before stay in force", problem=why)
        else:
            log.info("the tokens were read again", tokens=len(self._by_digest))


def digest(token: str) -> str:
    """SHA-256 in hexadecimal. Tokens are random and long, so nothing slower is needed."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def require(caller: ApiToken | None, role: Role) -> None:
    """Raises Forbidden where the caller's role does not include `role`."""
    if caller is not None and not may(caller, role):
        raise Forbidden(f"{caller.name} has the role {caller.role}; this needs {role}")


def may(caller: ApiToken | None, role: Role) -> bool:
    """Whether the caller's role includes `role`; without tokens everybody's does."""
    return caller is None or ROLES.index(caller.role) >= ROLES.index(role)


def _read(path: Path) -> dict[str, ApiToken]:
    return {one.sha256: one for one in parse_tokens(read_file(path), str(path)).tokens}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
