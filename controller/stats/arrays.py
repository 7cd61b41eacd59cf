"""The tests of this package over arrays: many cells, many looks or many simulated rollouts at once.

Each function is the one of the same name in ``mixture``, ``asymptotic`` or ``clusters``, element by
element; those are the definition, and tests hold the two against each other. Arguments broadcast. Where a
scalar would be ``NotComputable`` an element is NaN: every comparison with it is false, so it can neither
fail nor pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfcx, gammainc, gammaln, log_ndtr, ndtri_exp, stdtr

from . import asymptotic, clusters, mixture

Floats = NDArray[np.float64]

_LOG_SQRT_2PI = 0.5 * np.log(2.0 * np.pi)
_UNDERFLOW = 1e-290
_SMALLEST_TAIL = 1e-280


def rho(v_opt: ArrayLike, level: ArrayLike) -> Floats:
    """As ``tuning.rho``."""
    b = -np.log(2.0 * np.asarray(level, dtype=np.float64))
    return np.asarray(v_opt, dtype=np.float64) / (2.0 * b + np.log1p(2.0 * b))


def kappa(level: ArrayLike) -> Floats:
    """As ``tuning.kappa``."""
    a = np.asarray(level, dtype=np.float64)
    q = rho(1.0, a)
    return np.asarray((1.0 + q) * (-2.0 * np.log(a) + np.log((1.0 + q) / (4.0 * q))))


def gamma_exponential_log(s: ArrayLike, v: ArrayLike, precision: ArrayLike) -> Floats:
    """As ``mixture.gamma_exponential_log`` with c = 1. ``precision``: ``rho(v_opt, level)``. NaN stays."""
    s, v, r = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (s, v, precision)))
    shape = v + r
    x = s + shape
    inside = x > 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        lower = gammainc(shape, np.where(inside, x, 1.0))
        t = s / shape
        excess = np.where(
            np.abs(t) > 1e-3,
            t - np.log1p(np.where(inside, t, 0.0)),
            t * t * (1 / 2 - t * (1 / 3 - t * (1 / 4 - t * (1 / 5 - t / 6)))),
        )
        result = (
            0.5 * np.log(r / shape) + _stirling_rest(shape) - _stirling_rest(r)
            - np.log(gammainc(r, r)) + np.log(lower) + shape * excess
        )  # fmt: skip
    result = np.array(np.where(inside, result, np.where(np.isnan(x), np.nan, -np.inf)))
    for place in map(tuple, np.argwhere(inside & (lower < _UNDERFLOW))):
        result[place] = mixture.gamma_exponential_log_at(float(s[place]), float(v[place]), float(r[place]))
    return result


def normal_log(s: ArrayLike, v: ArrayLike, precision: ArrayLike) -> Floats:
    """As ``mixture.normal_log``; ``precision`` is ``rho(v_opt, level)``. NaN stays NaN."""
    s, v, r = (np.asarray(x, dtype=np.float64) for x in (s, v, precision))
    x = s / np.sqrt(v + r)
    with np.errstate(invalid="ignore"):
        above = 0.5 * x * x + np.log(2.0) + log_ndtr(np.maximum(x, 0.0))
        below = np.log(erfcx(np.maximum(-x, 0.0) / np.sqrt(2.0)))
    return np.asarray(np.where(x >= 0.0, above, below) - 0.5 * np.log1p(v / r))


def t_scaled(z: ArrayLike, df: ArrayLike) -> Floats:
    """As ``asymptotic.t_scaled``."""
    z, df = np.broadcast_arrays(np.asarray(z, dtype=np.float64), np.asarray(df, dtype=np.float64))
    size = np.abs(z)
    with np.errstate(divide="ignore", invalid="ignore"):
        tail = stdtr(df, -size)
        log_tail = np.array(np.log(tail))
    for place in map(tuple, np.argwhere(tail <= _SMALLEST_TAIL)):
        log_tail[place] = asymptotic.log_tail(float(size[place]), float(df[place]))
    return np.asarray(np.copysign(np.maximum(-ndtri_exp(log_tail), 0.0), z))


def asymptotic_log_e(
    estimate: ArrayLike, variance: ArrayLike, null: ArrayLike, precision: ArrayLike, df: ArrayLike
) -> Floats:
    """As ``asymptotic.log_e_harm``: against "effect <= null". For non-inferiority turn the signs of both.

    NaN where ``variance`` or ``df`` permits no test.
    """
    estimate, variance, null, df = (np.asarray(x, dtype=np.float64) for x in (estimate, variance, null, df))
    usable = (variance > 1e-150) & (variance < 1e150) & (df >= 1.0) & np.isfinite(df) & np.isfinite(estimate)
    spread = np.sqrt(np.where(usable, variance, 1.0))
    z = t_scaled(np.where(usable, (estimate - null) / spread, 0.0), np.where(usable, df, 1.0))
    result = normal_log(z / spread, 1.0 / spread**2, precision)
    return np.asarray(np.where(usable, result, np.nan))


@dataclass(frozen=True, slots=True, eq=False)
class ClusterTails:
    """``clusters.cluster_estimate`` of C cells over the epochs from each of E on: all arrays are (C, E).

    ``variance`` is exactly 0 where no cluster deviates. Where ``computable`` is false the rest means nothing.
    """

    estimate: Floats
    variance: Floats
    df: Floats
    events: Floats  # of both arms
    expected_c: Floats
    n_c: Floats
    n_s: Floats
    computable: NDArray[np.bool_]


def cluster_tails(
    pi: Floats, n_c: Floats, y_c: Floats, n_s: Floats, y_s: Floats, ratio: ArrayLike = 1.0
) -> ClusterTails:
    """Candidate's mean minus ``ratio`` times stable's, over every tail of the epochs.

    Args:
        pi: candidate shares, (E,).
        n_c, y_c, n_s, y_s: requests and sums of y, (C, E, G): cells, epochs in order, clusters. They must
            be finite and belong to y in [0, 1]; an epoch in which an arm is empty has no weight.
        ratio: (C,) or a scalar.
    """
    factor = np.broadcast_to(np.asarray(ratio, dtype=np.float64), n_c.shape[:1])[:, None]
    in_c, in_s = n_c.sum(axis=2), n_s.sum(axis=2)
    sum_c, sum_s = y_c.sum(axis=2), y_s.sum(axis=2)
    both = (in_c > 0.0) & (in_s > 0.0)
    safe_c, safe_s = np.where(both, in_c, 1.0), np.where(both, in_s, 1.0)
    r_c, r_s = sum_c / safe_c, sum_s / safe_s
    weight = np.where(both, (in_c + in_s) * pi * (1.0 - pi), 0.0)
    psi = (y_c - r_c[:, :, None] * n_c) / safe_c[:, :, None]
    psi -= (factor / safe_s)[:, :, None] * (y_s - r_s[:, :, None] * n_s)
    psi *= weight[:, :, None]
    used = both[:, :, None]

    def tails(values: Floats) -> Floats:
        return np.asarray(np.flip(np.cumsum(np.flip(values, 1), axis=1), 1))

    total = tails(weight)
    known = np.where(total > 0.0, total, 1.0)
    psi_tail = tails(psi)
    n_tail = tails(np.where(used, n_c, 0.0))
    seen = np.count_nonzero(tails(np.where(used, n_c + n_s, 0.0)), axis=2)
    square = np.einsum("ceg,ceg->ce", n_tail, n_tail)
    count_c, count_s = tails(np.where(both, in_c, 0.0)), tails(np.where(both, in_s, 0.0))
    effective = np.where(square > 0.0, count_c**2 / np.where(square > 0.0, square, 1.0), 0.0)
    variance = seen / np.maximum(seen - 1.0, 1.0) * np.einsum("ceg,ceg->ce", psi_tail, psi_tail) / known**2
    computable = (
        (total > 0.0)
        & (np.minimum(count_c, count_s) >= clusters.FEWEST_PER_ARM)
        & (count_c + count_s >= clusters.FEWEST_OBSERVATIONS)
        & (effective >= clusters.FEWEST_EFFECTIVE_CLUSTERS)
    )
    return ClusterTails(
        estimate=tails(weight * (r_c - factor * r_s)) / known,
        variance=np.where(variance > clusters.ROUNDING**2, variance, 0.0),
        df=effective - 1.0,
        events=tails(np.where(both, sum_c + sum_s, 0.0)),
        expected_c=tails(np.where(both, factor * in_c * r_s, 0.0)),
        n_c=count_c,
        n_s=count_s,
        computable=computable,
    )


def _stirling_rest(x: Floats) -> Floats:
    """lgamma(x) minus Stirling's main terms, as in ``mixture``."""
    large = np.maximum(x, 10.0)
    y = 1.0 / (large * large)
    series = (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188)))) / large
    return np.asarray(np.where(x < 10.0, gammaln(x) - ((x - 0.5) * np.log(x) - x + _LOG_SQRT_2PI), series))
