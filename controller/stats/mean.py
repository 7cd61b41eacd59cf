"""Bounded means: scores, losses and rates with an absolute margin, exact at every look.

With A drawn with known probability pi, z = (A - pi)(y - m) has a conditional mean of pi (1 - pi) times the
effect, whatever the traffic does, and lies within +-c, c = max(pi, 1 - pi) max(m, 1 - m). Both are fixed when
an epoch opens, so z/c - E[z/c] with intrinsic time (z/c)^2 is sub-exponential with scale 1 in both
directions: Howard et al. 2021, Theorem 4 (empirical Bernstein) with the gamma-exponential mixture of Prop. 9.
In units of 1 instead of c the bounds would be those of a range two to four times as wide. The null concerns
the average effect so far, weighted by pi (1 - pi)/c.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .mixture import gamma_exponential_bound, gamma_exponential_log
from .result import NotComputable

_SLACK = 1e-9
"""Relative rounding allowed between sums that were added in different orders."""


@dataclass(frozen=True, slots=True)
class MeanEpoch:
    """Sums of one epoch: candidate share ``pi``, frozen ``centre`` m, and n, sum y, sum y^2 per arm.

    y lies in [0, 1] (scaled and clipped by frozen limits). Suffix c is the candidate, s is stable.
    """

    pi: float
    centre: float
    n_c: float
    sum_c: float
    sq_c: float
    n_s: float
    sum_s: float
    sq_s: float


@dataclass(frozen=True, slots=True)
class MeanStatistic:
    """Sufficient for all tests of a bounded mean: sum ``S``, intrinsic time ``Q``, weight ``W`` > 0.

    Of randomised arms all three are in units of every epoch's own ``scale`` c: z/c, (z/c)^2 and W/c.
    """

    S: float
    Q: float
    W: float

    @property
    def estimate(self) -> float:
        """Weighted average effect, candidate minus stable (for "at least": mean minus bound)."""
        return self.S / self.W

    def log_e_harm(self, delta: float, v_opt: float, level: float) -> float:
        """Log E-value against "effect <= delta"."""
        return gamma_exponential_log(self.S - delta * self.W, self.Q, v_opt=v_opt, level=level)

    def log_e_safe(self, delta: float, v_opt: float, level: float) -> float:
        """Log E-value against "effect >= delta": non-inferiority at margin ``delta``."""
        return gamma_exponential_log(delta * self.W - self.S, self.Q, v_opt=v_opt, level=level)

    def interval(self, v_opt: float, level_low: float, level_high: float) -> tuple[float, float]:
        """Confidence sequence at this look: lower end at ``level_low``, upper end at ``level_high``.

        ``v_opt`` serves both ends, so each is the exact inversion of the test that uses the same one.
        """
        low = gamma_exponential_bound(self.Q, v_opt=v_opt, level=level_low)
        high = gamma_exponential_bound(self.Q, v_opt=v_opt, level=level_high)
        return (self.S - low) / self.W, (self.S + high) / self.W


def scale(pi: float, centre: float) -> float:
    """The largest |z| that an epoch with this candidate share and centre can give, 1/4 to 1.

    Raises:
        ValueError: one of them is not in [0, 1].
    """
    if not (0.0 <= pi <= 1.0 and 0.0 <= centre <= 1.0):
        msg = f"share and centre must lie in [0, 1], got {pi!r} and {centre!r}"
        raise ValueError(msg)
    return max(pi, 1.0 - pi) * max(centre, 1.0 - centre)


def mean_statistic(epochs: Sequence[MeanEpoch]) -> MeanStatistic | NotComputable:
    """Add epochs up. Not computable when an arm is empty or the sums cannot come from y in [0, 1]."""
    total_s = total_q = total_w = 0.0
    n_c = n_s = 0.0
    for position, epoch in enumerate(epochs):
        problem = _problem(epoch)
        if problem is not None:
            return NotComputable(f"epoch {position} {problem}")
        m = epoch.centre
        c = scale(epoch.pi, m)
        one, other = (1.0 - epoch.pi) / c, epoch.pi / c
        total_s += one * (epoch.sum_c - m * epoch.n_c) - other * (epoch.sum_s - m * epoch.n_s)
        total_q += one**2 * _centred_square(epoch.n_c, epoch.sum_c, epoch.sq_c, m)
        total_q += other**2 * _centred_square(epoch.n_s, epoch.sum_s, epoch.sq_s, m)
        total_w += (epoch.n_c + epoch.n_s) * epoch.pi * one
        n_c += epoch.n_c
        n_s += epoch.n_s
    if n_c <= 0.0 or n_s <= 0.0:
        return NotComputable(f"{'candidate' if n_c <= 0.0 else 'stable'} has no observations")
    if total_w <= 0.0:
        return NotComputable("no epoch was randomised between both arms")
    return MeanStatistic(total_s, total_q, total_w)


def paired_statistic(
    n: float, sum_d: float, sq_d: float, weight: float | None = None
) -> MeanStatistic | NotComputable:
    """Paired differences d = y_candidate - y_stable in [-1, 1]: S = sum d, Q = sum d^2, W = n.

    ``weight`` < n counts effective trials instead of pairs (n / tau_int under serial dependence); the sums
    are then scaled to it.
    """
    problem = _sums_problem(n, sum_d, sq_d, low=-1.0, high=1.0)
    if problem is not None:
        return NotComputable(problem)
    if n <= 0.0:
        return NotComputable("no pairs")
    sq_d = max(0.0, sq_d)  # what is left of it is rounding
    if weight is None:
        return MeanStatistic(sum_d, sq_d, n)
    if not (math.isfinite(weight) and 0.0 < weight <= n * (1.0 + _SLACK)):
        return NotComputable(f"the effective number of pairs must lie in (0, {n:g}], got {weight!r}")
    scale = weight / n
    return MeanStatistic(sum_d * scale, sq_d * scale, weight)


def at_least_statistic(n: float, sum_y: float, sq_y: float, b: float) -> MeanStatistic | NotComputable:
    """A mean that must reach ``b``, y in [0, 1]: S = sum(y - b), Q = sum(y - b)^2, W = n."""
    if not 0.0 <= b <= 1.0:
        return NotComputable(f"the bound must lie in [0, 1], got {b!r}")
    problem = _sums_problem(n, sum_y, sq_y, low=0.0, high=1.0)
    if problem is not None:
        return NotComputable(problem)
    if n <= 0.0:
        return NotComputable("no observations")
    return MeanStatistic(sum_y - n * b, _centred_square(n, sum_y, sq_y, b), n)


def _centred_square(n: float, total: float, square: float, centre: float) -> float:
    # Never negative: rounding may leave a constant y a little below zero.
    return max(0.0, square - 2.0 * centre * total + n * centre * centre)


def _problem(epoch: MeanEpoch) -> str | None:
    if not 0.0 <= epoch.pi <= 1.0:
        return f"has a candidate share of {epoch.pi!r}, allowed is 0 to 1"
    if not 0.0 <= epoch.centre <= 1.0:
        return f"has a centre of {epoch.centre!r}, allowed is 0 to 1"
    if (epoch.pi == 0.0 and epoch.n_c > 0.0) or (epoch.pi == 1.0 and epoch.n_s > 0.0):
        return f"has observations of an arm that gets no traffic at a candidate share of {epoch.pi:g}"
    for arm, n, total, square in (
        ("candidate", epoch.n_c, epoch.sum_c, epoch.sq_c),
        ("stable", epoch.n_s, epoch.sum_s, epoch.sq_s),
    ):
        problem = _sums_problem(n, total, square, low=0.0, high=1.0)
        if problem is not None:
            return f"{arm}: {problem}"
    return None


def _sums_problem(n: float, total: float, square: float, *, low: float, high: float) -> str | None:
    """Say why (n, sum, sum of squares) cannot come from n values within [low, high]."""
    if not (math.isfinite(n) and math.isfinite(total) and math.isfinite(square)):
        return f"sums are not finite (n={n!r}, sum={total!r}, squares={square!r})"
    if n < 0.0:
        return f"a negative count ({n!r})"
    slack = _SLACK * (1.0 + n)
    # (y - low)(high - y) >= 0 summed, and Cauchy-Schwarz.
    inside = (low + high) * total - square - n * low * high >= -slack
    if not inside or total * total > n * square + slack * (1.0 + n) or square < -slack:
        return (
            f"sums do not belong to values in [{low:g}, {high:g}] "
            f"(n={n:g}, sum={total:g}, squares={square:g})"
        )
    return None
