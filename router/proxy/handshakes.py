"""TLS clients until their handshake is over: how many may be in it, and who makes room for whom.

They are accepted here and not by one of the loop's servers, which take whoever comes: a few hundred clients
that say nothing would keep their places for all the time they have, and everybody else would wait for it.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from .secured import Secured

if TYPE_CHECKING:
    from .client import Client
    from .datapath import DataPath

_AT_ONCE: Final = 512  # at 1 ms each that is half a second of work that nobody has asked for
_GRANTED: Final = 1.0  # seconds: a network that is slow, not a client; then who waits outside comes first
_IN_A_ROW: Final = 16  # connections taken in one go; between two of these, requests are served


class Handshakes:
    """Accepts the clients of `path`. `context`: in force for those who come from now on."""

    __slots__ = ("_listening", "_made", "_path", "_reading", "_tasks", "context")

    def __init__(
        self, path: DataPath, listening: Sequence[socket.socket], context: ssl.SSLContext,
        made: Callable[[], Client | None],
    ) -> None:  # fmt: skip
        """`made` gives the protocol of one more; None: cut it."""
        self.context = context
        self._path = path
        self._listening = listening
        self._made = made
        self._tasks: set[asyncio.Task[None]] = set()
        self._reading = False

    def open(self) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        self._reading = True
        for one in self._listening:
            one.setblocking(False)
            loop.add_reader(one.fileno(), self._accept, one)

    def hold(self) -> None:
        """Accept nothing for now; who comes waits in the system's queue."""
        loop = asyncio.get_running_loop()
        self._reading = False
        for one in self._listening:
            loop.remove_reader(one.fileno())

    def look(self) -> None:
        """Cut who has taken too long, and accept again where there is room now. Every tick."""
        now = monotonic()
        while (oldest := next(iter(self._path.shaking), None)) is not None:
            if now - oldest.since <= self._path.limits.head:
                break
            oldest.abort()
        if not self._reading and self._room(now):
            self.open()

    def _room(self, now: float) -> bool:
        """Whether one more may begin; those that have been at it longest make room for it."""
        path = self._path
        shaking = path.shaking
        while len(shaking) >= _AT_ONCE or len(shaking) + len(path.clients) >= path.limits.clients:
            oldest = next(iter(shaking), None)
            if oldest is None or now - oldest.since < _GRANTED:
                return len(shaking) < _AT_ONCE
            oldest.abort()
        return True

    def _accept(self, listening: socket.socket) -> None:
        now = monotonic()
        for _ in range(_IN_A_ROW):
            if not self._room(now):
                self.hold()
                return
            try:
                end, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor or no memory: whoever asks for one would be told again at once
                self.hold()
                return
            client = self._made()
            if client is None:
                end.close()
                continue
            end.setblocking(False)
            secured = Secured(self._path, self.context, cast("asyncio.Protocol", client))
            task = asyncio.get_running_loop().create_task(self._begin(end, secured))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _begin(self, end: socket.socket, secured: Secured) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: cast("asyncio.Protocol", secured), end
            )
        except OSError:  # it has just gone by itself
            secured.abort()
