"""Which service a host and path belong to: a named host before any host, then the longest path.

The cost does not grow with the number of services: per host there is one dictionary by path, asked once
for each length of a path there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .served import Service

_COLON_PROTOCOLS: Final = frozenset(
    ("tensorflow-serving", "kserve-v1")
)  # /v1/models/M:predict lies under /v1/models/M


class _Paths:
    """The services of one host. `lengths`: of their paths, longest first."""

    __slots__ = ("by_path", "lengths")

    def __init__(self) -> None:
        self.by_path: dict[str, list[tuple[str, Service]]] = {}
        self.lengths: list[int] = []

    def find(self, path: str) -> tuple[int, Service | None]:
        """The service with the longest path that `path` is or lies under, in whole segments."""
        size = len(path)
        for length in self.lengths:
            if length > size:
                continue
            for boundary, service in self.by_path.get(path[:length], ()):
                if size == length or path[length] in boundary:
                    return length, service
        return -1, None


class Matches:
    """All services by host and path; of two at the same place the first name wins."""

    __slots__ = ("_hosts",)

    def __init__(self, services: Iterable[Service]) -> None:
        self._hosts: dict[str | None, _Paths] = {}
        for service in sorted(services, key=lambda each: each.name):
            route = service.route
            path = "" if route.path is None else route.path.rstrip("/")
            boundary = "/:" if route.protocol in _COLON_PROTOCOLS else "/"
            paths = self._hosts.setdefault(None if route.host is None else route.host.lower(), _Paths())
            paths.by_path.setdefault(path, []).append((boundary, service))
        for paths in self._hosts.values():
            paths.lengths = sorted({len(path) for path in paths.by_path}, reverse=True)

    def find(self, authority: str, path: str) -> Service | None:
        """The service of a lower-case Host (with or without a port) and a path without its query."""
        hosts = self._hosts
        if len(hosts) > 1 or None not in hosts:
            exact = hosts.get(authority)
            bare = hosts.get(_without_port(authority))
            found = [paths.find(path) for paths in (exact, bare) if paths is not None]
            best = max(found, key=lambda each: each[0], default=(-1, None))
            if best[1] is not None:
                return best[1]
        anywhere = hosts.get(None)
        return None if anywhere is None else anywhere.find(path)[1]


def _without_port(authority: str) -> str:
    if authority.startswith("["):
        return authority.partition("]")[0] + "]"
    return authority.partition(":")[0]
