"""The methods of `methods` in the mean: what each would measure on expected epochs.

Where sums of totals are enough the method itself runs on expected sums; where it squares clusters, its
expected variance, degrees of freedom and fallbacks are worked out here. A method without an entry in
`EXPECTED` is not planned, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, sqrt
from typing import Any, Final

import numpy as np

from ...store.measurement import CLUSTERS
from ..analysis.gaps import (
    GROUP_BATCHES,
    GROUP_UNITS,
    Compared,
    canary_groups,
    contrast_of,
    gap_of,
    paired_groups,
)
from ..analysis.methods import (
    BATCHES,
    FEW,
    FEWEST_BATCHES_THAT_DIFFER,
    TIME,
    UNITS,
    Asymptotic,
    Bounded,
    Measured,
    paired_agreement,
    paired_differences,
    server_outcomes,
    unit_outcomes,
    unit_share,
)
from ..analysis.sums import CanaryEpoch, GroupsEpoch, PairEpoch, PairGroupsEpoch, Sums
from ..stats.clusters import (
    FEWEST_BATCHES,
    FEWEST_EFFECTIVE_CLUSTERS,
    FEWEST_EVENTS,
    FEWEST_OBSERVATIONS,
    FEWEST_PER_ARM,
)
from ..stats.groups import PairedGroups
from ..stats.mean import at_least_statistic, paired_statistic
from ..stats.result import NotComputable
from ..stats.spread import Cell
from .traffic import Moments, Traffic

_NOTHING: Final = Moments(0.0, 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedCanary(CanaryEpoch):
    """Expected sums of both arms, and what is behind them."""

    start: float = 0.0
    seconds: float = 0.0
    ours: Moments = _NOTHING
    theirs: Moments = _NOTHING


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedPair(PairEpoch):
    """Expected sums of pairs, and what is behind them."""

    start: float = 0.0
    seconds: float = 0.0
    ours: Moments = _NOTHING
    theirs: Moments = _NOTHING
    correlation: float = 0.0


def _server(
    epochs: Sequence[ExpectedCanary], traffic: Traffic, given: dict[str, Any]
) -> Measured | NotComputable:
    ratio, absolute = given.get("ratio", 1.0), given.get("absolute", True)
    got = _compared(
        epochs,
        ratio,
        effective_clusters(traffic.batch, [(e.start, e.seconds, _n(e.candidate)) for e in epochs]),
    )
    if isinstance(got, NotComputable):
        return got
    seen = sum(float(e.candidate.y.sum() + e.stable.y.sum()) for e in epochs)
    if seen < FEWEST_EVENTS:
        if not absolute or ratio != 1.0:
            return NotComputable(f"only {seen:.0f} such requests so far, too few to compare by a factor")
        centre = epochs[0].centre
        few = unit_outcomes(epochs, sticky=False, counted=True, variance=centre * (1.0 - centre))
        return replace(few, method=FEW) if isinstance(few, Bounded) else few
    variance = sum(
        w * w * (e.ours.variance * _burst(e.ours, e.weight) / _n(e.candidate)
                 + ratio**2 * e.theirs.variance * _burst(e.theirs, 1.0 - e.weight) / _n(e.stable))
        for w, e in zip(got.omega, epochs, strict=True)
    )  # fmt: skip
    return Asymptotic(got.estimate, variance, got.effective - 1.0, TIME, got.n_c, got.n_s, got.expected_c)


def _units(
    epochs: Sequence[ExpectedCanary], traffic: Traffic, given: dict[str, Any]
) -> Measured | NotComputable:
    """Sticky units: users are spread over the clusters at random, and requests of one are alike."""
    if not given["sticky"]:
        return unit_outcomes(epochs, **given)
    units = traffic.units * _group_share(epochs, traffic)
    shares = np.array([e.weight for e in epochs])
    n_c = np.array([_n(e.candidate) for e in epochs])
    # A user below the weight is the candidate's, so users of a smaller weight stay with it.
    cuts = np.unique(np.concatenate((shares, [1.0])))
    widths = np.diff(cuts, prepend=0.0)
    inside = shares[None, :] >= cuts[:, None]  # is the slice of users in the candidate's arm, per epoch
    requests = (inside * (n_c / shares)[None, :] / units).sum(axis=1)
    total = float(n_c.sum())
    square = units * float((widths * requests**2).sum()) + total
    got = _compared(epochs, 1.0, total**2 / (square + total**2 / CLUSTERS))
    if isinstance(got, NotComputable):
        return (
            replace(got, reason=f"{got.reason}; {units:.0f} users at these weights are too few")
            if ("effective" in got.reason)
            else got
        )
    omega = np.array(got.omega)
    variance = 0.0
    alike = traffic.within_unit
    # With a_u requests of user u, the sum of a_u^2 is n + n^2/users: as independent, and what users share.
    for w, e in zip(omega, epochs, strict=True):
        variance += w * w * (e.ours.variance / _n(e.candidate) + e.theirs.variance / _n(e.stable))
    pull = (omega[None, :] * np.where(inside, 1.0 / shares[None, :], -1.0 / (1.0 - shares[None, :]))).sum(
        axis=1
    )
    variance += alike * epochs[0].theirs.variance / units * float((widths * pull**2).sum())
    events = sum(float(e.candidate.y.sum() + e.stable.y.sum()) for e in epochs)
    if given["counted"] and min(events, got.n_c + got.n_s - events) < FEWEST_EVENTS:
        few = unit_outcomes(epochs, sticky=False, counted=True, variance=given["variance"])
        worth = min(1.0, 1.0 / (1.0 + (got.n_c + got.n_s) / units))
        return replace(few, method=FEW).counting(worth) if isinstance(few, Bounded) else few
    expected = got.expected_c if given["counted"] else None
    return Asymptotic(got.estimate, variance, got.effective - 1.0, UNITS, got.n_c, got.n_s, expected)


def _share(
    epochs: Sequence[ExpectedCanary], traffic: Traffic, given: dict[str, Any]
) -> Measured | NotComputable:
    """The candidate's own share. Users of sticky units are spread over the clusters at random."""
    least = given["least"]
    independent = unit_share(epochs, least=least, sticky=False)
    if not given["sticky"] or not isinstance(independent, Bounded):
        return independent
    n, share = independent.n_candidate, epochs[-1].ours.mean
    units = traffic.units * _group_share(epochs, traffic) * max(e.weight for e in epochs)
    effective = units * CLUSTERS / (units + CLUSTERS)
    if effective < FEWEST_BATCHES:
        return NotComputable(f"{effective:.1f} effective clusters, at least {FEWEST_BATCHES:g} needed")
    if n * min(share, 1.0 - share) < FEWEST_EVENTS:
        return replace(independent, method=FEW).counting(min(1.0, units / n))
    variance = share * (1.0 - share) / n * (1.0 + traffic.within_unit * n / units)
    return Asymptotic(share - least, variance, effective - 1.0, UNITS, n, n, least * n)


