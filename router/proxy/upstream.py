"""One connection to an upstream: sends one request at a time, frames its answer, gives itself back."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, cast

from ..facts import Ending
from .chunks import ChunkReader
from .heads import CHUNKED, UNTIL_CLOSE, Malformed, Names, ResponseHead, parse_response
from .receiver import Receiver

if TYPE_CHECKING:
    from .ejection import Health

_NAMES = Names()  # of response fields; shared, for it only learns spellings
_INFORMATIONAL = 200
_INTERIMS = 32  # 1xx heads before one answer; 100 and 103 come once or twice, endless ones are no answer
_FAILURES = 500  # statuses from here on count against an address
_SWITCHING = 101


# Servers say the same heads again and again: within a second even their Date is equal. So heads are kept
# whole and found by their bytes, at a tenth of the cost of reading them. Those that never repeat (with an
# id of each answer, say) cost one search and one lookup more.
_KEPT = 256  # heads of all upstreams of a worker
_KEEPABLE = 1024  # bytes of a head worth keeping
_heads: dict[bytes, ResponseHead] = {}


def _head_of(data: bytes, *, bodyless: bool) -> ResponseHead | None:
    """What `parse_response` says of `data`. Nobody may change the result: others get it too."""
    end = data.find(b"\r\n\r\n") + len(b"\r\n\r\n")
    if bodyless or not len(b"\r\n\r\n") < end <= _KEEPABLE:
        return parse_response(data, _NAMES, bodyless=bodyless)
    read = data[:end]
    head = _heads.get(read)
    if head is None:
        head = parse_response(data, _NAMES, bodyless=False)
        if head is not None and head.end == end:
            if len(_heads) >= _KEPT:
                _heads.clear()
            _heads[read] = head
    return head


class Home(Protocol):
    """Who keeps a connection: a pool. `health` None: nobody counts its failures."""

    health: Health | None

    def give(self, upstream: Upstream) -> None:
        """Take a connection whose answer is complete."""

    def gone(self, upstream: Upstream) -> None:
        """Forget a connection that is owned and closed."""


class Upstream:
    """A connection of `pool`. `receiver` is set while a request is on it; `uses` counts them.

    `owned`: the pool counts it. `closed`: nothing more can be sent; `lost`: nothing is left of it.
    `detached`: dropped or handed away, so never among the idle. `answering`: a byte of the answer has
    come. `sending`: the request's body is not complete. `stirred(0)` is true where something waits to be read
    that the loop has not seen yet; only for a connection that is not closed.
    """

    __slots__ = (
        "_blocked", "_buffer", "_chunks", "_interim_of", "_interims", "_left", "_paused", "_status", "_stays",
        "answering", "closed", "detached", "idle_since", "lost", "owned", "pool", "receiver", "sending",
        "stirred", "transport", "uses",
    )  # fmt: skip

    transport: asyncio.Transport
    stirred: Callable[[int], list[tuple[int, int]]]

    def __init__(self, pool: Home) -> None:
        self.pool = pool
        self.receiver: Receiver | None = None
        self.uses = 0
        self.idle_since = 0.0
        self.answering = self.sending = False
        self.owned = self.closed = self.lost = self.detached = False
        self._buffer = b""
        self._chunks: ChunkReader | None = None
        self._left = 0  # bytes of body to come, or UNTIL_CLOSE
        self._status = 0
        self._interims = self._interim_of = 0  # 1xx heads so far, and the use they belong to
        self._stays = False
        self._paused = False  # we do not read
        self._blocked = False  # the upstream does not read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self.transport = cast("asyncio.Transport", transport)
        # Bytes or an end that wait in the kernel are nobody's answer: `stirred(0)` looks before each use.
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.stirred = poll.poll

    def usable(self) -> bool:
        """Whether a request may be sent."""
        return not self.closed and not self.transport.is_closing()

    def start(self, receiver: Receiver, data: bytes, *, more: bool) -> None:
        """Send the beginning of a request; `more`: its body goes on with `send`, until `sent`."""
        self.receiver = receiver
        self.uses += 1
        self.answering = False
        self.sending = more
        self.transport.write(data)

    def send(self, data: bytes) -> None:
        """Send more of the request."""
        if not self.closed:
            self.transport.write(data)

    def hold(self) -> None:
        """Stop reading: the client takes no more for now."""
        if not self._paused and self.usable():
            self._paused = True
            self.transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if self._paused and self.usable():
            self._paused = False
            self.transport.resume_reading()

    def drop(self) -> None:
        """Close at once; the receiver hears nothing more."""
        self.receiver = None
        self.closed = self.detached = True
        if not self.lost:
            self.transport.abort()

    def expired(self) -> None:
        """The answer did not come in time: count that against the address, and close."""
        if self.pool.health is not None:
            self.pool.health.record(failed=True)
        self.drop()

    def tunnelled(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Hand the connection to `protocol` for good; it tells `connection_lost` here at the end."""
        self.go_on()
        self.receiver = None
        self.closed = self.detached = True
        if self.pool.health is not None:
            self.pool.health.record(failed=False)
        self.transport.set_protocol(protocol)
        return self.transport

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        receiver = self.receiver
        if receiver is None:  # bytes nobody asked for: the next client must never see them
            self.closed = True  # it may lie among the idle, so it is not detached
            self.transport.abort()
            return
        try:
            if self._chunks is not None:
                self._chunked(receiver, data)
            elif self._left:
                self._counted(receiver, data)
            else:
                self._head(receiver, data)
        except Malformed:
            if self.pool.health is not None:
                self.pool.health.record(failed=True)
            self.drop()
            receiver.failed(Ending.TRUNCATED)

    def _head(self, receiver: Receiver, data: bytes) -> None:
        self.answering = True
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        head = _head_of(data, bodyless=receiver.head_only)
        while head is not None and head.status < _INFORMATIONAL:
            if head.status == _SWITCHING:
                receiver.switched(self, head, data[head.end :])
                return
            self._count_interim()
            receiver.interim(b"".join((b"HTTP/1.1 ", head.line, head.fields, b"\r\n")))
            data = data[head.end :]
            head = _head_of(data, bodyless=receiver.head_only)
        if head is None:
            self._buffer = data
            return
        end, length = head.end, head.length
        self._status = head.status
        self._stays = head.keep_alive
        if length >= 0 and len(data) - end >= length:
            if len(data) - end > length:
                self._stays = False
                self._release()
                receiver.answered(head, data[end : end + length])
            else:
                self._release()
                receiver.answered(head, data[end:])
            return
        receiver.began(head)
        if self.receiver is None:  # dropped; another one may have been left to read the rest
            return
        if length == CHUNKED:
            self._chunks = ChunkReader()
        else:
            self._left = length
        if len(data) > end:
            self.data_received(data[end:])

    def _count_interim(self) -> None:
        if self._interim_of != self.uses:
            self._interim_of, self._interims = self.uses, 0
        self._interims += 1
        if self._interims > _INTERIMS:
            raise Malformed(502, "the upstream sent too many interim answers")

    def _counted(self, receiver: Receiver, data: bytes) -> None:
        if self._left == UNTIL_CLOSE:
            receiver.piece(data, None, len(data))
            return
        if len(data) > self._left:
            self._stays = False
            data = data[: self._left]
        self._left -= len(data)
        receiver.piece(data, None, len(data))
        if not self._left and self.receiver is receiver:
            self._release()
            receiver.ended()

    def _chunked(self, receiver: Receiver, data: bytes) -> None:
        chunks = self._chunks
        if chunks is None:
            return
        payload: list[bytes] | None = [] if receiver.wants_payload else None
        before = chunks.payload
        raw = chunks.feed(data, payload)
        if raw:
            receiver.piece(raw, payload, chunks.payload - before)
        if chunks.done and self.receiver is receiver:
            self._stays = self._stays and not chunks.rest
            self._release()
            receiver.ended()

    def _release(self) -> None:
        """The answer is complete: back to the pool, if the connection may be used again."""
        self.receiver = None
        self._chunks = None
        self._left = 0
        health = self.pool.health
        if health is not None:
            health.record(failed=self._status >= _FAILURES)
        # Whatever of the request is still on its way would come before the next one.
        if not self._stays or self.sending or self._blocked:
            self.drop()
            return
        self.go_on()
        self.pool.give(self)

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._blocked = True
        if self.receiver is not None:
            self.receiver.pause()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._blocked = False
        if self.receiver is not None:
            self.receiver.resume()

    def eof_received(self) -> None:
        """Part of asyncio.Protocol: the transport closes itself, and nothing is to be sent before."""
        self.closed = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self.closed = self.lost = True
        receiver = self.receiver
        if self.owned:
            self.pool.gone(self)
        self.receiver = None
        if receiver is None:
            return
        ended = self._left == UNTIL_CLOSE and exc is None
        health = self.pool.health
        # A connection that was reused and closed before it answered was stale: that says nothing.
        if health is not None and (self.answering or self.uses == 1):
            health.record(failed=not ended or self._status >= _FAILURES)
        if ended:
            receiver.ended()
        else:
            receiver.failed(Ending.TRUNCATED)
