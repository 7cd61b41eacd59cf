"""What a unit of assignment may be: something that requests carry, and that stays the same for a user."""

from __future__ import annotations

import re
from typing import Final

from .quantities import found
from .reading import Reading, piece
from .service import Unit
from .yaml import Data

_TOKEN: Final = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}"
)  # RFC 9110, section 5.6.2; also a cookie's name
_FIELD: Final = re.compile(r"[^\s.\[\]\"']+(?:\.[^\s.\[\]\"']+|\[(?:0|[1-9][0-9]{0,5})\]){0,31}")

# The router takes these off a request, or sets them anew, before anything is assigned.
_NEVER_SEEN: Final = frozenset(
    (
        "connection", "expect", "http2-settings", "keep-alive", "proxy-connection", "te", "transfer-encoding",
        "upgrade", "x-envoy-upstream-rq-timeout-ms",
    )
)  # fmt: skip
# These stand in requests, and say nothing about who sends them.
_NO_UNIT: Final = {
    "content-length": "it is the length of a body",
    "content-encoding": "it is the coding of a body",
    "host": "it is the service's, and the same for everybody",
    "x-request-id": "it is another one for every request; write unit: request",
    "traceparent": "it is another one for every request; write unit: request",
    "cookie": "it changes with every cookie; write {cookie: NAME} for one of them",
}


def check_unit(data: Data, reading: Reading) -> None:
    """Report a unit that no request has, or that is none."""
    named = [key for key in ("header", "cookie", "path") if isinstance(data, dict) and key in data]
    if isinstance(data, dict) and not named:
        reading.add(("unit",), "has no header; write {header: x-user-id}, or unit: request")
    if len(named) > 1:
        reading.add(("unit", named[1]), f"given beside {named[0]}; keep one of them", key=True)
    unit = piece(Unit, data)
    if unit is None:
        return
    if unit.header is not None:
        _check_header(unit.header, reading)
    if unit.cookie is not None and not _TOKEN.fullmatch(unit.cookie):
        reading.add(
            ("unit", "cookie"),
            f"found {found(unit.cookie)}; allowed: the name of a cookie, such as session",
        )
    if unit.path is not None and not _FIELD.fullmatch(unit.path):
        allowed = "keys joined by '.', with [0] for lists but no [*], such as user.id or inputs[0].customer"
        reading.add(("unit", "path"), f"found {found(unit.path)}; allowed: {allowed}")


def _check_header(name: str, reading: Reading) -> None:
    lower = name.lower()
    if not _TOKEN.fullmatch(name):
        reading.add(
            ("unit", "header"), f"found {found(name)}; allowed: the name of a header, such as x-user-id"
        )
    elif lower in _NEVER_SEEN or lower.startswith("x-accede-"):
        reading.add(
            ("unit", "header"),
            f"found {found(name)}, which never reaches the assignment: it belongs to the connection or to "
            "the router; allowed: a header that names the user, such as x-user-id",
        )
    elif lower in _NO_UNIT:
        reading.add(("unit", "header"), f"found {found(name)}, which names no user: {_NO_UNIT[lower]}")
