"""Whether the evidence itself can be trusted, before anything is concluded from it.

Counts at assignment come from the routers' reports, counts at completion from the evidence. Both are
published on their own, so a difference counts only beyond what may be under way between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ...policies.metrics import deciding_places, on_pairs
from ...policies.policy import RolloutPolicy
from ...store.evidence import Evidence, MirrorCounts, SeriesKey
from ...store.rollouts import EpochRecord, FrozenConstants, Outcome, ReplicaReport, RolloutRecord, Validity
from ..analysis.per_policy import per_policy
from ..analysis.sums import Broken, totals_of
from ..labels.coverage import labels
from .accounts import UNDER_WAY, age, assigned, loss, observers
from .arrivals import inputs_alike
from .bodies import bodies
from .coding import coding
from .ratios import sample_ratio

_UNEXTRACTED: Final = 0.01
_FEWEST_ANSWERS: Final = 100
_FEWEST_COPIES: Final = 100

PREDICTIONS: Final = ("prediction.", "selection_", "class_share.")


def checks(
    record: RolloutRecord,
    policy: RolloutPolicy,
    evidence: Mapping[int, Evidence],
    reports: Sequence[ReplicaReport],
    now: float,
) -> tuple[Validity, ...]:
    """All checks that apply here, in a fixed order. A check without anything to check is left out."""
    constants = record.constants
    sent = assigned(record, reports)
    found = [
        *sample_ratio(record, constants, evidence, sent),
        *inputs_alike(record, constants, evidence),
        *loss(record, evidence, reports, sent),
        *bodies(record, policy, constants, evidence),
        *coverage(record, constants, evidence),
        *labels(record, policy, evidence),
        *(back_coverage(record, constants, evidence) if decides_on_back(policy) else ()),
        *(coding(record, evidence) if reads_predictions(policy) else ()),
        *(extractor(record, evidence) if reads_predictions(policy) else ()),
        *age(record, evidence, reports, sent, now),
        *observers(reports, now),
    ]
    return tuple(found)


@per_policy
def reads_predictions(policy: RolloutPolicy) -> bool:
    """True where a gate needs what is in the answers."""
    return any(gate.metric.startswith(PREDICTIONS) for gate in policy.gates)


def coverage(
    record: RolloutRecord, constants: FrozenConstants | None, evidence: Mapping[int, Evidence]
) -> Iterator[Validity]:
    """Mirrored copies of which both sides were seen. Too few: what is missing may be what differs."""
    counted = [
        (epoch, found, found.mirror)
        for epoch in record.epochs
        if epoch.place == "shadow" and (found := evidence.get(epoch.epoch)) is not None
    ]
    got = _covered("the mirrored copies", constants, counted)
    if got is not None:
        yield Validity("coverage", *got)


def back_coverage(
    record: RolloutRecord, constants: FrozenConstants | None, evidence: Mapping[int, Evidence]
) -> Iterator[Validity]:
    """The same of what was mirrored back, over the epochs of the canary."""
    counted = [
        (epoch, found, found.back)
        for epoch in record.epochs
        if epoch.mirror_back > 0.0 and (found := evidence.get(epoch.epoch)) is not None
    ]
    got = _covered("the copies mirrored back", constants, counted)
    if got is not None:
        yield Validity("back_coverage", *got)


@per_policy
def decides_on_back(policy: RolloutPolicy) -> bool:
    """True where a gate is decided on what is mirrored back."""
    return any(
        on_pairs(gate, "canary") and "canary" in deciding_places(gate, policy.steps) for gate in policy.gates
    )


def _covered(
    copies: str,
    constants: FrozenConstants | None,
    counted: Sequence[tuple[EpochRecord, Evidence, MirrorCounts]],
) -> tuple[Outcome, str, dict[str, float]] | None:
    """Outcome, reason and numbers over these epochs; None while there are too few copies to say."""
    least = constants.min_coverage if constants is not None else 0.0
    # What stable answered in the candidate's place is no pair by design; the canary counts it as an error.
    chosen = sum(counts.chosen - counts.unpaired for _, _, counts in counted)
    paired = sum(counts.paired for _, _, counts in counted)
    waiting = sum(_waiting(epoch, found, counts) for epoch, found, counts in counted)
    if chosen < _FEWEST_COPIES:
        return None
    share = min(1.0, (paired + waiting) / chosen)
    numbers = {"chosen": float(chosen), "paired": float(paired), "least": least}
    if share < least:
        reason = (
            f"only {share:.1%} of {copies} have both answers, {least:.0%} are needed: see the "
            "mirror's drops in status, and raise its limits or lower the mirrored share"
        )
        return Outcome.INCONCLUSIVE, reason, numbers
    return Outcome.PASS, f"{share:.1%} of {copies} have both answers", numbers


def _waiting(epoch: EpochRecord, found: Evidence, copies: MirrorCounts) -> float:
    """Copies whose answer may simply still be under way: as many as were sent within moments."""
    unanswered = copies.sent - copies.paired - copies.lost - copies.unpaired
    lasted = max(found.published - epoch.opened_at, UNDER_WAY)
    return max(0.0, min(float(unanswered), copies.sent * UNDER_WAY / lasted))


def extractor(record: RolloutRecord, evidence: Mapping[int, Evidence]) -> Iterator[Validity]:
    """Whether predictions are found in stable's answers: in this epoch, or in all while it is young."""
    answers = missed = 0.0
    for epoch in reversed(record.epochs):
        found = evidence.get(epoch.epoch)
        totals = None if found is None else totals_of(found, SeriesKey("stable", "", "extraction"))
        if isinstance(totals, Broken):
            yield Validity("extractor", Outcome.ERROR, totals.reason)
            return
        if totals is not None:
            answers += totals[0]
            missed += totals[1]
        if answers >= _FEWEST_ANSWERS:
            break
    if answers < _FEWEST_ANSWERS:
        return
    share = missed / answers
    numbers = {"answers": answers, "missed": missed}
    if share > _UNEXTRACTED:
        reason = (
            f"the path under `prediction` found no prediction in {share:.1%} of stable's {answers:.0f} "
            "answers: compare it with a real answer"
        )
        yield Validity("extractor", Outcome.ERROR, reason, numbers)
    else:
        yield Validity(
            "extractor", Outcome.PASS, f"predictions found in {1 - share:.1%} of stable's answers", numbers
        )
