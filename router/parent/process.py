"""The parent of one router: keeps the sockets, the workers, the observer, and tells them what to serve.

It reads no request and no body, so nothing a client or a model sends can bring it down. Route
synchronisation lives here and not in the observer, which hostile bodies may kill (docs/decisions/0002).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from time import monotonic, time
from typing import Any, Final

import msgspec

from ...errors import AccedeError, UsageError
from ...store.protocol import Routes
from ..announce import announce
from ..counters import Counters
from ..facts import Applied, Health, Message, Table, Tripped
from ..marker import Marker
from ..observer.process import ObserverConfig
from ..observer.process import main as observe
from ..outbox import Outbox
from ..proxy.tls import TlsFiles
from ..proxy.worker import WorkerConfig
from ..proxy.worker import main as work
from .admin import AdminSocket
from .certificate import Certificate
from .children import Child
from .disk import ADMIN, COUNTERS, OBSERVER, RouterFolder, encoded
from .listening import listen, listen_unix
from .nursery import Nursery, Program
from .probes import Probes
from .sync import RouteKeeper, Slots
from .telling import Telling
from .watcher import Watcher

_LOOK: Final = 0.15  # seconds between looks at the clock of leases
_REPORT: Final = 0.5  # seconds between reports
_SAVE_LEASES: Final = 10.0  # seconds between writes of renewals alone
_ACKNOWLEDGED: Final = 1.0  # seconds an abort waits for all workers to confirm
_GRACE: Final = 3.0  # seconds beyond the workers' own drain before they are killed
_READING: Final = 10.0  # seconds for one body: captures are bounded, so an honest one takes milliseconds
_OBSERVER_DRAIN: Final = 10.0
_LAST_REPORT: Final = 2.0
_REASON: Final = 1000  # characters of an abort's reason that are kept

_WORKER: Final = Program("accede.router.proxy.worker", "accede-worker", work)
_OBSERVER: Final = Program("accede.router.observer.process", "accede-observer", observe)


class RouterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One router. `data`: its directory is `<data>/router`. `store`: the address that `open_store` takes.

    `workers`: processes, one per core. `port` 0: the system chooses; the admin socket's status names it.
    `drain`: seconds that open requests get to finish at the end. `tls`: files of the certificate that
    clients see; None: plain HTTP. `connections`: clients of one worker at one time.
    `probes`: host and port that answer `/healthz` and `/readyz`; None: nothing does.
    """

    host: str
    port: int
    workers: int
    store: str
    data: str
    replica: str
    drain: float = 10.0
    tls: TlsFiles | None = None
    connections: int = 8192
    probes: tuple[str, int] | None = None


def run_router(config: RouterConfig) -> int:
    """Serve until SIGTERM or SIGINT, then drain; the exit code.

    Raises AccedeError, having started nothing: the port is in use, the directory or the TLS files cannot be
    used.
    """
    if config.workers < 1:
        raise UsageError(f"a router has at least 1 worker; found {config.workers}")
    if config.connections < 1:
        raise UsageError(f"a router takes at least 1 connection; found {config.connections}")
    # First of all: what we open from here on is not the nursery's.
    nursery = Nursery.open((_WORKER, _OBSERVER))
    try:
        return _run(config, nursery)
    finally:
        if nursery is not None:
            nursery.close()


def _run(config: RouterConfig, nursery: Nursery | None) -> int:
    certificate = None if config.tls is None else Certificate(config.tls)
    folder = RouterFolder(config.data)
    try:
        sockets = listen(config.host, config.port, config.workers)
        try:
            return asyncio.run(_Parent(config, folder, sockets, certificate, nursery).run())
        except OSError as problem:
            raise AccedeError(
                f"the router cannot run in {str(folder.path)!r}: {problem.strerror}"
            ) from problem
        finally:
            for one in sockets:
                one.close()
    finally:
        folder.close()


