"""The table, and the report with its plots."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

from accede.cli import drawing

from .results import Curve, Goal, Line, Profile, Report, Spread, spread
from .scene import OURS, PEERS

_HEAD = (
    "row",
    "measure",
    "",
    "nginx",
    "HAProxy",
    "Envoy",
    "Accede",
    "×nginx",
    "×HAProxy",
    "×Envoy",
    "goal",
    "met",
)

_INTRODUCTION = """# Benchmarks

Written by `scripts/bench`; [results.json](results.json) has every round. What holds over time is in
[soak.md](soak.md), written by `scripts/bench soak`.

{report.at}, {machine[cpu]}, {machine[cores]} cores, Linux {machine[kernel]}; the router on Python
{machine[python]}, its data path {machine[data path]}. {versions}.

{report.rounds} interleaved rounds of {report.seconds:g} s, {report.connections} connections unless said,
{core}, load and upstreams on the rest. Requests and answers have 503 bytes of JSON. Figures are medians; a
ratio is the median of the rounds' own ratios, with their range. Every proxy has one worker, no access log and
no statistics, keeps connections alive on both sides, splits 90:10 by a hash of a header and names the version
in a header of the answer. Ours captures and analyses every exchange besides.{ahead}
"""


def table(report: Report) -> list[tuple[str, ...]]:
    """All lines: medians over the rounds, and ratios paired by round with their range."""
    return [_HEAD, *(_cells(line) for line in report.lines)]


def _cells(line: Line) -> tuple[str, ...]:
    medians = [_median(line.values.get(name)) for name in (*PEERS, OURS)]
    if "no shadow" in line.values:
        medians[2] = f"{_median(line.values['no shadow'])} (no shadow)"
    ratios = [_ratio(line.ratio(name)) for name in PEERS]
    met = [line.met(goal) for goal in line.goals]
    said = "" if not met else "not measured" if None in met else "yes" if all(met) else "no"
    goals = ", ".join(_goal(goal, line) for goal in line.goals)
    return (line.row, line.title, line.unit, *medians, *ratios, goals, said)


def _goal(goal: Goal, line: Line) -> str:
    sign = "≤" if goal.kind == "at most" else "≥"
    if not goal.against:
        return f"{sign} {goal.limit:g} {line.unit}".strip()
    found = line.found(goal)
    shown = "" if goal.against in PEERS or found is None else f" (found {found:.2f})"
    return f"{sign} {goal.limit:g} ×{goal.against}{shown}"


def _median(values: list[float] | None) -> str:
    return "" if not values else number(statistics.median(values))


def number(value: float) -> str:
    """Three digits, or all of a large one."""
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 100 else f"{value:.3g}"


def _ratio(found: Spread | None) -> str:
    return "" if found is None else f"{found.median:.2f} ({found.low:.2f}-{found.high:.2f})"


def aligned(rows: list[tuple[str, ...]]) -> str:
    """For a terminal."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """The same as Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def write(report: Report, folder: Path) -> None:
    """results.json, report.md and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    plots = _plots(report)
    for name, drawn in plots.items():
        (folder / f"{name}.svg").write_text(drawn, encoding="utf-8")
    (folder / "report.md").write_text(_page(report, list(plots)), encoding="utf-8")


def _plots(report: Report) -> dict[str, str]:
    plots: dict[str, str] = {}
    chosen = [line for line in report.lines if any(goal.against in PEERS for goal in line.goals)]
    times = [line for line in chosen if line.unit == "µs"]
    if times:
        groups = [
            (line.title.partition(",")[0] + f" [{line.row}]", _bars(line), _limit(line)) for line in times
        ]
        plots["rows"] = drawing.bars("Medians with the rounds' range; dashed: Accede's goal", "µs", groups)
    for curve in report.curves:
        line = drawing.Series(
            "median, range",
            [(x, statistics.median(values)) for x, values in curve.points],
            [(x, min(values), max(values)) for x, values in curve.points],
        )
        plots[curve.name] = drawing.curves(
            curve.title, curve.x, curve.unit, [line], logarithmic=curve.x == "services"
        )
    if report.profiles:
        rows = [(p.title, [(s.name, s.us) for s in p.parts]) for p in report.profiles]
        plots["profile"] = drawing.stacked("Where a worker's microseconds go", "µs", rows)
    return plots


def _bars(line: Line) -> list[drawing.Bar]:
    found = [(name, spread(line.values[name])) for name in (*PEERS, OURS) if line.values.get(name)]
    return [drawing.Bar(name, s.median, s.low, s.high, drawing.COLOURS[name]) for name, s in found]


def _limit(line: Line) -> float | None:
    """The stricter of the goals, in the line's unit."""
    limits = [
        goal.limit * statistics.median(line.values[goal.against])
        for goal in line.goals
        if line.values.get(goal.against)
    ]
    return min(limits) if limits else None


def _page(report: Report, plots: list[str]) -> str:
    notes = [f"- {line.title}: {line.note}" for line in report.lines if line.note]
    missed = [f"- {row}: not measured: {why}" for row, why in report.failed.items()]
    core = "the proxy's workers on a core of their own" if report.pinned else "processes on any core"
    ahead = (
        "\nThe machine did other work meanwhile; all of this came before it (`--ahead`)."
        if report.ahead
        else ""
    )
    return "\n".join(
        [
            _INTRODUCTION.format(
                report=report,
                machine=report.machine,
                versions=", ".join(f"{name} {what}" for name, what in report.versions.items()),
                core=core,
                ahead=ahead if report.ahead else "",
            ),
            markdown(table(report)),
            "",
            *notes,
            *missed,
            "",
            *[f"![{name}]({name}.svg)\n" for name in plots if name != "profile"],
            *_profiled(report.profiles),
            *_curved(report.curves),
        ]
    )


def _curved(curves: list[Curve]) -> list[str]:
    if not curves:
        return []
    rows = [("cost", "at", "median", "range")]
    for curve in curves:
        for x, values in curve.points:
            found = spread(list(values))
            shown = f"{number(found.low)}-{number(found.high)}"
            rows.append((curve.title, f"{x:g} {curve.x}", f"{number(found.median)} {curve.unit}", shown))
    return ["## Cost against a number", "", markdown(rows), ""]


def _profiled(profiles: list[Profile]) -> list[str]:
    if not profiles:
        return []
    text = ["## Where a microsecond goes", "", "![profile](profile.svg)", ""]
    for profile in profiles:
        text += [f"### {profile.title}: {profile.us:.1f} µs", ""]
        if profile.missing:
            text += [f"Not measured: {profile.missing}.", ""]
        listed = (
            ("where", profile.parts),
            ("symbol (perf)", profile.symbols),
            ("our function (py-spy)", profile.functions),
        )
        for head, shares in listed:
            if shares:
                rows = [(head, "share", "µs")] + [(s.name, f"{s.share:.1%}", f"{s.us:.2f}") for s in shares]
                text += [markdown(rows), ""]
    return text
