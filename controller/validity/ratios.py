"""Sample ratio: whether the arms got the requests that their weights give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from ...store.evidence import Evidence, SeriesKey
from ...store.rollouts import EpochRecord, FrozenConstants, Outcome, RolloutRecord, Validity
from ..analysis.sums import Broken, sums_of
from ..stats.result import NotComputable
from ..stats.sample_ratio import RatioEpoch, StickyRatioEpoch, log_e, p_value, sticky_log_e
from .accounts import known

RATIO_LEVEL: Final = 0.0005  # of each of the two sample ratio checks: 0.1% together


def sample_ratio(
    record: RolloutRecord,
    constants: FrozenConstants | None,
    evidence: Mapping[int, Evidence],
    assigned: Mapping[tuple[int, str], float],
) -> Iterator[Validity]:
    """At assignment from the reports, at completion from the evidence, each at half the level."""
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
        _ratio(epoch, known(evidence[epoch.epoch], "candidate"), known(evidence[epoch.epoch], "stable"))
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
    """Units stay with their arm, so requests are counted per cluster of units.

    At assignment: all that were accounted, whatever became of them. At completion: those with a prediction,
    where predictions are kept at all.
    """
    for moment, series in (
        ("at assignment", ("requests",)),
        ("at completion", ("mean", "bin.0", "selected")),
    ):
        counted: list[StickyRatioEpoch] = []
        for epoch in epochs:
            found = evidence.get(epoch.epoch)
            got = None if found is None else _by_unit(epoch, found, series)
            if isinstance(got, Broken):
                yield Validity("sample_ratio", Outcome.ERROR, got.reason)
                return
            if got is not None:
                counted.append(got)
        value = sticky_log_e(counted, RATIO_LEVEL)
        if not isinstance(value, NotComputable):
            candidate = sum(float(e.n_c.sum()) for e in counted)
            total = candidate + sum(float(e.n_s.sum()) for e in counted)
            yield _ratio_verdict(moment, value, candidate, total)


def _by_unit(epoch: EpochRecord, found: Evidence, names: Sequence[str]) -> StickyRatioEpoch | Broken | None:
    """Requests of both arms per cluster of units, of the first series that either has; None without any."""
    for name in names:
        ours, theirs = (sums_of(found, SeriesKey(arm, "", name)) for arm in ("candidate", "stable"))
        for sums in (ours, theirs):
            if isinstance(sums, Broken):
                return sums
        assert not isinstance(ours, Broken) and not isinstance(theirs, Broken)  # noqa: PT018, S101
        like = ours or theirs
        if like is None or like.n.size == 1:
            continue
        # An arm without any request is the grossest mismatch, not nothing to look at.
        n_c, n_s = (np.zeros_like(like.n) if sums is None else sums.n for sums in (ours, theirs))
        if n_c.size != n_s.size:
            return Broken(f"{name} has {n_c.size} and {n_s.size} clusters in the two arms")
        return StickyRatioEpoch(epoch.weight, n_c, n_s)
    return None


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
