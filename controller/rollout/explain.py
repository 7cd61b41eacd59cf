"""Why: one sentence for a verdict or a decision, and the table of numbers behind it.

Numbers are shown in the finding's own unit; a number that could not be computed is shown as such, never
as zero. Slices are named by their declared group, which is all that evidence keeps of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...errors import NotFound
from ...store.approvals import Approval
from ...store.rollouts import (
    Advice,
    Analysis,
    Blame,
    Calibration,
    Decision,
    Drift,
    Finding,
    Outcome,
    RolloutRecord,
    Validity,
    Verdict,
    decode_record,
)
from .approvals import standing

_GONE = " Its decisions are not kept any more (--keep-decisions)."


class Row(msgspec.Struct, frozen=True):
    """One comparison as a row of a table. Texts are as shown; the finding has the numbers."""

    gate: str
    place: str
    outcome: Outcome
    finding: Finding
    estimate: str
    interval: str
    margin: str


class Explanation(msgspec.Struct, frozen=True):
    """One decision, or the latest look where `number` is None, in words and numbers.

    `approvals`: those of its step that stood when it was taken.
    """

    rollout: str
    number: int | None
    at: float
    act: str
    sentence: str
    rows: tuple[Row, ...]
    validity: tuple[Validity, ...]
    override: str | None = None
    drift: tuple[Drift, ...] = ()
    blame: tuple[Blame, ...] = ()
    advice: tuple[Advice, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    approvals: tuple[Approval, ...] = ()


def explain(record: RolloutRecord, decisions: Sequence[Decision], number: int | None = None) -> Explanation:
    """The `number`-th decision (1 is the first), the last one, or the latest look where none was made.

    Raises NotFound for a number that does not exist.
    """
    gone = record.phase.ended and not decisions  # every rollout ends by one
    if number is not None and gone:
        raise NotFound(f"the decisions of rollout {record.id} are not kept any more (--keep-decisions)")
    if number is not None and not 1 <= number <= len(decisions):
        raise NotFound(f"rollout {record.id} has {len(decisions)} decisions, there is no number {number}")
    if not decisions:
        analysis = record.analysis
        rows, checks = (rows_of(analysis), analysis.validity) if analysis is not None else ((), ())
        at = analysis.at if analysis is not None else record.phase_since
        drift, advice = (analysis.drift, analysis.advice) if analysis is not None else ((), ())
        calibration = analysis.calibration if analysis is not None else ()
        return Explanation(
            record.id, None, at, "none", _sentence(record.reason) + (_GONE if gone else ""), rows, checks,
            drift=drift, advice=advice, calibration=calibration,
        )  # fmt: skip
    position = (number or len(decisions)) - 1
    decision = decisions[position]
    analysis = decision.analysis
    return Explanation(
        rollout=record.id,
        number=position + 1,
        at=decision.at,
        act=decision.act,
        sentence=sentence_of(decision),
        rows=rows_of(analysis) if analysis is not None else (),
        validity=analysis.validity if analysis is not None else (),
        override=record.override if decision.act in {"promote", "advance"} else None,
        drift=analysis.drift if analysis is not None else (),
        blame=analysis.blame if analysis is not None else (),
        advice=analysis.advice if analysis is not None else (),
        calibration=analysis.calibration if analysis is not None else (),
        approvals=standing(decode_record(decision.before, RolloutRecord)),
    )


def sentence_of(decision: Decision) -> str:
    """Why a decision was taken. Proven harm brings its numbers along in the verdict's own reason."""
    return _sentence(f"{decision.act}: {decision.reason}")


def why(verdict: Verdict) -> str:
    """A verdict in one sentence; its reason names slice, estimate, interval and margin."""
    return f"{verdict.gate}: {verdict.reason}"


def rows_of(analysis: Analysis) -> tuple[Row, ...]:
    """Every finding of a look, gates in the policy's order."""
    return tuple(
        Row(
            gate=verdict.gate,
            place=verdict.place,
            outcome=finding.outcome,
            finding=finding,
            estimate=estimate_of(finding),
            interval=interval_of(finding),
            margin=margin_of(finding),
        )
        for verdict in sorted(analysis.verdicts, key=lambda verdict: (verdict.index, verdict.place))
        for finding in verdict.findings
    )


def estimate_of(finding: Finding) -> str:
    """As in `+2.31 pp` or `1.42 ×`."""
    return _number(finding.estimate, finding)


def interval_of(finding: Finding) -> str:
    """As in `[+1.10, +3.50] pp`; an end that could not be computed is `?`, one beyond 0 or 100 % is that."""
    if finding.low is None and finding.high is None:
        return "[not computable]"
    low, high = (_plain(_possible(end, finding), finding) for end in (finding.low, finding.high))
    return f"[{low}, {high}]{_unit(finding)}"


def margin_of(finding: Finding) -> str:
    """As in `0.50 pp`."""
    return "none" if finding.margin is None else f"{abs(finding.margin):.4g}{_unit(finding)}"


def _number(value: float | None, finding: Finding) -> str:
    return "not computable" if value is None else f"{_plain(value, finding)}{_unit(finding)}"


def _plain(value: float | None, finding: Finding) -> str:
    if value is None:
        return "?"
    return f"{value:+.3g}" if finding.effect == "difference" else f"{value:.3g}"


def _possible(end: float | None, finding: Finding) -> float | None:
    """An end as far as it can be: batches of a share scatter normally, the share itself stays in 0..1."""
    if end is None or finding.effect != "share":
        return end
    return min(max(end, 0.0), 100.0 if finding.unit == "%" else 1.0)


def _unit(finding: Finding) -> str:
    if finding.effect == "ratio":
        return " ×"
    return f" {finding.unit}" if finding.unit else ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."
