"""One client connection: reads requests one after another, and writes what their exchanges answer."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from .answers import own_answer, request_id_line
from .assignment import chosen_arm
from .chunks import ChunkReader
from .exchange import Exchange
from .forwarding import Peer, peer_of
from .heads import Malformed, RequestHead, grown, parse_request
from .holding import HeldExchange
from .tunnel import Tunnel

if TYPE_CHECKING:
    from .answering import Answering
    from .datapath import DataPath
    from .upstream import Upstream

_PIPELINE: Final = 64 * 1024  # bytes read ahead of the request being answered
_NEVER_KEEPS: Final = frozenset((400, 501))  # malformed, or CONNECT: what follows may be no request
_LINGER: Final = 2.0  # seconds to read on after an early answer, so that its last bytes are not reset away


class Client:
    """A client's connection. `blocked`: it does not take more of its answer for now.

    `expecting`: no body comes before the upstream has said 100, so a wait for it is not the client's.
    """

    __slots__ = (
        "_buffer", "_chunks", "_exchange", "_head_open", "_left", "_lingering", "_path", "_peer", "_reading",
        "_since", "_transport", "blocked", "close_after", "expecting", "upload_held",
    )  # fmt: skip

    _transport: asyncio.Transport

    def __init__(self, path: DataPath) -> None:
        self._path = path
        self._buffer: bytes = b""
        self._exchange: Exchange | None = None
        self._left = 0  # bytes of the request's body to come
        self._chunks: ChunkReader | None = None
        self._since = 0.0  # when the present wait for the client began
        self._head_open = True  # a head is expected soon: at the start, and once its first bytes are there
        self._lingering = False
        self._peer: Peer | None = None
        self._reading = True
        self.blocked = False
        self.expecting = False
        self.upload_held = False
        self.close_after = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._since = monotonic()
        self._path.clients.add(self)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if self._lingering:
            return
        if self._left or self._chunks is not None:
            self._body(data)
        elif self._exchange is not None or self.blocked:
            self._buffer += data
            if len(self._buffer) > _PIPELINE:
                self._read()
            return
        elif self._buffer:
            if not self._gather(data):
                return
        else:
            self._buffer = data
        if self._buffer:
            self._advance()

    def _gather(self, data: bytes) -> bool:
        """Add to an incomplete head; whether it may be complete. What was looked at before is not again."""
        known = len(self._buffer)
        self._buffer += data
        try:
            return grown(self._buffer, known)
        except Malformed as bad:
            return self._refuse(bad, None, self._buffer)

    def _advance(self) -> None:
        """Take requests from the buffer as long as one may begin."""
        while (
            self._buffer
            and self._exchange is None
            and not (self._left or self._chunks is not None or self.blocked or self._lingering)
        ):
            if not self._request():
                break
        if not self._reading:
            self._read()

    def _request(self) -> bool:  # noqa: C901, PLR0912 - every request's way in: each call more costs it
        """Begin the request at the front of the buffer; False while its head is incomplete."""
        path = self._path
        data = self._buffer
        if data.startswith(b"\r\n"):  # RFC 9112 §2.2: empty lines before a request are ignored
            while data.startswith(b"\r\n"):
                data = data[2:]
            self._buffer = data
            if not data:
                return False
        table = path.table
        head: RequestHead | None = None
        try:
            if table is None:
                raise Malformed(503, "no route table has arrived yet")
            head = parse_request(data, table.names)
            if head is None:
                if not self._head_open:
                    self._head_open = True
                    self._since = monotonic()
                return False
            call = table.resolve(head.line, head.host)
            if head.upgrade:
                call = call.upgraded()
            if call.service.override is not None:
                chosen_arm(call.service, call.service.override, head.seen)
        except Malformed as bad:
            return self._refuse(bad, head, data)
        length = head.length
        end = head.end
        if length > call.service.route.max_body:
            return self._refuse(_too_large(call.service.route.max_body), head, data)
        made = HeldExchange if call.holds else Exchange
        exchange = self._exchange = made(path, self, head, call)
        if length >= 0:
            have = len(data) - end
            if have == length:
                body, self._buffer = data[end:], b""
            elif have > length:
                body, self._buffer = data[end : end + length], data[end + length :]
            else:
                body, self._buffer = data[end:], b""
                self._left = length - have
                self._since = exchange.assigned
                self.expecting = head.expect and not body
            exchange.send_head(body, body, more=self._left > 0)
            return True
        self._chunks = ChunkReader()
        self._since = exchange.assigned
        self.expecting = head.expect and len(data) == end
        exchange.send_head(b"", b"", more=True)
        self._buffer = b""
        if len(data) > end:
            self._body(data[end:])
        return True

    def _body(self, data: bytes) -> None:
        """More of the body: forward it, or drop it if its exchange has already been answered."""
        exchange = self._exchange
        if exchange is not None:  # what nobody wants any more has its time as a whole
            self._since = monotonic()
            self.expecting = False
        chunks = self._chunks
        if chunks is None:
            if len(data) > self._left:
                self._buffer = data[self._left :]
                data = data[: self._left]
            self._left -= len(data)
            if exchange is not None:
                exchange.send_body(data, data, more=self._left > 0)
            else:
                self._discarded()
            return
        pieces: list[bytes] = []
        try:
            raw = chunks.feed(data, pieces)
            if exchange is not None and chunks.payload > exchange.call.service.route.max_body:
                raise _too_large(exchange.call.service.route.max_body)
        except Malformed as bad:
            self.close_after = True
            if exchange is not None:
                exchange.refuse(bad.status, bad.reason)
            else:
                self._close(linger=True)
            return
        if chunks.done:
            self._buffer = chunks.rest
            self._chunks = None
        if exchange is not None:
            if raw:
                exchange.send_body(pieces, raw, more=not chunks.done)
        else:
            self._discarded()

    def _discarded(self) -> None:
        """The rest of a body nobody wants any more may have ended."""
        if not self._left and self._chunks is None:
            self._idle(monotonic())

    def _idle(self, now: float) -> None:
        self._head_open = False
        self._since = now
        if self._path.draining:
            self._close(linger=False)

    def _refuse(self, bad: Malformed, head: RequestHead | None, data: bytes) -> bool:
        """Answer a request that goes nowhere; the connection stays if the next one's start is certain."""
        length = -1 if head is None else head.length
        rest = b"" if head is None else data[head.end :]
        keep = (
            head is not None and head.keep_alive and 0 <= length <= len(rest) and not self._path.draining
            and bad.status not in _NEVER_KEEPS
        )  # fmt: skip
        self._path.next_number()
        request_id = head.request_id if head is not None else None
        named = request_id_line(request_id or self._path.new_request_id())
        if keep and head is not None and not head.minor:
            named += b"connection: keep-alive\r\n"
        self.write(own_answer(bad.status, bad.reason, named, close=not keep, bodyless=data[:5] == b"HEAD "))
        if keep:
            self._buffer = rest[length:]
            self._idle(monotonic())
        else:
            self._buffer = b""
            self._close(linger=True)
        return keep

    # --- what the exchange asks for

    def keeps(self, exchange: Answering) -> bool:
        """Whether the connection stays after this answer.

        Not after an early one to `Expect: 100-continue`: the body may then come or not (RFC 9110 §10.1.1),
        so nobody could say where the next request begins.
        """
        head = exchange.head
        certain = not head.expect or exchange.request_done
        return head.keep_alive and certain and not self.close_after and not self._path.draining

    def peer(self) -> Peer:
        """Who is at the other end; looked up once."""
        if self._peer is None:
            self._peer = peer_of(self._transport)
        return self._peer

    def write(self, data: bytes) -> None:
        """Send to the client."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def finished(self, now: float, *, keep: bool, at_once: bool = False) -> None:
        """The exchange is over. `at_once`: within the call that brought its bytes, whose caller goes on.

        Otherwise each of many pipelined requests would be run on top of the one before it.
        """
        self._exchange = None
        self.upload_held = False
        if not keep:
            self._close(linger=self._left > 0 or self._chunks is not None)
            return
        self._since = now
        if not self._left and self._chunks is None:
            self._head_open = False
        if not self._buffer:
            if not self._reading:
                self._read()
        elif not at_once:
            self._advance()

    def cut(self, *, framed: bool) -> None:
        """The answer breaks off: end the connection so that nobody takes it for complete."""
        self._exchange = None
        if framed:
            self._close(linger=False)
        else:
            self._transport.abort()

    def continued(self) -> None:
        """The upstream has said 100: from now on it is the client that is waited for."""
        self.expecting = False
        self._since = monotonic()

    def switch(self, upstream: Upstream, answer: bytes) -> None:
        """The upstream has switched protocols: both connections are a tunnel from here on."""
        early, self._buffer = self._buffer, b""
        self._exchange = None
        self._path.clients.discard(self)
        tunnel = Tunnel(self._path, self._transport, upstream)
        tunnel.begin(answer, early, blocked=self.blocked, reading=self._reading)

    def hold_upload(self) -> None:
        """Read no more of the body for now."""
        self.upload_held = True
        self._read()

    def go_on_upload(self) -> None:
        """Read the body again."""
        if self.upload_held:
            self.upload_held = False
            self._read()

    def _read(self) -> None:
        """Read or not, as everything now asks for."""
        unfinished = self._left > 0 or self._chunks is not None
        want = self._lingering or not (
            (self.upload_held and unfinished)
            or (len(self._buffer) > _PIPELINE and self._exchange is not None)
            or (self.blocked and self._exchange is None and not unfinished)
        )
        if want != self._reading and not self._transport.is_closing():
            self._reading = want
            if want:
                self._since = monotonic()
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # --- the clock and the end

    def look(self, now: float) -> None:
        """Close what has waited too long."""
        waited = now - self._since
        limits = self._path.limits
        if self._transport.is_closing():
            if waited > limits.idle:
                self._transport.abort()
        elif self._lingering:
            if waited > (limits.idle if self._transport.get_write_buffer_size() else _LINGER):
                self._transport.abort()
        elif self._left or self._chunks is not None:
            if waited > limits.body and not (self.upload_held or self.expecting):
                self.close_after = True
                if self._exchange is not None:
                    self._exchange.refuse(408, "the request body did not arrive in time")
                else:
                    self._close(linger=True)
        elif self._exchange is None:
            if self._head_open and waited > limits.head:
                if self._buffer:
                    self._refuse(
                        Malformed(408, "the request head did not arrive in time"), None, self._buffer
                    )
                else:
                    self._close(linger=False)
            elif waited > limits.idle:
                self._transport.abort() if self.blocked else self._close(linger=False)

    def drain(self) -> None:
        """Close now if nothing is being answered; otherwise the last answer will say so."""
        if self._exchange is None and not self._buffer and not self._lingering:
            self._close(linger=False)

    def end(self) -> None:
        """The time of the drain is over."""
        self._transport.abort()

    def _close(self, *, linger: bool) -> None:
        """End the connection. `linger`: the client still sends, and a close would reset our answer away."""
        self._since = monotonic()
        self._lingering = True  # nothing more is run, though a TLS connection may deliver it while it closes
        self._left, self._chunks, self._buffer = 0, None, b""
        transport = self._transport
        if linger and not transport.is_closing():
            if transport.can_write_eof():  # TLS has no half-close; its answers all say where they end
                transport.write_eof()
            self._read()
        else:
            transport.close()

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self.blocked = True
        if self._exchange is not None:
            self._exchange.hold_answer()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self.blocked = False
        if self._exchange is not None:
            self._exchange.go_on_answer()
        elif self._buffer:
            self._advance()
        if not self._reading:
            self._read()

    def eof_received(self) -> None:
        """Part of asyncio.Protocol: who sends nothing more is gone, and the transport closes itself."""

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio calls it
        """Part of asyncio.Protocol."""
        self._path.clients.discard(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.abandon()


def _too_large(limit: int) -> Malformed:
    return Malformed(413, f"the request body is larger than the {limit} bytes this service takes")
