"""A plan as people see it: a table of gates and steps, what to change, what was assumed, and a plot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from . import drawing
from .comparisons import Comparison, Comparisons
from .tables import span

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..controller.plan.planned import GateStep, Harm, Plan

_NO_WAY = "no margin, traffic or time within reach decides it; drop the gate, or ask it of fewer groups"
_BAR = 24  # columns of the longest bar in a terminal


def table(plan: Plan) -> RenderableType:
    """All of `accede plan`."""
    return Group(
        _headline(plan), Text(), _steps(plan), Text(), _gates(plan), Text(), _harms(plan), *_advice(plan),
        Text(), _facts(plan),
    )  # fmt: skip


def _headline(plan: Plan) -> Text:
    takes = f"{_time(plan.seconds)} (90%: {_time(plan.seconds_90)})"
    text = Text.assemble((plan.service, "bold"), f" by policy {plan.policy}: ")
    if plan.reachable:
        text.append(f"takes {takes}", "green")
    elif plan.seconds is None:
        text.append("cannot be decided", "bold yellow")
    else:
        text.append(f"takes {takes}, too long", "bold yellow")
    if any(step.people for step in plan.steps):
        text.append(", and as long as people take")
    text.append(f"; at most {span(plan.max_duration)} (max_duration); {plan.rate:.4g} requests a second")
    return text


def _steps(plan: Plan) -> Table:
    rows = Table(box=None, pad_edge=False, header_style="dim")
    for name, side in (
        ("step", "left"),
        ("median", "right"),
        ("90%", "right"),
        ("", "left"),
        ("held by", "left"),
    ):
        rows.add_column(name, justify="right" if side == "right" else "left", no_wrap=True)
    longest = max([one.seconds or 0.0 for one in plan.steps] + [plan.baseline_seconds])
    rows.add_row("0 baseline", _time(plan.baseline_seconds), "", _bar(plan.baseline_seconds, longest), "")
    for one in plan.steps:
        if one.people:
            rows.add_row(f"{one.number} {one.text}", "?", "?", "", one.held_by)
            continue
        bar = "?" if one.seconds is None else _bar(one.seconds, longest)
        rows.add_row(f"{one.number} {one.text}", _time(one.seconds), _time(one.seconds_90), bar, one.held_by)
    return rows


def _gates(plan: Plan) -> RenderableType:
    rows: list[Comparison] = []
    for gate in plan.gates:
        heading = gate.gate
        if gate.unplanned:
            rows.append(Comparison(heading, ("", "", "", ""), Text(gate.unplanned, "yellow")))
        for step in gate.steps:
            proof = step.proof
            cells = (
                (
                    str(step.step),
                    *(_time(s) for s in (proof.seconds, proof.seconds_90)),
                    _count(proof.requests),
                )
                if proof
                else (str(step.step), "", "", "")
            )
            rows.append(Comparison(heading, cells, _outcome(step)))
            heading = ""
    return Comparisons(
        ("gate: until proven where nothing is worse", ">step", ">median", ">90%", ">requests", ""), rows
    )


def _outcome(step: GateStep) -> Text:
    if step.proof is None:
        return Text("needs no proof", "dim")
    if step.problem:
        if not step.required:
            return Text("not within this step", "dim")
        return Text(f"unreachable in {span(step.limit)}", "bold yellow")
    return Text("required", "green") if step.required else Text("not required here", "dim")


def _harms(plan: Plan) -> RenderableType:
    rows = [_harm(gate.gate, gate.harm) for gate in plan.gates if gate.harm is not None]
    columns = ("harm from the first step on: until found", ">median", ">90%", ">exposed", ">exposed 90%", "")
    return Comparisons(columns, rows)


def _harm(gate: str, harm: Harm) -> Comparison:
    where = Text("not within this rollout", "yellow")
    if harm.step is not None:
        where = Text(f"in step {harm.step}")
    cells = (_time(harm.seconds), _time(harm.seconds_90), _count(harm.exposed), _count(harm.exposed_90))
    return Comparison(f"{gate} {harm.size}", cells, where)


def _advice(plan: Plan) -> Iterable[Text]:
    for gate in plan.gates:
        for step in gate.steps:
            if step.problem and step.required:
                way = "; or ".join(step.advice) or _NO_WAY
                yield Text()
                yield Text.assemble(
                    (f"{gate.gate} unreachable in {span(step.limit)} at this margin", "bold yellow"),
                    f" (step {step.step}, {step.cell}: {step.problem}); {way}",
                )


def _facts(plan: Plan) -> Table:
    rows = Table.grid(padding=(0, 2))
    for _ in range(3):
        rows.add_column(overflow="fold")
    for fact in plan.facts:
        rows.add_row(
            Text(fact.source, "yellow" if fact.source == "assumed" else "dim"), fact.name, fact.value
        )
    return rows


def drawn(plan: Plan) -> str:
    """The plan as SVG: per step, time until each gate is proven, with the 90 % and the step's limit."""
    groups: list[tuple[str, list[drawing.Bar], float | None]] = []
    for at, step in enumerate(plan.steps):
        bars: list[drawing.Bar] = []
        for gate in plan.gates:
            for one in gate.steps:
                if one.step != step.number or one.proof is None or one.proof.seconds is None:
                    continue
                median, late = (
                    one.proof.seconds / 3600.0,
                    (one.proof.seconds_90 or one.proof.seconds) / 3600.0,
                )
                bars.append(
                    drawing.Bar(gate.gate, median, median, late, drawing.colour(0 if one.required else 5))
                )
        limit = plan.steps[at].seconds
        groups.append(
            (f"{step.number} {step.text}", bars, None if limit is None or not bars else limit / 3600.0)
        )
    title = f"{plan.service}, {plan.policy}: hours until proven (line: to 90%; dashed: the step's length)"
    return drawing.bars(title, "h", groups)


def _bar(seconds: float, longest: float) -> str:
    return "█" * max(1, round(_BAR * seconds / longest)) if longest > 0.0 else ""


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else span(seconds)


def _count(number: float | None) -> str:
    if number is None:
        return ""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{number:.0f}"
