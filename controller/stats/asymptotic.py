"""Estimates with an estimated variance: ratios of sums, gaps between groups, clusters, batches.

The one-sided normal mixture (Howard et al. 2021, Prop. 6) on the information scale: v = 1/variance,
s = z sqrt(v), z = (estimate - null)/sqrt(variance). With few clusters or batches z is first replaced by
Phi^-1(F_t(z; df)). Valid asymptotically; say so wherever a result is shown.
"""

from __future__ import annotations

import math

from scipy.special import hyp2f1, log_ndtr, ndtri_exp, stdtr

from .mixture import normal_bound, normal_log
from .result import NotComputable
from .roots import root

_SMALLEST_TAIL = 1e-280
_SERIES_DF = 1e4


def log_e_harm(
    estimate: float, variance: float, null: float, *, v_opt: float, level: float, df: float | None = None
) -> float | NotComputable:
    """Log E-value against "effect <= null".

    Args:
        estimate: of the effect, candidate minus stable.
        variance: of the estimate (not of one observation).
        null: frozen harm threshold.
        v_opt: ``asymptotic_v_opt(effect_gap, level)``, fixed before the data.
        level: of this one test.
        df: degrees of freedom of ``variance``; None when it is as good as known.
    """
    problem = _problem(estimate, variance, df)
    if problem is not None:
        return NotComputable(problem)
    information = 1.0 / variance
    z = (estimate - null) / math.sqrt(variance)
    s = (z if df is None else t_scaled(z, df)) * math.sqrt(information)
    return normal_log(s, information, v_opt=v_opt, level=level)


def log_e_safe(
    estimate: float, variance: float, null: float, *, v_opt: float, level: float, df: float | None = None
) -> float | NotComputable:
    """Log E-value against "effect >= null": non-inferiority at margin ``null``."""
    return log_e_harm(-estimate, variance, -null, v_opt=v_opt, level=level, df=df)


def interval(
    estimate: float,
    variance: float,
    *,
    v_opt: float,
    level_low: float,
    level_high: float,
    df: float | None = None,
) -> tuple[float, float] | NotComputable:
    """Confidence sequence by inversion; an end is infinite where the t-scaling leaves no bound."""
    problem = _problem(estimate, variance, df)
    if problem is not None:
        return NotComputable(problem)
    information = 1.0 / variance

    def half_width(level: float) -> float:
        z = normal_bound(information, v_opt=v_opt, level=level) / math.sqrt(information)
        return (z if df is None else _t_unscaled(z, df)) * math.sqrt(variance)

    return estimate - half_width(level_low), estimate + half_width(level_high)


def t_scaled(z: float, df: float) -> float:
    """Phi^-1(F_t(z; df)): the normal quantile as extreme as z is under Student's t. Odd in z.

    Raises ValueError as ``log_tail`` does.
    """
    tail = -float(ndtri_exp(log_tail(abs(z), df)))
    return math.copysign(max(tail, 0.0), z)


def _t_unscaled(z: float, df: float) -> float:
    """Inverse of ``t_scaled`` for z > 0; infinite beyond the range of floats."""
    target = float(log_ndtr(-z))
    low = math.log(z)
    high = low + 1.0
    while log_tail(math.exp(high), df) > target:
        high += high - low
        if high > 340.0:
            return math.inf
    return math.exp(root(lambda x: log_tail(math.exp(x), df) - target, low, high, xtol=1e-13, rtol=1e-13))


def log_tail(z: float, df: float) -> float:
    """ln P(T > z) for z >= 0, also where the probability itself underflows.

    Raises:
        ValueError: z is NaN, or df is not positive.
    """
    if math.isnan(z) or not df > 0.0:
        msg = f"Student's t needs a number and positive degrees of freedom, got z={z!r}, df={df!r}"
        raise ValueError(msg)
    tail = float(stdtr(df, -z))
    if tail > _SMALLEST_TAIL:
        return math.log(tail)
    if df > _SERIES_DF:
        # Wallace 1959: a normal quantile for t, wrong by less than 1/(50 df) of itself out here.
        scaled = (8.0 * df + 1.0) / (8.0 * df + 3.0) * math.sqrt(df * math.log1p(z * z / df))
        return float(log_ndtr(-scaled))
    # P = I_x(a, 1/2)/2 with x = df/(df + z^2), a = df/2, and
    # I_x(a, b) = x^a (1 - x)^b / (a B(a, b)) * 2F1(a + b, 1; a + 1; x)
    a = 0.5 * df
    log_x = -math.log1p((z / df) * z) if z < 1e150 else math.log(df) - 2.0 * math.log(z)
    log_beta = math.lgamma(a) + 0.5 * math.log(math.pi) - math.lgamma(a + 0.5)
    series = float(hyp2f1(a + 0.5, 1.0, a + 1.0, math.exp(log_x)))
    return (
        -math.log(2.0)
        + a * log_x
        + 0.5 * math.log(-math.expm1(log_x))
        - math.log(a)
        - log_beta
        + math.log(series)
    )


def _problem(estimate: float, variance: float, df: float | None) -> str | None:
    if not (math.isfinite(estimate) and math.isfinite(variance)):
        return f"estimate or variance is not finite (estimate={estimate!r}, variance={variance!r})"
    if variance < 0.0:
        return f"a negative variance ({variance!r})"
    if not 1e-150 < variance < 1e150:
        return f"no usable variance ({variance!r}): too few distinct outcomes"
    if df is not None and not (math.isfinite(df) and df >= 1.0):
        return f"too few degrees of freedom ({df!r}), at least 1 is needed"
    return None
