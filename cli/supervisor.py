"""Two planes as two child processes: started together, kept running, ended together.

A plane that ends by itself is started again after a pause that doubles from half a second to thirty; one
that ran for a minute begins at half a second again. Neither needs the other to run, so each is restarted
alone. Ends by a signal only, or when the first start of a plane fails: then everything is ended, and the
plane's own line and exit code say why.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from ..errors import AccedeError
from .processes import end, environment, stopped_by_signals, uninterrupted

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_HEALTHY = 60.0
_LOOK_EVERY = 0.1


class PlaneFailed(AccedeError):
    """A plane could not start. `explained`: it ended with a line of its own on stderr, which says why."""

    def __init__(self, message: str, exit_code: int, *, explained: bool = False) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.explained = explained


@dataclass
class Plane:
    """One child. `ready` asks whether it serves by now; `title` is what the lines on stdout say."""

    title: str
    command: list[str]
    ready: Callable[[], bool]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    pause: float = _FIRST_PAUSE
    due: float | None = None  # when it is to be started again
    answers: bool = False
    restarts: int = field(default=0)

    def start(self) -> None:
        """Start the child."""
        with uninterrupted():
            self.process = subprocess.Popen(self.command, env=environment(), stdin=subprocess.DEVNULL)
        self.started_at, self.due, self.answers = time.monotonic(), None, False

    @property
    def exit_code(self) -> int | None:
        """How the child ended; None while it runs."""
        return self.process.poll() if self.process is not None else None


def say(line: str) -> None:
    """A line about the installation on stdout, at once also where that is a pipe; lost where it has no room.

    A log on a full disk must not end what looks after the planes.
    """
    with suppress(OSError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def run(planes: list[Plane], patience: float, ending: float, when_ready: Callable[[], None]) -> None:
    """Start the planes one after the other, then look after them until a signal raises Stopped.

    Raises PlaneFailed where one ends, or is not ready after `patience` seconds, in its first start.
    `ending`: seconds that the planes get at the end before they are killed.
    """
    try:
        with stopped_by_signals():
            for plane in planes:
                _start_first(plane, patience)
            when_ready()
            while True:
                for plane in planes:
                    _look_after(plane)
                time.sleep(_LOOK_EVERY)
    finally:
        end([plane.process for plane in reversed(planes) if plane.process is not None], ending)


def _start_first(plane: Plane, patience: float) -> None:
    plane.start()
    until = time.monotonic() + patience
    while not plane.ready():
        code = plane.exit_code
        if code is not None:
            message = f"the {plane.title} did not start; nothing is running"
            raise PlaneFailed(message, code if code > 0 else 1, explained=code > 0)
        if time.monotonic() > until:
            raise PlaneFailed(
                f"the {plane.title} was not ready within {patience:.0f} s; nothing is running", 5
            )
        time.sleep(_LOOK_EVERY / 2)
    plane.answers = True


def _look_after(plane: Plane) -> None:
    now = time.monotonic()
    if plane.due is not None:
        if now >= plane.due:
            plane.start()
            plane.restarts += 1
        return
    code = plane.exit_code
    if code is None:
        if not plane.answers and plane.ready():
            plane.answers = True
            say(f"{plane.title} is back")
        return
    if now - plane.started_at >= _HEALTHY:
        plane.pause = _FIRST_PAUSE
    how = f"exit code {code}" if code >= 0 else f"signal {-code}"
    say(f"{plane.title} ended ({how}); starting it again in {plane.pause:g} s")
    plane.due = now + plane.pause
    plane.pause = min(_LONGEST_PAUSE, plane.pause * 2)
