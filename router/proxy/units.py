"""Where the key of a request's unit stands: in a header, a cookie, or a field of its JSON body.

Everything a request needs is compiled with the table. What cannot be read is a missing key, whatever it is:
a key that is guessed would assign a user by chance and analyse him as if he stayed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from ...store.routes import ServiceRoute
from ..paths import compile_path
from .heads import COOKIE, ENCODING, FIRST_UNIT

Seen = Mapping[int, bytes]
UnitReader = Callable[[Seen, bytes | None], bytes | None]

FIELD: Final = 99  # the unit kind of a service whose key is in the body; no header has it
_PLAIN: Final = frozenset((b"", b"identity"))
_LONGEST: Final = 4096  # bits of a whole number that is a key; beyond, writing it in decimal costs too much

_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode


def unit_kind(route: ServiceRoute, units: tuple[bytes, ...]) -> int:
    """The kind of header that holds the key; FIELD for the body; 0 where every request is its own unit."""
    if route.unit_header:
        return FIRST_UNIT + units.index(route.unit_header.lower().encode())
    if route.unit_cookie:
        return COOKIE
    return FIELD if route.unit_path else 0


def unit_reader(cookie: str | None, path: str | None) -> UnitReader | None:
    """What finds the key where it is not a header's whole value. Raises WireError for a path that is none."""
    if cookie is not None:
        return cookie_reader(cookie)
    return field_reader(path) if path is not None else None


def cookie_reader(name: str) -> UnitReader:
    """The value of the first cookie of that name, as it was sent (RFC 6265, sections 4.2.1 and 5.4).

    Names are case-sensitive; spaces around the value are no part of it, quotes are.
    """
    search = re.compile(rb"(?:^|;)[ \t]*+" + re.escape(name.encode()) + rb"=([^;]*+)").search

    def read(seen: Seen, body: bytes | None) -> bytes | None:  # noqa: ARG001 - as every UnitReader
        found = search(seen.get(COOKIE, b""))
        return None if found is None else found[1].strip(b" \t")

    return read


def field_reader(path: str) -> UnitReader:
    """The text or whole number at `path` of a JSON body without content coding; in UTF-8, or in decimal."""
    one = compile_path(path).one

    def read(seen: Seen, body: bytes | None) -> bytes | None:
        if not body or seen.get(ENCODING, b"").lower() not in _PLAIN:
            return None
        value = one(_document(body))
        if isinstance(value, str):
            return value.encode(errors="surrogatepass")
        whole = isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= _LONGEST
        return b"%d" % value if whole else None

    return read


def _document(body: bytes) -> Any:
    """The JSON value, NaN and Infinity included, as model servers accept them; None where it is none."""
    try:
        return _decode(body)
    except RecursionError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return None
