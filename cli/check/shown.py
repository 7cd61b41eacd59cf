"""A check as a person sees it on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from ...controller.rollout.explain import estimate_of, interval_of, margin_of
from ...store.rollouts import Finding, Outcome
from ..comparisons import Comparison, Comparisons
from .outcome import GateOutcome, Outcomes

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {
    Outcome.PASS: "green",
    Outcome.FAIL: "bold red",
    Outcome.INCONCLUSIVE: "yellow",
    Outcome.ERROR: "bold magenta",
}
_VERDICTS = {"passed": "bold green", "failed": "bold red"}
_WORST_FIRST = (Outcome.ERROR, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


def headline(found: Outcomes) -> str:
    """Which versions, and what came of it."""
    return f"{found.service}: version {found.candidate} against {found.stable}, {found.verdict}"


def counted(found: Outcomes) -> str:
    """How many rows were used for what."""
    return (
        f"{found.rows} rows: {found.baseline} of stable alone for the baseline, {found.pairs} pairs in "
        f"{found.blocks} blocks, order {found.seed}, {found.seconds:.1f} s"
    )


def word(gate: GateOutcome) -> str:
    """The verdict in a word; what pairs do not decide is never a pass."""
    return gate.outcome.value if gate.decided else "not decided"


def deciding(gate: GateOutcome) -> list[Finding]:
    """Per group the comparison that decides it: the worst, among equals the one farthest from proof."""
    groups: dict[str, list[Finding]] = {}
    for finding in gate.findings:
        groups.setdefault(finding.slice, []).append(finding)
    return [min(findings, key=_urgency) for findings in groups.values()]


def table(found: Outcomes) -> RenderableType:
    """All of it."""
    title = Text(headline(found), _VERDICTS.get(found.verdict, "bold yellow"))
    rows: list[Comparison] = []
    for gate in found.gates:
        name = gate.gate
        style = _STYLES[gate.outcome] if gate.decided else "dim"
        if not gate.findings or not gate.decided:
            shown = deciding(gate)
            cells = (
                "",
                f"{shown[0].estimate:.3g} ×" if shown and shown[0].estimate is not None else "",
                "",
                "",
                "",
            )
            rows.append(Comparison(name, cells, Text(word(gate), style), gate.reason))
            continue
        for finding in deciding(gate):
            known = finding.estimate is not None
            cells = (
                finding.slice, estimate_of(finding) if known else "", interval_of(finding) if known else "",
                f"{finding.n_candidate:.0f}", "" if finding.progress is None else f"{finding.progress:.0%}",
            )  # fmt: skip
            rows.append(
                Comparison(
                    name, cells, Text(finding.outcome.value, _STYLES[finding.outcome]),
                    "" if known else finding.reason,
                )
            )  # fmt: skip
            name = ""
    gates = Comparisons(("gate", "group", ">estimate", ">interval", ">pairs", ">proof", "verdict"), rows)
    parts: list[RenderableType] = [title, Text(), gates, Text(), Text(counted(found))]
    parts += [
        Text(f"{check.check.replace('_', ' ')}: {check.outcome.value}, {check.reason}", "dim")
        for check in found.validity
    ]
    parts += [Text(note) for note in found.notes]
    parts.append(Text(f"{found.verdict}: {found.reason}"))
    return Group(*parts)


def margin(finding: Finding) -> str:
    """The margin of a comparison, in its unit."""
    return margin_of(finding)


def _urgency(finding: Finding) -> tuple[int, float]:
    return _WORST_FIRST.index(finding.outcome), 0.0 if finding.progress is None else finding.progress
