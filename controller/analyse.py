"""One look: merged evidence in, verdicts out. Pure; the same input gives the same analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ..policies.metrics import on_labels, on_pairs
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
from .analysis.blame import blame
from .analysis.cells import Cell
from .analysis.groups import groups_of
from .analysis.reading import Levels, Reader, Reading
from .analysis.shadow_latency import advise, advised
from .analysis.sums import View
from .analysis.wording import finding_of, gate_text, verdict_reason
from .labels.coverage import CHECK, progress
from .labels.reported import reported
from .labels.small import too_few_to_tell
from .sweep.glance import Glances, Looked
from .sweep.program import Programs
from .sweep.swept import sweep
from .validity.bodies import needs_bodies
from .validity.checks import PREDICTIONS, checks
from .validity.drifting import drifts
from .validity.lacking import lacking

_WORST_FIRST: Final = (Outcome.FAIL, Outcome.ERROR, Outcome.INCONCLUSIVE, Outcome.PASS)
_PROGRAMS: Final = Programs()  # only remembers what a policy and its constants fix
_GLANCES: Final = Glances()  # and only what the same evidence came to
_DEAD_AFTER: Final = 500  # candidate requests after which a series that nobody fills is an error


def analyse(
    record: RolloutRecord,
    policy: RolloutPolicy,
    evidence: Mapping[int, Evidence],
    reports: tuple[ReplicaReport, ...],
    now: float,
    *,
    intervals: bool = True,
    told: bool = True,
) -> Analysis:
    """All verdicts and validity checks at one moment.

    Args:
        record: with its epochs, and with its constants once the baseline is frozen (no verdict before).
        policy: the record's own.
        evidence: epoch -> the sum over all sources.
        reports: the latest of every replica.
        now: epoch seconds.
        intervals: False leaves out intervals, drift, blame, advice and calibration; no decision needs them.
        told: False leaves out the findings and reasons of cells that are passed or open. The outcomes are
            the same: it is enough to see that nothing is to be done.
    """
    validity = checks(record, policy, evidence, reports, now)
    verdicts: tuple[Verdict, ...] = ()
    if record.constants is not None:
        how = _Telling(intervals, told)
        verdicts = _verdicts(record, record.constants, policy, evidence, validity, how)
    candidate, stable = _exposure(record, evidence)
    if record.constants is None or not intervals:
        return Analysis(now, verdicts, validity, candidate, stable)
    levels = Levels.of(policy, record)
    return Analysis(
        now, verdicts, validity, candidate, stable,
        drift=drifts(record, record.constants, evidence),
        blame=blame(verdicts, levels.harm),
        advice=advise(advised(policy), record, record.constants, evidence, levels, validity),
        calibration=reported(record, evidence),
    )  # fmt: skip


def prepare(looks: Sequence[tuple[RolloutRecord, RolloutPolicy, Mapping[int, Evidence]]]) -> None:
    """Compute for many rollouts at once where their cells stand; analyses that tell nothing then find it."""
    _GLANCES.prepare(
        [
            _looked(record, record.constants, policy, Levels.of(policy, record), evidence)
            for record, policy, evidence in looks
            if record.constants is not None
        ]
    )


def _looked(
    record: RolloutRecord,
    constants: FrozenConstants,
    policy: RolloutPolicy,
    levels: Levels,
    evidence: Mapping[int, Evidence],
) -> Looked:
    return Looked(_PROGRAMS.of(record.id, policy, constants, levels), record.epochs, evidence)


@dataclass(frozen=True, slots=True)
class _Telling:
    """How much is told of a look."""

    intervals: bool
    told: bool


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
    how: _Telling,
) -> tuple[Verdict, ...]:
    view = View(record, constants, evidence)
    levels = Levels.of(policy, record)
    looked = _looked(record, constants, policy, levels, evidence)
    program = looked.program
    swept = sweep(program, record.epochs, evidence) if how.told else None
    standing = swept.standing if swept is not None else None
    if not how.told:
        standing = _GLANCES.of(looked)
    reader = Reader(view, policy, constants, levels, intervals=how.intervals)
    blocked = {check.check: check for check in validity if check.outcome is not Outcome.PASS}

    def judged(position: int) -> _Judged:
        cell = program.cells[position]
        reading = _blocked(cell, blocked)
        if reading is None and not (standing is not None and standing.whole[position]):
            reading = lacking(cell, view)
        hidden = None if reading is not None else too_few_to_tell(cell, view)
        if hidden is not None:
            return _Judged(cell, hidden, finding_of(cell, hidden, constants, view))
        if reading is None and swept is not None and swept.known[position]:
            reading = swept.reading(position, interval=how.intervals)
        if reading is None:
            reading = _not_dead(cell, reader.read(cell), view, groups_of(cell.gate, constants))
        reading = _with_labels(cell, reading, view)
        return _Judged(cell, reading, finding_of(cell, reading, constants, view))

    silent: tuple[Verdict | None, ...] = (None,) * len(program.gates)
    if standing is not None and not how.told:
        silent = program.silence.of(standing.known & standing.whole, standing.passed, standing.last)
    verdicts: list[Verdict] = []
    for gate, verdict in zip(program.gates, silent, strict=True):
        mute = verdict is not None and not (blocked and _blocked(program.cells[int(gate.cells[0])], blocked))
        if mute and policy.gates[gate.index].labels is not None:
            mute = all(too_few_to_tell(program.cells[int(cell)], view) is None for cell in gate.cells)
        if mute and verdict is not None:
            verdicts.append(verdict)
        else:
            verdicts.append(_verdict(policy, [judged(int(position)) for position in gate.cells]))
    return tuple(verdicts)


def _blocked(cell: Cell, blocked: Mapping[str, Validity]) -> Reading | None:
    """What a validity check says about a gate before anything is computed."""
    for check in ("coding", "extractor"):
        if check in blocked and cell.gate.metric.startswith(PREDICTIONS):
            return Reading(Outcome.ERROR, blocked[check].reason)
    if "bodies" in blocked and needs_bodies(cell.gate, cell.place):
        return Reading(blocked["bodies"].outcome, blocked["bodies"].reason)
    if CHECK in blocked and on_labels(cell.gate):
        return Reading(blocked[CHECK].outcome, blocked[CHECK].reason)
    coverage = "coverage" if cell.place == "shadow" else "back_coverage"
    if coverage in blocked and on_pairs(cell.gate, cell.place):
        return Reading(Outcome.INCONCLUSIVE, blocked[coverage].reason)
    return None


def _with_labels(cell: Cell, reading: Reading, view: View) -> Reading:
    """A gate on outcomes that is open says how many labels it has."""
    if not on_labels(cell.gate) or reading.outcome is not Outcome.INCONCLUSIVE:
        return reading
    if too_few_to_tell(cell, view) is not None:  # nor how many they are
        return reading
    known, mature = progress(view, cell.place, cell.group)
    told = f"{known:.0f} labels of {mature:.0f} mature predictions"
    return replace(reading, reason=f"{reading.reason or 'not decided yet'}; {told}")


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
    if on_labels(cell.gate):  # what is not mature yet cannot have a label
        seen = int(progress(view, cell.place, "")[1])
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
    """Requests of the candidate and of stable in the current step; of an `approve` in its traffic's."""
    candidate = stable = 0
    step = record.epochs[-1].step
    for epoch in record.epochs:
        found = evidence.get(epoch.epoch)
        if found is None or epoch.step != step:
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
