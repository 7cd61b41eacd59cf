"""A contrast of groups in one of which the candidate selects nearly nobody, or nearly everybody.

A variance cannot be estimated from a few successes, and a candidate that stops selecting a group must not
hide behind that. Whether the contrast lies beyond a null can be asked all the same, with the variance that
the rate would have there (a score test, as Farrington and Manning, Statistics in Medicine 9 (1990), for
differences and ratios of two rates): r0 is the rate of the scarce cell at which the contrast would be at the
null, with the others as they are. At least 30 successes and 30 failures must be expected at r0. What is few
lies in the lighter tail of a count, so the normal distribution is on the safe side. It can prove harm and
never safety.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .clusters import FEWEST_EXPECTED
from .result import NotComputable
from .spread import (
    FEWEST_PER_KIND,
    Averaged,
    GapEstimate,
    between_clusters,
    mean_variance,
    too_few,
    within_cells,
)

_CANDIDATES = 2  # cells 0 and 1 are the candidate's


def at_null(
    null: float,
    got: Averaged,
    coefficients: Sequence[float],
    *,
    names: Sequence[str],
    logs: bool,
    shared: bool,
    fewest: float,
) -> GapEstimate | NotComputable:
    """The contrast of `groups.contrast`, with the variance that the scarce cell would have at the null.

    Of logarithms the scarce rate enters relative to r0, (r - r0)/r0, which exists for a rate of 0.

    Returns:
        Not computable unless one cell alone is scarce, the candidate's, and enough would be expected in it.
    """
    scarce = [k for k, (n, y) in enumerate(got.totals) if min(y, n - y) < FEWEST_PER_KIND]
    others = [k for k in range(len(coefficients)) if k not in scarce]
    small = too_few([got.totals[k] for k in others], [names[k] for k in others])
    if small is not None:
        return NotComputable(small)
    if len(scarce) != 1 or scarce[0] >= _CANDIDATES:
        return NotComputable(_few(got, scarce[-1], names))
    k = scarce[0]
    if logs and min(got.rates[j] for j in others) <= 0.0:
        return NotComputable("a rate of 0 has no ratio")
    rest = sum(coefficients[j] * (math.log(got.rates[j]) if logs else got.rates[j]) for j in others)
    r0 = (null - rest) / coefficients[k]
    r0 = math.exp(min(r0, 0.0)) if logs else r0
    n = got.totals[k][0]
    if n * min(r0, 1.0 - r0) < FEWEST_EXPECTED:
        return NotComputable(_few(got, k, names))
    slopes = [
        c / r if logs else c for c, r in zip(coefficients, (max(r, r0) for r in got.rates), strict=True)
    ]
    slopes[k] = coefficients[k] / r0 if logs else coefficients[k]
    without = [0.0 if j == k else slope for j, slope in enumerate(slopes)]
    estimate = null + slopes[k] * (got.rates[k] - r0)
    if got.used[0][1][0].n.size > 1:
        spread = between_clusters(got.omega, got.used, without, fewest)
        if isinstance(spread, NotComputable):
            return spread
        own = max(_inflation(got, j) for j in others) * _binomial(got, k, r0) * slopes[k] ** 2
        alone = between_clusters(
            got.omega, got.used, [s if j == k else 0.0 for j, s in enumerate(slopes)], fewest
        )
        own = own if isinstance(alone, NotComputable) else max(own, alone[0])
        return GapEstimate(estimate, spread[0] + own, spread[1], tuple(got.rates), _n(got))
    variance, df = within_cells(got.omega, got.used, without, shared=shared)
    seen = sum(w * w * mean_variance(cells[k]) for w, (_, cells) in zip(got.omega, got.used, strict=True))
    own = max(_binomial(got, k, r0), seen) * slopes[k] ** 2
    both = (math.sqrt(variance) + math.sqrt(own)) ** 2 if shared else variance + own
    df = both**2 / (variance**2 / df + own**2 / (n - 1.0))
    return GapEstimate(estimate, both, max(1.0, df), tuple(got.rates), _n(got))


def _few(got: Averaged, k: int, names: Sequence[str]) -> str:
    return too_few([got.totals[k]], [names[k]]) or "too few observations"


def _n(got: Averaged) -> tuple[float, ...]:
    return tuple(n for n, _ in got.totals)


def _binomial(got: Averaged, k: int, rate: float) -> float:
    """Variance of a cell's averaged rate, were its observations independent with this rate in all epochs."""
    each = rate * (1.0 - rate)
    return sum(
        share * share * each / max(float(cells[k].n.sum()) - 1.0, 1.0)
        for share, (_, cells) in zip(got.omega, got.used, strict=True)
    )


def _inflation(got: Averaged, j: int) -> float:
    """How much more a cell varies between clusters than independent observations would, at least 1."""
    slopes = np.eye(len(got.rates))[j].tolist()
    found = between_clusters(got.omega, got.used, slopes, 0.0)
    if isinstance(found, NotComputable):
        return 1.0
    return max(1.0, found[0] / _binomial(got, j, got.rates[j]))
