"""CPU of whole controller ticks over many rollouts of 20 metrics by 10 slices, on one core.

Goal: 500 such rollouts within a second a tick. A tick is `Loop.tick` on a real SQLite store: it reads routes,
reports, records and evidence, judges, stores what is due and renews every lease. A second of traffic passes
between two ticks, so that the evidence of every service has changed; then only a share has.
Rollouts in a shadow have 200 cells of pairs, whose evidence is kept by batches of time: it is much larger.
`python -m benchmarks.controller_cpu [rollouts [ticks]]`
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from accede.controller.evidence.decoding import decode_evidence
from accede.controller.loop.loop import Loop
from accede.controller.rollout.looking import statistics as product
from accede.store.open import open_store

from .controller_scene import Scene
from .controller_shape import SHAPES, START, Shape

ROLLOUTS = 500
TICKS = 6
METRICS = next(iter(SHAPES))  # what the goal says literally
GOAL = 1.0  # s of one core
QUIET = 0.2  # share of services with traffic in the second figure: most of a fleet is idle at a moment


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU of a tick, and MiB that the process holds at the end.

    `first`: after a start, with nothing remembered; then with all and with a fifth of the evidence changed.
    """

    first: float
    busy: list[float]
    quiet: list[float]
    memory: float


def cost(shape: Shape, rollouts: int = ROLLOUTS, ticks: int = TICKS) -> Cost:
    """Run the scene."""
    _on_one_core()
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()], logger_factory=_Silent)
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), rollouts, shape)
        store = open_store(str(Path(folder) / "accede.db"), decode_evidence)
        now = [START]
        loop = Loop(store, scene.files, product(), clock=lambda: now[0])
        took: list[float] = []
        for tick in range(1 + 2 * ticks):
            now[0] += 1.0
            scene.tick(now[0], 1.0 if tick <= ticks else QUIET)
            began = time.process_time()
            loop.tick()
            took.append(time.process_time() - began)
            if loop.problems:
                raise RuntimeError(str(loop.problems))
        for name in scene.names:
            record = store.rollout(name)
            if record is None or record.phase is not shape.phase or record.hold:
                raise RuntimeError(f"{name} did not stay in its step: {record and record.reason}")
            if store.routes().leases[name] != now[0]:
                raise RuntimeError(f"the lease of {name} was not renewed")
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return Cost(took[0], took[1 : ticks + 1], took[ticks + 1 :], memory)


class _Silent:
    def __init__(self, *_args: object) -> None:
        pass

    def msg(self, _line: str) -> None:
        pass

    info = warning = error = debug = msg


def _on_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def measured(name: str, rollouts: int = ROLLOUTS, ticks: int = TICKS) -> Cost:
    """`cost` of one of SHAPES in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.controller_cpu", str(rollouts), str(ticks), name]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return Cost(**json.loads(ran.stdout))


def main() -> None:
    rollouts = int(sys.argv[1]) if len(sys.argv) > 1 else ROLLOUTS
    ticks = int(sys.argv[2]) if len(sys.argv) > 2 else TICKS
    if len(sys.argv) > 3:
        print(json.dumps(asdict(cost(SHAPES[sys.argv[3]], rollouts, ticks))))
        return
    for name in SHAPES:
        found = measured(name, rollouts, ticks)
        print(f"controller: {rollouts} rollouts of {name}, CPU of one tick on one core:")
        for what, took in (("all evidence", found.busy), (f"{QUIET:.0%} of the evidence", found.quiet)):
            told = ", ".join(f"{one:.2f}" for one in sorted(took))
            print(f"  {statistics.median(took):.2f} s where {what} has changed ({told}; goal {GOAL:g} s)")
        print(f"  {found.first:.2f} s at the first tick after a start; {found.memory:.0f} MiB at the most")


if __name__ == "__main__":
    main()
