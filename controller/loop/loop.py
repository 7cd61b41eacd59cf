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
from collections.abc import Callable, Mapping

import structlog

from ...errors import StoreError
from ...store.protocol import Store
from ...store.rollouts import ReplicaReport
from ...store.routes import ServiceRoute
from ..files import ServiceFiles
from ..rollout.looking import Engine
from ..rollout.performing import CONTROLLER
from .faults import Faults, describe
from .gone import gone_back
from .leading import Leading
from .reconciling import TICK, Found, Reconciler
from .rounds import Rounds
from .tidying import KEEP_DECISIONS, Tidying

log = structlog.get_logger("accede.controller")


class Loop:
    """Looks after every service of one store. `tick` is one round; `run` repeats it in a thread.

    `beat`: monotonic time of the last round that reached the store. `turned`: of the last sign that the loop
    goes on, whatever becomes of its rounds. `reconciler`: what it does for each.
    """

    def __init__(
        self,
        store: Store,
        files: ServiceFiles,
        engine: Engine,
        *,
        clock: Callable[[], float] = time.time,
        name: str = CONTROLLER,
        keep_decisions: float = KEEP_DECISIONS,
    ) -> None:
        self._store = store
        self._files = files
        self._clock = clock
        self.leading = Leading(store, name)
        self._faults = Faults()
        self.reconciler = Reconciler(store, files, engine, clock, self._faults)
        self._rounds = Rounds(store, self.reconciler, self._faults, self._leads)
        self._tidying = Tidying(store, keep_decisions)
        self.beat: float | None = None
        self.turned = time.monotonic()

    @property
    def problems(self) -> Mapping[str, str]:
        """Service -> why its last round failed."""
        return self._faults.problems

    def run(self, stop: threading.Event) -> None:
        """Tick until `stop`. What a round raises is logged; the loop itself never ends by it."""
        while not stop.is_set():
            self.turned = time.monotonic()
            try:
                self.tick()
            except StoreError as problem:
                log.warning("the store cannot be used; nothing is decided", reason=str(problem))
            except Exception as problem:  # a loop that dies decides nothing ever again
                log.exception("a round failed", reason=describe(problem))
            stop.wait(TICK)

    def tick(self) -> None:
        """One round over all services, if this controller leads.

        Raises StoreError where the store cannot be read at all.
        """
        now = self._clock()
        if self._files.poll(now):  # also where it stands by: acts that come through it bind to the files
            for problem in self._files.problems:
                log.warning("a file cannot be used; what runs goes on", problem=str(problem))
        if not self.leading.holds():
            self.beat = time.monotonic()
            return
        routes = self._store.routes()
        reports = self._store.reports()
        stored = {route.service: route for route in routes.routes}
        found = Found(now, routes, stored, reports, self._gone_back(stored, reports, now))
        names = sorted(set(stored) | set(self._files.known) | set(routes.broken))
        self.reconciler.keep(names)
        measured = (route.service for route in routes.routes if route.plan is not None)
        self.reconciler.telling.begin(measured, now)
        self._rounds.over(names, found)
        if self._leads():
            self._tidying.tidy(names, reports, now)
        self.beat = time.monotonic()

    def ask(self, name: str) -> None:
        """Somebody looks at a rollout: what is stored of it shall be new."""
        self.reconciler.telling.ask(name)

    def _leads(self) -> bool:
        """Whether this controller does; asked before each service of a round."""
        self.turned = time.monotonic()
        return self.leading.holds()

    def _gone_back(
        self, stored: Mapping[str, ServiceRoute], reports: tuple[ReplicaReport, ...], now: float
    ) -> dict[str, str]:
        """Services of which routers know more than the store does."""
        past = gone_back(stored, reports, now)
        if past:  # or a decision was made between the two readings
            past = gone_back({route.service: route for route in self._store.routes().routes}, reports, now)
        return past
