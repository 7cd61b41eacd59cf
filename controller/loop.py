"""The loop: every 250 ms, look at every open rollout and perform what is decided.

All state is in the store. A tick reads it, decides, and writes each decision in one commit, so a
controller killed between any two instructions leaves either the whole decision or none of it, and the
next one goes on from there. Of several controllers on one store the one that leads decides. Should another
one still think that it does, it cannot: what it writes is stale, and it reads again. Each service is looked
at by itself: what fails for one is said, holds that one, and leaves it without a lease, so that its routers
return to stable if it lasts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Final

import structlog

from ..errors import AccedeError, Conflict, StaleWrite, StoreError
from ..policies.service import ModelService
from ..store.protocol import Commit, Routes, Store
from ..store.rollouts import Analysis, AuditEntry, ReplicaReport, RolloutRecord
from ..store.routes import ServiceRoute
from .actions import Action, Note
from .evidence.merging import Merges
from .files import ServiceFiles
from .gone import gone_back, gone_sources
from .labels.folding import fold_mature, mature_after, meaning_of, reads_labels
from .leading import Leading
from .looking import Engine, look, policy_of, read, signals_of
from .machine import Look, Signals, decide
from .performing import CONTROLLER, Seen, change
from .records import Records
from .routing import idle_route, rollout_route, same_route
from .telling import Telling

TICK: Final = 0.25  # seconds between looks
AT_ONCE: Final = 32  # services that are read together, so that their tests are computed together
RENEW_EVERY: Final = 1.0  # seconds between renewals of a lease, or a quarter of a shorter one
EXPIRE_EVERY: Final = 10.0  # seconds between forgetting old predictions and labels
CLOSE_EVERY: Final = 60.0  # seconds between closing the evidence of routers and observers that are gone
EXPIRED_AT_ONCE: Final = 5000  # of each kind
_SHARE: Final = 4.0  # a look that took t seconds is repeated after 4 t at the earliest: a fifth of a core

log = structlog.get_logger("accede.controller")


@dataclass(slots=True)
class _Pace:
    """When one rollout was looked at last; lost with the process, and nothing depends on it."""

    looked: float = 0.0
    next_look: float = 0.0
    files: int = -1


@dataclass(frozen=True, slots=True)
class _Look:
    """What was read of one rollout, to be judged. `told`: in full, because it is stored. `took`: seconds."""

    seen: Seen
    signals: Signals
    pace: _Pace
    told: bool
    took: float


class Loop:
    """Looks after every service of one store. `tick` is one round; `run` repeats it in a thread."""

    def __init__(
        self,
        store: Store,
        files: ServiceFiles,
        engine: Engine,
        *,
        clock: Callable[[], float] = time.time,
        name: str = CONTROLLER,
    ) -> None:
        self._store = store
        self._files = files
        self._engine = engine
        self._clock = clock
        self.leading = Leading(store, name)
        self._paces: dict[str, _Pace] = {}
        self._merges = Merges()
        self._records = Records(store)
        self._telling = Telling()
        self._expired = 0.0
        self._closed: dict[str, float] = {}
        self.problems: dict[str, str] = {}  # service -> why its last round failed
        self.beat: float | None = None  # monotonic time of the last round that reached the store

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop`. What a round raises is logged; the loop itself never ends by it."""
        while not stop.is_set():
            try:
                self.tick()
            except StoreError as problem:
                log.warning("the store cannot be used; nothing is decided", reason=str(problem))
            except Exception as problem:  # a loop that dies decides nothing ever again
                log.exception("a round failed", reason=_describe(problem))
            stop.wait(TICK)

    def tick(self) -> None:
        """One round over all services, if this controller leads.

        Raises StoreError where the store cannot be read at all.
        """
        now = self._clock()
        if not self.leading.holds():
            self.beat = time.monotonic()
            return
        if self._files.poll(now):
            for problem in self._files.problems:
                log.warning("a file cannot be used; what runs goes on", problem=str(problem))
        routes = self._store.routes()
        reports = self._store.reports()
        stored = {route.service: route for route in routes.routes}
        past = self._gone_back(stored, reports, now)
        names = sorted(set(stored) | set(self._files.known) | set(routes.broken))
        for kept in (self._records, self._telling):
            kept.keep(names)
        self._telling.begin((route.service for route in routes.routes if route.plan is not None), now)
        for first in range(0, len(names), AT_ONCE):
            self._together(names[first : first + AT_ONCE], stored, routes, reports, now, past)
        if now - self._expired >= EXPIRE_EVERY:
            self._expired = now
            self._forget(now)
        self.beat = time.monotonic()

    def ask(self, name: str) -> None:
        """Somebody looks at a rollout: what is stored of it shall be new."""
        self._telling.ask(name)

    def _together(
        self,
        names: Sequence[str],
        stored: Mapping[str, ServiceRoute],
        routes: Routes,
        reports: tuple[ReplicaReport, ...],
        now: float,
        past: Mapping[str, str],
    ) -> None:
        """The round of some services: all are read, their tests are computed at once, each is judged."""
        read: dict[str, _Look | None] = {}

        def begin(name: str) -> None:
            read[name] = self._begin(name, stored.get(name), routes.leases.get(name), reports, now)

        for name in names:
            if not self.leading.holds():
                return
            route = stored.get(name)
            if route is not None and name in past:
                self._say(name, past[name])
                self._guarded(
                    name, route, reports, now, partial(self._hold, name, route, reports, now, past[name])
                )
                continue
            if name in routes.broken:
                self._say(name, f"its stored route cannot be used: {routes.broken[name]}")
                continue
            self._guarded(name, stored.get(name), reports, now, partial(begin, name))
        self._prepare([one.seen for one in read.values() if one is not None and not one.told])
        for name, one in read.items():
            if not self.leading.holds():
                return
            fine = one is None or self._guarded(
                name, stored.get(name), reports, now, partial(self._conclude, one, now)
            )
            if fine:  # only one without a fault renews its lease
                self.problems.pop(name, None)
                self._renew(name, stored.get(name), routes, now)

    def _prepare(self, seen: Sequence[Seen]) -> None:
        """Compute at once what the looks that follow need. What fails fails there again, for one alone."""
        if self._engine.prepare is not None:
            with suppress(Exception):
                self._engine.prepare([(one.record, one.policy, one.evidence) for one in seen])

    def _guarded(
        self,
        name: str,
        route: ServiceRoute | None,
        reports: tuple[ReplicaReport, ...],
        now: float,
        act: Callable[[], object],
    ) -> bool:
        """A part of one service's round; False where it failed, which holds this service alone."""
        try:
            act()
        except StaleWrite:
            return False  # somebody decided at the same moment: the next round sees what, and renews
        except StoreError as problem:
            self._say(name, str(problem))
            return False
        except Exception as problem:  # noqa: BLE001  (one service's fault is not another's)
            self._say(name, _describe(problem), problem)
            self._hold(name, route, reports, now, _describe(problem))
            return False
        return True

    def _forget(self, now: float) -> None:
        """Old predictions and labels of all services. What a store refuses waits for the next time."""
        try:
            self._store.labels.expire(now, EXPIRED_AT_ONCE)
        except AccedeError as problem:
            log.warning("old predictions and labels cannot be forgotten", reason=str(problem))

    def _gone_back(
        self, stored: Mapping[str, ServiceRoute], reports: tuple[ReplicaReport, ...], now: float
    ) -> dict[str, str]:
        """Services of which routers know more than the store does."""
        past = gone_back(stored, reports, now)
        if past:  # or a decision was made between the two readings
            past = gone_back({route.service: route for route in self._store.routes().routes}, reports, now)
        return past

    def _introduce(self, service: ModelService | None) -> None:
        """The first route of a service the store does not know: the file's stable, alone."""
        if service is None:
            return
        route = idle_route(service, service.stable, None)
        reason = f"the store did not know the service; its file names {service.stable!r} stable"
        self._write_route(service.name, route, 0, 0, "introduce", reason)

    def _refresh(self, name: str, route: ServiceRoute, record: RolloutRecord | None) -> bool:
        """Put a changed file in force: addresses and bounds; what a rollout measures stays.

        True where a route was written, so that what was read is past.
        """
        pace = self._paces.setdefault(name, _Pace())
        service = self._files.known.get(name)
        if pace.files == self._files.version or service is None:
            return False
        if record is None:
            wanted = idle_route(service, route.stable.version, route)
            newest = self._store.rollout(name)
            version = newest.version if newest is not None else 0
        else:
            wanted = rollout_route(service, record, policy_of(record.policy), route)
            version = record.version
        changed = not same_route(wanted, route)
        if changed:
            reason = "the service's file has changed"
            self._write_route(name, wanted, version, route.generation, "route", reason)
        pace.files = self._files.version
        return changed

    def _write_route(
        self, name: str, route: ServiceRoute, version: int, generation: int, act: str, reason: str
    ) -> None:
        entry = AuditEntry(self._clock(), name, None, CONTROLLER, act, reason)
        self._store.commit(Commit(name, None, version, route, generation, (entry,)))
        log.info(reason, service=name, act=act, generation=route.generation)

    def _begin(
        self,
        name: str,
        route: ServiceRoute | None,
        lease: float | None,
        reports: tuple[ReplicaReport, ...],
        now: float,
    ) -> _Look | None:
        """Read an open rollout, if it is time or a router calls; look after what has none."""
        if route is None:
            self._introduce(self._files.current.get(name))
            return None
        if route.plan is None:
            self._refresh(name, route, None)
            return None
        record = self._records.newest(name)
        if record is None or record.phase.ended:
            raise self._without_rollout(name, route)
        pace = self._paces.setdefault(name, _Pace())
        service = self._files.known.get(name)
        calm = Seen(record, route, policy_of(record.policy), service, {}, reports)
        signals = _signals(calm, lease, now)
        # A new generation is a decision to routers that have returned to stable: first decide, then refresh.
        if signals == Signals():
            if self._refresh(name, route, record):
                return None
            if pace.looked <= now < pace.next_look:
                return None
        self._fold(calm, now)
        self._close(calm, now)
        began = time.monotonic()
        pace.looked = now
        whole = read(self._store, record, route, service, reports, self._merges)
        # What is stored tells everything; a look that changes nothing and is not stored need not.
        told = self._engine.glance is None or self._telling.due(name)
        return _Look(self._in_full(whole) if told else whole, signals, pace, told, time.monotonic() - began)

    def _conclude(self, one: _Look, now: float) -> None:
        """Judge what was read, and perform what is decided."""
        began = time.monotonic()
        seen, actions = self._judged(one.seen, one.signals, now, glance=not one.told)
        if not one.told and not all(isinstance(action, Note) for action in actions):
            seen, actions = self._judged(self._in_full(one.seen), one.signals, now, glance=False)
        took = time.monotonic() - began
        one.pace.next_look = now + max(TICK, _SHARE * (one.took + took)) - TICK / 2
        if one.told:
            self._telling.took(took)
        self._perform(seen, actions, now)

    def _in_full(self, seen: Seen) -> Seen:
        """With the whole record. Raises StaleWrite where it is another by now."""
        record = self._store.rollout(seen.record.service)
        if record is None or (record.id, record.version) != (seen.record.id, seen.record.version):
            raise StaleWrite(f"service {seen.record.service!r}: somebody has just written its rollout")
        return replace(seen, record=record)

    def _fold(self, seen: Seen, now: float) -> None:
        """Put what has matured into the evidence, before it is looked at."""
        plan, record = seen.route.plan, seen.record
        if not reads_labels(seen.policy) or plan is None:
            return
        meaning = meaning_of(seen.policy, plan, record.constants)
        if meaning is not None:
            before = now - mature_after(seen.policy)
            fold_mature(self._store, record.service, record.id, meaning, before, now)

    def _close(self, seen: Seen, now: float) -> None:
        """Make one of what sources have said that will say no more, so that restarts do not make it grow."""
        service, rollout = seen.record.service, seen.record.id
        if 0 <= now - self._closed.get(service, -inf) < CLOSE_EVERY:
            return
        self._closed[service] = now
        gone = gone_sources(self._store.evidence(service, rollout), seen.reports, now)
        if len(gone) > 1:
            self._store.close_sources(service, rollout, gone)

    def _judged(self, seen: Seen, signals: Signals, now: float, *, glance: bool) -> tuple[Seen, list[Action]]:
        seen, found = look(self._engine, seen, now, glance=glance)
        return seen, decide(seen.record, seen.policy, replace(found, signals=signals), now)

    def _perform(self, seen: Seen, actions: list[Action], now: float) -> None:
        """Write every action in its order; all are worked out before the first is written."""
        name, commits = seen.record.service, list[tuple[Action, Commit]]()
        if not self._telling.due(name):
            actions = [action for action in actions if not isinstance(action, Note)]
        for action in actions:
            commit = change(seen, action, now, CONTROLLER, self._engine.freeze_epoch)
            commits.append((action, commit))
            if commit.record is not None:
                seen = replace(seen, record=commit.record, route=commit.route or seen.route)
        for action, commit in commits:
            if self._clock() - now > seen.route.unattended:
                # Stopped in mid-round for so long that routers have given up: what was seen is history.
                raise StaleWrite(f"service {commit.service!r}: the look is older than the lease")
            self._store.commit(commit)
            self._telling.stored(name, now)
            if not isinstance(action, Note):
                rollout = commit.record.id if commit.record is not None else None
                log.info(action.reason, service=commit.service, rollout=rollout, act=action.act)

    def _without_rollout(self, name: str, route: ServiceRoute) -> AccedeError:
        """Why a route that measures a rollout has none: it has just ended, or a store that lost it."""
        for stored in self._store.routes().routes:
            if stored.service == name and stored.generation == route.generation:
                return Conflict(
                    f"service {name!r}: its route is one of a rollout that the store does not have open; "
                    "routers return to stable when its lease runs out"
                )
        return StaleWrite(f"service {name!r}: its rollout has just ended")

    def _hold(
        self,
        name: str,
        route: ServiceRoute | None,
        reports: tuple[ReplicaReport, ...],
        now: float,
        reason: str,
    ) -> None:
        """A rollout that cannot be looked at stands in an error hold, whose clock runs."""
        if route is None or route.plan is None:
            return
        try:
            record = self._store.rollout(name)
            if record is None or record.phase.ended:
                return
            seen = Seen(record, route, policy_of(record.policy), self._files.known.get(name), {}, reports)
            nothing = Analysis(at=now, verdicts=(), validity=())
            broken = f"the controller fails on this rollout: {reason}"
            decided = decide(record, seen.policy, Look(nothing, signals_of(seen), broken=broken), now)
            self._perform(seen, decided, now)
        except StaleWrite:
            pass
        except Exception as problem:  # noqa: BLE001  (nothing is left but the lease, which now runs out)
            self._say(name, f"{reason}; and it cannot be held: {_describe(problem)}", problem)

    def _renew(self, name: str, route: ServiceRoute | None, routes: Routes, now: float) -> None:
        if route is None:
            return
        every = min(RENEW_EVERY, route.unattended / 4)
        renewed = routes.leases.get(name)
        if renewed is None or not 0 <= now - renewed < every:
            try:
                self._store.renew(name, now)
            except AccedeError as problem:
                self._say(name, f"its lease cannot be renewed: {problem}")

    def _say(self, name: str, reason: str, problem: BaseException | None = None) -> None:
        """Log a fault once, not four times a second."""
        if self.problems.get(name) != reason:
            self.problems[name] = reason
            log.error("a service cannot be looked after", service=name, reason=reason, exc_info=problem)


def _signals(seen: Seen, lease: float | None, now: float) -> Signals:
    """What the routers say, and what the lease says for those whose reports are still on their way."""
    signals = signals_of(seen)
    route = seen.route
    candidate = route.candidate
    shares = (candidate is not None and candidate.weight > 0) or any(one.rate > 0 for one in route.mirrors)
    if signals.lapsed is None and shares and lease is not None and now - lease > route.unattended:
        reason = f"no controller looked after it for {now - lease:.0f} s, so routers returned to stable"
        return replace(signals, lapsed=reason)
    return signals


def _describe(problem: BaseException) -> str:
    """A fault in a line. Only our own errors' texts are known to be free of values."""
    return str(problem) if isinstance(problem, AccedeError) else type(problem).__name__
