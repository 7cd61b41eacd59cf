"""False alarms, delays and volume of the statistics: `scripts/bench statistics [--quick] [--only NAME …]`."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.started import ROOT

from . import campaign, delays, folding, page
from .results import Measured

RUNS = 2000
_QUICK = 200
_OBSERVATIONS = 10_000_000


def main(arguments: list[str], docs: Path) -> int:
    """0: every level held; 1: one did not; 2: usage."""
    settings = {setting.name: setting for setting in delays.settings()}
    names = (*campaign.SCENES, *settings, "intervals", "volume")
    parser = argparse.ArgumentParser(prog="scripts/bench statistics", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} runs of everything instead of {RUNS}")
    parser.add_argument("--runs", type=int, help="of every scene")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of: {'; '.join(names)}")
    parser.add_argument("--out", type=Path, help="folder of the report; docs/benchmarks for a whole run")
    parser.add_argument("--page", action="store_true", help="only page and plots anew, from statistics.json")
    given = parser.parse_args(arguments)
    if given.page:
        folder = given.out or docs
        page.write(msgspec.json.decode((folder / "statistics.json").read_bytes(), type=Measured), folder)
        return 0
    runs = given.runs or (_QUICK if given.quick else RUNS)
    chosen = tuple(given.only or names)
    began = time.perf_counter()
    made = Measured(
        f"{datetime.now(UTC):%Y-%m-%d}", machine.described(sys.executable, ROOT), 0.0, {}, [], [], [], [], []
    )
    for name in chosen:
        since = time.perf_counter()
        if name in campaign.SCENES:
            made.scenes[name] = campaign.SCENES[name].about
            made.rates += campaign.measure(name, campaign.SCENES[name], runs)
        elif name in settings:
            made.delays += delays.measure(settings[name], runs)
        elif name == "intervals":
            made.paths = delays.paths()
        else:
            made.folded = [folding.folded(_OBSERVATIONS // (10 if given.quick else 1))]
            made.sizes = folding.sizes()
        print(f"{name}: {time.perf_counter() - since:.1f} s", file=sys.stderr, flush=True)
    made.seconds = time.perf_counter() - began
    print(page.terminal(made))
    whole = not given.only and runs >= RUNS
    folder = given.out or (docs if whole else None)
    if folder is not None:
        page.write(made, folder)
        print(f"written: {folder.name}/statistics.md")
    return int(not all(rate.held for rate in made.rates if rate.kind == "ours"))
