"""A connection that has switched protocols: bytes from one side to the other, and nothing read in them.

After a 101 (RFC 9110 §7.8) neither connection is HTTP any more, so neither comes back: the tunnel ends
with both. What one side cannot take pauses the other; an end of one direction is passed on, and the other
direction lives on where both connections can say so (TLS cannot here: there both end).
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .datapath import DataPath
    from .upstream import Upstream


def accepted(offered: bytes, named: bytes) -> bool:
    """Whether the protocols that a 101 names were all offered (RFC 9110 §7.8; both in lower case)."""
    asked = {name.strip(b" \t") for name in offered.split(b",")}
    return all(name.strip(b" \t") in asked for name in named.split(b","))


class Tunnel:
    """Both connections of a switched exchange. Among the worker's clients until both have ended."""

    __slots__ = ("_client", "_path", "_since", "_upstream", "moved")

    def __init__(self, path: DataPath, client: asyncio.Transport, upstream: Upstream) -> None:
        """Take both connections over."""
        self._path = path
        self._since = monotonic()
        self.moved = False  # bytes have passed since the last look
        self._client = _Side(self, None, client)
        self._upstream = _Side(self, upstream, upstream.transport)
        self._client.peer, self._upstream.peer = self._upstream, self._client
        client.set_protocol(self._client)
        upstream.tunnelled(self._upstream)
        path.clients.add(self)

    def begin(self, answer: bytes, early: bytes, *, blocked: bool, reading: bool) -> None:
        """Pass on what came with the 101 (`answer`) and what the client sent before it (`early`).

        `blocked`: the client takes nothing for now; `reading`: it is being read.
        """
        if blocked:
            self._client.pause_writing()
        if not reading and not self._client.transport.is_closing():
            self._client.transport.resume_reading()
        self._client.pass_on(answer)
        if early:
            self._upstream.pass_on(early)

    def look(self, now: float) -> None:
        """Close what has been silent too long; what cannot even close then is cut."""
        if self.moved:
            self.moved = False
            self._since = now
        elif now - self._since > self._path.limits.tunnel:
            self._since = now
            for side in (self._client, self._upstream):
                if side.transport.is_closing():
                    side.transport.abort()
                else:
                    side.transport.close()

    def drain(self) -> None:
        """Nothing ends here yet: a tunnel has no end of its own, so it gets the whole time of the drain."""

    def end(self) -> None:
        """Close both sides when what was passed to them has been written."""
        self._client.transport.close()
        self._upstream.transport.close()

    def side_lost(self) -> None:
        """One connection is gone, and so is the reason for the other."""
        self.moved = True
        if self._client.lost and self._upstream.lost:
            self._path.clients.discard(self)


class _Side(asyncio.Protocol):
    """One of the two connections. `ended`: it sends nothing more; `lost`: it is closed."""

    __slots__ = ("_of", "_tunnel", "ended", "lost", "peer", "transport")

    peer: _Side

    def __init__(self, tunnel: Tunnel, of: Upstream | None, transport: asyncio.Transport) -> None:
        self._tunnel = tunnel
        self._of = of
        self.transport = transport
        self.ended = False
        self.lost = False

    def pass_on(self, data: bytes) -> None:
        """Send to this side."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        self._tunnel.moved = True
        self.peer.pass_on(data)

    def eof_received(self) -> bool:
        """Part of asyncio.Protocol; whether this connection stays for the other direction."""
        self.ended = True
        other = self.peer.transport
        both_can = self.transport.can_write_eof() and other.can_write_eof()
        if self.peer.ended or not both_can:
            other.close()
            return False
        if not other.is_closing():
            other.write_eof()
        return True

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        if not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._tunnel.moved = True
        if not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self.lost = True
        if not self.peer.lost:
            self.peer.transport.close()
        self._tunnel.side_lost()
        if self._of is not None:
            self._of.connection_lost(exc)
