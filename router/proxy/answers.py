"""The answers that are our own: short JSON, never a word of what the client sent or an upstream said."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def own_answer(status: int, message: str, named: bytes, *, close: bool, bodyless: bool = False) -> bytes:
    """A whole response. `named`: header lines to add, each with its CRLF; `bodyless`: it answers HEAD."""
    body = msgspec.json.encode({"error": message})
    return b"".join(
        (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode(),
            b"content-type: application/json\r\n",
            b"content-length: %d\r\n" % len(body),
            b"connection: close\r\n" if close else b"",
            named,
            b"\r\n",
            b"" if bodyless else body,
        )
    )


def request_id_line(request_id: bytes) -> bytes:
    """The header line that names the request."""
    return b"x-request-id: " + request_id + b"\r\n"
