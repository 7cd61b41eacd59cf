"""The admin socket: one JSON object per line asks, one answers. For `accede abort --direct` and probes.

Requests: {"do": "status"}, {"do": "abort", "service": "…", "reason": "…"}. An answer with `error` says
why it could not be done. It works without store and controller; the file's mode (0600) is the permission.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from ...errors import AccedeError, NotFound, Unreachable, UsageError
from .listening import listen_unix

_LIMIT = 64 * 2**10  # bytes of a request
_PATIENCE = 10.0  # seconds

Answer = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
_ERRORS: dict[str, type[AccedeError]] = {kind.__name__: kind for kind in (AccedeError, NotFound, UsageError)}


class AdminSocket:
    """Listens at `path` and hands every request to `answer`, whose AccedeErrors become answers."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path = path
        self._answer = answer
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen. Raises OSError."""
        listener = listen_unix(str(self._path))
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=_LIMIT)

    def close(self) -> None:
        """Answer nobody any more."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = await asyncio.wait_for(reader.readline(), _PATIENCE)
            if line:
                writer.write(json.dumps(await self._reply(line)).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), _PATIENCE)
        except (OSError, TimeoutError, ValueError):
            pass  # whoever asked is gone, or sent no line within the limits
        finally:
            writer.close()

    async def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise UsageError("a request is one JSON object on one line")
            return await self._answer(cast("dict[str, Any]", request))
        except (ValueError, RecursionError):
            return {"error": "a request is one JSON object on one line", "kind": "UsageError"}
        except AccedeError as problem:
            return {"error": str(problem), "kind": type(problem).__name__}


def admin_call(
    path: str | os.PathLike[str], request: dict[str, Any], timeout: float = _PATIENCE
) -> dict[str, Any]:
    """Ask the router at the socket `path`. Raises Unreachable, or the error that the router answers with."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(timeout)
            link.connect(os.fspath(path))
            link.sendall(json.dumps(request).encode() + b"\n")
            answered = b""
            while not answered.endswith(b"\n"):
                more = link.recv(65536)
                if not more:
                    break
                answered += more
        reply = json.loads(answered)
    except (OSError, ValueError) as problem:
        why = getattr(problem, "strerror", None) or problem
        raise Unreachable(
            f"no router answers at {os.fspath(path)!r}: {why}; a router says at its start where its admin "
            "socket is (DATA/router/admin.sock), and `accede status` of an open rollout shows it"
        ) from problem
    if not isinstance(reply, dict):
        raise Unreachable(f"what listens at {os.fspath(path)!r} is no router")
    answer = cast("dict[str, Any]", reply)
    if "error" in answer:
        raise _ERRORS.get(str(answer.get("kind")), AccedeError)(str(answer["error"]))
    return answer
