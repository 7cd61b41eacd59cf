"""The RouteTable: ServiceRoutes compiled into what a request needs, so a request computes nothing twice.

A table never changes once in force, except that a breaker may close a service's candidate. Exchanges
keep the service they began with, so a new table changes nothing for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ...errors import WireError
from ...store.routes import WHOLE, Arm, MirrorTarget, ServiceRoute, check_route
from ..facts import CANDIDATE, STABLE, Placed, Table
from .breaker import Breaker
from .heads import FIRST_UNIT, Malformed, Names
from .pool import Address, Pool
from .targets import CallKind, addressed, call_kind

PoolOf = Callable[[Address, int], Pool]  # (address, connections at most; 0: the default of client traffic)

_REMEMBERED: Final = 4096  # resolved calls kept per table
_MEMORABLE: Final = 512  # bytes of a request line worth keeping: strangers choose them, up to a head's size
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]*)?")
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))
_COLON_PROTOCOLS = frozenset(
    ("tensorflow-serving", "kserve-v1")
)  # /v1/models/M:predict lies under /v1/models/M
_UNTRACKED_ACCOUNT_AFTER = 10.0
_SENDABLE = re.compile(r"[\t\x20-\x7e]*")


class Target(NamedTuple):
    """One address of a version: its connections, and the path its URL begins with."""

    pool: Pool
    base: str


class ServedArm:
    """An arm ready to serve. `named`: the response header lines of its version."""

    __slots__ = ("index", "named", "targets", "version")

    def __init__(self, arm: Arm, index: int, pool_of: PoolOf) -> None:
        self.index = index
        self.version = arm.version
        self.targets = tuple(_target(address, pool_of, 0) for address in arm.addresses)
        lines = (("x-accede-version", arm.version), ("x-accede-arm", arm.role), *arm.headers)
        for name, value in lines:
            if not (re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name) and _SENDABLE.fullmatch(value)):
                raise WireError(f"version {arm.version!r}: the header {name!r} cannot be sent as declared")
        self.named = "".join(f"{name}: {value}\r\n" for name, value in lines).encode()


class ServedMirror:
    """A mirror target ready to receive copies."""

    __slots__ = ("rate", "route", "targets")

    def __init__(self, mirror: MirrorTarget, pool_of: PoolOf) -> None:
        self.route = mirror
        self.rate = mirror.rate / 1e6
        self.targets = tuple(_target(address, pool_of, mirror.max_in_flight) for address in mirror.addresses)


class Service:
    """One service compiled. `slot` -1: nothing is analysed. `stable_until`: shares below it are stable's."""

    __slots__ = (
        "account_after", "arms", "breaker", "errors", "mirror", "name", "placed", "repeatable", "route",
        "salt", "slot", "stable_until", "sticky", "unit_kind",
    )  # fmt: skip

    def __init__(self, placed: Placed, unit_kind: int, pool_of: PoolOf, breaker: Breaker | None) -> None:
        route = placed.route
        check_route(route)
        self.name = route.service
        self.placed = placed
        self.route = route
        self.arms = tuple(ServedArm(arm, index, pool_of) for index, arm in enumerate(route.arms))
        self.unit_kind = unit_kind  # 0: every request is its own unit
        self.salt = b"" if route.salt is None else route.salt.encode() + b"\0"
        self.sticky = unit_kind != 0 and route.plan is not None and route.plan.sticky
        self.account_after = (
            min(route.deadline, _UNTRACKED_ACCOUNT_AFTER) if route.plan is None else route.plan.account_after
        )
        self.repeatable = route.side_effects == "none"
        self.errors = frozenset(code for low, high in route.errors.ranges for code in range(low, high + 1))
        self.breaker = breaker
        # Only the first target: a Pair names no mirror.
        self.mirror = ServedMirror(route.mirrors[0], pool_of) if route.mirrors and not placed.held else None
        self.slot = -1 if placed.held else placed.slot
        self.stable_until = WHOLE if placed.held else route.stable.weight
        if breaker is not None and breaker.open:
            self.stable_alone()

    def stable_alone(self) -> None:
        """Send nothing more to the candidate; what stable then answers is no sample of this epoch."""
        self.stable_until = WHOLE
        self.mirror = None
        self.slot = -1


class Call:
    """One resolved request line: where it may go, and how its line reads for every target."""

    __slots__ = ("arm", "head_only", "idempotent", "lines", "mirror_lines", "predicts", "service")

    def __init__(self, service: Service, method: str, target: str) -> None:
        path, mark, query = target.partition("?")
        kind = call_kind(service.route.protocol, method, path)
        self.service = service
        self.predicts = kind.predicts
        self.head_only = method == "HEAD"
        self.idempotent = method in _IDEMPOTENT
        self.arm = STABLE
        if kind.pinned is not None:
            self.arm = next((arm.index for arm in service.arms if arm.version == kind.pinned), STABLE)
        rest = mark + query
        self.lines = tuple(_lines(method, kind, path, rest, arm.version, arm.targets) for arm in service.arms)
        mirror = service.mirror
        self.mirror_lines = (
            () if mirror is None else _lines(method, kind, path, rest, mirror.route.version, mirror.targets)
        )


