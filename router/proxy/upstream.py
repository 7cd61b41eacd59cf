"""One connection to an upstream: sends one request at a time, frames its answer, gives itself back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from ..facts import Ending
from .chunks import ChunkReader
from .heads import CHUNKED, UNTIL_CLOSE, Malformed, Names, ResponseHead, parse_response

if TYPE_CHECKING:
    from .pool import Pool

_NAMES = Names()  # of response fields; shared, for it only learns spellings
_INFORMATIONAL = 200
_SWITCHING = 101


class Receiver:
    """Who asked: it gets the connection, then the answer in pieces, then `ended` or `failed`, once.

    `waiting`: still wants a connection. `head_only`: it sent HEAD. `wants_payload`: de-chunked pieces
    are collected for it. The default of every method ignores what happened.
    """

    __slots__ = ("head_only", "waiting", "wants_payload")

    head_only: bool
    waiting: bool
    wants_payload: bool

    def connected(self, upstream: Upstream) -> None:
        """A connection is there: send on it, or give it back."""
        raise NotImplementedError

    def interim(self, raw: bytes) -> None:
        """A 1xx response."""

    def answered(self, head: ResponseHead, body: bytes) -> None:
        """A whole answer with Content-Length arrived at once (nothing else follows)."""
        raise NotImplementedError

    def began(self, head: ResponseHead) -> None:
        """The head of an answer whose body follows."""
        raise NotImplementedError

    def piece(self, raw: bytes, payload: list[bytes] | None, size: int) -> None:
        """A piece of the body as received; of a chunked body its framing too, `payload` the content.

        `size`: bytes of content in this piece.
        """
        raise NotImplementedError

    def ended(self) -> None:
        """The answer is complete."""
        raise NotImplementedError

    def failed(self, ending: Ending) -> None:
        """There will be no complete answer."""
        raise NotImplementedError

    def pause(self) -> None:
        """The connection takes no more for now."""

    def resume(self) -> None:
        """The connection takes more again."""


class Upstream(asyncio.Protocol):
    """A connection of `pool`. `receiver` is set while a request is on it; `uses` counts them."""

    __slots__ = (
        "_buffer", "_chunks", "_closed", "_left", "_paused", "_stays", "answering", "idle_since", "pool",
        "receiver", "sending", "transport", "uses",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.receiver: Receiver | None = None
        self.uses = 0
        self.idle_since = 0.0
        self.answering = False  # at least one byte of the answer has come
        self.sending = False  # the request's body is not complete
        self._buffer = b""
        self._chunks: ChunkReader | None = None
        self._left = 0  # bytes of body to come, or UNTIL_CLOSE
        self._stays = False
        self._paused = False
        self._closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self.transport = cast("asyncio.Transport", transport)

    def usable(self) -> bool:
        """Whether a request may be sent."""
        return not self._closed and not self.transport.is_closing()

    def start(self, receiver: Receiver, data: bytes, *, more: bool) -> None:
        """Send the beginning of a request; `more`: its body goes on with `send`, until `sent`."""
        self.receiver = receiver
        self.uses += 1
        self.answering = False
        self.sending = more
        self.transport.write(data)

    def send(self, data: bytes) -> None:
        """Send more of the request."""
        if not self._closed:
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
        if not self._closed:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        receiver = self.receiver
        if receiver is None:  # bytes nobody asked for: the next client must never see them
            self.drop()
            return
        try:
            if self._chunks is not None:
                self._chunked(receiver, data)
            elif self._left:
                self._counted(receiver, data)
            else:
                self._head(receiver, data)
        except Malformed:
            self.drop()
            receiver.failed(Ending.TRUNCATED)

    def _head(self, receiver: Receiver, data: bytes) -> None:
        self.answering = True
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        head = parse_response(data, _NAMES, bodyless=receiver.head_only)
        while head is not None and head.status < _INFORMATIONAL:
            if head.status == _SWITCHING:
                raise Malformed(502, "the upstream switched protocols unasked")
            receiver.interim(b"".join((b"HTTP/1.1 ", head.line, head.fields, b"\r\n")))
            data = data[head.end :]
            head = parse_response(data, _NAMES, bodyless=receiver.head_only)
        if head is None:
            self._buffer = data
            return
        end, length = head.end, head.length
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
        if self.receiver is not receiver:
            return
        if length == CHUNKED:
            self._chunks = ChunkReader()
        else:
            self._left = length
        if len(data) > end:
            self.data_received(data[end:])

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
        if not self._stays or self.sending:
            self.drop()
            return
        self.go_on()
        self.pool.give(self)

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        if self.receiver is not None:
            self.receiver.pause()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        if self.receiver is not None:
            self.receiver.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._closed = True
        receiver = self.receiver
        until_close = self._left == UNTIL_CLOSE
        self.pool.gone(self)
        self.receiver = None
        if receiver is None:
            return
        if until_close and exc is None:
            receiver.ended()
        else:
            receiver.failed(Ending.TRUNCATED)
