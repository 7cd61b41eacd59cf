"""One worker process: `python -m accede.router.proxy.worker CONFIG`, CONFIG a WorkerConfig as JSON.

It ends with 0 after a Drain, a SIGTERM, or when its parent is gone (the control socket's end of file):
each time it accepts nothing more, finishes what is open within `drain_timeout`, and hands its last facts to
the observer. Orphans do not serve on: nobody could tell them of a rollback.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
from time import monotonic

import msgspec

from ...errors import UsageError
from ..control import ControlLink
from ..counters import Counters
from ..facts import Applied, Drain, Message, Table
from .ages import TICK
from .capture import ObserverLink
from .datapath import DataPath, Limits
from .descriptors import shares
from .entrance import Entrance
from .tls import TlsFiles

_FIRST_TABLE = 1.0  # seconds for it to arrive; until then clients wait in the socket's queue, where they can
_LAST_FLUSH = 1.0  # seconds for the observer to take the last facts
_STDERR = 2
_LONGEST_LINE = 3000  # characters: a pipe with room at all has room for 4096 bytes (PIPE_BUF)
_LAST_BYTES = 1.0  # seconds for tunnels to write what they hold when the drain is over

# glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD (mallopt(3)), in bytes.
_KEPT_MEMORY = ((-3, 2**20), (-1, 16 * 2**20), (-2, 2**20))


class WorkerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the parent hands a worker. Descriptors are inherited (`pass_fds`), times in seconds.

    `worker`: slot index, `workers`: how many blocks the counters' map has. `boot`: names this
    process's life in flushes. `listen`: bound sockets (listen() already called, one worker each).
    `tls`: files of the certificate clients see, None: plain HTTP; `spare`: descriptor of the parent's
    Spare. `connections`: clients at one time at most; an idle one takes 1 to 2 KiB of this process, over TLS
    about 20, so the default is 16 MiB, over TLS 160.
    `tunnel_timeout`: of a connection that switched protocols and is silent both ways.
    `control`: one end of a Unix stream socket pair: framed Table and Drain come in, Applied and
    Tripped go out. `observer`: path of the observer's Unix socket. `counters`: path of the map.
    """

    worker: int
    workers: int
    boot: str
    listen: tuple[int, ...]
    control: int
    observer: str
    counters: str
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    idle_timeout: float = 75.0
    connect_timeout: float = 5.0
    drain_timeout: float = 10.0
    tunnel_timeout: float = 300.0
    connections: int = 8192
    tls: TlsFiles | None = None
    spare: int = -1


class Worker:
    """The process's shell: sockets, signals and the ticking; everything else is the DataPath's."""

    def __init__(self, config: WorkerConfig, counters: Counters) -> None:
        """Needs a running loop."""
        self._config = config
        self._refused: list[str] = []
        self._applying: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._table_or_stop = asyncio.Event()
        self._control = ControlLink(self._told, self._stop)
        limits = Limits(
            config.head_timeout, config.body_timeout, config.idle_timeout, config.connect_timeout,
            config.tunnel_timeout, *shares(config.connections),
        )  # fmt: skip
        self._link = ObserverLink(config.observer)
        cells = counters.cells(config.worker)
        self._path = DataPath(
            config.worker, config.boot, limits, cells, self._link, self._control.send,
            self._say,
        )  # fmt: skip

    async def run(self) -> None:
        """Serve until told to stop, then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        await self._control.open(self._config.control)
        # A worker that takes another's place must not refuse what waits there for want of a table.
        await _at_most(self._table_or_stop, _FIRST_TABLE)
        config = self._config
        entrance = Entrance(self._path, config.listen, config.tls, config.spare, self._say)
        await entrance.open()
        # What exists now lives as long as the process; requests make hardly any cycles.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        while not self._stopping.is_set():
            self._path.tick()
            entrance.look(monotonic())
            await _at_most(self._stopping, TICK)
        entrance.close()
        await self._drained()

    def _say(self, line: str) -> None:
        log(f"worker {self._config.worker}: {line}")

    def _told(self, message: Message) -> None:
        if isinstance(message, Table):
            self._path.apply(message)
            if self._applying is None or self._applying.done():
                self._applying = asyncio.get_running_loop().create_task(self._apply())
        elif isinstance(message, Drain):
            self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        self._table_or_stop.set()

    async def _apply(self) -> None:
        """Put the newest table in force, a slice at a time: between two, whatever has come is served."""
        while (table := self._path.go_on()) is None:  # noqa: ASYNC110 - it lets the loop serve
            await asyncio.sleep(0)
        for line in table.refused:
            if line not in self._refused:  # every table brings it again until somebody mends it
                self._say(f"a new route cannot be served, kept the old: {line}")
        self._refused = table.refused
        self._control.send(Applied(self._config.worker, table.number))
        self._table_or_stop.set()

    async def _drained(self) -> None:
        path = self._path
        path.drain()
        until = monotonic() + self._config.drain_timeout
        while path.clients and monotonic() < until:
            path.tick()
            await asyncio.sleep(TICK)
        for exchange in tuple(path.open.values()):
            exchange.abandon()
        for client in tuple(path.clients):
            client.end()
        until = monotonic() + _LAST_BYTES
        while path.clients and monotonic() < until:
            path.tick()
            await asyncio.sleep(TICK)
        until = monotonic() + _LAST_FLUSH
        while (
            self._link.connected and (path.gathered.anything or self._link.pending()) and monotonic() < until
        ):
            path.tick()
            await asyncio.sleep(TICK)
        path.pools.close()
        self._link.close()
        self._control.close()


async def _at_most(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def log(message: str) -> None:
    """One rare event, one line of JSON on standard error; never a body, a header or a key.

    Dropped where nobody takes it: a full pipe must not stop the requests.
    """
    line = msgspec.json.encode({"source": "worker", "message": message[:_LONGEST_LINE]}) + b"\n"
    with contextlib.suppress(OSError):
        if select.select((), (_STDERR,), (), 0.0)[1]:
            os.write(_STDERR, line)


def keep_freed() -> None:
    """Let the C library keep up to 16 MiB of freed memory instead of handing it back after every long answer.

    What the loop reads at one time lies just above glibc's usual bounds: each read then costs 60 page faults.
    """
    with contextlib.suppress(OSError, AttributeError):  # not every C library has it
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, size in _KEPT_MEMORY:
            mallopt(parameter, size)


def run(config: WorkerConfig) -> int:
    """Serve until drained, the exit code; uvloop where it is installed."""
    keep_freed()
    counters = Counters(config.counters, config.workers)

    async def serve() -> None:
        await Worker(config, counters).run()

    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        loop_factory = None
    else:
        loop_factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(serve())
    except UsageError as problem:  # the TLS files, which the parent has read before
        log(f"worker {config.worker}: {problem}")
        return problem.exit_code
    return 0


def main(config: str) -> int:
    """Serve as the JSON says; the exit code."""
    return run(msgspec.json.decode(config.encode(), type=WorkerConfig))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
