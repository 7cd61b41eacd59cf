"""Captured bytes to JSON values, for bodies that may be broken or hostile: bounded output, no exception.

Content codings are undone here, never on the data path. JSON as model servers write it: NaN, Infinity
and -Infinity are accepted although RFC 8259 section 6 forbids them.
"""

from __future__ import annotations

import json
import zlib
from importlib import import_module
from typing import Any, Final

import msgspec

from ..paths import MISSING

brotli: Any = import_module("brotli")  # it has no types

# What a compressed body may unfold to. Capture limits bound plain ones; 64 KiB of gzip can hold 64 MiB.
MAX_DECODED: Final = 4 * 2**20
_MAX_MEMBERS = 64  # each costs a copy of the rest: thousands of empty ones would take seconds
_MAX_CODINGS = 4
_MAX_NAME = 16  # characters of a stranger's word that are repeated in a message
_GZIP, _ZLIB, _RAW = 31, 15, -15  # zlib's window arguments
# "deflate" is zlib (RFC 9110, section 8.4.1.2), raw in the wild.
_KNOWN: Final = frozenset(("", "identity", "gzip", "x-gzip", "deflate", "br"))

_decode = msgspec.json.Decoder().decode


def read_json(body: bytes, encoding: str) -> Any:
    """The JSON value of a body with this Content-Encoding ('' for none), or MISSING where there is none."""
    if encoding:
        plain = decoded(body, encoding)
        if plain is None:
            return MISSING
        body = plain
    try:
        return _decode(body)
    except RecursionError:
        return MISSING
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _lenient(body)


def _lenient(body: bytes) -> Any:
    """The standard library's reading: slower, but it knows NaN. RecursionError, ValueError: no JSON."""
    try:
        return json.loads(body.decode())
    except (ValueError, RecursionError):
        return MISSING


def decoded(body: bytes, encoding: str) -> bytes | None:
    """The bytes without their content codings; None where one is unknown, broken or unfolds too far."""
    codings = encoding.lower().split(",")
    if len(codings) > _MAX_CODINGS:
        return None
    for coding in reversed(codings):
        name = coding.strip()
        if name in {"", "identity"}:
            continue
        if name in {"gzip", "x-gzip"}:
            plain = _inflated(body, _GZIP)
        elif name == "deflate":
            plain = _inflated(body, _ZLIB)
            if plain is None:
                plain = _inflated(body, _RAW)
        elif name == "br":
            plain = _unbrotlied(body)
        else:
            return None
        if plain is None:
            return None
        body = plain
    return body


def unreadable(encoding: str) -> str:
    """Why bodies with this Content-Encoding cannot be read here, or '' where they can."""
    for coding in encoding.lower().split(","):
        name = coding.strip()
        if name not in _KNOWN:
            shown = name if name.isalnum() and len(name) <= _MAX_NAME else "an unknown coding"
            return f"content-encoding {shown}: send gzip, deflate or br instead"
    return ""


def _unbrotlied(body: bytes) -> bytes | None:
    """The whole stream, complete and within MAX_DECODED; else None (RFC 7932)."""
    stream = brotli.Decompressor()
    try:
        # The library stops filling its buffer, which it enlarges by steps, once the limit is reached.
        plain: bytes = stream.process(body, output_buffer_limit=MAX_DECODED + 1)
    except brotli.error:
        return None
    return plain if stream.is_finished() and len(plain) <= MAX_DECODED else None


def _inflated(body: bytes, window: int) -> bytes | None:
    """All members of the stream, complete and within MAX_DECODED; else None."""
    parts: list[bytes] = []
    room = MAX_DECODED
    for _ in range(_MAX_MEMBERS):
        if not body:
            break
        member = zlib.decompressobj(window)
        try:
            part = member.decompress(body, room + 1)
        except zlib.error:
            return None
        if not member.eof or len(part) > room:
            return None
        parts.append(part)
        room -= len(part)
        # Several gzip members in a row are one stream (RFC 1952 section 2.2); others end after the first.
        body = member.unused_data if window == _GZIP else b""
    return b"".join(parts) if not body else None
