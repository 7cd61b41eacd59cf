"""Reading routes: what has changed is fetched, the rest is remembered; announcements wake whoever waits.

One round trip says which services there are, a second what generation each has; a third fetches the routes
that are new. Each service's route and lease are of one moment, services are read one after the other.
"""

from __future__ import annotations

from time import monotonic, sleep
from typing import Any, Final

from ...errors import StoreError, WireError
from ..protocol import Routes
from ..routes import ServiceRoute, decode_route
from .connection import Connection
from .faults import CLIENT_ERRORS
from .identity import Identity

_HEAD: Final = ("tag", "generation", "changes", "lease")

Head = tuple[bytes, int, int, float | None]  # tag, generation, changes, lease


class RouteReader:
    """All routes, as of now. Calls from several threads are allowed; `wait` only from one."""

    def __init__(self, connection: Connection, identity: Identity) -> None:
        self._connection = connection
        self._identity = identity
        self._decoded: dict[
            str, tuple[bytes, ServiceRoute | str]
        ] = {}  # service -> tag and route, or why not
        self._subscription: Any = None

    def revision(self) -> int:
        """How often any route changed."""
        services = self.services()
        keys = self._connection.keys
        found = self._connection.calls([("HGET", keys.of(name, "head"), "changes") for name in services])
        return sum(int(count or 0) for count in found)

    def services(self) -> list[str]:
        """The services that were ever committed to, by name. Raises StoreError for another store."""
        keys = self._connection.keys
        identity, names = self._connection.calls([("GET", keys.identity), ("SMEMBERS", keys.services)])
        self._identity.check(identity)
        return sorted(name.decode() for name in names)

    def routes(self) -> Routes:
        """All routes and leases, decoding only what has changed since the last call."""
        services = self.services()
        heads = self._heads(services, fetch=False)
        known = self._decoded
        new = [name for name, (head, _) in heads.items() if known.get(name, (b"", ""))[0] != head[0]]
        heads |= self._heads(new, fetch=True)
        decoded: dict[str, tuple[bytes, ServiceRoute | str]] = {}
        routes: list[ServiceRoute] = []
        broken: dict[str, str] = {}
        for name, (head, body) in heads.items():
            decoded[name] = known[name] if body is None else (head[0], _decode(name, head[1], body))
            route = decoded[name][1]
            if isinstance(route, str):
                broken[name] = route
            else:
                routes.append(route)
        self._decoded = decoded
        leases = {name: head[3] for name, (head, _) in heads.items() if head[3] is not None}
        return Routes(sum(head[2] for head, _ in heads.values()), tuple(routes), broken, leases)

    def wait(self, longest: float) -> None:
        """Return after `longest` seconds, at once when a change is announced. Never raises.

        Announcements may be lost; whoever waits reads in any case.
        """
        began = monotonic()
        try:
            if self._subscription is None:
                self._subscription = self._connection.listen()
                return  # what changed before is not announced any more
            left = longest
            while left > 0:
                if self._subscription.get_message(timeout=left) is not None:
                    return
                left = longest - (monotonic() - began)
        except (StoreError, *CLIENT_ERRORS, ValueError):
            self.close()
            sleep(max(0.0, longest - (monotonic() - began)))

    def close(self) -> None:
        """Listen no more."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            try:
                subscription.close()
            except CLIENT_ERRORS:
                return

    def _heads(self, services: list[str], *, fetch: bool) -> dict[str, tuple[Head, bytes | None]]:
        """The heads of services that have a route, with the route where it is fetched."""
        keys = self._connection.keys
        fields = (*_HEAD, "route") if fetch else _HEAD
        answers = self._connection.calls([("HMGET", keys.of(name, "head"), *fields) for name in services])
        found: dict[str, tuple[Head, bytes | None]] = {}
        for name, (tag, generation, changes, lease, *body) in zip(services, answers, strict=True):
            if tag is not None:
                head = (tag, int(generation), int(changes), None if lease is None else float(lease))
                found[name] = (head, (body[0] or b"") if fetch else None)
        return found


def _decode(service: str, generation: int, body: bytes) -> ServiceRoute | str:
    """The route, or why it cannot be used."""
    try:
        route = decode_route(body)
    except WireError as problem:
        return str(problem)
    if (route.service, route.generation) != (service, generation):
        return f"the stored route of {service!r}, generation {generation}, is another's"
    return route
