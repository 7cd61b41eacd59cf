"""Reading wire forms: every failure becomes a WireError, and another version is named as such.

A record of a newer version usually fails in its fields first. So when a form cannot be read, its
version is looked up by itself, and the message says which of the two it was.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ..errors import WireError

R = TypeVar("R")


class _Version(msgspec.Struct):
    wire: str


class _Head(msgspec.Struct):
    head: _Version


def read_json(data: bytes, decoder: msgspec.json.Decoder[R], what: str, version: str | None) -> R:
    """The record in `data`; `what` opens the message ("a stored route"). Raises WireError.

    `version` None: a part of a record, which has none of its own.
    """
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        try:
            found: str | None = msgspec.json.decode(data, type=_Version).wire
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = None
        raise _unreadable(what, version, found, problem) from problem


def read_msgpack(data: bytes, decoder: msgspec.msgpack.Decoder[R], what: str, version: str) -> R:
    """The record in `data`, whose version stands in its `head`. Raises WireError."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        try:
            found: str | None = msgspec.msgpack.decode(data, type=_Head).head.wire
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = None
        raise _unreadable(what, version, found, problem) from problem


def check_version(found: str, version: str, what: str) -> None:
    """Refuse a readable record of another version: its fields may mean something else. Raises WireError."""
    if found != version:
        raise WireError(
            f"{what} has wire form {found!r}, this version reads {version!r}; "
            f"use the version of accede that wrote it, or a newer one"
        )


def _unreadable(what: str, version: str | None, found: str | None, problem: Exception) -> WireError:
    if found is not None and version is not None:
        try:
            check_version(found, version, what)
        except WireError as other:
            return other
    return WireError(f"{what} cannot be read: {problem}")
