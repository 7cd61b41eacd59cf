"""Child processes of the parent: started, told, watched, started again with growing pauses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable
from time import monotonic, time
from typing import Final

import msgspec

from ..announce import announce
from ..control import ControlLink
from ..facts import Drain, Health, Message, Table
from .nursery import Born, Nursery, NurseryGone, Program

_FIRST_PAUSE: Final = 0.05  # seconds before a child that died is started again; doubled every time, up to
_LAST_PAUSE: Final = 5.0
_STEADY: Final = 10.0  # seconds of life after which the pauses begin anew
_REMEMBERED: Final = 64  # restarts whose times are kept

# The parent's knowledge of one life: makes the config from the life's number and its control descriptor.
Config = Callable[[int, int], msgspec.Struct]


class Child:
    """One child, kept alive until it is drained. `applied`: number of the table it has in force, or 0.

    `health`: what it said last of addresses, None if nothing.
    """

    def __init__(
        self,
        name: str,
        program: Program,
        config: Config,
        descriptors: tuple[int, ...],
        told: Callable[[Child, Message], None],
        first: Callable[[], Table | None],
        nursery: Nursery | None,
    ) -> None:
        self.name = name
        self.pid = 0
        self.applied = 0
        self.health: Health | None = None
        self.restarts: list[float] = []
        self._program = program
        self._nursery = nursery
        self._config = config
        self._descriptors = descriptors
        self._told = told
        self._first = first
        self._life = 0
        self._link: ControlLink | None = None
        self._process: asyncio.subprocess.Process | Born | None = None
        self._draining = asyncio.Event()

    async def keep(self) -> None:
        """Run the child, again and again, until `drain`; returns when it has ended for good."""
        pause = _FIRST_PAUSE / 2
        while not self._draining.is_set():
            began = monotonic()
            ended = await self._live()
            if self._draining.is_set():
                return
            self.restarts = [*self.restarts[1 - _REMEMBERED :], time()]
            pause = _FIRST_PAUSE if monotonic() - began > _STEADY else min(_LAST_PAUSE, 2 * pause)
            announce("router", f"{self.name} {ended}; it is started again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), pause)

    async def _live(self) -> str:
        """One life; the result says how it ended."""
        self._life += 1
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as problem:
            return f"could not be started: {problem.strerror}"
        try:
            with theirs:
                config = msgspec.json.encode(self._config(self._life, theirs.fileno())).decode()
                self._process = await self._born(config, (*self._descriptors, theirs.fileno()))
        except OSError as problem:
            ours.close()
            return f"could not be started: {problem.strerror}"
        self.pid = self._process.pid
        link = ControlLink(lambda message: self._told(self, message), lambda: None)
        try:
            await link.open(ours.detach())
            self._link = link
            table = self._first()
            if table is not None:
                link.send(table)
            if self._draining.is_set():
                link.send(Drain())
            code = await self._process.wait()
        finally:
            self._link = None
            self.pid = self.applied = 0
            self.health = None
            link.close()
        return f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"

    async def _born(self, config: str, descriptors: tuple[int, ...]) -> asyncio.subprocess.Process | Born:
        """A new process of the program. Raises OSError."""
        if self._nursery is not None:
            try:
                return await self._nursery.bear(self._program.module, config, descriptors)
            except NurseryGone:
                self._nursery = None
                announce("router", f"the nursery is gone; {self.name} gets an interpreter of its own")
        # A session of its own: an interrupt at the terminal is the parent's to handle.
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", self._program.module, config,
            pass_fds=descriptors, stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def send(self, message: Message) -> None:
        """Tell the child, if it lives; a new one learns the table at its start."""
        if self._link is not None:
            self._link.send(message)

    def last(self) -> None:
        """Begin no life after this one."""
        self._draining.set()

    async def drain(self, patience: float) -> bool:
        """Let it finish and end; killed after `patience` seconds. Whether it ended by itself."""
        self._draining.set()
        self.send(Drain())
        process = self._process
        if process is None:
            return True
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            self.kill()
            await process.wait()
            return False
        return True

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