def _pairs(
    epochs: Sequence[ExpectedPair], traffic: Traffic, given: dict[str, Any]
) -> Measured | NotComputable:
    ratio, counted, tau = given.get("ratio", 1.0), given["counted"], given["autocorrelation"]
    pairs = sum(_n(e.pair) for e in epochs)
    batches = effective_clusters(traffic.batch, [(e.start, e.seconds, _n(e.pair)) for e in epochs])
    if batches < FEWEST_BATCHES:
        return NotComputable(f"{batches:.1f} effective batches, at least {FEWEST_BATCHES:g} needed")
    ours, theirs = epochs[0].ours, epochs[0].theirs
    estimate = ours.mean - ratio * theirs.mean
    shared = epochs[0].correlation * sqrt(ours.variance * theirs.variance)
    bursts = _burst(theirs, pairs / max(1.0, traffic.rate * sum(e.seconds for e in epochs)))
    variance = (ours.variance + ratio**2 * theirs.variance - 2.0 * ratio * shared) * bursts / pairs
    differ = sum(float(e.pair.square.sum()) for e in epochs)
    base = pairs * theirs.mean
    if ratio != 1.0:
        if pairs * (ours.mean + theirs.mean) < FEWEST_EVENTS:
            return NotComputable("too few such requests so far to compare by a factor")
        return Asymptotic(estimate, variance, batches - 1.0, BATCHES, pairs, pairs, ratio * base)
    apart = batches * (1.0 - exp(-differ / batches)) if counted else batches
    if variance == 0.0 or apart < FEWEST_BATCHES_THAT_DIFFER or (counted and differ < FEWEST_EVENTS):
        got = paired_statistic(pairs, pairs * estimate, differ, pairs / tau)
        return got if isinstance(got, NotComputable) else Bounded(got, 0.0, FEW, pairs, pairs)
    return Asymptotic(estimate, variance, batches - 1.0, BATCHES, pairs, pairs, base if counted else None)


