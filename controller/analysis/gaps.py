"""Two groups compared with each other: how a gap grows, and whether one's rate is a share of the other's.

    gap            (r_cg - r_ch) - (r_sg - r_sh): the candidate's gap beyond stable's
    reverse        (r_cg - r_ch) - (r_sh - r_sg): beyond stable's gap in the other direction
    shortfall      r_cg - least r_ch: the candidate's ratio against an absolute limit
    ratio          ln of the candidate's ratio over stable's

All are asymptotic (P4). Per request the variance is that of independent groups, with sticky units that of
clusters of units, on pairs that of batches of time. A gap between groups of which too few are selected for
that is judged in each group by itself, at half the margin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from ..stats.clusters import FEWEST_BATCHES, FEWEST_EFFECTIVE_CLUSTERS
from ..stats.groups import PairedGroups, gap_growth, ratio_growth, shortfall
from ..stats.result import NotComputable
from ..stats.spread import Cell, GapEstimate
from .methods import (
    FEW,
    Asymptotic,
    Measured,
    lacking_share,
    paired_differences,
    unit_outcomes,
    unlike_weights,
)
from .sums import CanaryEpoch, GroupsEpoch, PairEpoch, PairGroupsEpoch, Sums

Form = Literal["gap", "reverse", "shortfall", "ratio", "stable"]

GROUPS = "P4 groups (asymptotic)"
GROUP_UNITS = "P4 groups, clusters of units (asymptotic)"
GROUP_BATCHES = "P4 groups, batches of pairs (asymptotic)"
HALVES = "each group at half the margin (few events)"


@dataclass(frozen=True, slots=True)
class Halves:
    """The effect in one group minus that in another, each judged by itself: only safety can be concluded.

    If the difference is at the margin, one of them is at half of it. Both tests must reject, so neither needs
    a correction (intersection-union).
    """

    one: Measured
    other: Measured

    @property
    def estimate(self) -> float:
        """Of the growth."""
        return self.one.estimate - self.other.estimate

    @property
    def method(self) -> str:
        """As it is shown."""
        return f"{FEW.partition(' (')[0]} of {HALVES}"

    @property
    def n_candidate(self) -> float:
        """Observations of both groups."""
        return self.one.n_candidate + self.other.n_candidate

    @property
    def n_stable(self) -> float:
        """Observations of both groups."""
        return self.one.n_stable + self.other.n_stable

    def harm(self, null: float, gap: float, level: float) -> NotComputable:  # noqa: ARG002 (as the others)
        """Never: there are too few events."""
        return NotComputable("too few events in a group to prove a gap")

    def safe(self, null: float, gap: float, level: float) -> float | NotComputable:
        """Log E-value against "effect >= null"."""
        first = self.one.safe(null / 2.0, gap / 2.0, level)
        second = self.other.mirrored().safe(null / 2.0, gap / 2.0, level)
        if isinstance(first, NotComputable):
            return first
        return second if isinstance(second, NotComputable) else min(first, second)

    def reach(self, gap: float, level: float) -> float:
        """Half the width of the interval of the growth."""
        return self.one.reach(gap / 2.0, level) + self.other.reach(gap / 2.0, level)

    def mirrored(self) -> Halves:
        """The same with the sign of the effect turned."""
        return Halves(self.other, self.one)


@dataclass(frozen=True, slots=True)
class Scarce:
    """A gap where the candidate selects too few of a group, or all but a few, though enough were due.

    Harm is judged with the variance that there would be at its null, safety by something else, if at all.
    """

    gap: Asymptotic
    otherwise: Halves | NotComputable

    @property
    def estimate(self) -> float:
        """Of the contrast."""
        return self.gap.estimate

    @property
    def method(self) -> str:
        """As it is shown."""
        return self.gap.method.replace("(asymptotic", "(few events, asymptotic")

    @property
    def n_candidate(self) -> float:
        """Observations of both groups."""
        return self.gap.n_candidate

    @property
    def n_stable(self) -> float:
        """Observations of both groups."""
        return self.gap.n_stable

    @property
    def base(self) -> float:
        """What a shortfall is told in parts of."""
        return self.gap.base

    def harm(self, null: float, gap: float, level: float) -> float | NotComputable:
        """Log E-value against "effect <= null", the null that the variance was taken at."""
        return self.gap.harm(null, gap, level)

    def safe(self, null: float, gap: float, level: float) -> float | NotComputable:
        """Log E-value against "effect >= null"."""
        return (
            self.otherwise
            if isinstance(self.otherwise, NotComputable)
            else self.otherwise.safe(null, gap, level)
        )

    def reach(self, gap: float, level: float) -> float:
        """Half the width of the interval, where something else has one."""
        return float("inf") if isinstance(self.otherwise, NotComputable) else self.otherwise.reach(gap, level)

    def mirrored(self) -> Scarce:
        """The same with the sign of the effect turned."""
        other = self.otherwise
        return Scarce(self.gap.mirrored(), other if isinstance(other, NotComputable) else other.mirrored())


Compared = Measured | Halves | Scarce


def canary_groups(
    epochs: Sequence[GroupsEpoch],
    *,
    form: Form,
    least: float,
    sticky: bool,
    shared: bool,
    variances: tuple[float, float],
    harm_at: float | None = None,
) -> Compared | NotComputable:
    """Two groups of randomised arms.

    Args:
        epochs: with both groups each.
        form: of the comparison, see the module. `stable`: the shortfall of stable's own ratio.
        least: the ratio asked for, of a shortfall.
        sticky: requests of one unit come together: sums must be by clusters of units.
        shared: one request may hold instances of both groups.
        variances: of stable's y in both groups, frozen, for tuning only.
        harm_at: the contrast at which harm begins; None where only safety is asked for.
    """
    groups = [epoch.group for epoch in epochs], [epoch.against for epoch in epochs]
    tolerated = lacking_share(sticky=sticky)
    for one in groups:
        lacking = unlike_weights(one, tolerated)
        if lacking is not None:
            return lacking
    if sticky and any(epoch.candidate.n.size == 1 for one in groups for epoch in one):
        return NotComputable("requests of one unit stay together, but their sums were not kept by unit")
    pairs = [
        PairedGroups(e.group.weight, *(_cell(s) for s in (
            e.group.candidate, e.group.stable, e.against.candidate, e.against.stable
        )))
        for e in epochs
    ]  # fmt: skip
    return _told(
        form, pairs, GROUP_UNITS if sticky else GROUPS, harm_at,
        partial(contrast_of, form, pairs, least, shared=shared, fewest=FEWEST_EFFECTIVE_CLUSTERS),
        lambda: [
            unit_outcomes(one, sticky=sticky, counted=True, variance=variance)
            for one, variance in zip(groups, variances, strict=True)
        ],
    )  # fmt: skip


def paired_groups(
    epochs: Sequence[PairGroupsEpoch], *, form: Form, least: float, autocorrelation: float,
    harm_at: float | None = None,
) -> Compared | NotComputable:  # fmt: skip
    """Two groups of pairs: both versions answered each request. By batches of time."""
    groups = [epoch.group for epoch in epochs], [epoch.against for epoch in epochs]
    both: list[tuple[Cell, Cell]] = []
    for one in groups:
        cells = _sides(one)
        if isinstance(cells, NotComputable):
            return cells
        both.append(cells)
    (g_c, g_s), (h_c, h_s) = both
    pairs = [PairedGroups(0.5, g_c, g_s, h_c, h_s)]
    return _told(
        form, pairs, GROUP_BATCHES, harm_at,
        partial(contrast_of, form, pairs, least, shared=False, fewest=FEWEST_BATCHES),
        lambda: [
            paired_differences(one, counted=True, autocorrelation=autocorrelation) for one in groups
        ],
    )  # fmt: skip


def _told(
    form: Form, pairs: Sequence[PairedGroups], method: str, harm_at: float | None,
    contrast: Callable[..., GapEstimate | NotComputable],
    each: Callable[[], Sequence[Measured | NotComputable]],
) -> Compared | NotComputable:  # fmt: skip
    """The contrast, or what few events leave of it. `each`: both groups by themselves."""
    got = contrast()
    if isinstance(got, GapEstimate) and got.variance > 0.0:
        return gap_of(form, got, method, pairs)
    otherwise: Halves | NotComputable = (
        got if isinstance(got, NotComputable) else NotComputable("nothing varies between observations")
    )
    if form == "gap":
        otherwise = _halves(*each())
    scarce = NotComputable("") if harm_at is None else contrast(null=harm_at)
    if isinstance(scarce, NotComputable) or scarce.variance <= 0.0:
        return otherwise
    return Scarce(gap_of(form, scarce, method, pairs), otherwise)


def contrast_of(
    form: Form, pairs: Sequence[PairedGroups], least: float, *, shared: bool, fewest: float,
    null: float | None = None,
) -> GapEstimate | NotComputable:  # fmt: skip
    """The contrast of a form, of whatever the cells hold. `null`: of harm, see `stats.groups.contrast`."""
    if form == "gap":
        return gap_growth(pairs, shared=shared, fewest=fewest, null=null)
    if form == "reverse":
        return gap_growth(pairs, against=1, shared=shared, fewest=fewest, null=null)
    if form == "ratio":
        return ratio_growth(pairs, shared=shared, fewest=fewest, null=null)
    arms = [(e.g_s, e.h_s) if form == "stable" else (e.g_c, e.h_c) for e in pairs]
    return shortfall(arms, least, shared=shared, fewest=fewest, null=null)


def gap_of(form: Form, got: GapEstimate, method: str, pairs: Sequence[PairedGroups]) -> Asymptotic:
    """An estimate with the observations behind it."""
    candidate = sum(float(e.g_c.n.sum() + e.h_c.n.sum()) for e in pairs)
    stable = sum(float(e.g_s.n.sum() + e.h_s.n.sum()) for e in pairs)
    base = got.rates[1] if form in {"shortfall", "stable"} else 1.0
    return Asymptotic(got.estimate, got.variance, got.df, method, candidate, stable, base=base)


def _halves(one: Measured | NotComputable, other: Measured | NotComputable) -> Halves | NotComputable:
    if isinstance(one, NotComputable):
        return one
    return other if isinstance(other, NotComputable) else Halves(one, other)


def _cell(sums: Sums) -> Cell:
    return Cell(sums.n, sums.y, sums.square)


def _sides(epochs: Sequence[PairEpoch]) -> tuple[Cell, Cell] | NotComputable:
    """The candidate's and stable's sums of one group's pairs, batch by batch."""
    n = sum(epoch.pair.n for epoch in epochs)
    theirs = [epoch.stable for epoch in epochs if epoch.stable is not None]
    if not epochs or len(theirs) != len(epochs):
        return NotComputable("stable's side of the pairs is not in the evidence")
    if any(
        one.n.size != epoch.pair.n.size or np.abs(one.n - epoch.pair.n).max() > 0.0
        for one, epoch in zip(theirs, epochs, strict=True)
    ):
        return NotComputable("the two sides of the pairs do not hold the same requests")
    stable = sum(one.y for one in theirs)
    ours = np.clip(stable + sum(epoch.pair.y for epoch in epochs), 0.0, n)
    return Cell(np.asarray(n), ours, ours), Cell(np.asarray(n), np.asarray(stable), np.asarray(stable))


def epochs_of(epoch: GroupsEpoch | PairGroupsEpoch) -> tuple[CanaryEpoch | PairEpoch, ...]:
    """Both groups of an epoch."""
    return epoch.group, epoch.against
