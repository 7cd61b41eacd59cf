"""What orchestrators ask a router over HTTP: whether it lives, and whether it may get requests.

A port of its own, so that no path of a model is taken from its users. Only GET and HEAD of the paths below
are answered, one request on each connection (RFC 9112 section 9.6), and nothing of a request is repeated.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, NamedTuple

from .listening import listen

_LONGEST: Final = 8 * 2**10  # bytes of a request's head
_PATIENCE: Final = 5.0  # seconds for a request and for its answer
_AT_ONCE: Final = 64  # connections; whoever comes beyond waits for its answer in vain


class State(NamedTuple):
    """`unready`: why it should get no requests. `notes`: what is wrong all the same, by part."""

    unready: list[str]
    notes: dict[str, str]


class Probes:
    """Answers `/healthz` with 200, and `/readyz` with 503 and the reasons where there are any."""

    def __init__(self, listener: socket.socket, state: Callable[[], State]) -> None:
        self._listener = listener
        self._state = state
        self._server: asyncio.Server | None = None
        self._open = 0

    @classmethod
    def listening(cls, host: str, port: int, state: Callable[[], State]) -> Probes:
        """On an address of its own. Raises PortInUse, AccedeError."""
        return cls(listen(host, port, 1)[0], state)

    @property
    def address(self) -> str:
        """host:port."""
        return "{}:{}".format(*self._listener.getsockname()[:2])

    async def open(self) -> None:
        """Answer from now on."""
        self._server = await asyncio.start_server(self._serve, sock=self._listener, limit=_LONGEST)

    def close(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.close()
        self._listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _AT_ONCE:
                async with asyncio.timeout(_PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # TimeoutError is an OSError; whoever asked is gone, or sent no head within the limits
        finally:
            self._open -= 1
            writer.close()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path not in {b"/healthz", b"/readyz"}:
            status = HTTPStatus.NOT_FOUND
            said: dict[str, object] = {"error": "this port answers /healthz and /readyz only"}
        elif method not in {b"GET", b"HEAD"}:
            status = HTTPStatus.METHOD_NOT_ALLOWED
            said = {"error": "GET and HEAD only"}
        else:
            state = self._state()
            reasons = state.unready if path == b"/readyz" else []
            status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
            said = {"ok": not reasons, "reason": "; ".join(reasons), **state.notes}
        body = json.dumps(said).encode()
        lines = (
            f"HTTP/1.1 {status.value} {status.phrase}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *(("allow: GET, HEAD",) if status is HTTPStatus.METHOD_NOT_ALLOWED else ()),
            "connection: close",
        )
        return "\r\n".join((*lines, "", "")).encode() + (b"" if method == b"HEAD" else body)