def _agreement(
    epochs: Sequence[ExpectedPair], traffic: Traffic, given: dict[str, Any]
) -> Measured | NotComputable:
    least, tau = given["least"], given["autocorrelation"]
    pairs = sum(_n(e.pair) for e in epochs)
    batches = effective_clusters(traffic.batch, [(e.start, e.seconds, _n(e.pair)) for e in epochs])
    if batches < FEWEST_BATCHES:
        return NotComputable(f"{batches:.1f} effective batches, at least {FEWEST_BATCHES:g} needed")
    share = epochs[0].ours.mean
    if pairs * min(share, 1.0 - share) < FEWEST_EVENTS:
        worth = pairs / tau
        got = at_least_statistic(worth, worth * share, worth * share, least)
        return got if isinstance(got, NotComputable) else Bounded(got, 0.0, FEW, pairs, pairs)
    variance = share * (1.0 - share) / pairs
    return Asymptotic(share - least, variance, batches - 1.0, BATCHES, pairs, pairs, least * pairs)


def _groups(
    epochs: Sequence[GroupsEpoch], traffic: Traffic, given: dict[str, Any]
) -> Compared | NotComputable:
    """Two groups of both arms. Requests of one user are alike, so with sticky units they tell less."""
    got = canary_groups(
        epochs, form=given["form"], least=given["least"], sticky=False, shared=given["shared"],
        variances=given["variances"],
    )  # fmt: skip
    if not given["sticky"] or not isinstance(got, Asymptotic):
        return got
    whole = [[_n(s) for one in (e.group, e.against) for s in (one.candidate, one.stable)] for e in epochs]
    share = _group_share([e.group for e in epochs], traffic) + _group_share(
        [e.against for e in epochs], traffic
    )
    each = sum(map(sum, whole)) / max(1.0, traffic.units * min(1.0, share))
    fewest = min(_n(side.candidate) for e in epochs[-1:] for side in (e.group, e.against)) / max(1.0, each)
    effective = fewest * CLUSTERS / (fewest + CLUSTERS)
    if effective < FEWEST_EFFECTIVE_CLUSTERS:
        return NotComputable(
            f"{effective:.1f} effective clusters of a group, "
            f"at least {FEWEST_EFFECTIVE_CLUSTERS:g} are needed"
        )
    variance = got.variance * (1.0 + traffic.within_unit * each)
    return replace(got, variance=variance, df=effective - 1.0, method=GROUP_UNITS)


def _paired_groups(
    epochs: Sequence[PairGroupsEpoch], traffic: Traffic, given: dict[str, Any]
) -> Compared | NotComputable:
    form, correlation = given["form"], 0.0
    cells: list[Cell] = []
    fewest = float(CLUSTERS)
    for one in ([e.group for e in epochs], [e.against for e in epochs]):
        known = [e for e in one if isinstance(e, ExpectedPair)]
        n = sum(_n(e.pair) for e in known)
        fewest = min(
            fewest, effective_clusters(traffic.batch, [(e.start, e.seconds, _n(e.pair)) for e in known])
        )
        cells += [Cell.counts(n, n * known[0].ours.mean), Cell.counts(n, n * known[0].theirs.mean)]
        correlation = known[0].correlation
    if fewest < FEWEST_BATCHES:
        return NotComputable(f"{fewest:.1f} effective batches of a group, at least {FEWEST_BATCHES:g} needed")
    pairs = [PairedGroups(0.5, *cells)]
    got = contrast_of(form, pairs, given["least"], shared=False, fewest=FEWEST_BATCHES)
    if isinstance(got, NotComputable):
        return got
    gap = gap_of(form, got, GROUP_BATCHES, pairs)
    kept = 1.0 - correlation if form in {"gap", "ratio"} else 1.0  # both arms' noise on one request is shared
    return replace(gap, variance=max(gap.variance * kept, 1e-12), df=fewest - 1.0)


