"""Operators' acts performed: read, decide, write, and read again where somebody else wrote first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from ...errors import NotFound, StaleWrite
from ...store.protocol import Commit, Store
from ...store.rollouts import RolloutRecord
from ...store.routes import ServiceRoute
from ..files import ServiceFiles
from . import operations
from .approvals import Person, require_people
from .approving import approve
from .looking import Engine, look, policy_of, read
from .performing import Seen
from .routing import idle_route

_PAUSE: Final = 0.03  # seconds: twenty of them outlast the moment in which the lead changes hands
_TRIES: Final = 20  # the loop writes once a second, so a second try is rare and a third a coincidence

log = structlog.get_logger("accede.controller")


class Acts:
    """What operators can do. Every act returns the record as it stands after it.

    Raises NotFound, Conflict, UsageError, FileError and StoreError; nothing is half-done.
    """

    def __init__(
        self,
        store: Store,
        files: ServiceFiles,
        engine: Engine,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._files = files
        self._engine = engine
        self._clock = clock

    def start(
        self,
        service: str,
        candidate: str,
        actor: str,
        *,
        policy: str | None = None,
        policy_text: str | None = None,
        policy_file: str = "policy",
        reason: str = "",
        people: Sequence[Person] | None = None,
    ) -> RolloutRecord:
        """Begin a rollout by a policy's text, its name, or the one the service names.

        `people`: all who may approve, where that is known; a policy that asks for others is refused.
        """
        declared = self._files.service(service)
        chosen = self._files.policy(declared, policy, policy_text, policy_file)
        if people is not None:
            require_people(chosen, actor, people)

        def write() -> RolloutRecord:
            now = self._clock()
            route = self._route(service)
            if route is None:
                route = idle_route(declared, declared.stable, None)
                self._store.commit(Commit(service, None, 0, route, 0))
            earlier = self._store.rollouts(service)
            commit = operations.start(declared, chosen, candidate, route, earlier, actor, now, reason)
            # The lease was renewed for a route that could wait long; the rollout's may be short. A start
            # that is refused renews nothing: the rollout that runs may be one that nobody looks after.
            self._store.renew(service, now)
            return self._written(commit)

        return _retrying(write)

    def pause(self, service: str, actor: str, reason: str = "") -> RolloutRecord:
        """Stay, with traffic as it is."""

        def write() -> RolloutRecord:
            seen = self._seen(service)
            return self._written(
                operations.pause(seen, actor, reason, self._clock(), self._engine.freeze_epoch)
            )

        return _retrying(write)

    def resume(self, service: str, actor: str, reason: str = "") -> RolloutRecord:
        """Go on where it was paused."""

        def write() -> RolloutRecord:
            seen = self._looked(service)
            return self._written(
                operations.resume(seen, actor, reason, self._clock(), self._engine.freeze_epoch)
            )

        return _retrying(write)

    def promote(
        self, service: str, actor: str, reason: str = "", *, full: bool = False, may_override: bool = True
    ) -> RolloutRecord:
        """To the next step, or to the end. Raises Forbidden as `operations.promote` does."""

        def write() -> RolloutRecord:
            seen = self._looked(service)
            now, freeze = self._clock(), self._engine.freeze_epoch
            return self._written(
                operations.promote(seen, actor, reason, now, freeze, full=full, may_override=may_override)
            )

        return _retrying(write)

    def approve(
        self, service: str, person: Person, reason: str = "", step: int | None = None
    ) -> RolloutRecord:
        """Approve the step at hand. Approving twice changes nothing. Raises Forbidden as `approve` does."""

        def write() -> RolloutRecord:
            seen = self._looked(service)
            commit = approve(seen, person, reason, self._clock(), self._engine.freeze_epoch, number=step)
            return seen.record if commit is None else self._written(commit)

        return _retrying(write)

    def abort(self, service: str, actor: str, reason: str = "") -> RolloutRecord:
        """Stable alone at once; nothing is analysed first. Aborting twice changes nothing."""

        def write() -> RolloutRecord:
            seen = self._seen(service)
            commit = operations.abort(seen, actor, reason, self._clock(), self._engine.freeze_epoch)
            return seen.record if commit is None else self._written(commit)

        return _retrying(write)

    def require_service(self, service: str) -> None:
        """Raises NotFound, with the names there are, for a service that neither a file nor a route names."""
        known = sorted(set(self._files.known) | {one.service for one in self._store.routes().routes})
        if service not in known:
            raise NotFound(f"no service {service!r}; there are: {', '.join(known) or 'none'}")

    def _seen(self, service: str) -> Seen:
        """The service's newest rollout without its evidence."""
        record = self._store.rollout(service)
        route = self._route(service)
        if record is None or route is None:
            self.require_service(service)
            raise NotFound(f"service {service!r} has no rollout; start one first")
        policy = policy_of(record.policy)
        return Seen(record, route, policy, self._files.known.get(service), {}, self._store.reports())

    def _looked(self, service: str) -> Seen:
        """The service's newest rollout, judged now where it is open."""
        seen = self._seen(service)
        if seen.record.phase.ended:
            return seen
        seen = read(self._store, seen.record, seen.route, seen.service, seen.reports)
        now = self._clock()
        seen, _ = look(self._engine, seen, now)
        return seen

    def _route(self, service: str) -> ServiceRoute | None:
        return next((route for route in self._store.routes().routes if route.service == service), None)

    def _written(self, commit: Commit) -> RolloutRecord:
        self._store.commit(commit)
        record = commit.record
        if record is None:
            raise NotFound(f"service {commit.service!r}: nothing was written")
        log.info(record.reason, service=record.service, rollout=record.id, phase=record.phase.value)
        return record


def _retrying(write: Callable[[], RolloutRecord]) -> RolloutRecord:
    for _ in range(_TRIES - 1):
        try:
            return write()
        except StaleWrite:
            time.sleep(_PAUSE)
    return write()
