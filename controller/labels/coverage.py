"""Whether the labels that have come can be taken for all: as many in both arms, and not only of the selected.

Where labels exist for selected predictions only (loans that were paid out), each arm is judged on those that
it chose itself: neither accuracy nor recall of the arms can be compared, so every gate on outcomes is
inconclusive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import sqrt
from typing import Final

from ...policies.policy import RolloutPolicy
from ...store.evidence import ArmKey, Evidence, SeriesKey
from ...store.rollouts import Outcome, RolloutRecord, Validity
from ..analysis.sums import Broken, Sums, View, sums_of
from ..stats.apart import Apart, apart
from ..stats.clusters import ClusterEpoch, cluster_estimate
from ..stats.result import NotComputable
from .folding import reads_labels
from .joining import LABELLED, MISMATCHED, SELECTED

CHECK: Final = "labels"
TOLERATED: Final = 0.02
"""Difference of the arms' shares of labelled predictions that is let pass; half of a 4 pp margin at worst."""
SELECTIVE: Final = 0.1  # labelled share of what was not selected, over that of what was
MISFITS: Final = 0.01  # share of labels with another number of values than instances
LOST: Final = 0.01  # share of an arm's predictions that could not be stored
_FEW_LOST: Final = 10
FEWEST: Final = 100.0
_UNSELECTED: Final = (
    "none was selected, or the service declares no prediction.selected, so labels of selected predictions "
    "alone would not be noticed"
)
_ARMS: Final[tuple[ArmKey, ...]] = ("stable", "candidate", "pair")


def labels(
    record: RolloutRecord, policy: RolloutPolicy, evidence: Mapping[int, Evidence]
) -> Iterator[Validity]:
    """The check of a policy that reads labels; nothing while there are too few predictions to say."""
    if not reads_labels(policy):
        return
    counted = _counts(evidence, LABELLED)
    if isinstance(counted, Broken):
        yield Validity("labels", Outcome.ERROR, counted.reason)
        return
    mature, known = counted
    numbers = {"mature": mature, "labelled": known}
    reason = (
        _unremembered(record, evidence) or _misfits(evidence, known) or _selective(evidence, mature, known)
    )
    if reason is None and record.constants is not None:
        reason = _unlike(View(record, record.constants, evidence), sticky=record.constants.sticky)
    if reason is not None:
        yield Validity("labels", Outcome.INCONCLUSIVE, reason, numbers)
    elif mature >= FEWEST:
        told = f"{known:.0f} labels of {mature:.0f} mature predictions"
        if not _counts_selected(evidence):
            told += f"; {_UNSELECTED}"
        yield Validity("labels", Outcome.PASS, told, numbers)


def progress(view: View, place: str, group: str) -> tuple[float, float]:
    """Labels and mature predictions of the candidate in a place and group."""
    arm: ArmKey = "pair" if place == "shadow" else "candidate"
    mature = known = 0.0
    for _, _, found in view.epochs("shadow" if place == "shadow" else "canary"):
        sums = sums_of(found, SeriesKey(arm, group, LABELLED))
        if isinstance(sums, Sums):
            mature += float(sums.n.sum())
            known += float(sums.y.sum())
    return known, mature


def _unremembered(record: RolloutRecord, evidence: Mapping[int, Evidence]) -> str | None:
    """Predictions that no label can find, as those that are left may be the harmless ones."""
    sample = record.constants.label_sample if record.constants is not None else 1.0
    for arm in ("stable", "candidate"):
        lost = asked = 0.0
        for epoch in record.epochs:
            found = evidence.get(epoch.epoch)
            counts = None if found is None else found.arms.get(arm)
            if found is None or epoch.place == "baseline":
                continue
            lost += counts.unremembered if counts is not None else 0
            if epoch.place == "canary":
                asked += sample * counts.accounted if counts is not None else 0.0
            elif arm == "candidate":  # a pair is counted with the candidate
                asked += sample * found.mirror.paired
        if lost >= _FEW_LOST and lost > LOST * asked:
            return (
                f"{lost:.0f} of about {asked:.0f} predictions of {arm} were not stored, so those that have "
                "labels may not be like all: see the routers' logs, and remember fewer (outcome.sample)"
            )
    return None


def _misfits(evidence: Mapping[int, Evidence], known: float) -> str | None:
    counted = _counts(evidence, MISMATCHED)
    misfits = FEWEST if isinstance(counted, Broken) else counted[0]
    if misfits <= MISFITS * (known + misfits) or misfits < 2.0:  # noqa: PLR2004
        return None
    return (
        f"{misfits:.0f} labels of {known + misfits:.0f} have another number of values than their request has "
        "instances: send a value for each"
    )


def _counts_selected(evidence: Mapping[int, Evidence]) -> bool:
    counted = _counts(evidence, SELECTED)
    return isinstance(counted, Broken) or counted[0] > 0.0


def _selective(evidence: Mapping[int, Evidence], mature: float, known: float) -> str | None:
    counted = _counts(evidence, SELECTED)
    if isinstance(counted, Broken):
        return counted.reason
    chosen, chosen_known = counted
    rest, rest_known = mature - chosen, known - chosen_known
    if min(chosen, rest) < FEWEST or chosen_known < FEWEST / 10:
        return None
    ours, theirs = chosen_known / chosen, rest_known / rest
    if theirs > SELECTIVE * ours:
        return None
    return (
        f"selective labels: {ours:.0%} of the selected predictions have one and {theirs:.1%} of the others, "
        "so each version would be judged on what it selected itself; send labels of a random sample of the "
        "others"
    )


def _unlike(view: View, *, sticky: bool) -> str | None:
    """Labels that come for one arm more often than for the other."""
    epochs = view.canary("", LABELLED, LABELLED)
    if isinstance(epochs, Broken):
        return epochs.reason
    parts = [one for one in epochs if min(one.candidate.n.sum(), one.stable.n.sum()) >= FEWEST]
    if not parts:
        return None
    if sticky:
        got = cluster_estimate(
            [ClusterEpoch(e.weight, e.candidate.n, e.candidate.y, e.stable.n, e.stable.y) for e in parts]
        )
        if isinstance(got, NotComputable):
            return None
        found = Apart(got.events_c + got.events_s, got.estimate, sqrt(got.variance))
    else:
        found = apart((_labelled(e.candidate), _labelled(e.stable)) for e in parts)
    # The arms are large enough to say something however few labels have come.
    if not found.beyond(TOLERATED, fewest=0.0):
        return None
    more = "more" if found.gap > 0.0 else "fewer"
    return (
        f"{abs(found.gap):.1%} {more} of the candidate's predictions have a label than of stable's, so what "
        "is missing may be what differs: see that labels come for both alike"
    )


def _labelled(sums: Sums) -> tuple[float, float]:
    return float(sums.y.sum()), float(sums.n.sum())


def _counts(evidence: Mapping[int, Evidence], metric: str) -> tuple[float, float] | Broken:
    n = y = 0.0
    for found in evidence.values():
        for arm in _ARMS:
            sums = sums_of(found, SeriesKey(arm, "", metric))
            if isinstance(sums, Broken):
                return sums
            if sums is not None:
                n += float(sums.n.sum())
                y += float(sums.y.sum())
    return n, y
