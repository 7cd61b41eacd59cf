"""What the flags of a check say: versions, the path of a call, headers, and columns of a CSV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import httpx

from ...errors import NotFound, UsageError
from ...policies.service import ModelService, Version

_URLS: Final = ("http://", "https://")
_PATH: Final = re.compile(r"/[!-~]*")
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a token, RFC 9110, section 5.6.2
_OURS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "x-accede-shadow"})


def version_of(service: ModelService, asked: str, role: str) -> tuple[str, Version]:
    """(name, version) of the file, or of a URL. Raises NotFound, UsageError."""
    if asked.startswith(_URLS):
        _check_url(asked, role)
        return role, Version(url=asked)
    if asked not in service.versions:
        raise NotFound(
            f"service {service.name!r} has no version {asked!r}; it has {', '.join(service.versions)}; "
            "or give the URL of a server"
        )
    return asked, service.versions[asked]


def path_of(asked: str) -> str:
    """The path that predictions are asked for at. Raises UsageError."""
    if asked and not _PATH.fullmatch(asked):
        raise UsageError("--path: write a path that begins with / and has neither spaces nor a host")
    return asked


def headers_of(given: Sequence[str]) -> dict[str, str]:
    """The headers of every request. Raises UsageError, without their values."""
    headers: dict[str, str] = {}
    for text in given:
        name, colon, value = text.partition(":")
        name = name.strip().lower()
        if not colon or not _NAME.fullmatch(name) or not text.isprintable() or not text.isascii():
            raise UsageError("--header: found no `name: value` in printable ASCII")
        if name in _OURS:
            raise UsageError(f"--header: {name} is set by the check itself; leave it out")
        headers[name] = value.strip()
    return headers


def group_columns(given: Sequence[str], service: ModelService) -> tuple[tuple[str, str], ...]:
    """(slice, column) of each SLICE=COLUMN, or SLICE where the column has its name. Raises UsageError."""
    found: dict[str, str] = {}
    for one in given:
        name, _, column = one.partition("=")
        if name not in service.slices:
            raise UsageError(
                f"--group: service {service.name!r} has no slice {name!r}; "
                f"it has: {', '.join(service.slices) or 'none'}"
            )
        found[name] = column or name
    if len({*found.values()}) < len(given):
        raise UsageError("--group: a slice or a column comes twice; each slice has a column of its own")
    return tuple(found.items())


def _check_url(url: str, role: str) -> None:
    try:
        parts = urlsplit(url)
        httpx.URL(url)
        fine = bool(parts.hostname) and parts.port != 0 and not parts.query + parts.fragment
    except (ValueError, httpx.InvalidURL):
        fine = False
    if not fine or not url.isprintable() or " " in url:
        raise UsageError(f"--{role}: no address of a server; write http://host:port or https://host:port")
