"""A simulation as a person sees it: a table, and a plot of how the proofs went."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..drawing import Series, curves
from ..tables import span
from .summary import Ending, Summary

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .play import Played


def table(found: Summary) -> RenderableType:
    """All of it."""
    harm = f", {', '.join(found.injected)} injected" if found.injected else ""
    title = f"{found.service}, policy {found.policy}: {found.runs} rollouts, {found.compared}{harm}"
    ends = _table("outcome", ">share", ">95% interval", ">median", ">90%", ">users exposed", ">90%")
    for name, one in (
        ("promoted", found.promoted), ("rolled back", found.rolled_back), ("paused", found.paused),
        ("unfinished", found.unfinished),
    ):  # fmt: skip
        ends.add_row(name, *_cells(one))
    first = _table("after", "act", "phase", ">users exposed", "reason")
    for step in found.first:
        first.add_row(span(step.after), step.act, step.phase, str(step.exposed), Text(step.reason))
    parts: list[RenderableType] = [
        Text(title, "bold"),
        Text(f"{found.requests} recorded requests over {span(found.seconds)}, {found.looks} looks"),
        Text(), ends, Text(), Text("the first rollout, from the beginning of the recording:"), first,
    ]  # fmt: skip
    parts += [Text(f"left out: {line}", "yellow") for line in found.left_out]
    parts += [Text(note, "dim") for note in found.notes]
    return Group(*parts)


def plot(played: Played) -> str:
    """The first rollout: per gate, how far the evidence has come towards safety and towards harm."""
    series: list[Series] = []
    for gate, track in played.tracks.items():
        series.append(Series(f"{gate}: safe", [(after / 60.0, 100.0 * safe) for after, safe, _ in track]))
        if any(harm > 0.0 for _, _, harm in track):
            series.append(Series(f"{gate}: harm", [(after / 60.0, 100.0 * harm) for after, _, harm in track]))
    return curves("Evidence over time, of what is needed", "minutes", "%", series)


def _cells(one: Ending) -> tuple[str, ...]:
    shares = (f"{one.share:.1%}", f"[{one.low:.1%}, {one.high:.1%}]")
    if one.after_median is None or one.after_p90 is None:
        return (*shares, "", "", "", "")
    exposed = (f"{one.exposed_median:.0f}", f"{one.exposed_p90:.0f}")
    return (*shares, span(one.after_median), span(one.after_p90), *exposed)


def _table(*columns: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        name = column.lstrip(">")
        made.add_column(name, justify="right" if name != column else "left", overflow="fold")
    return made
