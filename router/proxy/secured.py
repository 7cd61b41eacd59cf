"""TLS of one client's connection: between the loop's plain transport and the protocol that speaks HTTP.

The event loop has such a layer too. It reads OpenSSL until that raises for want of more, for every request:
making and throwing that exception costs as much as reading the request. This one sees beforehand that nothing
is left, sends what one call writes with one write, and knows of every handshake how it ended. A connection's
buffers do not grow with what it transfers: OpenSSL is given and asked for some records at a time.

Only the sending direction is closed with a close_notify (RFC 8446 §6.1); the other side's is not waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from .datapath import DataPath

_RECORD: Final = 2**14  # bytes of plaintext that a record has at most: RFC 8446 §5.1
_FED: Final = 2 * _RECORD  # bytes that OpenSSL is given at one time; its buffers keep what they have grown to


class Secured:
    """A protocol to the loop and a transport to `protocol`, which hears nothing before the handshake is over.

    Until then it is one of `path.shaking`. `since`: when it was made, in monotonic seconds.
    """

    __slots__ = (
        "_closing", "_connected", "_established", "_goodbye", "_incoming", "_outgoing", "_path", "_protocol",
        "_tls", "_transport", "since",
    )  # fmt: skip

    _transport: asyncio.Transport
    _protocol: asyncio.Protocol | None

    def __init__(self, path: DataPath, context: ssl.SSLContext, protocol: asyncio.Protocol) -> None:
        self._path = path
        self._protocol = protocol
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.since = monotonic()
        self._connected = self._established = self._goodbye = self._closing = False
        path.shaking[self] = None

    # --- as a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._connected = True
        if self._closing:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if len(data) <= _FED:
            self._feed(data)
            return
        view = memoryview(data)
        for start in range(0, len(data), _FED):
            self._feed(view[start : start + _FED])

    def eof_received(self) -> bool:
        """Part of asyncio.Protocol."""
        if not self._closing:
            self._ended()
        return False

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        if self._established and self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        if self._established and self._protocol is not None:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        self._closing = True
        protocol, self._protocol = self._protocol, None
        if not self._established:
            self._path.shaking.pop(self, None)
        elif protocol is not None:
            protocol.connection_lost(exc)

    def _feed(self, data: bytes | memoryview) -> None:
        """Decrypt, and hand on all that is complete; the rest lies with OpenSSL until more comes."""
        if self._closing:
            return
        self._incoming.write(data)
        try:
            if not self._established:
                self._tls.do_handshake()
                self._begin()
                if self.is_closing() or not self._incoming.pending:
                    return
            received = self._tls.read(_RECORD)
            # A read takes a whole record, so nothing is left where no byte of another has come.
            if received and self._incoming.pending:
                received = self._more(received)
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError:
            self._failed()
            return
        if self._protocol is None:
            return
        if received:
            self._protocol.data_received(received)
        if not received or self._goodbye:
            self._ended()

    def _begin(self) -> None:
        self._established = True
        self._path.shaking.pop(self, None)
        self._flush()
        if self._protocol is not None:
            self._protocol.connection_made(cast("asyncio.BaseTransport", self))

    def _more(self, first: bytes) -> bytes:
        """`first`, and what the records behind it hold."""
        pieces = [first]
        try:
            while self._incoming.pending:
                piece = self._tls.read(_RECORD)
                if not piece:  # a close_notify
                    self._goodbye = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            self._flush()
        return b"".join(pieces)

    def _ended(self) -> None:
        """The other side sends nothing more; what is still on its way to it cannot be awaited over TLS."""
        if self._established and self._protocol is not None:
            self._protocol.eof_received()
        self.close()

    def _failed(self) -> None:
        """What came is no TLS that we speak: OpenSSL's alert says so, and the connection ends."""
        self._closing = True
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    # --- as a transport

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        if self._closing or not data:
            return
        try:
            if len(data) <= _RECORD:
                self._tls.write(data)
                self._transport.write(self._outgoing.read())
                return
            view = memoryview(data)
            for start in range(0, len(data), _RECORD):
                self._tls.write(view[start : start + _RECORD])
                self._transport.write(self._outgoing.read())
        except ssl.SSLError:
            self.abort()

    def close(self) -> None:
        """Send what was handed over and a close_notify, then end the connection."""
        if self._closing:
            return
        self._closing = True
        if self._established:
            with contextlib.suppress(ssl.SSLError):  # it wants the other side's, which nobody awaits
                self._tls.unwrap()
            self._flush()
        self._transport.close()

    def abort(self) -> None:
        """End the connection at once; one in its handshake has its place no longer."""
        self._closing = True
        if not self._established:
            self._path.shaking.pop(self, None)
        if self._connected:
            self._transport.abort()

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._closing or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Hand nothing on for now. What has come was handed on, so this is the plain transport's alone."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Hand on again."""
        self._transport.resume_reading()

    def can_write_eof(self) -> bool:
        """TLS as clients have it knows no half-closed connections."""
        return False

    def get_write_buffer_size(self) -> int:
        """Bytes that the system has not taken yet, encrypted."""
        return self._transport.get_write_buffer_size()

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """From now on somebody else is told."""
        self._protocol = protocol

    def get_extra_info(self, name: str) -> object:
        """What asyncio's transports tell."""
        return self._tls if name == "ssl_object" else self._transport.get_extra_info(name)
