"""Mixture supermartingales: the log E-value of a sum s at intrinsic time v, and its boundary.

For every fixed tuning exp(log M(S_t, V_t)) is a non-negative supermartingale starting at 1 or less, so
by Ville's inequality it ever exceeds 1/level with probability at most ``level``, however often one looks.

Source: Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence
sequences", Annals of Statistics 49 (2021): gamma-exponential Prop. 9, normal Prop. 5 and 6 (eq. 14).
All arguments and results are scalars; s and v are in the units of the sum and of its square.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from scipy.special import erfcx, gammainc, log_ndtr

from .roots import root
from .tuning import log_threshold, rho, rho_two_sided

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_SERIES_TERMS = 400


def gamma_exponential_log(s: float, v: float, *, v_opt: float, level: float, c: float = 1.0) -> float:
    """log M of a sub-exponential sum (increments not below -c), one-sided: evidence that s drifts upward.

    Far below zero the value is a lower bound; where s lies beyond -(v + rho)/c it is minus infinity.

    Raises:
        ValueError: s or v is not finite, v is negative, or a parameter is outside its domain.
    """
    if not (math.isfinite(c) and c > 0.0):
        msg = f"c must be positive, got {c!r}"
        raise ValueError(msg)
    return gamma_exponential_log_at(s / c, v / c**2, rho(v_opt, level) / c**2)


def gamma_exponential_log_at(s: float, v: float, r: float) -> float:
    """The same in units of c, with the mixture's precision ``r`` given: ``rho(v_opt, level)``."""
    _check(s, v)
    if not (math.isfinite(r) and r > 0.0):
        msg = f"a mixture's precision must be positive and finite, got {r!r}"
        raise ValueError(msg)
    shape = v + r
    x = s + shape
    if x <= 0.0:
        return -math.inf
    normaliser = -math.log(float(gammainc(r, r)))
    lower = float(gammainc(shape, x))
    if lower < 1e-290:
        # P(shape, x) = x^shape e^-x / Gamma(shape + 1) * sum; the powers cancel against those of M, and
        # every partial sum of the (positive) series is a lower bound.
        head = 0.5 * math.log(r) - _LOG_SQRT_2PI - _stirling_rest(r)
        return head + normaliser - math.log(shape) + math.log(_kummer_partial_sum(shape, x))
    # The published form subtracts terms of the size of v ln v from each other. With Stirling's main terms
    # cancelled by hand nothing larger than log M itself is left.
    t = s / shape
    return (
        0.5 * math.log(r / shape)
        + _stirling_rest(shape)
        - _stirling_rest(r)
        + normaliser
        + math.log(lower)
        + shape * _excess(t)
    )


def gamma_exponential_bound(v: float, *, v_opt: float, level: float, c: float = 1.0) -> float:
    """The s at which ``gamma_exponential_log`` reaches ln(1/level)."""
    return _crossing(
        lambda s: gamma_exponential_log(s, v, v_opt=v_opt, level=level, c=c), max(v, c), log_threshold(level)
    )


def normal_log(s: float, v: float, *, v_opt: float, level: float) -> float:
    """log M of the one-sided (half-normal) mixture of a sub-Gaussian sum.

    Raises:
        ValueError: s or v is not finite, v is negative, or a parameter is outside its domain.
    """
    _check(s, v)
    precision = rho(v_opt, level)
    x = s / math.sqrt(v + precision)
    # ln(2 Phi(x)) + x^2/2; below zero the two nearly cancel and erfcx holds their sum.
    tilt = (
        0.5 * x * x + math.log(2.0) + float(log_ndtr(x))
        if x >= 0.0
        else math.log(float(erfcx(-x / math.sqrt(2.0))))
    )
    return -0.5 * math.log1p(v / precision) + tilt


def normal_bound(v: float, *, v_opt: float, level: float) -> float:
    """The s at which ``normal_log`` reaches ln(1/level)."""
    start = math.sqrt(v + rho(v_opt, level))
    return _crossing(lambda s: normal_log(s, v, v_opt=v_opt, level=level), start, log_threshold(level))


def normal_two_sided_log(s: float, v: float, *, v_opt: float, level: float) -> float:
    """log M of the two-sided normal mixture; even in s."""
    _check(s, v)
    precision = rho_two_sided(v_opt, level)
    return -0.5 * math.log1p(v / precision) + s * s / (2.0 * (v + precision))


def normal_two_sided_bound(v: float, *, v_opt: float, level: float) -> float:
    """The |s| at which ``normal_two_sided_log`` reaches ln(1/level)."""
    _check(0.0, v)
    precision = rho_two_sided(v_opt, level)
    return math.sqrt((v + precision) * (2.0 * log_threshold(level) + math.log1p(v / precision)))


def _check(s: float, v: float) -> None:
    if not (math.isfinite(s) and math.isfinite(v) and v >= 0.0):
        msg = f"a mixture needs a finite sum and a finite, non-negative variance, got s={s!r}, v={v!r}"
        raise ValueError(msg)


def _stirling_rest(x: float) -> float:
    """lgamma(x) minus Stirling's main terms (x - 1/2) ln x - x + ln sqrt(2 pi)."""
    if x < 10.0:
        return math.lgamma(x) - ((x - 0.5) * math.log(x) - x + _LOG_SQRT_2PI)
    y = 1.0 / (x * x)
    return (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188)))) / x


def _excess(t: float) -> float:
    """t - ln(1 + t), accurate near 0."""
    if abs(t) > 1e-3:
        return t - math.log1p(t)
    return t * t * (1 / 2 - t * (1 / 3 - t * (1 / 4 - t * (1 / 5 - t / 6))))


def _kummer_partial_sum(shape: float, x: float) -> float:
    total = term = 1.0
    for k in range(1, _SERIES_TERMS):
        term *= x / (shape + k)
        total += term
        if term < 1e-17 * total:
            break
    return total


def _crossing(log_m: Callable[[float], float], start: float, threshold: float) -> float:
    """Solve log_m(s) = threshold; log_m increases and is not positive at 0."""
    high = start
    while log_m(high) < threshold:
        high *= 2.0
    return root(lambda s: log_m(s) - threshold, 0.0, high, xtol=1e-12, rtol=1e-13)