class _Parent:
    def __init__(
        self, config: RouterConfig, folder: RouterFolder, sockets: list[Any], certificate: Certificate | None,
        nursery: Nursery | None,
    ) -> None:  # fmt: skip
        self._config = config
        self._nursery = nursery
        self._certificate = certificate
        kept = -1 if certificate is None else certificate.spare.descriptor
        spare = () if kept < 0 else (kept,)
        self._folder = folder
        self._sockets = sockets
        self._boot = os.urandom(6).hex()
        counters = folder.fresh(COUNTERS)
        self._counters = Counters(counters, config.workers, create=True)
        self._slots = Slots(self._counters)
        self._keeper = RouteKeeper(self._slots)
        self._workers = [
            Child(
                f"worker {index}", _WORKER, self._worker_config(index, counters),
                (sockets[index].fileno(), *spare), self._told, self._table, nursery,
            )
            for index in range(config.workers)
        ]  # fmt: skip
        self._flushes = listen_unix(str(folder.fresh(OBSERVER)))
        self._marker = Marker.create()
        self._reading: tuple[tuple[int, int, int] | None, float] = (None, 0.0)
        self._observer = Child(
            "the observer", _OBSERVER, self._observer_config,
            (self._flushes.fileno(), self._marker.descriptor), self._told, self._table, nursery,
        )  # fmt: skip
        self._admin = folder.fresh(ADMIN)
        self._telling = Telling(
            config.replica, self._boot, "{}:{}".format(*sockets[0].getsockname()[:2]), str(self._admin),
            self._keeper, self._slots, self._workers, self._observer, certificate,
            0 if nursery is None else nursery.pid,
        )  # fmt: skip
        self._saved_at = 0.0
        self._stopping = asyncio.Event()
        self._applied = asyncio.Event()
        self._signals = 0
        self._outbox: Outbox | None = None
        said = self._telling.state
        self._probes = None if config.probes is None else Probes.listening(*config.probes, said)

    def _worker_config(self, index: int, counters: os.PathLike[str]) -> Callable[[int, int], WorkerConfig]:
        kept = -1 if self._certificate is None else self._certificate.spare.descriptor

        def config(life: int, control: int) -> WorkerConfig:
            return WorkerConfig(
                worker=index, workers=self._config.workers, boot=f"{self._boot}-{life}",
                listen=(self._sockets[index].fileno(),), control=control,
                observer=self._flushes.getsockname(), counters=str(counters),
                drain_timeout=self._config.drain, connections=self._config.connections, tls=self._config.tls,
                spare=kept,
            )  # fmt: skip

        return config

    def _observer_config(self, life: int, control: int) -> ObserverConfig:
        source = f"{self._config.replica}:{self._boot}-{life}"
        return ObserverConfig(
            source, self._config.store, self._flushes.fileno(), control, self._marker.descriptor,
            str(self._folder.path),
        )  # fmt: skip

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        if self._nursery is not None:
            self._nursery.watch()
        try:
            memory = self._folder.recall()
            if memory is not None:
                self._keeper.recall(memory)
        except AccedeError as problem:
            announce("router", str(problem))
            self._keeper.forgot("what this router held before its restart is lost")
        admin = AdminSocket(self._admin, self._answer)
        await admin.open()
        if self._probes is not None:
            await self._probes.open()
            announce("router", f"answers /healthz and /readyz on {self._probes.address}")
        self._outbox = Outbox(self._config.store, lambda line: announce("router", line))
        watcher = Watcher(
            self._config.store,
            lambda routes: _tell(loop, self._found, routes),
            lambda problem: _tell(loop, self._unreadable, problem),
        )
        watcher.start()
        announce("router", f"listens on {self._telling.listens}, admin socket {self._admin}")
        try:
            async with asyncio.TaskGroup() as tasks:
                kept = [tasks.create_task(child.keep()) for child in (self._observer, *self._workers)]
                clock = tasks.create_task(self._clock())
                await self._stopping.wait()
                announce("router", "drains")
                for worker in self._workers:
                    worker.last()  # or one would be begun with a socket that is closed
                for one in self._sockets:
                    one.close()  # or new connections would wait here for nobody
                await asyncio.gather(*(worker.drain(self._config.drain + _GRACE) for worker in self._workers))
                await self._observer.drain(_OBSERVER_DRAIN)
                await asyncio.gather(*kept)
                clock.cancel()
        finally:
            watcher.close()
            admin.close()
            if self._probes is not None:
                self._probes.close()
            self._report()
            self._save(force=False)
            self._outbox.close(_LAST_REPORT)
            self._flushes.close()
            self._marker.close()
            self._counters.close()
        return 0

    def _signalled(self) -> None:
        self._signals += 1
        self._telling.stopping = True
        self._stopping.set()
        if self._signals > 1:  # whoever asks twice does not want to wait
            for child in (*self._workers, self._observer):
                child.kill()

    async def _clock(self) -> None:
        reported = 0.0
        while True:
            self._look()
            self._watch_observer()
            if self._certificate is not None:
                self._certificate.look()
            if monotonic() >= reported + _REPORT:
                reported = monotonic()
                self._report()
            await asyncio.sleep(_LOOK)

    def _watch_observer(self) -> None:
        """End an observer that one body holds: the next one says which, and its evidence counts as lost."""
        place, now = self._marker.place(), monotonic()
        if place is None or place != self._reading[0]:
            self._reading = (place, now)
        elif now >= self._reading[1] + _READING:
            self._reading = (None, now)
            announce("router", f"the observer has been reading one body for {_READING:g} s; it is ended")
            self._observer.kill()

    # --- what to serve

    def _found(self, routes: Routes) -> None:
        if self._telling.store_problem:
            announce("router", "the store can be read again")
        self._telling.store_problem = ""
        self._keeper.learn(routes, time())
        self._look()

    def _unreadable(self, problem: AccedeError) -> None:
        if not self._telling.store_problem:
            announce("router", f"serves the last routes it knows: {problem}")
        self._telling.store_problem = str(problem)
        self._keeper.trust_memory()
        self._look()

    def _look(self) -> None:
        """Bring the table up to date, and everybody to it; the observer first, who must know every slot."""
        table = self._keeper.look(time())
        if table is not None:
            self._telling.placed(table)
            for child in (self._observer, *self._workers):
                child.send(table)
        self._save(force=table is not None)

    def _table(self) -> Table | None:
        return self._keeper.table

    def _save(self, *, force: bool) -> None:
        now = monotonic()
        keeper = self._keeper
        if not keeper.known or not (force or keeper.changed or now >= self._saved_at + _SAVE_LEASES):
            return
        self._saved_at = now
        keeper.changed = False
        try:
            self._folder.remember(encoded(keeper.memory))
            self._telling.disk_problem = ""
        except OSError as problem:
            if not self._telling.disk_problem:
                announce("router", f"serves on, but cannot write its last table: {problem.strerror}")
            self._telling.disk_problem = str(problem.strerror)

    def _told(self, child: Child, message: Message) -> None:
        if isinstance(message, Applied):
            child.applied = message.number
            self._applied.set()
        elif isinstance(message, Health):
            child.health = message
        elif isinstance(message, Tripped) and self._keeper.trip(
            message.service, message.generation, message.reason
        ):
            announce("router", f"breaker of {message.service}: {message.reason}; stable alone")
            self._look()
            self._report()

    # --- what is told

    def _report(self) -> None:
        if self._outbox is not None:
            self._outbox.put("report", self._telling.report())

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request.get("do") == "status":
            return self._telling.status()
        service, reason = request.get("service"), request.get("reason")
        if request.get("do") != "abort" or not isinstance(service, str) or not isinstance(reason, str):
            raise UsageError('a request is {"do": "status"} or {"do": "abort", "service": …, "reason": …}')
        # Whatever it says, an abort is obeyed; what neither a log nor JSON could carry is not repeated.
        reason = "".join(char if char.isprintable() else "?" for char in reason[:_REASON])
        generation = self._keeper.abort(service, reason)
        announce("router", f"{service} is aborted here: {reason}; stable alone")
        self._look()
        self._report()
        number = self._keeper.table.number if self._keeper.table is not None else 0
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._served(number), _ACKNOWLEDGED)
        return {
            "service": service,
            "generation": generation,
            "workers": sum(worker.applied >= number for worker in self._workers),
            "of": len(self._workers),
        }

    async def _served(self, number: int) -> None:
        while not self._telling.everywhere(number):
            self._applied.clear()
            await self._applied.wait()


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[Any], None], what: object) -> None:
    """Call in the loop, from a thread that may outlive it."""
    try:
        loop.call_soon_threadsafe(call, what)
    except RuntimeError:
        return
