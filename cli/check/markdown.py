"""A check as Markdown, for a comment on a pull request."""

from __future__ import annotations

from ...controller.rollout.explain import estimate_of, interval_of
from .outcome import GateOutcome, Outcomes
from .shown import counted, deciding, headline, margin, word


def text(found: Outcomes) -> str:
    """A heading, a table of gates, and what they were judged on."""
    lines = [
        f"### {_cell(headline(found))}", "", _cell(found.reason), "",
        "| gate | group | estimate | interval | margin | pairs | verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]  # fmt: skip
    for gate in found.gates:
        lines += _rows(gate)
    lines += ["", _cell(counted(found))]
    lines += [
        f"- {_cell(check.check)}: {check.outcome.value}, {_cell(check.reason)}" for check in found.validity
    ]
    lines += [f"- {_cell(note)}" for note in found.notes]
    left = [gate for gate in found.gates if not gate.decided]
    lines += [f"- not decided: `{gate.gate.replace('`', '')}`: {_cell(gate.reason)}" for gate in left]
    return "\n".join(lines) + "\n"


def _rows(gate: GateOutcome) -> list[str]:
    verdict = f"**{word(gate)}**" if word(gate) != "pass" else "pass"
    findings = deciding(gate) if gate.decided else []
    if not findings:
        return [_row(gate.gate, "", "", "", "", "", verdict)]
    rows: list[str] = []
    for one in findings:
        known = one.estimate is not None
        told = one.outcome.value if one.outcome.value == "pass" else f"**{one.outcome.value}**"
        rows.append(
            _row(
                gate.gate, one.slice, estimate_of(one) if known else "", interval_of(one) if known else "",
                margin(one), f"{one.n_candidate:.0f}", told,
            )
        )  # fmt: skip
    return rows


def _row(*cells: str) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(words: str) -> str:
    """One line, without what would end a cell or begin HTML."""
    safe = " ".join(words.split()).replace("|", "\\|")
    return safe.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
