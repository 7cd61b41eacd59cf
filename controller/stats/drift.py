"""How far two binned samples are apart: numbers to show beside their sample sizes, never to decide by.

None of them is a test that may be watched: in 46% of comparisons of equals with 100 requests PSI exceeds
0.1, whatever n a fixed table of thresholds was made for. So all are withheld below
``OBSERVATIONS_PER_BIN`` observations per bin on either side. PSI is in ``distribution.psi``.

Counts are one-dimensional and non-negative, both of the same bins; fractions are allowed (a request with
several predictions counts as one). A result is a float, or NotComputable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import rel_entr

from .distribution import OBSERVATIONS_PER_BIN, psi
from .result import NotComputable

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ChiSquared:
    """Pearson's statistic of a 2 x k table with its degrees of freedom (empty bins left out)."""

    statistic: float
    df: int


@dataclass(frozen=True, slots=True)
class Drift:
    """All measures of one comparison. ``ks`` and ``wasserstein`` are None where bins have no order."""

    psi: float
    js: float
    chi_squared: ChiSquared
    ks: float | None
    wasserstein: float | None


def drift(
    reference: ArrayLike,
    current: ArrayLike,
    *,
    positions: ArrayLike | None,
    observations_per_bin: float = OBSERVATIONS_PER_BIN,
) -> Drift | NotComputable:
    """Every measure that applies.

    Args:
        reference: counts per bin, length k >= 2.
        current: counts of the same bins.
        positions: where each bin lies, ascending, length k, in the unit Wasserstein is wanted in; None for
            classes, which have no order.
        observations_per_bin: fewer than this many times k on either side is not computable.
    """
    index = psi(reference, current, observations_per_bin=observations_per_bin)
    if isinstance(index, NotComputable):
        return index
    js, chi = jensen_shannon(reference, current), chi_squared(reference, current)
    for got in (js, chi):
        if isinstance(got, NotComputable):
            return got
    assert isinstance(js, float) and isinstance(chi, ChiSquared)  # noqa: PT018, S101 (just told apart)
    if positions is None:
        return Drift(index, js, chi, None, None)
    ks, moved = kolmogorov_smirnov(reference, current), wasserstein(reference, current, positions)
    for got in (ks, moved):
        if isinstance(got, NotComputable):
            return got
    assert isinstance(ks, float) and isinstance(moved, float)  # noqa: PT018, S101
    return Drift(index, js, chi, ks, moved)


def kolmogorov_smirnov(reference: ArrayLike, current: ArrayLike) -> float | NotComputable:
    """Largest difference of the two cumulative shares at a bin's end, 0..1.

    A lower bound of the statistic of the unbinned samples (Kolmogorov 1933, Smirnov 1939).
    """
    shares = _shares(reference, current)
    if isinstance(shares, NotComputable):
        return shares
    return float(np.abs(np.cumsum(shares[0] - shares[1])).max())


def jensen_shannon(reference: ArrayLike, current: ArrayLike) -> float | NotComputable:
    """Jensen-Shannon distance with base 2, 0..1: the root of the divergence (Lin 1991; Endres 2003)."""
    shares = _shares(reference, current)
    if isinstance(shares, NotComputable):
        return shares
    p, q = shares
    middle = 0.5 * (p + q)
    divergence = 0.5 * float(np.sum(rel_entr(p, middle)) + np.sum(rel_entr(q, middle))) / math.log(2.0)
    return math.sqrt(min(1.0, max(0.0, divergence)))


def wasserstein(reference: ArrayLike, current: ArrayLike, positions: ArrayLike) -> float | NotComputable:
    """Wasserstein-1: mean distance that a share has to travel, with every bin's mass at its position.

    The area between the two cumulative shares (Vallender 1974).
    """
    shares = _shares(reference, current)
    if isinstance(shares, NotComputable):
        return shares
    at = np.asarray(positions, dtype=np.float64)
    if at.shape != shares[0].shape:
        return NotComputable(f"positions have shape {at.shape}, bins {shares[0].shape}")
    if not np.isfinite(at).all() or (np.diff(at) < 0.0).any():
        return NotComputable("positions must be finite and ascending")
    return float(np.sum(np.abs(np.cumsum(shares[0] - shares[1]))[:-1] * np.diff(at)))


def chi_squared(reference: ArrayLike, current: ArrayLike) -> ChiSquared | NotComputable:
    """Pearson's chi-squared of homogeneity (Pearson 1900), uncorrected; no p-value on purpose."""
    shares = _shares(reference, current)
    if isinstance(shares, NotComputable):
        return shares
    table = np.stack((np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)))
    table = table[:, table.sum(axis=0) > 0.0]
    if table.shape[1] < 2:
        return NotComputable("all observations are in one bin")
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    return ChiSquared(float(np.sum((table - expected) ** 2 / expected)), table.shape[1] - 1)


def _shares(reference: ArrayLike, current: ArrayLike) -> tuple[Floats, Floats] | NotComputable:
    p, q = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if p.ndim != 1 or p.shape != q.shape or p.size < 2:
        return NotComputable(f"bins have shapes {p.shape} and {q.shape}, two equal lists are needed")
    both = np.concatenate((p, q))
    if not np.isfinite(both).all() or (both < 0.0).any():
        return NotComputable("a count is negative or not finite")
    if min(float(p.sum()), float(q.sum())) <= 0.0:
        return NotComputable("one side has no observations")
    return p / p.sum(), q / q.sum()
