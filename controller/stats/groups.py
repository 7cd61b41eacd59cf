"""Rates of groups set against each other: gaps, ratios, and how the candidate changes them.

A contrast is a combination of cells' rates, such as (r_cg - r_sg) - (r_ch - r_sh) for groups g and h in the
arms c (candidate) and s (stable). Cells may be any: a group, or a group among those of one true label
(equalized odds, equal opportunity). Rates are compared within each epoch and averaged with one weight per
epoch, omega_e proportional to n_e pi_e (1 - pi_e), for all cells: arms are never pooled over epochs.

Cells hold sums per cluster (units, or batches of time): then the variance is that of the clusters' influence
on the whole contrast. Cells of one cluster hold independent observations: then it is the sum of the cells'
own. For the asymptotic tests, t-scaled; where observations are independent with Satterthwaite's df.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .clusters import FEWEST_EFFECTIVE_CLUSTERS
from .result import NotComputable
from .scarce import at_null
from .spread import Cell, GapEstimate, averaged, between_clusters, too_few, within_cells


@dataclass(frozen=True, slots=True, eq=False)
class PairedGroups:
    """Groups g and h in one epoch. `pi`: the candidate's share; 1/2 where both arms answered each request."""

    pi: float
    g_c: Cell
    g_s: Cell
    h_c: Cell
    h_s: Cell


def gap_growth(
    epochs: Sequence[PairedGroups],
    *,
    against: Literal[-1, 1] = -1,
    shared: bool = False,
    fewest: float = FEWEST_EFFECTIVE_CLUSTERS,
    null: float | None = None,
) -> GapEstimate | NotComputable:
    """How far the candidate's gap g - h lies beyond stable's: (r_cg - r_ch) - (r_sg - r_sh).

    Args:
        epochs: in any order; one with an empty cell has no weight.
        against: -1 for stable's gap as it is; +1 for its reverse, h - g. The absolute gap grew by no more
            than d exactly where the contrast with -1 or the one with +1 is at most d, in both orders of g, h.
        shared: one observation may count in both groups, so the two may be correlated; ignored with clusters.
        fewest: effective clusters needed; fewer are enough for batches of pairs.
        null: as in `contrast`.
    """
    return contrast(
        [(_both_arms(e), (e.g_c, e.h_c, e.g_s, e.h_s)) for e in epochs],
        (1.0, -1.0, float(against), -float(against)),
        names=("the candidate's first group", "the candidate's second group",
               "stable's first group", "stable's second group"),
        shared=shared, fewest=fewest, null=null,
    )  # fmt: skip


def shortfall(
    epochs: Sequence[tuple[Cell, Cell]],
    ratio: float,
    *,
    shared: bool = False,
    fewest: float = FEWEST_EFFECTIVE_CLUSTERS,
    null: float | None = None,
) -> GapEstimate | NotComputable:
    """r_g - ratio * r_h in one arm: at least 0 where g's rate is `ratio` (four fifths: 0.8) of h's or more.

    Epochs weigh by their observations.
    """
    return contrast(
        [(float(g.n.sum() + h.n.sum()), (g, h)) for g, h in epochs],
        (1.0, -ratio),
        names=("the first group", "the second group"),
        shared=shared, fewest=fewest, null=null,
    )  # fmt: skip


def ratio_growth(
    epochs: Sequence[PairedGroups],
    *,
    shared: bool = False,
    fewest: float = FEWEST_EFFECTIVE_CLUSTERS,
    null: float | None = None,
) -> GapEstimate | NotComputable:
    """ln((r_cg / r_ch) / (r_sg / r_sh)): how the candidate changes the ratio of two groups' rates.

    Rates are averaged over epochs first, with the same weights, so that no epoch needs successes in every
    cell; the variance is the delta method's.
    """
    return contrast(
        [(_both_arms(e), (e.g_c, e.h_c, e.g_s, e.h_s)) for e in epochs],
        (1.0, -1.0, -1.0, 1.0),
        names=("the candidate's first group", "the candidate's second group",
               "stable's first group", "stable's second group"),
        logs=True, shared=shared, fewest=fewest, null=null,
    )  # fmt: skip


def contrast(
    epochs: Sequence[tuple[float, Sequence[Cell]]],
    coefficients: Sequence[float],
    *,
    names: Sequence[str],
    logs: bool = False,
    shared: bool = False,
    fewest: float = FEWEST_EFFECTIVE_CLUSTERS,
    null: float | None = None,
) -> GapEstimate | NotComputable:
    """sum_k coefficient_k r_k (or ln r_k) over cells, r_k = sum_e omega_e r_ke.

    Args:
        epochs: (weight, cells) each, the cells in the order of the coefficients.
        coefficients: of the cells. Cells come in couples (g, h) of one arm: 0 and 1, 2 and 3.
        names: of the cells, for what is said when one is too small.
        logs: of logarithms of rates.
        shared: cells of a couple may hold the same observations; the largest variance that any correlation
            allows is used. Without effect where there are clusters.
        fewest: effective clusters that every cell needs, where there are clusters.
        null: of harm. A cell of the candidate may then have too few successes or failures, if enough would
            be expected where the contrast has this value: see `scarce`.

    Returns:
        Not computable with broken sums, with fewer than 30 observations or 10 successes and failures in a
        cell over all epochs, 100 observations in all, or with too few effective clusters.

    Raises:
        ValueError: a coefficient, `fewest` or `null` is not finite.
    """
    if not all(map(math.isfinite, (*coefficients, fewest, null or 0.0))):
        msg = f"a contrast needs finite numbers, got {coefficients!r}, fewest={fewest!r}, null={null!r}"
        raise ValueError(msg)
    got = averaged(epochs, len(coefficients))
    if isinstance(got, NotComputable):
        return got
    small = too_few(got.totals, names)
    if small is not None:
        return (
            NotComputable(small)
            if null is None
            else at_null(null, got, coefficients, names=names, logs=logs, shared=shared, fewest=fewest)
        )
    used, omega, rates = got.used, got.omega, got.rates
    if logs and min(rates) <= 0.0:
        return NotComputable("a rate of 0 has no ratio")
    estimate = sum(c * (math.log(r) if logs else r) for c, r in zip(coefficients, rates, strict=True))
    slopes = [c / r if logs else c for c, r in zip(coefficients, rates, strict=True)]
    observed = tuple(n for n, _ in got.totals)
    if used[0][1][0].n.size > 1:
        spread = between_clusters(omega, used, slopes, fewest)
    else:
        spread = within_cells(omega, used, slopes, shared=shared)
    if isinstance(spread, NotComputable):
        return spread
    return GapEstimate(estimate, spread[0], spread[1], tuple(rates), observed)


def _both_arms(epoch: PairedGroups) -> float:
    """n pi (1 - pi); NaN for a share that is none, which is refused."""
    if not 0.0 <= epoch.pi <= 1.0:
        return math.nan
    cells = (epoch.g_c, epoch.g_s, epoch.h_c, epoch.h_s)
    return sum(float(cell.n.sum()) for cell in cells) * epoch.pi * (1.0 - epoch.pi)
