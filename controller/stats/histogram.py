"""Latency log-histograms: quantiles and margins that fall on bin edges, so that counts over them are exact.

Bin i holds [edge(i), edge(i + 1)); the first also everything below, the last everything above. The
parameters default to the ones routers use; whoever has others passes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .result import NotComputable

GAMMA = 1.02
BINS = 1024
FIRST_EDGE = 1e-5
"""Seconds; 1024 bins of 2% then reach 1.8 hours."""


@dataclass(frozen=True, slots=True)
class SnappedMargin:
    """A ratio margin in whole bins: ``effective`` = gamma^bins - 1 is at most the one asked for."""

    bins: int
    effective: float


@dataclass(frozen=True, slots=True)
class LatencyThresholds:
    """Edge indices tau, gamma^(k // 2) tau and gamma^k tau: stable's, the harm and the margin threshold.

    A request is over a threshold when its bin is at or above the index.
    """

    stable: int
    harm: int
    margin: int
    effective_margin: float


def bin_of(
    seconds: float, *, gamma: float = GAMMA, bins: int = BINS, first_edge: float = FIRST_EDGE
) -> int | NotComputable:
    """Bin of a latency."""
    if math.isnan(seconds) or seconds < 0.0:
        return NotComputable(f"a latency of {seconds!r} s")
    if seconds < first_edge:
        return 0
    if math.isinf(seconds):
        return bins - 1
    # The slack puts a latency that is exactly an edge into the bin above it, as routers do.
    return min(math.floor(math.log(seconds / first_edge) / math.log(gamma) + 1e-9), bins - 1)


def edge(index: int, *, gamma: float = GAMMA, first_edge: float = FIRST_EDGE) -> float:
    """Lower edge of bin ``index`` in seconds."""
    return first_edge * gamma**index


def quantile(counts: ArrayLike, q: float) -> int | NotComputable:
    """Index of the lowest edge with at least a share ``q`` of the counts below it.

    Not computable when that share is reached only in the last bin, which has no upper edge.
    """
    if not 0.0 < q < 1.0:
        msg = f"a quantile must lie between 0 and 1, got {q!r}"
        raise ValueError(msg)
    checked = _checked(counts)
    if isinstance(checked, NotComputable):
        return checked
    below = np.cumsum(checked)
    # Compare counts, not shares: 0.95 * n is rounded, and one count may hang on that.
    enough = q * float(below[-1]) * (1.0 - 1e-12)
    index = int(np.count_nonzero(below < enough)) + 1
    if index >= checked.size:
        return NotComputable(f"the {q:g} quantile lies above the last edge of the histogram")
    return index


def over(counts: ArrayLike, index: int) -> float | NotComputable:
    """How many lie at or over edge ``index``."""
    checked = _checked(counts, empty_allowed=True)
    return checked if isinstance(checked, NotComputable) else float(checked[index:].sum())


def snapped_margin(delta: float, *, gamma: float = GAMMA) -> SnappedMargin | NotComputable:
    """Largest margin of whole bins within ``delta``: k = floor(ln(1 + delta)/ln gamma).

    The margin is rounded down and the threshold kept: rounding a threshold up would make a candidate that
    is too slow pass.
    """
    if not (math.isfinite(delta) and delta > 0.0):
        msg = f"a latency margin must be positive and finite, got {delta!r}"
        raise ValueError(msg)
    bins = math.floor(math.log1p(delta) / math.log(gamma) + 1e-9)
    if bins < 1:
        return NotComputable(f"a margin of {delta:.3%} is finer than the histogram's bins of {gamma - 1:.1%}")
    return SnappedMargin(bins, gamma**bins - 1.0)


def latency_thresholds(
    counts: ArrayLike, q: float, delta: float, *, gamma: float = GAMMA
) -> LatencyThresholds | NotComputable:
    """The three thresholds to count over, from stable's histogram before the epoch and a ratio margin."""
    tau = quantile(counts, q)
    if isinstance(tau, NotComputable):
        return tau
    margin = snapped_margin(delta, gamma=gamma)
    if isinstance(margin, NotComputable):
        return margin
    last = np.asarray(counts, dtype=np.float64).size - 1
    if tau + margin.bins > last:
        return NotComputable("the margin's threshold lies above the last edge of the histogram")
    return LatencyThresholds(tau, tau + margin.bins // 2, tau + margin.bins, margin.effective)


def _checked(
    counts: ArrayLike, *, empty_allowed: bool = False
) -> np.ndarray[tuple[int], np.dtype[np.float64]] | NotComputable:
    values = np.asarray(counts, dtype=np.float64)
    if values.ndim != 1 or values.size < 2:
        return NotComputable(f"a histogram needs one list of bins, got shape {values.shape}")
    if not np.isfinite(values).all() or (values < 0.0).any():
        return NotComputable("a histogram has a count that is negative or not finite")
    if not empty_allowed and values.sum() <= 0.0:
        return NotComputable("the histogram is empty")
    return values
