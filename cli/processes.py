"""Child processes that never outlive the command that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import FrameType

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
PARENT = "ACCEDE_PARENT"  # set for children that must end with us: our process id


def die_with_parent() -> None:
    """In a child started with `environment`: ask the kernel for SIGTERM when the parent is gone.

    A parent that died before this call is noticed by its id. Does nothing elsewhere, and where the
    kernel is not Linux (there the parent's own clean-up is all there is).
    """
    parent = os.environ.get(PARENT)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):
        raise SystemExit(1)
    # Its own children are not ours: they look at their own parent.
    del os.environ[PARENT]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child is started with: our environment, our id, and no output held back in a buffer."""
    return {**os.environ, **(more or {}), PARENT: str(os.getpid()), "PYTHONUNBUFFERED": "1"}


def end(children: list[subprocess.Popen[bytes]], patience: float = 5.0) -> None:
    """End children that run: SIGTERM to all, SIGKILL to those still there after `patience` seconds in all."""
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.terminate()
    until = time.monotonic() + patience
    for child in running:
        try:
            child.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def free_ports(count: int) -> list[int]:
    """TCP ports on 127.0.0.1 that nobody listens on now, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


class Stopped(BaseException):
    """Somebody asked this command to end. Not an Exception, so no `except Exception` swallows it."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(number)


class _Shield:
    """Whether signals wait, and the first that does."""

    closed = False
    waiting: int | None = None


@contextmanager
def uninterrupted() -> Generator[None]:
    """Within, signals wait: for a child to be started and remembered, so that the clean-up knows it."""
    _Shield.closed = True
    try:
        yield
    finally:
        _Shield.closed = False
        waiting, _Shield.waiting = _Shield.waiting, None
        if waiting is not None:
            raise Stopped(waiting)


@contextmanager
def stopped_by_signals() -> Generator[None]:
    """Within, the first SIGTERM, SIGINT or SIGHUP raises Stopped in the main thread.

    Later ones do nothing, so a second Ctrl-C does not interrupt the clean-up.
    """
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def stop(number: int, _frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        if _Shield.closed:
            _Shield.waiting = number
            return
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, disposition in before.items():
            signal.signal(number, disposition)
