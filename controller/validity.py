"""Whether the evidence itself can be trusted, before anything is concluded from it.

Counts at assignment come from the routers' reports, counts at completion from the evidence. Both are
published on their own, so a difference counts only beyond what may be under way between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import Final

from ..policies.metrics import deciding_places, on_pairs
from ..policies.policy import RolloutPolicy
from ..store.evidence import Evidence, MirrorCounts, SeriesKey
from ..store.rollouts import EpochRecord, FrozenConstants, Outcome, ReplicaReport, RolloutRecord, Validity
from .stats.result import NotComputable
from .stats.sample_ratio import RatioEpoch, StickyRatioEpoch, log_e, p_value, sticky_log_e
from .sums import Broken, sums_of

RATIO_LEVEL: Final = 0.0005  # of each of the two sample ratio checks: 0.1% together
FRESH: Final = 30.0  # seconds that evidence may be old while requests come in
_LOST_SHARE: Final = 0.01
_LOST_GAP: Final = 0.005  # difference of the lost shares of the arms
_LOST_FEWEST: Final = 50.0
_LOST_SIGMA: Final = 4.5  # read at every look for weeks, so far out
_UNDER_WAY: Final = 2.0  # seconds from a request's assignment until its facts are folded and published
_SWITCHED: Final = 2.0  # seconds within which every worker has taken up a new epoch
_UNEXTRACTED: Final = 0.01
_FEWEST_ANSWERS: Final = 100
_FEWEST_COPIES: Final = 100
_RESTARTS: Final = 3
_RESTARTS_WITHIN: Final = 60.0

PREDICTIONS: Final = ("prediction.", "selection_")


def checks(
    record: RolloutRecord,
    policy: RolloutPolicy,
    evidence: Mapping[int, Evidence],
    reports: Sequence[ReplicaReport],
    now: float,
) -> tuple[Validity, ...]:
    """All checks that apply here, in a fixed order. A check without anything to check is left out."""
    constants = record.constants
    assigned = _assigned(record, reports)
    found = [
        *_sample_ratio(record, constants, evidence, assigned),
        *_loss(record, evidence, reports, assigned),
        *coverage(record, constants, evidence),
        *(back_coverage(record, constants, evidence) if decides_on_back(policy) else ()),
        *(extractor(record, evidence) if reads_predictions(policy) else ()),
        *_age(record, evidence, reports, assigned, now),
        *_observers(reports, now),
    ]
    return tuple(found)


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
    lasted = max(found.published - epoch.opened_at, _UNDER_WAY)
    return max(0.0, min(float(unanswered), copies.sent * _UNDER_WAY / lasted))


def extractor(record: RolloutRecord, evidence: Mapping[int, Evidence]) -> Iterator[Validity]:
    """Whether predictions are found in stable's answers: in this epoch, or in all while it is young."""
    answers = missed = 0.0
    for epoch in reversed(record.epochs):
        found = evidence.get(epoch.epoch)
        sums = None if found is None else sums_of(found, SeriesKey("stable", "", "extraction"))
        if isinstance(sums, Broken):
            yield Validity("extractor", Outcome.ERROR, sums.reason)
            return
        if sums is not None:
            answers += float(sums.n.sum())
            missed += float(sums.y.sum())
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


def _assigned(record: RolloutRecord, reports: Sequence[ReplicaReport]) -> dict[tuple[int, str], float]:
    """(epoch, arm) -> requests assigned, over all replicas and their earlier lives."""
    prefix = f"{record.service}|{record.id}|"
    total: dict[tuple[int, str], float] = {}
    for report in reports:
        for key, count in report.assigned.items():
            if key.startswith(prefix):
                epoch, _, arm = key.removeprefix(prefix).partition("|")
                if epoch.isdecimal():
                    total[int(epoch), arm] = total.get((int(epoch), arm), 0.0) + count
    return total


def _known(found: Evidence, arm: str) -> float:
    """Requests of an arm that the evidence knows of, accounted or open, with those that are not analysed."""
    counts = found.arms.get(arm)
    return float(found.open.get(arm, 0) + (counts.accounted if counts is not None else 0))


