"""A process that has loaded all and does nothing but fork the parent's children (docs/decisions/0013).

What is loaded before a fork is in memory once for all. The parent itself cannot fork them again later: by
then it has threads, an event loop and a store. So it forks the nursery before it has any of them, and asks it
with one datagram per child, which carries the child's descriptors. A child is forked twice: its mother ends
at once, and the parent, a subreaper, is its parent from then on. So it waits for its children itself, no
number can be another process's before it has, and a nursery that dies takes nobody along.

Linux only. Without a nursery, children are interpreters of their own, which cost memory and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import importlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn, Self

import msgspec

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_LONGEST: Final = 128 * 2**10  # bytes of a request: numbers, names and some paths
_MOST: Final = 16  # descriptors of one child
_PATIENCE: Final = 5.0  # seconds for a birth; it takes some milliseconds
_STANDARD: Final = 3  # descriptors 0, 1 and 2


class Program(NamedTuple):
    """What a child is. `run` takes its config as JSON and gives its exit code, as `python -m module` does."""

    module: str
    title: str  # what `ps` shows of a forked one; 15 bytes are kept
    run: Callable[[str], int]


class _Birth(msgspec.Struct, frozen=True):
    """Asks for a child. `descriptors`: the numbers that those sent along shall have in it."""

    module: str
    config: str
    descriptors: tuple[int, ...]


class _Answer(msgspec.Struct, frozen=True):
    """`number`: the child's process, or the error that kept it from being forked."""

    number: int
    failed: bool = False


class NurseryGone(Exception):
    """It forks nobody any more."""


class Born:
    """A forked child: what `Child` needs of an asyncio.subprocess.Process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()

    async def wait(self) -> int:
        """The exit code, or the signal that ended it, negative."""
        await self._ended.wait()
        return self.returncode if self.returncode is not None else 1

    def look(self) -> bool:
        """Whether it has ended; never waits."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # somebody else has waited for it, so nobody knows how it ended
            pid, status = self.pid, 1 << 8
        if pid:
            self.returncode = os.waitstatus_to_exitcode(status)
            self._ended.set()
        return bool(pid)


class Nursery:
    """The parent's side."""

    def __init__(self, pid: int, link: socket.socket) -> None:
        self.pid = pid
        self._link = link
        self._turn = asyncio.Lock()
        self._living: list[Born] = []

    @classmethod
    def open(cls, programs: Sequence[Program]) -> Self | None:
        """Fork it; None where that cannot be done. To be called before there is any thread or loop."""
        if sys.platform != "linux" or threading.active_count() > 1:
            return None
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return None
        sys.stdout.flush()
        sys.stderr.flush()
        # What is here now lives as long as we do: a collection that touched it would copy its pages.
        gc.collect()
        gc.freeze()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return None
        if pid == 0:
            _leave(lambda: _serve(theirs.detach(), {program.module: program for program in programs}))
        theirs.close()
        ours.setblocking(False)
        made = cls(pid, ours)
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            made.close()
            return None
        return made

    def watch(self) -> None:
        """Learn of children's ends; needs the running loop."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._look)

    async def bear(self, module: str, config: str, descriptors: Sequence[int]) -> Born:
        """A child that has `descriptors`, numbered as here, and no others. Raises NurseryGone, OSError."""
        request = msgspec.json.encode(_Birth(module, config, tuple(descriptors)))
        async with self._turn:
            try:
                socket.send_fds(self._link, [request], list(descriptors))
                loop = asyncio.get_running_loop()
                told = await asyncio.wait_for(loop.sock_recv(self._link, _LONGEST), _PATIENCE)
                answer = msgspec.json.decode(told, type=_Answer)
            except (OSError, TimeoutError, msgspec.DecodeError) as problem:
                self.close()
                raise NurseryGone from problem
        if answer.failed:
            raise OSError(answer.number, os.strerror(answer.number))
        born = Born(answer.number)
        self._living.append(born)
        self._look()  # it may have ended before it was known
        return born

    def close(self) -> None:
        """End it. Its children stay."""
        self._link.close()
        if self.pid:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)  # nothing in it is worth waiting for
                os.waitpid(self.pid, 0)
            self.pid = 0

    def _look(self) -> None:
        self._living = [born for born in self._living if not born.look()]


def _leave(run: Callable[[], int]) -> NoReturn:
    """Run, and end this process without what its parent had planned for its own end."""
    code = 1
    try:
        code = run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 (nothing may go up into the parent's frames)
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


# --- in the nursery


def _serve(link: int, programs: dict[str, Program]) -> int:
    """Fork what is asked for until the parent is gone."""
    os.setsid()  # a terminal's interrupt is the parent's to handle
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # so is a stop that is sent to all; our end is the parent's
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _titled("accede-nursery")
    _only({link})
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.close(nothing)
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop")  # not the parent's; children would load it each for itself
    gc.freeze()
    end = socket.socket(fileno=link)
    while True:
        message, received, _, _ = socket.recv_fds(end, _LONGEST, _MOST)
        if not message:
            return 0
        birth = msgspec.json.decode(message, type=_Birth)
        try:
            answer = _Answer(_forked_twice(programs[birth.module], birth, received))
        except OSError as problem:
            answer = _Answer(problem.errno or 0, failed=True)
        for descriptor in received:
            os.close(descriptor)
        end.send(msgspec.json.encode(answer))


def _forked_twice(program: Program, birth: _Birth, received: list[int]) -> int:
    """The child's process number, once the parent is its parent. Raises OSError."""
    hear, tell = os.pipe()
    between = os.fork()
    if between == 0:
        pid = -1
        try:
            pid = os.fork()
        except OSError as problem:
            os._exit(problem.errno or 1)
        if pid == 0:
            _leave(lambda: _begun(program, birth, received))
        os.write(tell, b"%d" % pid)
        os._exit(0)
    os.close(tell)
    told = os.read(hear, 32)
    os.close(hear)
    _, status = os.waitpid(between, 0)  # its children have another parent now
    if not told:
        raise OSError(os.waitstatus_to_exitcode(status), "fork")
    return int(told)


# --- in the child


def _begun(program: Program, birth: _Birth, received: list[int]) -> int:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _titled(program.title)
    wanted = birth.descriptors
    above = max((_STANDARD - 1, *wanted)) + 1
    lifted = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, above) for descriptor in received]
    for descriptor, number in zip(lifted, wanted, strict=True):
        os.dup2(descriptor, number, inheritable=False)
    _only(set(wanted))
    return program.run(birth.config)


def _only(kept: set[int]) -> None:
    """Close every descriptor but the standard ones and `kept`."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 (names of numbers, no paths)
        if int(name) >= _STANDARD and int(name) not in kept:
            with contextlib.suppress(OSError):  # the one that the listing itself had
                os.close(int(name))


def _titled(title: str) -> None:
    """What `ps` and `top` call this process; all of them have their parent's command line."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(title)