class RouteTable:
    """Services by host and path: a named host before any host, then the longest path."""

    __slots__ = ("_calls", "_entries", "names", "number", "refused", "services")

    def __init__(self, table: Table, pool_of: PoolOf, before: RouteTable | None = None) -> None:
        """Compile `table`. A route that cannot be served keeps its service as `before` had it.

        `refused`: one line for each such route.
        """
        self.number = table.number
        self.services: dict[str, Service] = {}
        self.refused: list[str] = []
        known = {} if before is None else before.services
        routes = [placed.route for placed in table.placed] + [service.route for service in known.values()]
        headers = {route.unit_header.lower().encode() for route in routes if route.unit_header}
        units = tuple(sorted(headers))
        # Spellings already learnt stay learnt.
        learnt = None if before is None else before.names
        self.names: Names = learnt if learnt is not None and learnt.units == units else Names(units)
        for placed in table.placed:
            name = placed.route.service
            old = known.get(name)
            try:
                self.services[name] = self._compile(placed, units, pool_of, old)
            except WireError as problem:
                self.refused.append(f"{name}: {problem}")
                if old is not None:
                    self.services[name] = self._compile(old.placed, units, pool_of, old)
        self._entries = sorted(
            (_Entry(service) for service in self.services.values()),
            key=lambda entry: (entry.host is None, -len(entry.path), entry.service.name),
        )
        self._calls: dict[tuple[bytes, bytes], Call] = {}

    @staticmethod
    def _compile(placed: Placed, units: tuple[bytes, ...], pool_of: PoolOf, old: Service | None) -> Service:
        route = placed.route
        kind = FIRST_UNIT + units.index(route.unit_header.lower().encode()) if route.unit_header else 0
        breaker = None
        if route.breaker is not None and route.candidate is not None:
            known = old.breaker if old is not None else None
            same = known is not None and known.generation == route.generation
            breaker = known if same else Breaker(route.breaker, route.generation)
        return Service(placed, kind, pool_of, breaker)

    def resolve(self, line: bytes, host: bytes) -> Call:
        """The call of a request line (method, space, target) and Host. Raises Malformed (404 and others)."""
        call = self._calls.get((line, host))
        if call is None:
            call = self._resolve(line, host)
            if len(line) + len(host) <= _MEMORABLE:
                if len(self._calls) >= _REMEMBERED:
                    self._calls.clear()
                self._calls[(line, host)] = call
        return call

    def _resolve(self, line: bytes, host: bytes) -> Call:
        if not _HOST.fullmatch(host):
            raise Malformed(400, "Host is malformed")
        method, _, target = line.decode("ascii").partition(" ")
        if method == "CONNECT":
            raise Malformed(501, "tunnels are not offered here")
        if not target.startswith("/"):
            target = _origin_form(target, host)
        authority = host.decode("latin-1").lower()
        name = authority.partition("]")[0] + "]" if authority.startswith("[") else authority.partition(":")[0]
        path = target.partition("?")[0]
        for entry in self._entries:
            if (entry.host is None or entry.host in {name, authority}) and entry.covers(path):
                return Call(entry.service, method, target)
        routed = ", ".join(sorted(self.services)) or "none"
        raise Malformed(404, f"no service is routed at this host and path; services routed here: {routed}")


class _Entry:
    __slots__ = ("boundary", "host", "path", "service")

    def __init__(self, service: Service) -> None:
        route: ServiceRoute = service.route
        self.service = service
        self.host = None if route.host is None else route.host.lower()
        self.path = "" if route.path is None else route.path.rstrip("/")
        self.boundary = "/:" if route.protocol in _COLON_PROTOCOLS else "/"

    def covers(self, path: str) -> bool:
        """Whether `path` is the entry's or lies under it, in whole segments."""
        prefix = self.path
        return path.startswith(prefix) and (len(path) == len(prefix) or path[len(prefix)] in self.boundary)


def _origin_form(target: str, host: bytes) -> str:
    """The path and query of an absolute-form target, which must name the same authority as Host."""
    try:
        parts = urlsplit(target)
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in {"http", "https"} or not parts.netloc:
        raise Malformed(400, "the request target is neither a path nor an absolute http URL")
    if host and parts.netloc.encode().lower() != host.lower():
        raise Malformed(400, "the request target and Host name different authorities")
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _lines(
    method: str, kind: CallKind, path: str, rest: str, version: str, targets: tuple[Target, ...]
) -> tuple[bytes, ...]:
    sent = addressed(kind, path, version)
    return tuple(f"{method} {target.base}{sent}{rest} HTTP/1.1\r\n".encode() for target in targets)


def _target(url: str, pool_of: PoolOf, at_most: int) -> Target:
    """The pool and base path of a version's URL. Raises WireError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as problem:
        raise WireError(f"address {url!r}: {problem}") from problem
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise WireError(f"address {url!r} is not http://host[:port][/path] or https://…")
    tls = parts.scheme == "https"
    address = Address(parts.hostname, port or (443 if tls else 80), tls)
    return Target(pool_of(address, at_most), parts.path.rstrip("/"))


__all__ = ["CANDIDATE", "STABLE", "Call", "RouteTable", "ServedArm", "ServedMirror", "Service", "Target"]
