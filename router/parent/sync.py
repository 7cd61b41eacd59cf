"""Which routes this router serves, and what it refuses of them: the parent's memory, without any I/O.

The controller's routes come in, a Table goes out. A service is held, which means stable alone whatever
its route says, where
- somebody aborted it on the admin socket: until a newer generation that ends or replaces its rollout
- a worker's breaker tripped: the same, for a newer generation may only carry a changed file
- nobody renewed its lease for `unattended` seconds: until a newer generation, never by a late renewal
- what this router knew before its restart contradicts the store, or cannot be read: until a newer one
A route that cannot be read leaves the one before it in force, and all others. So does a store that has gone
back in time (deleted, replaced, restored from a copy): services never leave a store and generations only
grow, so what is older than what is in force is refused, and its lease is not renewed. A new process takes
what its store says (what is older than its disk remembers: stable alone), except that a store without any
route says nothing.
"""

from __future__ import annotations

import msgspec

from ...errors import NotFound
from ...store.protocol import Routes
from ...store.routes import ServiceRoute
from ..counters import SLOTS, Counters
from ..facts import Placed, Table

_REPORTED = 64  # closed epochs per service whose counts are still reported

Epoch = tuple[str, str, int]  # service, rollout, epoch


class Held(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a service was held, and at which generation and rollout ('' without one)."""

    generation: int
    reason: str
    rollout: str = ""


class Memory(msgspec.Struct, forbid_unknown_fields=True):
    """What survives a restart on disk. `leases`: service -> epoch seconds of the last sign of a renewal."""

    routes: dict[str, ServiceRoute] = {}
    leases: dict[str, float] = {}
    tripped: dict[str, Held] = {}
    lapsed: dict[str, Held] = {}
    direct: dict[str, Held] = {}


class Slots:
    """A slot of the counters for every (service, rollout, epoch); the oldest closed one is given away."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._slots: dict[Epoch, int] = {}
        self._unused = list(range(SLOTS - 1, -1, -1))

    def slot(self, epoch: Epoch, current: set[Epoch]) -> int:
        """The slot of an epoch; those in `current` are never taken from."""
        slot = self._slots.get(epoch)
        if slot is not None:
            return slot
        if self._unused:
            slot = self._unused.pop()
        else:
            oldest = next((old for old in self._slots if old not in current), None)
            if oldest is None:
                return -1
            slot = self._slots.pop(oldest)
        self._counters.clear(slot)
        self._slots[epoch] = slot
        return slot

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Assigned and finished by "service|rollout|epoch|arm", of the last epochs of every service."""
        recent: dict[str, list[Epoch]] = {}
        for epoch in self._slots:
            recent.setdefault(epoch[0], []).append(epoch)
        assigned: dict[str, int] = {}
        finished: dict[str, int] = {}
        for epoch in (one for epochs in recent.values() for one in epochs[-_REPORTED:]):
            counts = self._counters.read(self._slots[epoch])
            for index, arm in enumerate(("stable", "candidate")):
                key = f"{epoch[0]}|{epoch[1]}|{epoch[2]}|{arm}"
                if counts.assigned[index]:
                    assigned[key] = counts.assigned[index]
                    finished[key] = counts.finished[index]
        return assigned, finished


class RouteKeeper:
    """Routes, leases and holds. `known` is False until there are routes from a store or from disk.

    `changed` is set whenever the memory should be written to disk; whoever writes it clears it.
    """

    def __init__(self, slots: Slots) -> None:
        self.memory = Memory()
        self.broken: dict[str, str] = {}
        self.known = False
        self.changed = False
        self.table: Table | None = None
        self._slots = slots
        self._leases: dict[str, float] = {}  # as the store wrote them
        self._read = False  # a store has been read in this process
        self._forgot = ""

    def recall(self, memory: Memory) -> None:
        """Begin with what was known before a restart: its holds always, its routes until a store is read."""
        self.memory = memory

    def forgot(self, reason: str) -> None:
        """What was known before a restart cannot be read, holds included: what shares awaits a decision."""
        self._forgot = reason

    def trust_memory(self) -> None:
        """No store can be read: serve what was known before."""
        if self.memory.routes:
            self.known = True

    def learn(self, found: Routes, now: float) -> None:
        """Take over what the store says at `now` (epoch seconds)."""
        memory = self.memory
        if not found.routes and not found.broken and memory.routes and not self._read:
            self.known = True  # nobody has written this store yet: what was served before goes on
            return
        routes = {route.service: route for route in found.routes}
        gone_back = self._gone_back(routes, found)
        for service in (*found.broken, *gone_back):
            if service in memory.routes:
                routes[service] = memory.routes[service]
        for service, route in routes.items():
            if service not in gone_back:
                self._renew(service, route, found.leases.get(service), now)
            if not self._read:
                self._mistrust(service, route)
        self._leases = {name: at for name, at in found.leases.items() if name not in gone_back}
        memory.leases = {service: at for service, at in memory.leases.items() if service in routes}
        if routes != memory.routes or not self.known:
            memory.routes = routes
            self.changed = True
        self.broken = {**found.broken, **gone_back}
        self._read = True
        self.known = True

    def _gone_back(self, routes: dict[str, ServiceRoute], found: Routes) -> dict[str, str]:
        """Service -> what is wrong, where the store knows less than it did while this process read it."""
        problems: dict[str, str] = {}
        if not self._read:
            return problems
        for service, before in self.memory.routes.items():
            if service in found.broken:
                continue
            now = routes.get(service)
            if now is None or now.generation < before.generation:
                says = "no route" if now is None else f"generation {now.generation}"
                problems[service] = (
                    f"the store has gone back: it has {says}, {before.generation} is in force and stays; "
                    "restore the store, or restart the router to serve what the store has now"
                )
        return problems

    def _renew(self, service: str, route: ServiceRoute, lease: float | None, now: float) -> None:
        """Move the service's sign of life: to now when it is seen to change, else to what is written."""
        memory = self.memory
        before = memory.routes.get(service)
        if service not in memory.leases:
            memory.leases[service] = now if lease is None else min(now, lease)
        elif service in self._leases:
            if lease != self._leases[service]:
                memory.leases[service] = now
        elif lease is not None:  # the first reading of this process
            memory.leases[service] = max(memory.leases[service], min(now, lease))
        if before is not None and route.generation > before.generation and self._read:
            memory.leases[service] = now

    def _mistrust(self, service: str, route: ServiceRoute) -> None:
        """Hold a route that does not follow from what was known before a restart: nobody decides it now."""
        memory = self.memory
        before = memory.routes.get(service)
        reason = self._forgot
        if before is not None and route.generation < before.generation:
            reason = f"the store has gone back from generation {before.generation} to {route.generation}"
            for holds in (memory.tripped, memory.lapsed, memory.direct):
                if service in holds:  # generations count from here again
                    holds[service] = msgspec.structs.replace(holds[service], generation=route.generation)
        if reason and _shares(route):
            memory.lapsed[service] = Held(route.generation, reason)
            self.changed = True

    def trip(self, service: str, generation: int, reason: str) -> bool:
        """A breaker opened at `generation`; whether that is news."""
        route = self.memory.routes.get(service)
        held = self.memory.tripped.get(service)
        if route is None or route.generation != generation or (held and held.generation == generation):
            return False
        self.memory.tripped[service] = Held(generation, reason, _rollout(route))
        self.changed = True
        return True

    def abort(self, service: str, reason: str) -> int:
        """Hold the service now, by hand; the generation it is held at. Raises NotFound."""
        route = self.memory.routes.get(service)
        if route is None:
            known = ", ".join(sorted(self.memory.routes)) or "none"
            raise NotFound(f"this router serves no service {service!r}; it serves {known}")
        self.memory.direct[service] = Held(route.generation, reason, _rollout(route))
        self.changed = True
        return route.generation

    def look(self, now: float) -> Table | None:
        """Apply the clock and every hold; the new table, or None where the one in force still says it all."""
        if not self.known:
            return None
        memory = self.memory
        for holds in (memory.tripped, memory.lapsed, memory.direct):
            for service in [name for name, held in holds.items() if self._released(name, held, holds)]:
                del holds[service]
                self.changed = True
        for service, route in memory.routes.items():
            # A sign of life from the future is one of a clock that was wrong: it must not buy time.
            memory.leases[service] = min(now, memory.leases.get(service, now))
            if _shares(route) and service not in memory.lapsed:
                silent = now - memory.leases[service]
                if silent > route.unattended:
                    reason = f"no controller has renewed it for {route.unattended:g} s"
                    memory.lapsed[service] = Held(route.generation, reason)
                    self.changed = True
        placed = self._placed()
        if self.table is not None and placed == self.table.placed:
            return None
        self.table = Table(self.table.number + 1 if self.table is not None else 1, placed)
        return self.table

    def _released(self, service: str, held: Held, holds: dict[str, Held]) -> bool:
        route = self.memory.routes.get(service)
        if route is None:
            return True
        if route.generation <= held.generation:
            return False
        # A controller that has not heard of it yet may have moved the same rollout on meanwhile.
        same = route.plan is not None and route.plan.rollout == held.rollout
        return holds is self.memory.lapsed or not (same and _shares(route))

    def held(self, service: str) -> str:
        """Why the service is held; '' where it is not."""
        memory = self.memory
        for name, holds in (
            ("aborted here", memory.direct),
            ("breaker", memory.tripped),
            ("lease", memory.lapsed),
        ):
            if service in holds:
                return f"{name}: {holds[service].reason}"
        return ""

    def _placed(self) -> tuple[Placed, ...]:
        routes = [route for _, route in sorted(self.memory.routes.items())]
        current = {
            (route.service, route.plan.rollout, route.plan.epoch)
            for route in routes
            if route.plan is not None
        }
        return tuple(
            Placed(
                route,
                -1
                if route.plan is None
                else self._slots.slot((route.service, route.plan.rollout, route.plan.epoch), current),
                self.held(route.service),
            )
            for route in routes
        )


def _rollout(route: ServiceRoute) -> str:
    return "" if route.plan is None else route.plan.rollout


def _shares(route: ServiceRoute) -> bool:
    """Whether the route sends anything to anyone but stable."""
    candidate = route.candidate
    return (candidate is not None and candidate.weight > 0) or any(
        mirror.rate > 0 for mirror in route.mirrors
    )
