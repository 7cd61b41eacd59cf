"""The RouteTable: ServiceRoutes compiled into what a request needs, so a request computes nothing twice.

A table never changes once in force, except that a breaker may close a service's candidate. Exchanges
keep the service they began with, so a new table changes nothing for them.
"""

from __future__ import annotations

import re
from math import inf
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from ...errors import WireError
from ..facts import STABLE, Placed, Table
from .breaker import Breaker
from .heads import Malformed, Names
from .matching import Matches
from .reach import Reached, Upstreams
from .retrying import RetryBudget
from .served import Service
from .targets import addressed, call_kind
from .units import unit_kind

_REMEMBERED: Final = 2048  # resolved calls kept per table and generation: some MiB at their longest
_MEMORABLE: Final = 512  # bytes of a request line worth keeping: strangers choose them, up to a head's size
_NAMED: Final = 20  # services named to whoever asks for none of them
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]*)?")
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))


class Call:
    """One resolved request line: where it may go, and how its line reads for every arm and kind of mirror."""

    __slots__ = (
        "_method", "_target", "arm", "head_only", "holds", "idempotent", "lines", "mirror_lines", "predicts",
        "service",
    )  # fmt: skip

    def __init__(self, service: Service, method: str, target: str, *, analysed: bool = True) -> None:
        path, mark, query = target.partition("?")
        kind = call_kind(service.route.protocol, method, path)
        self._method = method
        self._target = target
        self.service = service
        self.predicts = kind.predicts and analysed
        self.holds = self.predicts and service.holds
        self.head_only = method == "HEAD"
        self.idempotent = method in _IDEMPOTENT
        self.arm = STABLE
        if kind.pinned is not None:
            self.arm = next((arm.index for arm in service.arms if arm.version == kind.pinned), STABLE)
        rest = mark + query
        self.lines = tuple(
            _line(method, arm, addressed(kind, path, arm.version), rest) for arm in service.arms
        )
        self.mirror_lines = {
            mirror.kind: _line(method, mirror, addressed(kind, path, mirror.version), rest)
            for mirror in service.every_mirror
        }

    def upgraded(self) -> Call:
        """The call as an upgrade makes it: no prediction, so stable or the pinned version answers it."""
        return Call(self.service, self._method, self._target, analysed=False) if self.predicts else self


class RouteTable:
    """Services by host and path: a named host before any host, then the longest path.

    A route that cannot be served keeps its service as the table before had it; `refused` has one line for
    each. Thousands of routes take longer to compile than a request may wait, so it can be done in slices of
    time; until `go_on` says that it is done, nothing may be resolved.
    """

    __slots__ = (
        "_calls", "_earlier", "_known", "_matches", "_units", "_upstreams", "_waiting", "names", "number",
        "refused", "services",
    )  # fmt: skip

    def __init__(
        self, table: Table, upstreams: Upstreams, before: RouteTable | None = None,
        begun: RouteTable | None = None, *, at_once: bool = True,
    ) -> None:  # fmt: skip
        """Compile `table`, or only begin to. `begun`: one that this overtakes; what it has is not lost."""
        self.number = table.number
        self.services: dict[str, Service] = {}
        self.refused: list[str] = []
        known = {} if before is None else before.services
        if begun is not None:
            known = {**known, **begun.services}
        routes = [placed.route for placed in table.placed] + [service.route for service in known.values()]
        headers = {route.unit_header.lower().encode() for route in routes if route.unit_header}
        if any(route.unit_cookie for route in routes):
            headers.add(b"cookie")
        units = tuple(sorted(headers))
        # Spellings already learnt stay learnt.
        learnt = None if before is None else before.names
        self.names: Names = learnt if learnt is not None and learnt.units == units else Names(units)
        self._units = units
        self._upstreams = upstreams
        self._known = known
        self._waiting = list(reversed(table.placed))
        self._matches = Matches(())
        self._calls: dict[tuple[bytes, bytes], Call] = {}
        self._earlier: dict[tuple[bytes, bytes], Call] = {}
        if at_once:
            self.go_on(inf)

    def go_on(self, until: float) -> bool:
        """Compile up to `until` (monotonic seconds), one service at the least; whether all is done."""
        units, upstreams, waiting = self._units, self._upstreams, self._waiting
        while waiting:
            placed = waiting.pop()
            name = placed.route.service
            old = self._known.get(name)
            try:
                self.services[name] = self._compile(placed, units, upstreams, old)
            except WireError as problem:
                self.refused.append(f"{name}: {problem}")
                if old is not None:
                    self.services[name] = self._compile(old.placed, units, upstreams, old)
            if monotonic() >= until:
                return False
        self._known = {}
        self._matches = Matches(self.services.values())
        return True

    @staticmethod
    def _compile(
        placed: Placed, units: tuple[bytes, ...], upstreams: Upstreams, old: Service | None
    ) -> Service:
        route = placed.route
        kind = unit_kind(route, units)
        if old is not None and old.placed == placed and old.unit_kind == kind:
            return old  # as it was, and calls by the thousand need not be compiled again
        breaker = None
        if route.breaker is not None and route.candidate is not None:
            known = old.breaker if old is not None else None
            same = known is not None and known.generation == route.generation
            breaker = known if same else Breaker(route.breaker, route.generation)
        budget = old.budget if old is not None else RetryBudget(monotonic())
        return Service(placed, kind, upstreams, breaker, budget)

    def resolve(self, line: bytes, host: bytes) -> Call:
        """The call of a request line (method, space, target) and Host. Raises Malformed (404 and others)."""
        call = self._calls.get((line, host))
        return self._learn(line, host) if call is None else call

    def _learn(self, line: bytes, host: bytes) -> Call:
        """Resolve, and remember it: in two generations, so that strangers' lines displace no busy one."""
        call = self._earlier.get((line, host))
        if call is None:
            call = self._resolve(line, host)
        if len(line) + len(host) <= _MEMORABLE:
            if len(self._calls) >= _REMEMBERED:
                self._earlier, self._calls = self._calls, {}
            self._calls[(line, host)] = call
        return call

    def _resolve(self, line: bytes, host: bytes) -> Call:
        if not _HOST.fullmatch(host):
            raise Malformed(400, "Host is malformed")
        method, _, target = line.decode("ascii").partition(" ")
        if method == "CONNECT":
            raise Malformed(501, "tunnels are not offered here")
        if "#" in target:  # never part of a request (RFC 9112 §3.2); servers differ on what it then means
            raise Malformed(400, "the request target has a fragment")
        if not target.startswith("/"):
            target = _origin_form(target, host)
        service = self._matches.find(host.decode("latin-1").lower(), target.partition("?")[0])
        if service is not None:
            return Call(service, method, target)
        names = sorted(self.services)
        routed = ", ".join(names[:_NAMED]) or "none"
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        routed += more
        raise Malformed(404, f"no service is routed at this host and path; services routed here: {routed}")


def _origin_form(target: str, host: bytes) -> str:
    """The path and query of an absolute-form target, which must name the same authority as Host."""
    try:
        parts = urlsplit(target)
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in {"http", "https"} or not parts.netloc:
        raise Malformed(400, "the request target is neither a path nor an absolute http URL")
    if parts.netloc.encode().lower() != host.lower():
        raise Malformed(400, "the request target and Host name different authorities")
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _line(method: str, reached: Reached, path: str, rest: str) -> bytes:
    return f"{method} {reached.base}{path}{rest} HTTP/1.1\r\n".encode()