def _sample_ratio(
    record: RolloutRecord,
    constants: FrozenConstants | None,
    evidence: Mapping[int, Evidence],
    assigned: Mapping[tuple[int, str], float],
) -> Iterator[Validity]:
    epochs = [epoch for epoch in record.epochs if epoch.place == "canary" and 0.0 < epoch.weight < 1.0]
    if constants is not None and constants.sticky:
        yield from _sticky_ratio(epochs, evidence)
        return
    at_assignment = [
        _ratio(
            epoch, assigned.get((epoch.epoch, "candidate"), 0.0), assigned.get((epoch.epoch, "stable"), 0.0)
        )
        for epoch in epochs
    ]
    at_completion = [
        _ratio(epoch, _known(evidence[epoch.epoch], "candidate"), _known(evidence[epoch.epoch], "stable"))
        for epoch in epochs
        if epoch.epoch in evidence
    ]
    for moment, counted in (("at assignment", at_assignment), ("at completion", at_completion)):
        got = log_e(counted)
        if not isinstance(got, NotComputable):
            yield _ratio_verdict(
                moment, got, sum(e.counts[0] for e in counted), sum(sum(e.counts) for e in counted)
            )


def _sticky_ratio(epochs: Sequence[EpochRecord], evidence: Mapping[int, Evidence]) -> Iterator[Validity]:
    """Units stay with their arm, so requests are counted per cluster of units; only predictions have them."""
    counted: list[StickyRatioEpoch] = []
    for epoch in epochs:
        found = evidence.get(epoch.epoch)
        for series in ("mean", "bin.0", "selected"):
            ours = sums_of(found, SeriesKey("candidate", "", series)) if found is not None else None
            theirs = sums_of(found, SeriesKey("stable", "", series)) if found is not None else None
            if ours is None or theirs is None or isinstance(ours, Broken) or isinstance(theirs, Broken):
                continue
            if ours.n.size == theirs.n.size > 1:
                counted.append(StickyRatioEpoch(epoch.weight, ours.n, theirs.n))
                break
    got = sticky_log_e(counted, RATIO_LEVEL)
    if not isinstance(got, NotComputable):
        candidate = sum(float(e.n_c.sum()) for e in counted)
        yield _ratio_verdict(
            "at completion", got, candidate, candidate + sum(float(e.n_s.sum()) for e in counted)
        )


def _ratio(epoch: EpochRecord, candidate: float, stable: float) -> RatioEpoch:
    return RatioEpoch((candidate, stable), (epoch.weight, 1.0 - epoch.weight))


def _ratio_verdict(moment: str, log_e_value: float, candidate: float, total: float) -> Validity:
    p = p_value(log_e_value)
    numbers = {"candidate": candidate, "total": total, "p": p}
    if p < RATIO_LEVEL:
        reason = (
            f"{moment} {candidate:.0f} of {total:.0f} requests are the candidate's, which its weights do not "
            f"explain (p = {p:.2g}): requests are lost or sent past the split"
        )
        return Validity("sample_ratio", Outcome.ERROR, reason, numbers)
    return Validity(
        "sample_ratio", Outcome.PASS, f"{moment} the arms got their shares (p = {p:.2g})", numbers
    )


