"""The observer process: `python -m accede.router.observer.process CONFIG`, CONFIG an ObserverConfig as JSON.

Workers' flushes come in on a Unix socket, tables from the parent on an inherited one; evidence goes to
the store from a thread of its own. Bodies of strangers are read here and nowhere else: if one kills
this process, the parent starts another, and nothing on the data path has noticed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from time import time

import msgspec

from ...errors import AccedeError, WireError
from ...store.evidence import Evidence
from ..announce import announce
from ..control import ControlLink
from ..facts import Applied, Drain, Message, Table, decode_flush
from ..marker import Marker
from ..outbox import Outbox, Remembered
from .autopsy import look_back
from .frames import Frames
from .inflow import Inflow
from .recorder import Recorder

OBSERVER = -1  # the observer's number in Applied
PUBLISH = 0.25  # seconds between publications
_FLUSH_LIMIT = 64 * 2**20  # bytes; a worker holds 8 MiB of bodies and 65 536 facts and pairs at most
_LAST_FLUSHES = 2.0  # seconds that workers' connections have to end when draining
_LAST_PREDICTIONS = 2.0  # seconds for the store to take the last predictions, before the evidence of them
_LAST_WRITES = 5.0  # seconds for the store to take the last evidence


class ObserverConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the parent hands the observer.

    `source`: this life's name in evidence. `listen`: a bound Unix socket, listening. `control`: one end
    of a socket pair: framed Tables and Drain come in, Applied goes out; its end means the parent is gone.
    `marker`: descriptor of the Marker's memory, -1 without one. `folder`: where recordings and reports on
    poisonous bodies go; '' for none.
    """

    source: str
    store: str
    listen: int
    control: int
    marker: int = -1
    folder: str = ""


class _Observing:
    def __init__(self, config: ObserverConfig) -> None:
        folder = Path(config.folder)
        self.marker = Marker(config.marker) if config.marker >= 0 else None
        if self.marker is not None and config.folder:
            line = look_back(self.marker, folder / "poison")
            if line:
                complain(line)
        self.recorder = Recorder(folder / "recordings", complain) if config.folder else None
        self.inflow = Inflow(config.source, self.recorder, None if self.marker is None else self.marker.cells)
        self.outbox = Outbox(config.store, complain)
        self.stopping = asyncio.Event()
        self.control = ControlLink(self.told, self.stopping.set)
        self.workers: set[asyncio.BaseTransport] = set()
        self.quiet = asyncio.Event()  # draining, and no worker is connected any more

    async def run(self, config: ObserverConfig) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        await self.control.open(config.control)
        server = await loop.create_unix_server(
            lambda: _Worker(self), sock=socket.socket(fileno=config.listen)
        )
        while not self.stopping.is_set():
            try:
                await asyncio.wait_for(self.stopping.wait(), PUBLISH)
            except TimeoutError:
                self.publish()
        self.left()
        try:
            await asyncio.wait_for(self.quiet.wait(), _LAST_FLUSHES)
        except TimeoutError:
            complain("a worker is still connected; its last observations may be lost")
        server.close()
        self.inflow.finish()
        if self.recorder is not None:
            self.recorder.close()
        self.remember()
        await loop.run_in_executor(None, self.outbox.settle, _LAST_PREDICTIONS)
        self.publish(last=True)
        if not await loop.run_in_executor(None, self.outbox.close, _LAST_WRITES):
            complain("the store did not take the last evidence")

    def told(self, message: Message) -> None:
        """What the parent says: the observer learns a table before any worker does."""
        if isinstance(message, Table):
            self.inflow.obey(message, time())
            self.control.send(Applied(OBSERVER, message.number))
        elif isinstance(message, Drain):
            self.stopping.set()

    def take(self, message: bytes) -> None:
        """Read one flush. Raises WireError."""
        marker = self.marker
        if marker is not None:
            marker.begin(message)
        self.inflow.take(decode_flush(message), time())
        if marker is not None:
            marker.done()

    def publish(self, *, last: bool = False) -> None:
        """Hand the news to the outbox, unless it is still busy with the last."""
        outbox = self.outbox
        unwritten = not self.remember()
        if last or not outbox.holds(Evidence) or (unwritten and outbox.failing):
            for evidence in self.inflow.evidence(time(), unwritten=unwritten):
                outbox.put((evidence.service, evidence.rollout, evidence.epoch), evidence)
            outbox.keep(self.inflow.epochs())
            for line in self.inflow.complaints():
                complain(line)

    def remember(self) -> bool:
        """Hand predictions to the outbox, unless it is still busy with the last; whether it is not.

        They go before the evidence of their exchanges: whenever this process is killed, what evidence
        accounts is remembered in the store, or counted there as lost.
        """
        if self.outbox.holds(Remembered):
            return False
        notebook = self.inflow.notebook
        for service, predictions in notebook.hand_out():
            self.outbox.append(Remembered(service, predictions, notebook.refuse))
        return True

    def left(self) -> None:
        """A worker has gone, or draining has begun."""
        if self.stopping.is_set() and not self.workers:
            self.quiet.set()


class _Worker(asyncio.Protocol):
    """One worker's connection."""

    def __init__(self, observing: _Observing) -> None:
        self._observing = observing
        self._frames = Frames(_FLUSH_LIMIT)
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._observing.workers.add(transport)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._frames.feed(data):
                self._observing.take(message)
        except WireError as problem:
            complain(f"a worker's connection is closed: {problem}")
            if self._transport is not None:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the protocol's name)
        if self._transport is not None:
            self._observing.workers.discard(self._transport)
        self._observing.left()


def complain(line: str) -> None:
    """One line for whoever reads the router's standard error."""
    announce("observer", line)


def main(told: str) -> int:
    """Run as the JSON says until the parent says Drain or is gone; the exit code."""
    config = msgspec.json.decode(told.encode(), type=ObserverConfig)
    # Documents live for microseconds and have no cycles: collecting every 700 allocations finds nothing.
    gc.set_threshold(100_000, 20, 20)

    async def observe() -> None:
        await _Observing(config).run(config)

    try:
        import uvloop  # noqa: PLC0415 (missing on some platforms)

        uvloop.run(observe())
    except ImportError:
        asyncio.run(observe())
    except AccedeError as problem:
        complain(str(problem))
        return problem.exit_code
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stderr.flush()
    os._exit(code)  # a thread that waits for a store must not hold the process
