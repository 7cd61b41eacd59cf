"""The command of scripts/bench: `python -m benchmarks [soak | statistics] [options]`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from accede.errors import AccedeError

from . import machine, parts, profiles, report, rows, rows_streams, scaling, soak
from .results import Curve, Line, Profile, Report
from .sampling import Options
from .scene import started_in
from .started import ROOT, Failed
from .statistics import command as statistics

DOCS = ROOT / "docs" / "benchmarks"
ROWS: dict[str, Callable[[Options, rows.Say], list[Line]]] = {
    "split": rows.split,
    "mirror": rows.mirror,
    "latency": rows.latency,
    "steady": rows.steady,
    "large": rows.large,
    "events": rows_streams.events,
    "tls": rows.tls,
    "shadow": rows_streams.shadow,
    "observer": rows.observer,
    "analysis": rows.analysis,
}
CURVES: dict[str, Callable[[Options, rows.Say], list[Curve]]] = {
    "services": scaling.services,
    "slices": scaling.slices,
    "workers": scaling.workers,
}
PROFILES = "profiles"
ALL = (*ROWS, *CURVES, PROFILES)


def main() -> int:
    """0: measured; 1: something could not be measured (or, with --strict, a goal was missed); 2: usage."""
    if sys.argv[1:2] == ["soak"]:
        return soak.main(sys.argv[2:], DOCS)
    if sys.argv[1:2] == ["statistics"]:
        return statistics.main(sys.argv[2:], DOCS)
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=5, help="of every row, interleaved (at least 3 in a report)"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of load for each side and round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=ALL, metavar="ROW", help=f"of {', '.join(ALL)}")
    parser.add_argument("--quick", action="store_true", help="1 round of 1 s: shows only that it works")
    parser.add_argument("--out", type=Path, help="folder of the report; docs/benchmarks for a whole run")
    parser.add_argument("--unpinned", action="store_true", help="no core of its own for the proxy")
    parser.add_argument(
        "--ahead", action="store_true", help="before whatever else runs here (root; Linux with autogroups)"
    )
    parser.add_argument("--python", help="interpreter that runs the router; Accede must be installed there")
    parser.add_argument("--strict", action="store_true", help="exit 1 where a goal is missed")
    given = parser.parse_args()
    options = Options(
        1 if given.quick else given.rounds, 1.0 if given.quick else given.seconds, given.connections,
        not given.unpinned, parts.interpreter(given.python), machine.places(pinned=not given.unpinned),
        given.ahead,
    )  # fmt: skip
    if options.ahead:
        machine.put_ahead(os.getpid())  # wrk is of this session
    try:
        made = run(options, tuple(given.only or ALL))
    except Failed as problem:
        print(f"scripts/bench: {problem}", file=sys.stderr)
        return 2
    print(report.aligned(report.table(made)))
    for row, why in made.failed.items():
        print(f"{row}: not measured: {why}", file=sys.stderr)
    whole = not given.only and not given.quick
    folder = given.out or (DOCS if whole else None)
    if folder is not None:
        report.write(made, folder)
        print(f"written: {folder.name}/report.md")
    missed = [line for line in made.lines if False in [line.met(goal) for goal in line.goals]]
    return int(bool(made.failed) or (given.strict and bool(missed)))


def run(options: Options, chosen: tuple[str, ...]) -> Report:
    """Measure `chosen`; a row that fails is named, the others go on."""
    lines: list[Line] = []
    curves: list[Curve] = []
    profiled: list[Profile] = []
    failed: dict[str, str] = {}
    versions = parts.versions()
    with tempfile.TemporaryDirectory() as folder:
        where = machine.described(options.python, started_in(options.python, Path(folder)))
    for name in chosen:
        say(f"{name}:")
        try:
            if name in ROWS:
                lines += ROWS[name](options, say)
            elif name in CURVES:
                curves += CURVES[name](options, say)
            else:
                profiled += profiles.profiles(options, say)
        except (Failed, AccedeError, OSError, subprocess.SubprocessError) as problem:
            # Of a command only its name is told: its arguments are paths of this machine.
            timed_out = isinstance(problem, subprocess.SubprocessError)
            failed[name] = type(problem).__name__ if timed_out else str(problem)
            say(f"  failed: {problem}")
    return Report(
        at=f"{datetime.now(UTC):%Y-%m-%d}", machine=where, versions=versions,
        rounds=options.rounds,
        seconds=options.seconds, connections=options.connections, pinned=options.pinned, lines=lines,
        curves=curves, profiles=profiled, failed=failed, ahead=options.ahead,
    )  # fmt: skip


def say(line: str) -> None:
    """Progress, on standard error: a whole run takes an hour."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
