"""Comparing counts over classes or bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaln

from .result import NotComputable

CONCENTRATION = 100.0
OBSERVATIONS_PER_BIN = 100.0
"""With 100 requests in ten bins PSI exceeds 0.1 in nearly half of all comparisons of equals."""


@dataclass(frozen=True, slots=True)
class ClassEpoch:
    """Candidate share and requests per class (or bin) in each arm of one epoch."""

    pi: float
    counts_c: tuple[float, ...]
    counts_s: tuple[float, ...]


def beta_binomial_log_e(
    x: float, n: float, theta0: float, alpha: float, beta: float
) -> float | NotComputable:
    """Log Bayes factor of x successes in n: Beta(alpha, beta) prior against theta0 in (0, 1)."""
    if not (math.isfinite(x) and math.isfinite(n) and 0.0 <= x <= n):
        return NotComputable(f"{x!r} successes in {n!r}")
    if not (0.0 < theta0 < 1.0 and 0.0 < alpha < math.inf and 0.0 < beta < math.inf):
        return NotComputable(f"theta0={theta0!r}, alpha={alpha!r}, beta={beta!r} are outside their domain")
    return float(
        betaln(alpha + x, beta + n - x)
        - betaln(alpha, beta)
        - x * math.log(theta0)
        - (n - x) * math.log1p(-theta0)
    )


def equality_log_e(
    epochs: Sequence[ClassEpoch], concentration: float = CONCENTRATION
) -> float | NotComputable:
    """Log E-value against "both arms give every class equally often".

    Under equality a request's class says nothing about its arm, so the candidate's count in each class is
    binomial(n, pi), independently given the classes; Bayes factors multiply over classes and epochs.
    """
    total = observed = 0.0
    for position, e in enumerate(epochs):
        if len(e.counts_c) != len(e.counts_s):
            return NotComputable(f"epoch {position} has {len(e.counts_c)} and {len(e.counts_s)} classes")
        for x, y in zip(e.counts_c, e.counts_s, strict=True):
            if x == 0.0 and y == 0.0:
                continue
            factor = (
                beta_binomial_log_e(x, x + y, e.pi, concentration * e.pi, concentration * (1.0 - e.pi))
                if min(x, y) >= 0.0
                else NotComputable(f"negative counts ({x!r}, {y!r})")
            )
            if isinstance(factor, NotComputable):
                return NotComputable(f"epoch {position}: {factor.reason}")
            total += factor
            observed += x + y
    return total if observed > 0.0 else NotComputable("no requests")


def psi(
    reference: ArrayLike, current: ArrayLike, *, observations_per_bin: float = OBSERVATIONS_PER_BIN
) -> float | NotComputable:
    """Population stability index, sum (p - q) ln(p/q). A number to show, never one to decide by.

    Not computable where either side has fewer than ``observations_per_bin`` per bin. An empty bin counts
    as half an observation.
    """
    p, q = np.asarray(reference, dtype=np.float64), np.asarray(current, dtype=np.float64)
    if p.ndim != 1 or p.shape != q.shape or p.size < 2:
        return NotComputable(f"bins have shapes {p.shape} and {q.shape}, two equal lists are needed")
    both = np.concatenate((p, q))
    if not np.isfinite(both).all() or (both < 0.0).any():
        return NotComputable("a count is negative or not finite")
    fewest = min(float(p.sum()), float(q.sum()))
    # Written so that a NaN withholds.
    if fewest <= 0.0 or not fewest >= observations_per_bin * p.size:
        return NotComputable(
            f"{fewest:g} observations in {p.size} bins, at least {observations_per_bin * p.size:g} are needed"
        )
    p = np.maximum(p, 0.5) / p.sum()
    q = np.maximum(q, 0.5) / q.sum()
    return float(np.sum((p - q) * np.log(p / q)))
