"""The tests of this package over arrays: many cells, many looks or many simulated rollouts at once.

Each function is the one of the same name in ``mixture``, ``asymptotic`` or ``clusters``, element by
element; those are the definition, and tests hold the two against each other. Arguments broadcast. Where a
scalar would be ``NotComputable`` an element is NaN: every comparison with it is false, so it can neither
fail nor pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfcx, gammainc, gammaln, log_ndtr, ndtr, ndtri_exp, stdtr, stdtrit

from . import asymptotic, clusters, mixture

Floats = NDArray[np.float64]

_LOG_SQRT_2PI = 0.5 * np.log(2.0 * np.pi)
_UNDERFLOW = 1e-290
_SMALLEST_TAIL = 1e-280
_ROUNDS = 60


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
        fixed = _fixed_part(shape, r, _stirling_rest(shape))
        result = fixed + np.log(lower) + shape * _excess(np.where(inside, s / shape, 0.0))
    result = np.array(np.where(inside, result, np.where(np.isnan(x), np.nan, -np.inf)))
    for place in map(tuple, np.argwhere(inside & (lower < _UNDERFLOW))):
        result[place] = mixture.gamma_exponential_log_at(float(s[place]), float(v[place]), float(r[place]))
    return result


def _fixed_part(shape: Floats, r: Floats, rest: Floats) -> Floats:
    """What of a gamma-exponential mixture does not depend on s."""
    return np.asarray(0.5 * np.log(r / shape) + rest - _stirling_rest(r) - np.log(gammainc(r, r)))


def _excess(t: Floats) -> Floats:
    """t - ln(1 + t), accurate near 0."""
    return np.where(
        np.abs(t) > 1e-3,
        t - np.log1p(t),
        t * t * (1 / 2 - t * (1 / 3 - t * (1 / 4 - t * (1 / 5 - t / 6)))),
    )


def normal_log(s: ArrayLike, v: ArrayLike, precision: ArrayLike) -> Floats:
    """As ``mixture.normal_log``; ``precision`` is ``rho(v_opt, level)``. NaN stays NaN."""
    s, v, r = (np.asarray(x, dtype=np.float64) for x in (s, v, precision))
    x = s / np.sqrt(v + r)
    with np.errstate(invalid="ignore"):
        above = 0.5 * x * x + np.log(2.0) + _floats(log_ndtr(np.maximum(x, 0.0)))
        deep: Floats = np.maximum(-x, 0.0) * 0.5**0.5
        below = np.log(_floats(erfcx(deep)))
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


def gamma_exponential_bound(v: ArrayLike, precision: ArrayLike, level: ArrayLike) -> Floats:
    """As ``mixture.gamma_exponential_bound`` with c = 1: the s at which the log E-value is ln(1/level)."""
    v, r, level = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (v, precision, level)))
    shape = v + r
    rest = _stirling_rest(shape)
    fixed = _fixed_part(shape, r, rest)
    density = 0.5 * np.log(shape) - _LOG_SQRT_2PI - rest

    def at(s: Floats) -> tuple[Floats, Floats]:
        x = s + shape
        lower = gammainc(shape, x)
        excess = shape * _excess(s / shape)
        return fixed + np.log(lower) + excess, (s + np.exp(density - excess) / lower) / x

    # Where the mixture's chance P(shape, x) is taken as 1, what is left is t - ln(1 + t) = q^2/2, whose root
    # is t = q + q^2/3 + q^3/36 - …
    q = np.sqrt(2.0 * np.maximum(-np.log(level) - fixed, 0.01) / shape)
    return _crossing(at, shape * q * (1.0 + q * (1 / 3 + q / 36)), -np.log(level))


def asymptotic_reach(variance: ArrayLike, precision: ArrayLike, level: ArrayLike, df: ArrayLike) -> Floats:
    """Half the width of ``asymptotic.interval`` at one level. NaN or infinite where there is no bound."""
    variance, r, level, df = np.broadcast_arrays(
        *(np.asarray(x, dtype=np.float64) for x in (variance, precision, level, df))
    )
    usable = (variance > 1e-150) & (variance < 1e150) & (df >= 1.0)
    spread = np.sqrt(np.where(usable, variance, 1.0))
    information = 1.0 / spread**2

    def at(x: Floats) -> tuple[Floats, Floats]:
        below = _floats(log_ndtr(x))
        return 0.5 * x * x + np.log(2.0) + below, x + np.exp(-0.5 * x * x - _LOG_SQRT_2PI - below)

    needed = -np.log(level) + 0.5 * np.log1p(information / r)  # of normal_log, in x = s/sqrt(v + rho)
    x = _crossing(at, np.sqrt(2.0 * np.maximum(needed - np.log(2.0), 0.01)), needed)
    tail = ndtr(-x * np.sqrt(information + r) * spread)  # 0 beyond 37 standard deviations
    z = np.where(tail > 0.0, -stdtrit(np.where(usable, df, 1.0), tail), np.inf)
    return np.asarray(np.where(usable, z * spread, np.nan))


def _crossing(at: Callable[[Floats], tuple[Floats, Floats]], start: Floats, threshold: Floats) -> Floats:
    """Solve log_m(s) = threshold > 0 element by element. `at`: log_m and its slope.

    A mixture of exponentials of s has a convex logarithm, and one of positive exponents increases. So from
    any start Newton's next point is beyond the root, and those that follow come down to it. NaN: no root.
    """
    s = start
    for _ in range(_ROUNDS):
        value, slope = at(s)
        step = (value - threshold) / slope
        s = np.maximum(s - step, 0.0)
        if not (np.abs(step) > 1e-12 * s).any():
            break
    return np.asarray(np.where(np.isfinite(s), s, np.nan))


@dataclass(frozen=True, slots=True, eq=False)
class ClusterMoments:
    """All that estimates over clusters need of C cells in E epochs, in order. Suffix c: candidate, s: stable.

    ``pi``: candidate shares, (E,) or (C, E). ``n_c`` … ``y_s``: requests and sums of y, (C, E). With
    psi_j = (y_j - r n_j)/n in each arm and epoch, ``cc``, ``cs``, ``ss`` are sums over clusters of products
    of psi between two epochs, and ``nn`` those of the candidate's n_j, (C, E, E). ``seen``: clusters with any
    request from an epoch on, (C, E).
    """

    pi: Floats
    n_c: Floats
    y_c: Floats
    n_s: Floats
    y_s: Floats
    cc: Floats
    cs: Floats
    ss: Floats
    nn: Floats
    seen: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Deviations:
    """What one epoch brings to the moments of C cells over G clusters.

    ``counts``, ``events``: of both arms, (C, 2). ``psi``: of both arms, and n_j of the candidate, (C, 3, G).
    ``met``: clusters with any request, (C, G). All 0 where an arm is empty.
    """

    counts: Floats
    events: Floats
    psi: Floats
    met: NDArray[np.bool_]


def deviations(sums: NDArray[Any]) -> Deviations:
    """Of one epoch: n and y of the candidate and of stable, (C, 2 arms, 2, G), numbers of any kind.

    Finite, and such as y in [0, 1] gives them. An epoch in which an arm is empty has no say, as in
    ``clusters.cluster_estimate``.
    """
    n, y = sums[:, :, 0], sums[:, :, 1]
    total = n.sum(axis=2, dtype=np.float64)
    both = (total > 0.0).all(axis=1, keepdims=True)
    per = both / np.where(both, total, 1.0)
    events = y.sum(axis=2, dtype=np.float64) * both
    psi = np.empty((len(sums), 3, sums.shape[3]))
    parts = np.stack([-events * per * per, per], axis=2)[:, :, None]  # of n and of y: one pass over both
    np.matmul(parts, sums[:, :, :2], out=psi[:, :2, None])
    psi[:, 2] = n[:, 0]
    met = (n[:, 0] > 0) | (n[:, 1] > 0)
    if not both.all():
        psi[:, 2] *= both
        met &= both
    return Deviations(total * both, events, psi, met)


Products = Callable[[Deviations, Deviations], Floats]


def products(one: Deviations, other: Deviations) -> Floats:
    """Sums over clusters of the products of all psi of two epochs, (C, 3, 3)."""
    turned = other.psi.swapaxes(1, 2)
    if one is not other:
        return np.asarray(one.psi @ turned)
    # A small matrix times itself turned is taken for a symmetric product, which is several times as slow.
    return np.concatenate([one.psi[:, :2] @ turned, one.psi[:, 2:] @ turned], axis=1)


def cluster_moments(
    pi: Floats, cells: Sequence[Sequence[Deviations]], products_of: Sequence[Products] | None = None
) -> ClusterMoments:
    """Of E epochs in order, of one or several sets of cells under one another.

    Args:
        pi: candidate shares, (E,) or (C, E), C over all sets.
        cells: the deviations of every set in each epoch.
        products_of: ``products`` for each set, where it has some that remember.
    """
    each = products_of or [products] * len(cells)
    epochs = range(len(cells[0]))
    total = sum(len(of[0].psi) for of in cells)
    between = np.empty((total, len(epochs), 3, len(epochs), 3))
    seen = np.empty((total, len(epochs)))
    met = np.zeros((total, cells[0][0].met.shape[1]), dtype=bool)
    for e in reversed(epochs):
        for f in range(e + 1):
            block = np.concatenate([act(of[e], of[f]) for act, of in zip(each, cells, strict=True)])
            between[:, e, :, f] = block
            between[:, f, :, e] = block.swapaxes(1, 2)
        met |= np.concatenate([of[e].met for of in cells])
        seen[:, e] = np.count_nonzero(met, axis=1)
    counts = np.stack([np.concatenate([of[e].counts for of in cells]) for e in epochs], axis=2)
    events = np.stack([np.concatenate([of[e].events for of in cells]) for e in epochs], axis=2)
    return ClusterMoments(
        pi, counts[:, 0], events[:, 0], counts[:, 1], events[:, 1],
        between[:, :, 0, :, 0], between[:, :, 0, :, 1], between[:, :, 1, :, 1], between[:, :, 2, :, 2],
        seen,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class ClusterTails:
    """``clusters.cluster_estimate`` of C cells over the epochs from each of E on: all arrays are (C, E).

    ``variance`` is 0 where no cluster deviates. Where ``computable`` is false the rest means nothing.
    """

    estimate: Floats
    variance: Floats
    df: Floats
    expected_c: Floats
    n_c: Floats
    n_s: Floats
    computable: NDArray[np.bool_]


def cluster_tails(
    moments: ClusterMoments, ratio: ArrayLike = 1.0, more_c: ArrayLike = 1.0, more_s: ArrayLike = 1.0
) -> ClusterTails:
    """Candidate's mean minus ``ratio`` times stable's, over every tail of the epochs.

    Args:
        moments: of the cells.
        ratio: (C,) or a scalar.
        more_c, more_s: factors >= 1 on the arms' counts, broadcast to (C, E): requests still open, in
            proportion to the clusters. The candidate's count as y = 1, stable's as y = 0; both leave
            y_j - r n_j as it is.
    """
    shape = moments.n_c.shape
    factor = np.broadcast_to(np.asarray(ratio, dtype=np.float64), shape[:1])[:, None]
    up_c, up_s = (np.broadcast_to(np.asarray(more, dtype=np.float64), shape) for more in (more_c, more_s))
    in_c, in_s = moments.n_c * up_c, moments.n_s * up_s
    sum_c = moments.y_c + moments.n_c * (up_c - 1.0)
    r_c = sum_c / np.where(in_c > 0.0, in_c, 1.0)
    r_s = moments.y_s / np.where(in_s > 0.0, in_s, 1.0)
    weight = (in_c + in_s) * moments.pi * (1.0 - moments.pi)
    total = tails(weight)
    known = np.where(total > 0.0, total, 1.0)
    ours, theirs = weight / up_c, factor * weight / up_s
    between = (
        moments.cc * _products(ours, ours)
        - 2.0 * moments.cs * _products(ours, theirs)  # summed over both epochs, so the order is the same
        + moments.ss * _products(theirs, theirs)
    )
    square = _corners(moments.nn * _products(up_c, up_c))
    count_c, count_s = tails(in_c), tails(in_s)
    effective = np.where(square > 0.0, count_c**2 / np.where(square > 0.0, square, 1.0), 0.0)
    variance = moments.seen / np.maximum(moments.seen - 1.0, 1.0) * _corners(between) / known**2
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
        expected_c=tails(factor * in_c * r_s),
        n_c=count_c,
        n_s=count_s,
        computable=computable,
    )


def tails(values: Floats) -> Floats:
    """Sums of (C, E) over the epochs from each one on."""
    sums = values.astype(np.float64)
    for epoch in range(sums.shape[1] - 2, -1, -1):
        sums[:, epoch] += sums[:, epoch + 1]
    return sums


def _products(a: Floats, b: Floats) -> Floats:
    return np.asarray(a[:, :, None] * b[:, None, :])


def _corners(values: Floats) -> Floats:
    """(C, E): sums of (C, E, E) over both epochs from each one on."""
    sums = np.empty(values.shape[:2])
    last = values.shape[1] - 1
    sums[:, last] = values[:, last, last]
    for epoch in range(last - 1, -1, -1):
        later = slice(epoch + 1, None)
        edge = values[:, epoch, later].sum(axis=1) + values[:, later, epoch].sum(axis=1)
        sums[:, epoch] = sums[:, epoch + 1] + values[:, epoch, epoch] + edge
    return sums


def _floats(values: ArrayLike) -> Floats:
    """What scipy's untyped functions give."""
    return np.asarray(values, dtype=np.float64)


def _stirling_rest(x: Floats) -> Floats:
    """lgamma(x) minus Stirling's main terms, as in ``mixture``."""
    large = np.maximum(x, 10.0)
    y = 1.0 / (large * large)
    series = (1 / 12 - y * (1 / 360 - y * (1 / 1260 - y * (1 / 1680 - y / 1188)))) / large
    return np.asarray(np.where(x < 10.0, gammaln(x) - ((x - 0.5) * np.log(x) - x + _LOG_SQRT_2PI), series))
