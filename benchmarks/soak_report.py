"""What a soak has shown: the judgements, the figures, the plots."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import msgspec

from accede.cli import drawing

from .soak_client import Tally

_AFTER_KILL = 2.0  # seconds in which a killed worker's connections are seen to be lost
_ON_STABLE = ("plain", "stable")
_GROWN = (
    6.0  # MiB: what allocators do; over 10 minutes at 10 000/s a leak of one byte a request is about as much
)
_MORE = 32  # descriptors: connections come and go by tens; a leak of one for each table would be hundreds
_SHARE = 0.1  # or a tenth of what there was, if that is more
_SHORT, _SHORT_SHARE = 180.0, 0.3  # in fewer seconds allocators have not settled: only a flood is seen
_SETTLE = 0.25  # of the time looked at
_CYCLE = 16.0  # seconds: the phases of the flapping upstreams take 15 and 12

_SLOWEST = "Slowest answer of each second (the candidate hangs in turn)"
_RATE = "Right answers per second"
_INTRODUCTION = """# Soak

Written by `scripts/bench soak`. Two workers at full load; both services' routes change every second, workers
are killed with SIGKILL at random times, candidate and shadow hang, fail, abort and refuse in turn. Every
answer carries a hash of its request, and every answer is checked. The last worker is spared after the first
quarter, so that its memory can be seen over time.

