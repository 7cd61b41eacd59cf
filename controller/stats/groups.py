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
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from .clusters import FEWEST_EFFECTIVE_CLUSTERS, FEWEST_OBSERVATIONS, effective_number
from .result import NotComputable

FEWEST_PER_GROUP: Final = 30.0
FEWEST_PER_KIND: Final = 10.0
"""Successes, and failures, of each cell over all epochs."""

_ROUNDING: Final = 1e-13

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One group in one arm of one epoch: per cluster n, sum y, sum y^2, with y in [0, 1].

    Length 1: the observations are independent of each other. Else every cell of a contrast has the same
    clusters, index j being the same one everywhere.
    """

    n: Floats
    y: Floats
    square: Floats

    @classmethod
    def counts(cls, n: float, ones: float) -> Cell:
        """Independent observations, of which so many are 1 and the others 0."""
        return cls(np.array([n]), np.array([ones]), np.array([ones]))


@dataclass(frozen=True, slots=True, eq=False)
class PairedGroups:
    """Groups g and h in one epoch. `pi`: the candidate's share; 1/2 where both arms answered each request."""

    pi: float
    g_c: Cell
    g_s: Cell
    h_c: Cell
    h_s: Cell


@dataclass(frozen=True, slots=True)
class GapEstimate:
    """An estimate for the asymptotic tests. `rates`: of the cells in order, averaged over epochs.

    `variance` is exactly 0 where nothing varies. `df`: of the t-scaling.
    """

    estimate: float
    variance: float
    df: float
    rates: tuple[float, ...]
    n: tuple[float, ...]


def gap_growth(
    epochs: Sequence[PairedGroups],
    *,
    against: Literal[-1, 1] = -1,
    shared: bool = False,
    fewest: float = FEWEST_EFFECTIVE_CLUSTERS,
) -> GapEstimate | NotComputable:
    """How far the candidate's gap g - h lies beyond stable's: (r_cg - r_ch) - (r_sg - r_sh).

    Args:
        epochs: in any order; one with an empty cell has no weight.
        against: -1 for stable's gap as it is; +1 for its reverse, h - g. The absolute gap grew by no more
            than d exactly where the contrast with -1 or the one with +1 is at most d, in both orders of g, h.
        shared: one observation may count in both groups, so the two may be correlated; ignored with clusters.
        fewest: effective clusters needed; fewer are enough for batches of pairs.
    """
    return contrast(
        [(_both_arms(e), (e.g_c, e.h_c, e.g_s, e.h_s)) for e in epochs],
        (1.0, -1.0, float(against), -float(against)),
        names=("the candidate's first group", "the candidate's second group",
               "stable's first group", "stable's second group"),
        shared=shared, fewest=fewest,
    )  # fmt: skip


def shortfall(
    epochs: Sequence[tuple[Cell, Cell]],
    ratio: float,
    *,
    shared: bool = False,
    fewest: float = FEWEST_EFFECTIVE_CLUSTERS,
) -> GapEstimate | NotComputable:
    """r_g - ratio * r_h in one arm: at least 0 where g's rate is `ratio` (four fifths: 0.8) of h's or more.

    Epochs weigh by their observations.
    """
    return contrast(
        [(float(g.n.sum() + h.n.sum()), (g, h)) for g, h in epochs],
        (1.0, -ratio),
        names=("the first group", "the second group"),
        shared=shared, fewest=fewest,
    )  # fmt: skip


def ratio_growth(
    epochs: Sequence[PairedGroups],
    *,
    shared: bool = False,
    fewest: float = FEWEST_EFFECTIVE_CLUSTERS,
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
        logs=True, shared=shared, fewest=fewest,
    )  # fmt: skip


