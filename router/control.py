"""A worker's end of the control socket: framed messages in both directions."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

from ..errors import WireError
from .facts import Message, Table, decode_message, encode_message

_FRAME: Final = 4
_LONGEST: Final = 256 * 2**20  # a table of some thousand routes is a few MiB; beyond this the frame is broken


class ControlLink(asyncio.Protocol):
    """Calls `told` with every message and `gone` at the end of file or a broken frame.

    Of tables only the newest waits for a process that does not read: one that was stopped must not fill our
    memory with those it will never serve.
    """

    def __init__(self, told: Callable[[Message], None], gone: Callable[[], None]) -> None:
        self._told = told
        self._gone = gone
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._blocked = False
        self._newest: Table | None = None

    async def open(self, descriptor: int) -> None:
        """Take over the inherited socket."""
        end = socket.socket(fileno=descriptor)
        end.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def send(self, message: Message) -> None:
        """Send one message; lost if the other side is gone."""
        if self._blocked and isinstance(message, Table):
            self._newest = message
        elif self._transport is not None:
            self._transport.write(encode_message(message))

    def close(self) -> None:
        """Send what was handed over, then close."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._blocked = True

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self._blocked = False
        newest, self._newest = self._newest, None
        if newest is not None:
            self.send(newest)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        buffer = self._buffer
        buffer += data
        try:
            while len(buffer) >= _FRAME:
                end = _FRAME + int.from_bytes(buffer[:_FRAME], "big")
                if end > _LONGEST:
                    raise WireError("a control message is longer than any can be")
                if len(buffer) < end:
                    break
                message = decode_message(bytes(buffer[_FRAME:end]))
                del buffer[:end]
                self._told(message)
        except WireError:
            self._gone()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio calls it
        """Part of asyncio.Protocol."""
        self._transport = None
        self._gone()