def _loss(
    record: RolloutRecord,
    evidence: Mapping[int, Evidence],
    reports: Sequence[ReplicaReport],
    assigned: Mapping[tuple[int, str], float],
) -> Iterator[Validity]:
    """Requests that were assigned and are neither accounted nor open, beyond what is under way."""
    reported = max((report.at for report in reports), default=0.0)
    published = max((found.published for found in evidence.values()), default=0.0)
    ends = [*(epoch.opened_at + _SWITCHED for epoch in record.epochs[1:]), reported][: len(record.epochs)]
    total: dict[str, float] = {}
    lost: dict[str, float] = {}
    for epoch, end in zip(record.epochs, ends, strict=True):
        found = evidence.get(epoch.epoch)
        if found is None:
            continue
        until = min(end, reported)
        lag = (until - published + _UNDER_WAY) / max(until - epoch.opened_at, _UNDER_WAY)
        for arm in ("stable", "candidate"):
            count = assigned.get((epoch.epoch, arm), 0.0)
            if count <= 0.0:
                continue
            # Assigned at an even pace, these last ones may not be in what was published.
            missing = count * (1.0 - min(1.0, max(0.0, lag))) - _known(found, arm)
            total[arm] = total.get(arm, 0.0) + count
            lost[arm] = lost.get(arm, 0.0) + max(0.0, missing)
    count, gone = sum(total.values()), sum(lost.values())
    if count <= 0.0:
        return
    numbers = {"assigned": count, **{f"lost_{arm}": number for arm, number in lost.items()}}
    unequal = _unequal(total, lost)
    if gone > max(_LOST_SHARE * count, _LOST_FEWEST) or unequal:
        arms = " and ".join(f"{lost[arm] / total[arm]:.2%} of {arm}'s" for arm in total)
        how = "unequally between the arms" if unequal else "more than can be explained by requests under way"
        reason = f"requests are missing from the evidence, {arms}, {how}: see the observer's log"
        yield Validity("loss", Outcome.ERROR, reason, numbers)
    else:
        yield Validity(
            "loss", Outcome.PASS, f"{gone / count:.2%} of {count:.0f} requests are unaccounted", numbers
        )


def _unequal(total: Mapping[str, float], lost: Mapping[str, float]) -> bool:
    if len(total) < 2 or sum(lost.values()) < _LOST_FEWEST:  # noqa: PLR2004 (two arms)
        return False
    shares = {arm: lost[arm] / total[arm] for arm in total}
    overall = sum(lost.values()) / sum(total.values())
    deviation = sqrt(max(overall * (1.0 - overall), 1e-12) * sum(1.0 / count for count in total.values()))
    gap = abs(shares["candidate"] - shares["stable"])
    return gap > _LOST_GAP and gap > _LOST_SIGMA * deviation


def _age(
    record: RolloutRecord,
    evidence: Mapping[int, Evidence],
    reports: Sequence[ReplicaReport],
    assigned: Mapping[tuple[int, str], float],
    now: float,
) -> Iterator[Validity]:
    """Evidence that stands still while requests come in, or for want of any router that is heard.

    A merge's watermark may be a dead source's.
    """
    current = record.epochs[-1] if record.epochs else None
    if current is None or not reports:
        return
    found = evidence.get(current.epoch)
    published = current.opened_at if found is None else found.published
    known = 0.0 if found is None else sum(_known(found, arm) for arm in ("stable", "candidate"))
    since = sum(count for (epoch, _), count in assigned.items() if epoch == current.epoch) - known
    age = now - published
    silent = now - max(report.at for report in reports)
    numbers = {"age": age, "assigned_since": max(0.0, since)}
    if age > FRESH and since > 0.0:
        reason = (
            f"evidence is {age:.0f} s old although {since:.0f} requests were assigned since: "
            "is the observer of every router running?"
        )
        yield Validity("evidence_age", Outcome.ERROR, reason, numbers)
    elif age > FRESH and silent > FRESH:
        # What it has seen since then nobody knows; time alone must not make it look proven.
        reason = f"no router has been heard for {silent:.0f} s: do they run, and reach the store?"
        yield Validity("evidence_age", Outcome.ERROR, reason, numbers)
    elif found is not None:
        yield Validity("evidence_age", Outcome.PASS, f"evidence is {max(0.0, age):.0f} s old", numbers)


def _observers(reports: Sequence[ReplicaReport], now: float) -> Iterator[Validity]:
    for report in reports:
        recent = sum(1 for at in report.observer_restarts if now - _RESTARTS_WITHIN < at <= now)
        if recent > _RESTARTS:
            reason = (
                f"router {report.replica}: its observer restarted {recent} times within a minute, see its log"
            )
            yield Validity("observer", Outcome.ERROR, reason, {"restarts": float(recent)})
