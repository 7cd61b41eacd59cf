"""Cells of groups averaged over epochs, and the variance of contrasts of their rates.

A cell is one group in one arm of one epoch. Cells that hold sums per cluster (units, or batches of time) have
the variance of the clusters' influence on the whole contrast, cells of one cluster that of independent
observations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .clusters import FEWEST_OBSERVATIONS, effective_number
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


@dataclass(frozen=True, slots=True, eq=False)
class Averaged:
    """Epochs of use, their weights (summing to 1), and per cell the averaged rate and totals (n, sum y)."""

    used: list[tuple[float, Sequence[Cell]]]
    omega: list[float]
    rates: list[float]
    totals: list[tuple[float, float]]


def averaged(epochs: Sequence[tuple[float, Sequence[Cell]]], cells: int) -> Averaged | NotComputable:
    """Rates of `cells` cells over epochs; not computable with broken sums or no epoch that has all."""
    used: list[tuple[float, Sequence[Cell]]] = []
    for position, (weight, parts) in enumerate(epochs):
        problem = problem_of(parts)
        if problem is not None or not (math.isfinite(weight) and weight >= 0.0):
            return NotComputable(f"epoch {position}: {problem or f'a weight of {weight!r}'}")
        # A rate with a variance needs two observations; such an epoch is a few requests old.
        if weight > 0.0 and min(float(cell.n.sum()) for cell in parts) >= 2.0:
            used.append((weight, parts))
    if not used:
        return NotComputable("no observations of both groups yet")
    if len({cell.n.size for _, parts in used for cell in parts}) > 1:
        return NotComputable("cells have different numbers of clusters")
    totals = [
        (sum(float(parts[k].n.sum()) for _, parts in used), sum(float(parts[k].y.sum()) for _, parts in used))
        for k in range(cells)
    ]
    whole = sum(weight for weight, _ in used)
    omega = [weight / whole for weight, _ in used]
    rates = [
        sum(
            share * float(parts[k].y.sum() / parts[k].n.sum())
            for share, (_, parts) in zip(omega, used, strict=True)
        )
        for k in range(cells)
    ]
    return Averaged(used, omega, rates, totals)


def between_clusters(
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


def within_cells(
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
            (share * slope) ** 2 * mean_variance(cell) for slope, cell in zip(slopes, cells, strict=True)
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


def mean_variance(cell: Cell) -> float:
    """Of a cell's mean. One success and one failure are added: a few may all be alike by chance."""
    n = float(cell.n.sum())
    mean = (float(cell.y.sum()) + 1.0) / (n + 2.0)
    return max(0.0, (float(cell.square.sum()) + 1.0) / (n + 2.0) - mean * mean) / max(n - 1.0, 1.0)


def problem_of(cells: Sequence[Cell]) -> str | None:
    """Why sums cannot be those of y in [0, 1]; None where they can."""
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


def too_few(totals: Sequence[tuple[float, float]], names: Sequence[str]) -> str | None:
    """Which cell, by its name, is too small for an asymptotic test; None where none is."""
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
