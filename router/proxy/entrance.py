"""Where clients come in: a worker's listening sockets, how many it takes, and under which certificate.

The listening sockets stay open the whole time; what accepts from them can be closed and opened again, so
a new certificate or a pause costs no waiting connection.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from ...errors import UsageError
from .client import Client
from .heads import Malformed
from .tls import LOOK, Pem, Renewal, TlsFiles, server_context, spared

if TYPE_CHECKING:
    from .datapath import DataPath

_BACKLOG: Final = 4096
_HANDSHAKES: Final = 512  # at one time; at 1 ms each that is half a second of work that nobody has asked for
_EXCESS: Final = 16  # one connection in so many beyond the limit is told so; more are cut


class Entrance:
    """The way in for clients of `path`. `say` gets one line for what an operator must know."""

    def __init__(
        self, path: DataPath, descriptors: tuple[int, ...], tls: TlsFiles | None, spare: int,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`spare`: descriptor of the parent's Spare. Raises UsageError: the TLS files cannot be used."""
        self._path = path
        self._sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        self._servers: list[asyncio.Server] = []
        self._say = say
        self._context: ssl.SSLContext | None = None
        self._renewal: Renewal | None = None
        self._looked_at = self._held_at = 0.0
        if tls is not None:
            seen = tls.seen()
            self._context = self._first(tls, spare)
            self._renewal = Renewal(tls, seen)

    def _first(self, tls: TlsFiles, spare: int) -> ssl.SSLContext:
        try:
            return server_context(Pem.read(tls), tls)
        except UsageError as problem:
            kept = spared(spare)
            if kept is None:
                raise
            self._say(f"serves the certificate that was in force before: {problem}")
            return server_context(kept, tls)

    async def open(self) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        context = self._context
        for listening in self._sockets:
            server = await loop.create_server(
                self._plain if context is None else self._secured,
                sock=listening.dup(),
                backlog=_BACKLOG,
                ssl=context,
                ssl_handshake_timeout=None if context is None else self._path.limits.head,
            )
            self._servers.append(server)

    def hold(self) -> None:
        """Accept nothing for now; who comes waits in the system's queue."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    def close(self) -> None:
        """Accept nothing more."""
        self.hold()
        for listening in self._sockets:
            listening.close()

    async def look(self, now: float) -> None:
        """Put a new certificate in force; accept less while too many handshakes are open. Every tick."""
        renewal = self._renewal
        if renewal is None:
            return
        if self._servers:
            if self._path.handshakes > _HANDSHAKES:
                self._held_at = now
                self.hold()
        elif self._path.handshakes < _HANDSHAKES // 2:
            await self.open()
        elif now - self._held_at > self._path.limits.head + LOOK:
            gc.collect()  # all of them are over by now: what counts as open is garbage that holds itself
            await self.open()
        if now - self._looked_at < LOOK:
            return
        self._looked_at = now
        try:
            found = renewal.look()
        except UsageError as problem:
            self._say(f"keeps the certificate it has: {problem}")
            return
        if found is not None:
            self._context = found[1]
            self._say("has put the new certificate in force")
            self.hold()
            await self.open()

    # The protocols are no subclasses of asyncio's: the transports ask for methods by name only, and classes
    # of our own can be compiled (docs/decisions/0009).
    def _plain(self) -> asyncio.Protocol:
        path = self._path
        client = Client(path) if len(path.clients) < path.limits.clients else Crowded(path)
        return cast("asyncio.Protocol", client)

    def _secured(self) -> asyncio.Protocol:
        path = self._path
        crowded = len(path.clients) + path.handshakes >= path.limits.clients
        client = Crowded(path) if crowded else Client(path)
        client.handshake = Handshake(path)
        return cast("asyncio.Protocol", client)


class Crowded(Client):
    """A connection beyond the worker's limit: its first request is answered with 503; far beyond, nothing."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        super().connection_made(transport)
        limit = self._path.limits.clients
        if len(self._path.clients) > limit + limit // _EXCESS + 1:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if not self._lingering:
            reason = "this router worker has as many connections as it takes; try again"
            self._refuse(Malformed(503, reason), None, data)


class Handshake:
    """A client whose TLS handshake is open, counted in `path.handshakes` as long as anybody holds it.

    asyncio tells nobody of a handshake that failed; it only lets go of the protocol.
    """

    __slots__ = ("_path",)

    def __init__(self, path: DataPath) -> None:
        self._path = path
        path.handshakes += 1

    def __del__(self) -> None:
        """One less."""
        self._path.handshakes -= 1
