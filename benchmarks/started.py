"""Processes of a benchmark: each in a group of its own, all ended when the `with` ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from .machine import put_ahead

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
_GRACE = 10.0  # seconds to end by itself


class Failed(Exception):
    """The benchmark cannot go on; the message says why."""


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(ready: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """The first true value of `ready`. Raises Failed after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = ready()
        if found:
            return found
        time.sleep(0.01)
    raise Failed(f"not within {seconds:g} s: {what}")


def accepts(port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Group:
    """What one row started; what it wrote to standard error is shown if something fails."""

    def __init__(self, folder: Path, *, ahead: bool = False) -> None:
        """`ahead`: everything in it comes before what else runs on this machine."""
        self.folder = folder
        self._ahead = ahead
        self._running: list[tuple[subprocess.Popen[str], Path]] = []

    def start(
        self, name: str, command: list[str], *, cores: set[int], talks: bool = False, cwd: Path = ROOT
    ) -> subprocess.Popen[str]:
        """Start `command` on `cores`; with `talks` its standard input and output are pipes."""
        log = self.folder / f"{name}.stderr"
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # inherited; a preexec_fn would be slower and is discouraged
        try:
            with log.open("ab") as errors:
                process = subprocess.Popen(
                    command, cwd=cwd, start_new_session=True, text=True, stderr=errors,
                    stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if talks else errors,
                )  # fmt: skip
        finally:
            os.sched_setaffinity(0, before)
        self._running.append((process, log))
        self.put_ahead([process.pid])
        return process

    def put_ahead(self, pids: list[int]) -> None:
        """Also these, which something in the group has started, if that is wanted."""
        for pid in pids if self._ahead else ():
            put_ahead(pid)

    def ready(self, process: subprocess.Popen[str], port: int) -> None:
        """Wait until `process` listens on `port`. Raises Failed with its last words."""

        def listening() -> bool:
            self.alive(process)
            return accepts(port)

        eventually(listening, f"port {port} accepts a connection")

    def alive(self, process: subprocess.Popen[str]) -> None:
        """Raises Failed where it has ended."""
        if process.poll() is not None:
            raise Failed(f"a process ended with {process.returncode}:\n{self.last_words(process)}")

    def last_words(self, process: subprocess.Popen[str]) -> str:
        """The end of its standard error."""
        log = next(log for one, log in self._running if one is process)
        return log.read_text(errors="replace")[-2000:]

    def stop(self, pid: int, patience: float = 40.0) -> int:
        """Ask the process to end, and its exit code. Raises Failed where it does not."""
        process = next(one for one, _ in self._running if one.pid == pid)
        process.terminate()
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            raise Failed(f"a process did not end within {patience:g} s of SIGTERM") from None

    def end(self, process: subprocess.Popen[str]) -> None:
        """End it and its group; killed if it does not."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, _ in reversed(self._running):
            self.end(process)