def contrast(
    epochs: Sequence[tuple[float, Sequence[Cell]]],
    coefficients: Sequence[float],
    *,
    names: Sequence[str],
    logs: bool = False,
    shared: bool = False,
    fewest: float = FEWEST_EFFECTIVE_CLUSTERS,
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

    Returns:
        Not computable with broken sums, with fewer than 30 observations or 10 successes and failures in a
        cell over all epochs, 100 observations in all, or with too few effective clusters.
    """
    used: list[tuple[float, Sequence[Cell]]] = []
    for position, (weight, cells) in enumerate(epochs):
        problem = _broken(cells)
        if problem is not None or not (math.isfinite(weight) and weight >= 0.0):
            return NotComputable(f"epoch {position}: {problem or f'a weight of {weight!r}'}")
        # A rate with a variance needs two observations; such an epoch is a few requests old.
        if weight > 0.0 and min(float(cell.n.sum()) for cell in cells) >= 2.0:
            used.append((weight, cells))
    if not used:
        return NotComputable("no observations of both groups yet")
    if len({cell.n.size for _, cells in used for cell in cells}) > 1:
        return NotComputable("cells have different numbers of clusters")
    totals = [
        (sum(float(cells[k].n.sum()) for _, cells in used), sum(float(cells[k].y.sum()) for _, cells in used))
        for k in range(len(coefficients))
    ]
    small = _too_few(totals, names)
    if small is not None:
        return NotComputable(small)
    whole = sum(weight for weight, _ in used)
    omega = [weight / whole for weight, _ in used]
    rates = [
        sum(
            share * float(cells[k].y.sum() / cells[k].n.sum())
            for share, (_, cells) in zip(omega, used, strict=True)
        )
        for k in range(len(coefficients))
    ]
    if logs and min(rates) <= 0.0:
        return NotComputable("a rate of 0 has no ratio")
    estimate = sum(c * (math.log(r) if logs else r) for c, r in zip(coefficients, rates, strict=True))
    slopes = [c / r if logs else c for c, r in zip(coefficients, rates, strict=True)]
    observed = tuple(n for n, _ in totals)
    if used[0][1][0].n.size > 1:
        spread = _between_clusters(omega, used, slopes, fewest)
    else:
        spread = _within_cells(omega, used, slopes, shared=shared)
    if isinstance(spread, NotComputable):
        return spread
    return GapEstimate(estimate, spread[0], spread[1], tuple(rates), observed)


def _both_arms(epoch: PairedGroups) -> float:
    """n pi (1 - pi); NaN for a share that is none, which is refused."""
    if not 0.0 <= epoch.pi <= 1.0:
        return math.nan
    cells = (epoch.g_c, epoch.g_s, epoch.h_c, epoch.h_s)
    return sum(float(cell.n.sum()) for cell in cells) * epoch.pi * (1.0 - epoch.pi)


def _between_clusters(
    omega: Sequence[float],
    used: Sequence[tuple[float, Sequence[Cell]]],
    slopes: Sequence[float],
    fewest: float,
) -> tuple[float, float] | NotComputable:
    """Variance of the clusters' influence on the contrast, and degrees of freedom."""
    psi = np.zeros_like(used[0][1][0].n)
    for share, (_, cells) in zip(omega, used, strict=True):
        for slope, cell in zip(slopes, cells, strict=True):
            n = float(cell.n.sum())
            psi += share * slope * (cell.y - float(cell.y.sum()) / n * cell.n) / n
    effective = min(
        effective_number(np.sum([cells[k].n for _, cells in used], axis=0)) for k in range(len(slopes))
    )
    if effective < fewest:
        return NotComputable(
            f"{math.floor(effective * 10.0) / 10.0:.1f} effective clusters of a group, "
            f"at least {fewest:g} are needed"
        )
    seen = int(np.count_nonzero(np.sum([cell.n for _, cells in used for cell in cells], axis=0)))
    variance = seen / (seen - 1.0) * float(np.dot(psi, psi))
    return (variance if variance > _ROUNDING**2 else 0.0), effective - 1.0


def _within_cells(
    omega: Sequence[float],
    used: Sequence[tuple[float, Sequence[Cell]]],
    slopes: Sequence[float],
    *,
    shared: bool,
) -> tuple[float, float]:
    """Sum of the variances of independent cells, and Satterthwaite's degrees of freedom."""
    variance = fourth = 0.0
    for share, (_, cells) in zip(omega, used, strict=True):
        parts = [
            (share * slope) ** 2 * _mean_variance(cell) for slope, cell in zip(slopes, cells, strict=True)
        ]
        if shared:
            couples = zip(parts[::2], parts[1::2], strict=True)
            variance += sum((math.sqrt(g) + math.sqrt(h)) ** 2 for g, h in couples)
        else:
            variance += sum(parts)
        fourth += sum(
            part**2 / max(float(cell.n.sum()) - 1.0, 1.0) for part, cell in zip(parts, cells, strict=True)
        )
    return variance, max(1.0, variance**2 / fourth) if fourth > 0.0 else 1.0


def _mean_variance(cell: Cell) -> float:
    """Of a cell's mean. One success and one failure are added: a few may all be alike by chance."""
    n = float(cell.n.sum())
    mean = (float(cell.y.sum()) + 1.0) / (n + 2.0)
    return max(0.0, (float(cell.square.sum()) + 1.0) / (n + 2.0) - mean * mean) / max(n - 1.0, 1.0)


def _broken(cells: Sequence[Cell]) -> str | None:
    for cell in cells:
        if cell.n.ndim != 1 or not cell.n.size or not cell.n.shape == cell.y.shape == cell.square.shape:
            return "sums of unequal lengths"
        if not (np.isfinite(cell.n).all() and np.isfinite(cell.y).all() and np.isfinite(cell.square).all()):
            return "sums are not finite"
        slack = 1e-6 * (1.0 + cell.n)
        if (cell.n < 0.0).any():
            return "a negative count"
        if ((cell.square < -slack) | (cell.square > cell.y + slack) | (cell.y > cell.n + slack)).any():
            return "sums do not belong to values in [0, 1]"
    return None


def _too_few(totals: Sequence[tuple[float, float]], names: Sequence[str]) -> str | None:
    for name, (n, y) in zip(names, totals, strict=True):
        if n < FEWEST_PER_GROUP:
            return f"{n:.0f} observations of {name}, at least {FEWEST_PER_GROUP:g} are needed"
        if min(y, n - y) < FEWEST_PER_KIND:
            return (
                f"{y:.0f} of {n:.0f} observations of {name} are hits, at least {FEWEST_PER_KIND:g} hits "
                "and as many others are needed"
            )
    n = sum(n for n, _ in totals)
    if n < FEWEST_OBSERVATIONS:
        return f"{n:.0f} observations, at least {FEWEST_OBSERVATIONS:g} are needed"
    return None
