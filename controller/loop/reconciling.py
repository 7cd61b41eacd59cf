"""One service's part of a round: read its rollout, judge it, perform what is decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

import structlog

from ...errors import AccedeError, Conflict, StaleWrite
from ...policies.service import ModelService
from ...store.evidence import Evidence
from ...store.protocol import Commit, Routes, Store
from ...store.rollouts import Analysis, AuditEntry, ReplicaReport, RolloutRecord
from ...store.routes import ServiceRoute
from ..evidence.merging import Merges
from ..files import ServiceFiles
from ..labels.folding import fold_mature, mature_after, meaning_of, reads_labels
from ..rollout.actions import Action, Note
from ..rollout.looking import Engine, look, policy_of, signals_of
from ..rollout.machine import decide
from ..rollout.performing import CONTROLLER, Seen, change
from ..rollout.routing import idle_route, rollout_route, same_route
from ..rollout.signals import Look, Signals
from .faults import Faults, describe
from .gone import gone_sources
from .records import Records
from .telling import Telling

TICK: Final = 0.25  # seconds between looks
CLOSE_EVERY: Final = 60.0  # seconds between closing the evidence of routers and observers that are gone
_SHARE: Final = 4.0  # a look that took t seconds is repeated after 4 t at the earliest: a fifth of a core

log = structlog.get_logger("accede.controller")


@dataclass(frozen=True, slots=True)
class Found:
    """What a round at `now` found in the store.

    `stored`: the routes by service. `past`: services of which routers know more than the store does, and how.
    """

    now: float
    routes: Routes
    stored: Mapping[str, ServiceRoute]
    reports: tuple[ReplicaReport, ...]
    past: Mapping[str, str]


@dataclass(slots=True)
class _Pace:
    """When one rollout was looked at last; lost with the process, and nothing depends on it."""

    looked: float = 0.0
    next_look: float = 0.0
    files: int = -1


@dataclass(frozen=True, slots=True)
class Due:
    """A rollout that is to be looked at. `calm`: what is known of it without its evidence."""

    calm: Seen
    signals: Signals
    pace: _Pace


@dataclass(frozen=True, slots=True)
class Begun:
    """What was read of one rollout, to be judged. `told`: in full, because it is stored. `took`: seconds."""

    seen: Seen
    signals: Signals
    pace: _Pace
    told: bool
    took: float


class Reconciler:
    """What is done for one service at a round. `engine`: the functions that judge.

    First `begin`, then `read` and `conclude`. Whatever they raise is the service's own: see `rounds`.
    """

    def __init__(
        self, store: Store, files: ServiceFiles, engine: Engine, clock: Callable[[], float], faults: Faults
    ) -> None:
        self.engine = engine
        self.telling = Telling()
        self._store = store
        self._files = files
        self._clock = clock
        self._faults = faults
        self._paces: dict[str, _Pace] = {}
        self._merges = Merges()
        self._records = Records(store)
        self._closed: dict[str, float] = {}

    def keep(self, names: Iterable[str]) -> None:
        """Forget all other services."""
        for kept in (self._records, self.telling):
            kept.keep(names)

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

    def versions(self, names: Sequence[str]) -> None:
        """Ask for the versions of these services' records, which `begin` needs. Raises StoreError."""
        self._records.look(names)

    def begin(self, name: str, found: Found) -> Due | None:
        """An open rollout, if it is time or a router calls; look after what has none."""
        route, now, reports = found.stored.get(name), found.now, found.reports
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
        signals = _signals(calm, found.routes.leases.get(name), now)
        # A new generation is a decision to routers that have returned to stable: first decide, then refresh.
        if signals == Signals():
            if self._refresh(name, route, record):
                return None
            if pace.looked <= now < pace.next_look:
                return None
        self._fold(calm, now)
        self._close(calm, now)
        pace.looked = now
        return Due(calm, signals, pace)

    def read(self, due: Due, parts: Sequence[Evidence] | AccedeError, took: float) -> Begun:
        """Put together what a look needs. `parts`: the evidence, or why it cannot be read: then raised."""
        if isinstance(parts, AccedeError):
            raise parts
        began = time.monotonic()
        calm = due.calm
        seen = replace(calm, evidence=self._merges.of(calm.record.id, parts))
        # What is stored tells everything; a look that changes nothing and is not stored need not.
        told = self.engine.glance is None or self.telling.due(calm.record.service)
        if told:
            seen = self._in_full(seen)
        return Begun(seen, due.signals, due.pace, told, took + time.monotonic() - began)

    def conclude(self, one: Begun, now: float) -> None:
        """Judge what was read, and perform what is decided."""
        began = time.monotonic()
        seen, actions = self._judged(one.seen, one.signals, now, glance=not one.told)
        if not one.told and not all(isinstance(action, Note) for action in actions):
            seen, actions = self._judged(self._in_full(one.seen), one.signals, now, glance=False)
        took = time.monotonic() - began
        one.pace.next_look = now + max(TICK, _SHARE * (one.took + took)) - TICK / 2
        if one.told:
            self.telling.took(took)
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
        seen, found = look(self.engine, seen, now, glance=glance)
        return seen, decide(seen.record, seen.policy, replace(found, signals=signals), now)

    def _perform(self, seen: Seen, actions: list[Action], now: float) -> None:
        """Write every action in its order; all are worked out before the first is written."""
        name, commits = seen.record.service, list[tuple[Action, Commit]]()
        if not self.telling.due(name):
            actions = [action for action in actions if not isinstance(action, Note)]
        for action in actions:
            commit = change(seen, action, now, CONTROLLER, self.engine.freeze_epoch)
            commits.append((action, commit))
            if commit.record is not None:
                seen = replace(seen, record=commit.record, route=commit.route or seen.route)
        for action, commit in commits:
            if self._clock() - now > seen.route.unattended:
                # Stopped in mid-round for so long that routers have given up: what was seen is history.
                raise StaleWrite(f"service {commit.service!r}: the look is older than the lease")
            self._store.commit(commit)
            self.telling.stored(name, now)
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

    def hold(self, name: str, found: Found, reason: str) -> None:
        """A rollout that cannot be looked at stands in an error hold, whose clock runs."""
        route, now = found.stored.get(name), found.now
        if route is None or route.plan is None:
            return
        try:
            record = self._store.rollout(name)
            if record is None or record.phase.ended:
                return
            policy, service = policy_of(record.policy), self._files.known.get(name)
            seen = Seen(record, route, policy, service, {}, found.reports)
            nothing = Analysis(at=now, verdicts=(), validity=())
            broken = f"the controller fails on this rollout: {reason}"
            decided = decide(record, policy, Look(nothing, signals_of(seen), broken=broken), now)
            self._perform(seen, decided, now)
        except StaleWrite:
            pass
        except Exception as problem:  # noqa: BLE001  (nothing is left but the lease, which now runs out)
            self._faults.say(name, f"{reason}; and it cannot be held: {describe(problem)}", problem)


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
