"""Differences between arms from sums per cluster: sticky units, time clusters, shadow batches.

Requests of one user, or requests that met the same stall of a server, are not independent. Sums are kept
per cluster of users or of time; within each epoch the arms are compared by ratios of sums, epochs are
averaged by their weight, and the variance is that of the clusters' influence on the whole estimate. Arms
are never pooled over epochs, since the share of the candidate and the traffic change together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import asymptotic
from .result import NotComputable

FEWEST_EFFECTIVE_CLUSTERS = 20.0
FEWEST_BATCHES = 10.0
FEWEST_OBSERVATIONS = 100.0
FEWEST_PER_ARM = 30.0
FEWEST_EVENTS = 10.0
FEWEST_EXPECTED = 30.0
"""Candidate events expected at the null before non-inferiority is read. A candidate that met few events by
chance shows a low rate and a small variance at once; with 10 instead of 30 expected, equal servers with
0.2 s stalls were called better than themselves in 6.5% of runs at 5%."""

ROUNDING = 1e-13
"""Standard errors below this (y is of order 1) are rounding of a constant, and count as zero."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ClusterEpoch:
    """One epoch: candidate share ``pi`` and, per cluster, requests n and sum of y in each arm.

    The four arrays have the same length G in all epochs of one estimate, and index j is the same cluster
    everywhere. All sources are added before the sums get here. Suffix c is the candidate, s is stable.
    """

    pi: float
    n_c: Floats
    y_c: Floats
    n_s: Floats
    y_s: Floats


@dataclass(frozen=True, slots=True)
class ClusterEstimate:
    """An estimate for the asymptotic tests, with what decides whether they may be used.

    ``events`` are sums of y; ``expected_c`` is what the candidate's would be at an effect of 0.
    ``variance`` is exactly 0 where no cluster deviates. ``omega`` are the epochs' weights, summing to 1; an
    epoch with an empty arm has 0.
    """

    estimate: float
    variance: float
    df: float
    effective_clusters: float
    events_c: float
    events_s: float
    expected_c: float
    n_c: float
    n_s: float
    omega: tuple[float, ...]

    @property
    def few_events(self) -> bool:
        """Too few events (or no variance) for an asymptotic test: use the bounded mean instead."""
        return self.variance == 0.0 or self.events_c + self.events_s < FEWEST_EVENTS

    def few_expected(self, null: float) -> bool:
        """Too few candidate events, or non-events, would be expected at the null to prove it wrong."""
        expected = self.expected_c + null * self.n_c
        return min(expected, self.n_c - expected) < FEWEST_EXPECTED

    def log_e_harm(self, null: float, v_opt: float, level: float) -> float | NotComputable:
        """Log E-value against "effect <= null", t-scaled; not computable with few events."""
        if self.few_events:
            return NotComputable(self._few())
        return asymptotic.log_e_harm(self.estimate, self.variance, null, v_opt=v_opt, level=level, df=self.df)

    def log_e_safe(self, null: float, v_opt: float, level: float) -> float | NotComputable:
        """Log E-value against "effect >= null"; not computable with few events, seen or expected."""
        if self.few_events:
            return NotComputable(self._few())
        if self.few_expected(null):
            return NotComputable(
                f"fewer than {FEWEST_EXPECTED:g} candidate events (or non-events) are expected at the margin"
            )
        return asymptotic.log_e_safe(self.estimate, self.variance, null, v_opt=v_opt, level=level, df=self.df)

    def interval(
        self, v_opt: float, level_low: float, level_high: float
    ) -> tuple[float, float] | NotComputable:
        """Confidence sequence: lower end at ``level_low``, upper end at ``level_high``."""
        if self.few_events:
            return NotComputable(self._few())
        return asymptotic.interval(
            self.estimate,
            self.variance,
            v_opt=v_opt,
            level_low=level_low,
            level_high=level_high,
            df=self.df,
        )

    def _few(self) -> str:
        return f"{self.events_c + self.events_s:g} events, too few or too alike to estimate a variance"


@dataclass(frozen=True, slots=True)
class BatchEstimate:
    """A mean paired difference over ``batches`` non-empty batches of ``n`` pairs, for the asymptotic tests.

    ``variance`` is exactly 0 where all batches agree.
    """

    estimate: float
    variance: float
    df: float
    batches: int
    n: float


