"""How a worker's file descriptors are shared out: clients, model servers, copies.

A connection that this process has no descriptor for says nothing about a model, so it must not look like its
failure; and copies, which nobody waits for, must not take what an answer to a client needs.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable
from math import ceil
from time import monotonic
from typing import Final, NamedTuple

_OWN: Final = 32  # descriptors a worker needs besides its connections: it has about 15 open
COPIES: Final = 0.2  # of the connections are for copies; the rest is halved: clients, and who answers them
_SHED_EVERY: Final = 0.1  # seconds between two times that all pools are gone through
_TOLD_EVERY: Final = 60.0  # seconds between two lines of the log: it concerns every request
# What says that this side is exhausted: descriptors of the process or of the host, or its memory. Not
# EADDRNOTAVAIL: ::1 without IPv6 has it as well as a lack of ports, and a dead model would go unblamed.
_OURS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Shares(NamedTuple):
    """Connections of a worker at most: of `clients`, and of `copies` to model servers."""

    clients: int
    copies: int


def shares(connections: int) -> Shares:
    """What this process can hold with at most `connections` clients.

    Two fifths of its descriptors are for clients, as many for the connections that answer them, the rest for
    copies. The soft limit is raised as far as that needs and the hard one allows.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ceil(connections * 2 / (1 - COPIES)) + 2 * _OWN
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    fits = wanted if soft == resource.RLIM_INFINITY else soft
    room = max(0, fits - _OWN)
    clients = max(1, min(connections, int(room * (1 - COPIES) / 2)))
    return Shares(clients, max(1, room - 2 * clients))


class Descriptors:
    """Counts the connections of copies in a worker; there may be `most`.

    `tell` takes a line of its log; `shed` closes every idle connection to a model server.
    """

    __slots__ = ("_most", "_shed", "_shed_at", "_tell", "_told_at", "copies")

    def __init__(self, most: int, tell: Callable[[str], None], shed: Callable[[], None]) -> None:
        self.copies = 0
        self._most = most
        self._shed = shed
        self._tell = tell
        self._shed_at = self._told_at = float("-inf")

    @property
    def full(self) -> bool:
        """Whether copies have as many connections as they may."""
        return self.copies >= self._most

    def ours(self, problem: Exception) -> bool:
        """Whether a connection failed because this side is exhausted."""
        if isinstance(problem, socket.gaierror):  # a resolver without a descriptor gives other reasons
            return _exhausted()
        return isinstance(problem, OSError) and problem.errno in _OURS

    def shed(self) -> None:
        """Close what idles, so that who has a request gets its connection; a moment later there is room."""
        now = monotonic()
        if now - self._shed_at >= _SHED_EVERY:
            self._shed_at = now
            self._shed()

    def say(self, problem: Exception) -> None:
        """Tell, now and then, that connections cannot be opened."""
        now = monotonic()
        what = problem.strerror if isinstance(problem, OSError) else str(problem)
        if now - self._told_at >= _TOLD_EVERY:
            self._told_at = now
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            self._tell(
                f"cannot open a connection to a model server: {what}; requests that need one are answered "
                f"503. This process may have {limit} descriptors: raise the limit or lower --max-connections"
            )


def _exhausted() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    return False