EXPECTED: Final[dict[Callable[..., Any], Callable[..., Compared | NotComputable]]] = {
    canary_groups: _groups,
    paired_groups: _paired_groups,
    server_outcomes: _server,
    unit_outcomes: _units,
    unit_share: _share,
    paired_differences: _pairs,
    paired_agreement: _agreement,
}


@dataclass(frozen=True, slots=True)
class _Compared:
    estimate: float
    omega: tuple[float, ...]
    effective: float
    n_c: float
    n_s: float
    expected_c: float


def _compared(epochs: Sequence[ExpectedCanary], ratio: float, effective: float) -> _Compared | NotComputable:
    n_c = sum(_n(e.candidate) for e in epochs)
    n_s = sum(_n(e.stable) for e in epochs)
    if min(n_c, n_s) < FEWEST_PER_ARM or n_c + n_s < FEWEST_OBSERVATIONS:
        return NotComputable(f"{n_c:.0f} candidate and {n_s:.0f} stable requests are too few")
    if effective < FEWEST_EFFECTIVE_CLUSTERS:
        return NotComputable(
            f"{effective:.1f} effective clusters of the candidate, "
            f"at least {FEWEST_EFFECTIVE_CLUSTERS:g} are needed"
        )
    weights = [(_n(e.candidate) + _n(e.stable)) * e.weight * (1.0 - e.weight) for e in epochs]
    omega = tuple(weight / sum(weights) for weight in weights)
    estimate = sum(w * (e.ours.mean - ratio * e.theirs.mean) for w, e in zip(omega, epochs, strict=True))
    expected = sum(ratio * _n(e.candidate) * e.theirs.mean for e in epochs)
    return _Compared(estimate, omega, effective, n_c, n_s, expected)


def effective_clusters(batch: float, spans: Sequence[tuple[float, float, float]]) -> float:
    """(Σn)²/Σn² over time clusters, expected. `spans`: start, seconds, observations; clusters are cyclic.

    Counts of a cluster vary as a Poisson's do, besides by how long it has been open.
    """
    n = np.zeros(CLUSTERS)
    for start, seconds, count in spans:
        first, last = start / batch, (start + seconds) / batch
        turns, rest = divmod(last - first, CLUSTERS)
        slots = np.full(CLUSTERS, turns)
        edges = np.arange(CLUSTERS)
        begin = first % CLUSTERS
        for shift in (0.0, CLUSTERS):
            slots += np.clip(
                np.minimum(edges + 1.0 + shift, begin + rest) - np.maximum(edges + shift, begin), 0.0, None
            )
        n += count * slots / max(last - first, 1e-12)
    total = float(n.sum())
    return total**2 / (float(n @ n) + total) if total > 0.0 else 0.0


def _burst(moments: Moments, share: float) -> float:
    """Bursts are of all requests: an arm with a part of them sees its part of the excess."""
    return 1.0 + (moments.bursts - 1.0) * min(1.0, share)


def _group_share(epochs: Sequence[CanaryEpoch], traffic: Traffic) -> float:
    n = sum(_n(e.candidate) + _n(e.stable) for e in epochs)
    whole = traffic.rate * sum(e.seconds for e in epochs if isinstance(e, ExpectedCanary))
    return min(1.0, n / whole) if whole > 0.0 else 1.0


def _n(sums: Sums) -> float:
    return float(sums.n.sum())
