"""Accede's own tests over simulated runs: E-values at every look, from ``controller.stats.arrays``.

Results are natural logarithms of E-values, (R, L); NaN where nothing can be computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from accede.controller.stats import arrays, clusters
from accede.controller.stats.mean import scale as largest
from accede.controller.stats.tuning import RANDOMISED, asymptotic_v_opt, mean_v_opt

from .scenes import Counts, Floats

_GRID = np.geomspace(0.02, 3.0, 32)  # of controller.stats.events; a test holds the two against each other


class Sides(NamedTuple):
    """Log E-values against "no more than the null" and against "no less than the null"."""

    harm: Floats
    safe: Floats


class Sums(NamedTuple):
    """What P1 needs, so far: (R, L) each; W also (1, L)."""

    s: Floats
    q: Floats
    w: Floats


def sums(counts: Counts) -> Sums:
    """P1's over all epochs, each with its own weight and centre."""
    scale = np.array(
        [largest(pi, m) for pi, m in zip(counts.pi.tolist(), counts.centre.tolist(), strict=True)]
    )
    away = (counts.grid - counts.centre[:, None]) / scale[:, None]  # (L, K)
    pi = counts.pi[:, None]
    s = (counts.c * (1 - pi) * away - counts.s * pi * away).sum(axis=2)
    q = (counts.c * ((1 - pi) * away) ** 2 + counts.s * (pi * away) ** 2).sum(axis=2)
    w = (counts.c + counts.s).sum(axis=2) * counts.pi * (1 - counts.pi) / scale
    return Sums(np.cumsum(s, axis=1), np.cumsum(q, axis=1), np.cumsum(w, axis=1))


def mean(
    seen: Sums, null: float, variance: float, gap: float, level: float, *, scale: float = RANDOMISED
) -> Sides:
    """P1: bounded mean (pairs: ``scale`` 1), tuned to a ``gap`` from the null at this ``variance``."""
    precision = arrays.rho(mean_v_opt(variance, gap, level, scale=scale), level)
    return Sides(
        arrays.gamma_exponential_log(seen.s - null * seen.w, seen.q, precision),
        arrays.gamma_exponential_log(null * seen.w - seen.s, seen.q, precision),
    )


def events(pi: Floats, x: Floats, n: Floats, ratio: float) -> Sides:
    """P2: ``x`` new events of the candidate among ``n`` of both arms at each look, (R, L); ``pi`` (L,)."""
    sides: list[Floats] = []
    odds = np.log(pi / (1 - pi))[:, None] + math.log(ratio)
    for sign in (1.0, -1.0):
        here = odds + sign * _GRID  # (L, 32)
        gain = np.logaddexp(0.0, -odds) - np.logaddexp(0.0, -here)
        loss = np.logaddexp(0.0, odds) - np.logaddexp(0.0, here)
        logs = np.cumsum(x[..., None] * gain + (n - x)[..., None] * loss, axis=1)
        sides.append(np.logaddexp.reduce(logs, axis=2) - math.log(_GRID.size))
    return Sides(*sides)


class Clustered(NamedTuple):
    """P4's estimate at every look, (L,), over the epochs so far."""

    estimate: Floats
    variance: Floats
    df: Floats
    events: Floats
    expected: Floats
    n_c: Floats
    computable: Floats


def clustered(looks: Sequence[Sequence[clusters.ClusterEpoch]], ratio: float) -> Clustered:
    """All looks of one run at once; epochs that have not begun are empty and have no say."""
    last = looks[-1]
    sums = [np.zeros((len(looks), 2, 2, last[0].n_c.size)) for _ in last]
    for place, seen in enumerate(looks):
        for epoch, into in zip(seen, sums, strict=False):
            into[place] = (epoch.n_c, epoch.y_c), (epoch.n_s, epoch.y_s)
    moments = arrays.cluster_moments(np.array([e.pi for e in last]), [[*map(arrays.deviations, sums)]])
    got = arrays.cluster_tails(moments, ratio)
    return Clustered(
        got.estimate[:, 0], got.variance[:, 0], got.df[:, 0], (moments.y_c + moments.y_s).sum(axis=1),
        got.expected_c[:, 0], got.n_c[:, 0], got.computable[:, 0].astype(np.float64),
    )  # fmt: skip


def between_clusters(got: Clustered, gap: float, level: float, null: float = 0.0) -> Sides:
    """P4, by the rules of ``clusters.ClusterEstimate``. (R, L) where stacked so."""
    precision = arrays.rho(asymptotic_v_opt(gap, level), level)
    usable = (got.computable > 0.0) & (got.variance > 0.0) & (got.events >= clusters.FEWEST_EVENTS)
    variance = np.where(usable, got.variance, np.nan)
    at_null = got.expected + null * got.n_c
    expected = np.minimum(at_null, got.n_c - at_null) >= clusters.FEWEST_EXPECTED
    harm = arrays.asymptotic_log_e(got.estimate, variance, null, precision, got.df)
    safe = arrays.asymptotic_log_e(-got.estimate, variance, -null, precision, got.df)
    return Sides(harm, np.where(expected, safe, np.nan))


def between_batches(n: Floats, d: Floats, gap: float, level: float) -> Sides:
    """P4 on pairs: mean difference over the batches so far, (R, L) of pairs and of differences per batch.

    As ``clusters.batch_estimate`` for batches of one size.
    """
    number = np.arange(1.0, n.shape[1] + 1.0)
    pairs = np.cumsum(n, axis=1)
    estimate = np.cumsum(d, axis=1) / pairs
    # Batches are equal, so the sum of squared influences follows from sums of squares.
    squares = np.cumsum(d * d, axis=1) - 2 * estimate * np.cumsum(d * n, axis=1)
    squares += estimate**2 * np.cumsum(n * n, axis=1)
    variance = number / np.maximum(number - 1.0, 1.0) * squares / pairs**2
    enough = (number >= clusters.FEWEST_BATCHES) & (pairs >= clusters.FEWEST_OBSERVATIONS)
    usable = enough & (variance > clusters.ROUNDING**2)
    precision = arrays.rho(asymptotic_v_opt(gap, level), level)
    variance, df = np.where(usable, variance, np.nan), np.broadcast_to(number - 1.0, n.shape)
    return Sides(
        arrays.asymptotic_log_e(estimate, variance, 0.0, precision, df),
        arrays.asymptotic_log_e(-estimate, variance, 0.0, precision, df),
    )
