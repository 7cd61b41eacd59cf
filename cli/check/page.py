"""A check as a page in one file: verdicts, intervals against margins, distributions; no script, no link."""

from __future__ import annotations

from html import escape

from ...store.rollouts import Outcome
from ..drawing import Bar, Interval, bars, intervals
from .outcome import Outcomes
from .shown import counted, deciding, headline, word

_COLOURS = {
    Outcome.PASS: "#2e7d5b",
    Outcome.FAIL: "#a33b3b",
    Outcome.INCONCLUSIVE: "#b98a1d",
    Outcome.ERROR: "#7a3b8f",
}
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:860px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse}td,th{text-align:left;padding:.3em .8em;border-bottom:1px solid #ddd}"
    "svg{max-width:100%;height:auto}"
)


def text(found: Outcomes) -> str:
    """The whole page."""
    title = escape(headline(found))
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1><p>{escape(found.reason)}</p><p>{escape(counted(found))}</p>",
        _table(found),
        _intervals(found),
        _distribution(found),
        *(f"<p>{escape(note)}</p>" for note in found.notes),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _table(found: Outcomes) -> str:
    rows = [
        f'<tr><td>{escape(gate.gate)}</td><td style="color:{_COLOURS[gate.outcome]}">{word(gate)}</td>'
        f"<td>{escape(gate.reason)}</td></tr>"
        for gate in found.gates
    ]
    rows += [
        f"<tr><td>{escape(check.check)}</td><td>{check.outcome.value}</td><td>{escape(check.reason)}</td></tr>"
        for check in found.validity
    ]
    return "<table><tr><th>gate</th><th>verdict</th><th>why</th></tr>" + "".join(rows) + "</table>"


def _intervals(found: Outcomes) -> str:
    rows: list[Interval] = []
    for gate in found.gates:
        for one in deciding(gate):
            if one.estimate is None:
                continue
            margins = () if one.margin is None else (one.margin,)
            rows.append(
                Interval(one.cell, one.estimate, one.low, one.high, margins, one.unit, _COLOURS[one.outcome])
            )
    return intervals("Effects with their intervals; dashed: margin, dotted: no effect", rows) if rows else ""


def _distribution(found: Outcomes) -> str:
    if not found.distribution:
        return ""
    groups = [
        (
            share.label,
            [
                Bar(name, 100 * y, 100 * y, 100 * y, colour)
                for name, y, colour in (
                    (found.stable, share.stable, "#7a8fb8"),
                    (found.candidate, share.candidate, "#e07b24"),
                )
            ],
            None,
        )
        for share in found.distribution
    ]
    return bars("Predictions, share of each bin or class", "%", groups)