def cluster_estimate(epochs: Sequence[ClusterEpoch], ratio: float = 1.0) -> ClusterEstimate | NotComputable:
    """Candidate's mean minus ``ratio`` times stable's, averaged over epochs.

    D = sum_e omega_e (r_ce - ratio r_se), omega_e proportional to n_e pi_e (1 - pi_e). Not computable with
    fewer than 20 effective clusters of the candidate, 30 requests per arm or 100 in all.
    """
    if not (math.isfinite(ratio) and ratio > 0.0):
        msg = f"ratio must be positive and finite, got {ratio!r}"
        raise ValueError(msg)
    problem = _problem(epochs)
    if problem is not None:
        return NotComputable(problem)
    weights = np.array(
        [
            (e.n_c.sum() + e.n_s.sum()) * e.pi * (1.0 - e.pi) if e.n_c.sum() > 0 and e.n_s.sum() > 0 else 0.0
            for e in epochs
        ]
    )
    used = [(w, e) for w, e in zip(weights, epochs, strict=True) if w > 0.0]
    n_c = sum(float(e.n_c.sum()) for _, e in used)
    n_s = sum(float(e.n_s.sum()) for _, e in used)
    if min(n_c, n_s) < FEWEST_PER_ARM or n_c + n_s < FEWEST_OBSERVATIONS:
        return NotComputable(
            f"{n_c:g} candidate and {n_s:g} stable requests; at least {FEWEST_PER_ARM:g} each and "
            f"{FEWEST_OBSERVATIONS:g} in all are needed"
        )
    effective = effective_number(np.sum([e.n_c for _, e in used], axis=0))
    if effective < FEWEST_EFFECTIVE_CLUSTERS:
        return NotComputable(
            f"{_below(effective)} effective clusters of the candidate, "
            f"at least {FEWEST_EFFECTIVE_CLUSTERS:g} are needed"
        )

    omega = weights / weights.sum()
    total = 0.0
    psi = np.zeros_like(epochs[0].n_c)
    for share, (_, e) in zip(omega[weights > 0.0], used, strict=True):
        in_c, in_s = e.n_c.sum(), e.n_s.sum()
        r_c, r_s = e.y_c.sum() / in_c, e.y_s.sum() / in_s
        total += share * (r_c - ratio * r_s)
        psi += share * ((e.y_c - r_c * e.n_c) / in_c - ratio * (e.y_s - r_s * e.n_s) / in_s)
    seen = int(np.count_nonzero(np.sum([e.n_c + e.n_s for _, e in used], axis=0)))
    return ClusterEstimate(
        estimate=float(total),
        variance=_between(psi, seen),
        df=effective - 1.0,
        effective_clusters=effective,
        events_c=sum(float(e.y_c.sum()) for _, e in used),
        events_s=sum(float(e.y_s.sum()) for _, e in used),
        expected_c=sum(ratio * float(e.n_c.sum() * e.y_s.sum() / e.n_s.sum()) for _, e in used),
        n_c=n_c,
        n_s=n_s,
        omega=tuple(float(w) for w in omega),
    )


def batch_estimate(n: Floats, d: Floats) -> BatchEstimate | NotComputable:
    """Mean paired difference from batches: pairs ``n`` and sum of differences ``d`` per closed batch.

    Ratio of sums, variance between batches. Not computable with fewer than 10 effective batches, or than 100
    pairs in them.
    """
    n, d = np.asarray(n, dtype=np.float64), np.asarray(d, dtype=np.float64)
    if n.ndim != 1 or n.shape != d.shape:
        return NotComputable(f"batches have shapes {n.shape} and {d.shape}, two equal lists are needed")
    if not (np.isfinite(n).all() and np.isfinite(d).all()):
        return NotComputable("sums of a batch are not finite")
    if (n < 0.0).any():
        return NotComputable("a negative count in a batch")
    if (np.abs(d) > n * (1.0 + 1e-9) + 1e-9).any():
        return NotComputable("differences of a batch exceed its pairs; they must lie in [-1, 1]")
    filled = n > 0.0
    n, d = n[filled], d[filled]
    effective = effective_number(n) if n.size else 0.0
    if effective < FEWEST_BATCHES:
        return NotComputable(
            f"{n.size} batches ({_below(effective)} effective), at least {FEWEST_BATCHES:g} needed"
        )
    pairs = float(n.sum())
    if pairs < FEWEST_OBSERVATIONS:
        return NotComputable(
            f"{pairs:g} observations in batches, at least {FEWEST_OBSERVATIONS:g} are needed"
        )
    estimate = float(d.sum()) / pairs
    psi = (d - estimate * n) / pairs
    return BatchEstimate(estimate, _between(psi, int(n.size)), effective - 1.0, int(n.size), pairs)


def _below(number: float) -> str:
    """One decimal, rounded down: 9.96 is not the 10.0 that is needed."""
    return f"{math.floor(number * 10.0) / 10.0:.1f}"


def effective_number(n: Floats) -> float:
    """(sum n)^2 / sum n^2: how many equal clusters carry as much as these; 0 for none.

    Raises:
        ValueError: a count is negative or not finite.
    """
    square = float(np.dot(n, n))
    if not math.isfinite(square) or (n < 0.0).any():
        msg = "a cluster has a count that is negative or not finite"
        raise ValueError(msg)
    return float(n.sum()) ** 2 / square if square > 0.0 else 0.0


def _between(psi: Floats, clusters: int) -> float:
    variance = clusters / (clusters - 1.0) * float(np.dot(psi, psi))
    return variance if variance > ROUNDING**2 else 0.0


def _problem(epochs: Sequence[ClusterEpoch]) -> str | None:
    if not epochs:
        return "no epochs"
    shape = epochs[0].n_c.shape
    for position, e in enumerate(epochs):
        arrays = (e.n_c, e.y_c, e.n_s, e.y_s)
        if len(shape) != 1 or any(a.shape != shape for a in arrays):
            return f"epoch {position} has clusters of shapes {[a.shape for a in arrays]}, expected {shape}"
        if not 0.0 <= e.pi <= 1.0:
            return f"epoch {position} has a candidate share of {e.pi!r}, allowed is 0 to 1"
        if not all(np.isfinite(a).all() for a in arrays):
            return f"epoch {position} has sums that are not finite"
        if (e.n_c < 0.0).any() or (e.n_s < 0.0).any():
            return f"epoch {position} has a negative count"
        for y, n in ((e.y_c, e.n_c), (e.y_s, e.n_s)):
            if (y < -1e-9).any() or (y > n * (1.0 + 1e-9) + 1e-9).any():
                return f"epoch {position} has a sum that cannot come from y in [0, 1]"
    return None