{machine[cpu]}, {machine[cores]} cores, Linux {machine[kernel]}, Python {machine[python]}, data path
{machine[data path]}. {head}.
"""


class Process(msgspec.Struct):
    """One process over time: (seconds from the beginning, MiB or count)."""

    since: float
    rss: list[tuple[float, float]] = []
    pss: list[tuple[float, float]] = []
    descriptors: list[tuple[float, float]] = []


class Soaked(msgspec.Struct):
    """One run. `kills`: (monotonic seconds, slot); `spared`: since when the last worker lives."""

    seconds: float
    connections: int
    began: float
    swaps: int
    kills: list[tuple[float, int]]
    spared: float
    tallies: list[Tally]
    processes: dict[str, Process]
    exit_code: int
    tracebacks: int
    machine: dict[str, str]


class Judged(msgspec.Struct, frozen=True):
    """One promise."""

    promise: str
    found: str
    held: bool


def judged(soaked: Soaked) -> list[Judged]:
    """Every promise of the soak."""
    last = soaked.tallies[-1]
    right = sum(last.right.values())
    on_stable = {what: n for what, n in last.failed.items() if what.split()[0] in _ON_STABLE}
    others = {what: n for what, n in last.failed.items() if what not in on_stable}
    per_kill, lost = _resets(soaked)
    # Where a candidate aborts in the middle of an answer, nothing is left but to close: that is no promise.
    stray = [when for kind, when in lost if kind in _ON_STABLE]
    if len(lost) > len(stray):
        others["canary truncated"] = len(lost) - len(stray)
    found = [
        Judged("answers that were wrong: 0", str(sum(last.wrong.values())), not last.wrong),
        Judged("failed requests on stable: 0", str(on_stable or 0), not on_stable),
        Judged("connections refused: 0", str(last.refused), not last.refused),
        Judged(
            f"requests lost with a killed worker: at most its connections ({soaked.connections}) a kill",
            f"{sum(per_kill)} at {len(per_kill)} kills, most {max(per_kill, default=0)}",
            max(per_kill, default=0) <= soaked.connections,
        ),
        Judged("requests on stable lost without a kill: 0", "; ".join(stray) or "0", not stray),
        Judged("the load did reach the router", f"{right} right answers", right > 1000),
        Judged(
            "the router ended cleanly, without a traceback", f"exit {soaked.exit_code}, {soaked.tracebacks}",
               soaked.exit_code == 0 and not soaked.tracebacks),
    ]  # fmt: skip
    for name, process in _watched(soaked).items():
        found.append(_flat(f"memory of the {name} is flat", process.rss, "MiB", _GROWN))
        found.append(_flat(f"descriptors of the {name} do not grow", process.descriptors, "", _MORE))
    found.append(Judged("candidate's failures passed through (no promise)", str(others or 0), True))
    return found


def _resets(soaked: Soaked) -> tuple[list[int], list[tuple[str, str]]]:
    """Lost connections per kill, and those that no kill explains: kind and when."""
    per_kill = [0] * len(soaked.kills)
    stray: list[tuple[str, str]] = []
    for at, kind in soaked.tallies[-1].reset:
        near = [k for k, (killed, _) in enumerate(soaked.kills) if -0.05 <= at - killed <= _AFTER_KILL]
        if near:
            per_kill[near[-1]] += 1
        else:
            stray.append((kind, f"{kind} at {at - soaked.began:.1f} s"))
    return per_kill, stray


def _watched(soaked: Soaked) -> dict[str, Process]:
    """Parent, observer and the worker that was spared: those that live long enough to show a slope."""
    longest: dict[str, Process] = {}
    for key, process in soaked.processes.items():
        name = key.partition(" (")[0]
        if name in ("parent", "observer", "worker 1") and len(process.rss) > len(
            longest.get(name, Process(0)).rss
        ):
            longest[name] = process
    return {("spared worker" if name == "worker 1" else name): process for name, process in longest.items()}


def slope(points: list[tuple[float, float]]) -> float:
    """Least-squares slope per second; 0 for fewer than 3 points."""
    if len(points) < 3:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    across = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / across if across else 0.0


def _flat(promise: str, points: list[tuple[float, float]], unit: str, least: float) -> Judged:
    """Held where the highest of the last third is no higher than of the first, give or take.

    Highest, since what hangs holds connections and buffers for a time; a third is at least one cycle of what
    hangs (in short runs they overlap). The beginning is left out: pools and arenas fill first.
    """
    settled = [
        point for point in points if point[0] >= points[0][0] + _SETTLE * (points[-1][0] - points[0][0])
    ]
    if len(settled) < 10:
        return Judged(promise, f"too few samples: {len(settled)}", held=False)
    begin, end = settled[0][0], settled[-1][0]
    part = max((end - begin) / 3, _CYCLE)
    first = max(value for at, value in settled if at <= begin + part)
    last = max(value for at, value in settled if at >= end - part)
    allowed = max(least, first * (_SHARE if end - begin >= _SHORT else _SHORT_SHARE))
    lowest = min(value for _, value in settled)
    return Judged(
        promise,
        f"{last - first:+.1f} {unit} first to last third of {end - begin:.0f} s (allowed {allowed:.1f}), "
        f"{lowest:.0f}-{max(first, last):.0f}, slope {slope(settled) * 60:+.2f} {unit} a minute",
        last - first <= allowed,
    )


def text(soaked: Soaked, verdicts: list[Judged]) -> str:
    """For a terminal."""
    return "\n".join(
        [
            _head(soaked),
            *(f"{'held  ' if one.held else 'BROKEN'}  {one.promise}: {one.found}" for one in verdicts),
        ]
    )


def _head(soaked: Soaked) -> str:
    right = sum(soaked.tallies[-1].right.values())
    return (
        f"{soaked.seconds / 60:.1f} minutes, {soaked.connections} connections, {right} right answers "
        f"({right / soaked.seconds:.0f}/s), {soaked.swaps} tables, {len(soaked.kills)} workers killed"
    )


def write(soaked: Soaked, verdicts: list[Judged], folder: Path) -> None:
    """soak.json, soak.md and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"judged": verdicts, "run": _thinned(soaked)}
    (folder / "soak.json").write_bytes(msgspec.json.encode(data) + b"\n")
    memory = [drawing.Series(_named(k), p.rss) for k, p in _watched(soaked).items() if p.rss]
    descriptors = [drawing.Series(_named(k), p.descriptors) for k, p in _watched(soaked).items() if p.rss]
    totals = [(tally.at - soaked.began, sum(tally.right.values())) for tally in soaked.tallies]
    rate = [(x2, (y2 - y1) / (x2 - x1)) for (x1, y1), (x2, y2) in pairwise(totals) if x2 - x1 > 0.5]
    slowest = [(tally.at - soaked.began, tally.slowest * 1e3) for tally in soaked.tallies]
    plots = {
        "soak-memory": drawing.curves("RSS", "seconds", "MiB", memory),
        "soak-descriptors": drawing.curves("Open file descriptors", "seconds", "", descriptors),
        "soak-rate": drawing.curves(_RATE, "seconds", "1/s", [drawing.Series("answers", rate)]),
        "soak-slowest": drawing.curves(_SLOWEST, "seconds", "ms", [drawing.Series("slowest", slowest)]),
    }  # fmt: skip
    for name, drawn in plots.items():
        (folder / f"{name}.svg").write_text(drawn, encoding="utf-8")
    page = [
        _INTRODUCTION.format(machine=soaked.machine, head=_head(soaked)),
        "| promise | found | held |", "| --- | --- | --- |",
        *(f"| {one.promise} | {one.found} | {'yes' if one.held else '**no**'} |" for one in verdicts), "",
        *(f"![{name}]({name}.svg)\n" for name in plots),
    ]  # fmt: skip
    (folder / "soak.md").write_text("\n".join(page), encoding="utf-8")


def _named(key: str) -> str:
    return key.partition(" (")[0]


def _thinned(soaked: Soaked) -> Soaked:
    """Every fifth second, and resets once."""
    tallies = [msgspec.structs.replace(tally, reset=[]) for tally in soaked.tallies[::5]] + soaked.tallies[
        -1:
    ]
    return msgspec.structs.replace(soaked, tallies=tallies)
