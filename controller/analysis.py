"""One look: merged evidence in, verdicts out. Pure; the same input gives the same analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..policies.metrics import on_pairs
from ..policies.policy import RolloutPolicy
from ..store.evidence import Evidence
from ..store.rollouts import (
    Analysis,
    Finding,
    FrozenConstants,
    Outcome,
    ReplicaReport,
    RolloutRecord,
    Validity,
    Verdict,
)
from .blame import blame
from .cells import Cell, cells_of, groups_of
from .drifting import drifts
from .lacking import lacking
from .reading import Levels, Reader, Reading
from .sums import View
from .validity import PREDICTIONS, checks
from .wording import finding_of, gate_text, verdict_reason

_WORST_FIRST: Final = (Outcome.FAIL, Outcome.ERROR, Outcome.INCONCLUSIVE, Outcome.PASS)
_DEAD_AFTER: Final = 500  # candidate requests after which a series that nobody fills is an error


def analyse(
    record: RolloutRecord,
    policy: RolloutPolicy,
    evidence: Mapping[int, Evidence],
    reports: tuple[ReplicaReport, ...],
    now: float,
    *,
    intervals: bool = True,
) -> Analysis:
    """All verdicts and validity checks at one moment.

    Args:
        record: with its epochs, and with its constants once the baseline is frozen (no verdict before).
        policy: the record's own.
        evidence: epoch -> the sum over all sources.
        reports: the latest of every replica.
        now: epoch seconds.
        intervals: False leaves out intervals, drift and blame; no decision needs them.
    """
    validity = checks(record, policy, evidence, reports, now)
    verdicts: tuple[Verdict, ...] = ()
    if record.constants is not None:
        verdicts = _verdicts(record, record.constants, policy, evidence, validity, intervals=intervals)
    candidate, stable = _exposure(record, evidence)
    if record.constants is None or not intervals:
        return Analysis(now, verdicts, validity, candidate, stable)
    return Analysis(
        now, verdicts, validity, candidate, stable,
        drift=drifts(record, record.constants, evidence),
        blame=blame(verdicts, Levels.of(policy, record).harm),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Judged:
    cell: Cell
    reading: Reading
    finding: Finding


def _verdicts(
    record: RolloutRecord,
    constants: FrozenConstants,
    policy: RolloutPolicy,
    evidence: Mapping[int, Evidence],
    validity: tuple[Validity, ...],
    *,
    intervals: bool,
) -> tuple[Verdict, ...]:
    view = View(record, constants, evidence)
    reader = Reader(view, policy, constants, Levels.of(policy, record), intervals=intervals)
    blocked = {check.check: check for check in validity if check.outcome is not Outcome.PASS}
    judged: dict[tuple[int, str], list[_Judged]] = {}
    for cell in cells_of(policy, constants):
        reading = _blocked(cell, blocked) or lacking(cell, view)
        if reading is None:
            reading = _not_dead(cell, reader.read(cell), view, groups_of(cell.gate, constants))
        finding = finding_of(cell, reading, constants, view)
        judged.setdefault((cell.index, cell.place), []).append(_Judged(cell, reading, finding))
    return tuple(_verdict(policy, found) for found in judged.values())


def _blocked(cell: Cell, blocked: Mapping[str, Validity]) -> Reading | None:
    """What a validity check says about a gate before anything is computed."""
    for check in ("coding", "extractor"):
        if check in blocked and cell.gate.metric.startswith(PREDICTIONS):
            return Reading(Outcome.ERROR, blocked[check].reason)
    coverage = "coverage" if cell.place == "shadow" else "back_coverage"
    if coverage in blocked and on_pairs(cell.gate, cell.place):
        return Reading(Outcome.INCONCLUSIVE, blocked[coverage].reason)
    return None


def _not_dead(cell: Cell, reading: Reading, view: View, groups: tuple[str, ...]) -> Reading:
    """A gate that only watches for harm must see something: silence there would look like no harm.

    One of its `groups` may well be empty, not all of them.
    """
    if cell.gate.require != "no-harm" or reading.n_candidate > 0 or reading.outcome is Outcome.ERROR:
        return reading
    on_back = cell.place == "canary" and on_pairs(cell.gate, cell.place)
    seen = sum(
        found.back.paired if on_back else _candidates(found, cell.place)
        for _, _, found in view.epochs(cell.place)
    )
    if seen < _DEAD_AFTER or any(view.filled(cell.place, group, cell.series) for group in groups):
        return reading
    reason = f"{seen} requests of the candidate were analysed and none has it: it is not measured"
    return Reading(Outcome.ERROR, reason)


def _verdict(policy: RolloutPolicy, judged: list[_Judged]) -> Verdict:
    """The worst finding decides. A group too small to prove is only watched: it may fail or be broken."""
    first = judged[0].cell
    deciding = [
        one for one in judged if not one.cell.watched or one.reading.outcome in {Outcome.FAIL, Outcome.ERROR}
    ] or judged
    outcome = min((one.reading.outcome for one in deciding), key=_WORST_FIRST.index)
    proven = outcome is Outcome.PASS and all(one.reading.proven_last for one in deciding)
    worst = [one.finding for one in deciding if one.reading.outcome is outcome]
    return Verdict(
        gate=gate_text(first.gate),
        index=first.index,
        place=first.place,
        outcome=outcome,
        reason=verdict_reason(outcome, worst),
        findings=tuple(one.finding for one in judged),
        on_fail=first.gate.on_fail or policy.on_fail,
        require=first.gate.require,
        proven_last_weight=proven,
    )


def _exposure(record: RolloutRecord, evidence: Mapping[int, Evidence]) -> tuple[int, int]:
    """Requests of the candidate and of stable in the current step."""
    candidate = stable = 0
    for epoch in record.epochs:
        found = evidence.get(epoch.epoch)
        if found is None or epoch.step != record.step:
            continue
        if epoch.place != "baseline":
            candidate += _candidates(found, epoch.place)
        counts = found.arms.get("stable")
        stable += counts.accounted if counts is not None else 0
    return candidate, stable


def _candidates(found: Evidence, place: str) -> int:
    if place == "shadow":
        return found.mirror.paired
    counts = found.arms.get("candidate")
    return counts.accounted if counts is not None else 0
