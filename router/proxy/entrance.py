"""Where clients come in: a worker's listening sockets, how many it takes, and under which certificate.

Plain connections are accepted by the loop's own servers, those over TLS by `handshakes`; a new certificate
is in force for who is accepted from then on, so it costs no waiting connection.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from ...errors import UsageError
from .client import Client
from .handshakes import Handshakes
from .heads import Malformed
from .tls import LOOK, Pem, Renewal, TlsFiles, server_context, spared

if TYPE_CHECKING:
    from .datapath import DataPath

_BACKLOG: Final = 4096
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
        self._handshakes: Handshakes | None = None
        self._renewal: Renewal | None = None
        self._looked_at = 0.0
        if tls is not None:
            seen = tls.seen()
            self._handshakes = Handshakes(path, self._sockets, self._first(tls, spare), self._secured)
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
        if self._handshakes is not None:
            self._handshakes.open()
            return
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            server = await loop.create_server(self._plain, sock=listening.dup(), backlog=_BACKLOG)
            self._servers.append(server)

    def close(self) -> None:
        """Accept nothing more."""
        if self._handshakes is not None:
            self._handshakes.hold()
        for server in self._servers:
            server.close()
        for listening in self._sockets:
            listening.close()

    def look(self, now: float) -> None:
        """Put a new certificate in force, and let in who waits for others' handshakes. Every tick."""
        handshakes, renewal = self._handshakes, self._renewal
        if handshakes is None or renewal is None:
            return
        handshakes.look()
        if now - self._looked_at < LOOK:
            return
        self._looked_at = now
        try:
            found = renewal.look()
        except UsageError as problem:
            self._say(f"keeps the certificate it has: {problem}")
            return
        if found is not None:
            handshakes.context = found[1]
            self._say("has put the new certificate in force")

    # The protocols are no subclasses of asyncio's: the transports ask for methods by name only, and classes
    # of our own can be compiled (docs/decisions/0009).
    def _plain(self) -> asyncio.Protocol:
        path = self._path
        client = Client(path) if len(path.clients) < path.limits.clients else Crowded(path)
        return cast("asyncio.Protocol", client)

    def _secured(self) -> Client | None:
        """The protocol of one more client over TLS, None far beyond the limit."""
        path = self._path
        limit = path.limits.clients
        taken = len(path.clients) + len(path.shaking)
        if taken < limit:
            return Client(path)
        return Crowded(path) if taken <= limit + limit // _EXCESS else None


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
