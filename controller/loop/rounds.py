"""The round over a group of services: all are read, their tests are computed at once, each is judged.

What fails for one is said, holds that one, and leaves it without a lease, so that its routers return to
stable if it lasts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from ...errors import AccedeError, StaleWrite, StoreError
from ...store.evidence import Evidence
from ...store.protocol import Store
from ...store.routes import ServiceRoute
from ..rollout.performing import Seen
from .faults import Faults, describe
from .reconciling import Begun, Due, Found, Reconciler

AT_ONCE: Final = 32  # services of a group
RENEW_EVERY: Final = 1.0  # seconds between renewals of a lease, or a quarter of a shorter one


class Rounds:
    """`leads`: whether this controller still does; one that does not touches nothing more."""

    def __init__(
        self, store: Store, reconciler: Reconciler, faults: Faults, leads: Callable[[], bool]
    ) -> None:
        self._store = store
        self._reconciler = reconciler
        self._faults = faults
        self._leads = leads

    def over(self, names: Sequence[str], found: Found) -> None:
        """The round of some services, group by group."""
        for first in range(0, len(names), AT_ONCE):
            self._together(names[first : first + AT_ONCE], found)

    def _together(self, names: Sequence[str], found: Found) -> None:
        begun = self._begin(names, found)
        read = self._read({name: one for name, one in begun.items() if one is not None}, found)
        self._prepare([one.seen for one in read.values() if not one.told])
        fine = [name for name, one in begun.items() if one is None]
        for name, one in read.items():
            if not self._leads():
                return
            if self._guarded(name, found, partial(self._reconciler.conclude, one, found.now)):
                fine.append(name)
        for name in fine:
            self._faults.over(name)
        self._renew(fine, found)  # only those without a fault

    def _begin(self, names: Sequence[str], found: Found) -> dict[str, Due | None]:
        """Those without a fault: the rollout that is to be looked at; None where nothing is to be done."""
        begun: dict[str, Due | None] = {}

        def begin(name: str) -> None:
            begun[name] = self._reconciler.begin(name, found)

        try:
            self._reconciler.versions(names)
        except StoreError as problem:
            for name in names:
                self._faults.say(name, str(problem))
            return {}
        for name in names:
            if not self._leads():
                return {}
            if name in found.stored and name in found.past:
                reason = found.past[name]
                self._faults.say(name, reason)
                self._guarded(name, found, partial(self._reconciler.hold, name, found, reason))
            elif name in found.routes.broken:
                reason = f"its stored route cannot be used: {found.routes.broken[name]}"
                self._faults.say(name, reason)
            else:
                self._guarded(name, found, partial(begin, name))
        return begun

    def _read(self, due: Mapping[str, Due], found: Found) -> dict[str, Begun]:
        """The evidence of all at once; those without a fault."""
        began = time.monotonic()
        rollouts = {name: one.calm.record.id for name, one in due.items()}
        parts: Mapping[str, Sequence[Evidence] | AccedeError] = {}
        try:
            if rollouts:
                parts = self._store.evidence_of(rollouts)
        except StoreError as problem:
            parts = dict.fromkeys(rollouts, problem)
        each = (time.monotonic() - began) / max(1, len(due))
        read: dict[str, Begun] = {}

        def take(name: str, one: Due) -> None:
            read[name] = self._reconciler.read(one, parts[name], each)

        for name, one in due.items():
            self._guarded(name, found, partial(take, name, one))
        return read

    def _prepare(self, seen: Sequence[Seen]) -> None:
        """Compute at once what the looks that follow need. What fails fails there again, for one alone."""
        prepare = self._reconciler.engine.prepare
        if prepare is not None:
            with suppress(Exception):
                prepare([(one.record, one.policy, one.evidence) for one in seen])

    def _guarded(self, name: str, found: Found, act: Callable[[], object]) -> bool:
        """A part of one service's round; False where it failed, which holds this service alone."""
        try:
            act()
        except StaleWrite:
            return False  # somebody decided at the same moment: the next round sees what, and renews
        except StoreError as problem:
            self._faults.say(name, str(problem))
            return False
        except Exception as problem:  # noqa: BLE001  (one service's fault is not another's)
            self._faults.say(name, describe(problem), problem)
            self._reconciler.hold(name, found, describe(problem))
            return False
        return True

    def _renew(self, names: Sequence[str], found: Found) -> None:
        due = [name for name in names if name in found.stored and _is_due(found.stored[name], found)]
        if not due:
            return
        try:
            refused = self._store.renew_all(due, found.now)
        except AccedeError as problem:
            refused = dict.fromkeys(due, str(problem))
        for name, reason in refused.items():
            self._faults.say(name, f"its lease cannot be renewed: {reason}")


def _is_due(route: ServiceRoute, found: Found) -> bool:
    renewed = found.routes.leases.get(route.service)
    return renewed is None or not 0 <= found.now - renewed < min(RENEW_EVERY, route.unattended / 4)
