"""What canary tools and dashboards compute: textbook tests, read again at every look.

Everything works on sums that grow from look to look, for all runs at once: ``c`` and ``s`` are counts per
outcome so far, (R, L, K), on a grid of outcomes (K,). A result is (R, L): true where the candidate would be
called worse. Directional tests are one-sided at 5%, the others two-sided.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, norm

from .scenes import Counts, Floats

Alarms = NDArray[np.bool_]

LEVEL = 0.05
_ONE_SIDED = float(norm.isf(LEVEL))
_KOLMOGOROV = 1.3581015157406195
"""Upper 5% point of Kolmogorov's distribution (scipy.special.kolmogi(0.05))."""

KAYENTA_CONFIDENCE = 0.98
KAYENTA_TOLERANCE = 0.25
_KAYENTA_FIRST = 10


def since_step(step: NDArray[np.int64], values: Floats) -> Floats:
    """Cumulative over looks (axis 1), beginning anew with every weight."""
    return np.concatenate(
        [np.cumsum(values[:, step == one], axis=1) for one in dict.fromkeys(step.tolist())], axis=1
    )


def moments(counts: Floats, grid: Floats) -> tuple[Floats, Floats, Floats]:
    """n, mean and variance of the observations so far; NaN where there are fewer than two."""
    n = counts.sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = counts @ grid / n
        variance = (counts @ grid**2 - n * mean**2) / (n - 1.0)
    return n, mean, np.maximum(variance, 0.0)


def t_statistic(c: Floats, s: Floats, grid: Floats, null: float = 0.0, ratio: float = 1.0) -> Floats:
    """Welch's, for candidate's mean minus ``ratio`` times stable's minus ``null``; NaN if nothing varies."""
    (n_c, mean_c, var_c), (n_s, mean_s, var_s) = moments(c, grid), moments(s, grid)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = var_c / n_c + ratio**2 * var_s / n_s
        z = (mean_c - ratio * mean_s - null) / np.sqrt(variance)
    return np.asarray(np.where(variance > 1e-18, z, np.nan))


def welch(c: Floats, s: Floats, grid: Floats) -> Alarms:
    """From 10 requests of either arm on, with the normal quantile: at these sizes t's is the same."""
    enough = np.minimum(c.sum(axis=2), s.sum(axis=2)) >= 10.0
    return np.asarray(enough & (t_statistic(c, s, grid) > _ONE_SIDED))


def mann_whitney(c: Floats, s: Floats, grid: Floats) -> Alarms:
    """Normal approximation with the correction for ties."""
    del grid  # in ascending order
    n_c, n_s = c.sum(axis=2), s.sum(axis=2)
    below = np.cumsum(s, axis=2) - 0.5 * s
    both, total = c + s, n_c + n_s
    with np.errstate(divide="ignore", invalid="ignore"):
        ties = (both**3 - both).sum(axis=2) / (total * (total - 1.0))
        z = ((c * below).sum(axis=2) - 0.5 * n_c * n_s) / np.sqrt(n_c * n_s / 12.0 * (total + 1.0 - ties))
    return np.asarray((np.minimum(n_c, n_s) >= 10.0) & (z > _ONE_SIDED))


def kolmogorov_smirnov(c: Floats, s: Floats, grid: Floats) -> Alarms:
    """Two-sided, by the asymptotic distribution (which ties make conservative)."""
    del grid
    n_c, n_s = c.sum(axis=2), s.sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        d = np.abs(np.cumsum(c, axis=2) / n_c[..., None] - np.cumsum(s, axis=2) / n_s[..., None]).max(axis=2)
        return np.asarray(
            (np.minimum(n_c, n_s) >= 10.0) & (d * np.sqrt(n_c * n_s / (n_c + n_s)) > _KOLMOGOROV)
        )


def proportion_z(c: Floats, s: Floats, grid: Floats) -> Alarms:
    """Two proportions, pooled variance: the share of outcomes above stable's middle one."""
    upper = grid > 0.5 * (grid[0] + grid[-1]) - 1e-9
    n_c, n_s = c.sum(axis=2), s.sum(axis=2)
    x_c, x_s = c[..., upper].sum(axis=2), s[..., upper].sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = (x_c + x_s) / (n_c + n_s)
        z = (x_c / n_c - x_s / n_s) / np.sqrt(p * (1 - p) * (1 / n_c + 1 / n_s))
    return np.asarray((np.minimum(n_c, n_s) >= 10.0) & (z > _ONE_SIDED))


def chi_squared(c: Floats, s: Floats, grid: Floats) -> Alarms:
    """Homogeneity over the outcomes that are expected five times in either arm; two-sided."""
    del grid
    n_c, n_s = c.sum(axis=2, keepdims=True), s.sum(axis=2, keepdims=True)
    both = c + s
    with np.errstate(divide="ignore", invalid="ignore"):
        share = n_c / (n_c + n_s)
        used = both * np.minimum(share, 1 - share) >= 5.0
        parts = np.where(used, (c - share * both) ** 2 / (share * (1 - share) * both), 0.0)
    df = used.sum(axis=2) - 1
    return np.asarray((df >= 1) & (parts.sum(axis=2) > chi2.isf(LEVEL, np.maximum(df, 1))))


TESTS: dict[str, Callable[[Floats, Floats, Floats], Alarms]] = {
    "t": welch,
    "Mann-Whitney": mann_whitney,
    "Kolmogorov-Smirnov": kolmogorov_smirnov,
    "two proportions": proportion_z,
    "χ²": chi_squared,
}


def kayenta(c: Floats, s: Floats, grid: Floats) -> Alarms:
    """As Kayenta's judge does it: one value of each arm a minute, two looks here; new counts, (R, L, K).

    Mann-Whitney with a 98% confidence interval of the Hodges-Lehmann shift; worse where its lower end is
    above a quarter of the estimated shift (spinnaker/kayenta: MannWhitneyClassifier, and NetflixACAJudge for
    the two constants). A minute without requests counts as 0, the judge's default. From 10 minutes on.
    """
    runs, looks, outcomes = c.shape
    minutes = looks // 2
    wide = (runs, minutes, 2, outcomes)
    by_minute = [values[:, : 2 * minutes].reshape(wide).sum(axis=2) for values in (c, s)]
    a, b = (values @ grid / np.maximum(values.sum(axis=2), 1.0) for values in by_minute)
    quantile = float(norm.isf((1.0 - KAYENTA_CONFIDENCE) / 2.0))
    alarms = np.zeros((runs, looks), dtype=bool)
    for n in range(_KAYENTA_FIRST, minutes + 1):
        shifts = (a[:, :n, None] - b[:, None, :n]).reshape(runs, n * n)
        rank = int(max(0.0, np.floor(n * n / 2.0 - quantile * np.sqrt(n * n * (2 * n + 1) / 12.0))))
        middle = n * n // 2
        ordered = np.partition(shifts, (rank, middle), axis=1)
        worse = ordered[:, rank] > KAYENTA_TOLERANCE * np.abs(ordered[:, middle])
        alarms[:, 2 * n - 1] = worse & (np.abs(a[:, :n] - b[:, :n]) > 0).any(axis=1)
    return alarms


def alarms(counts: Counts) -> dict[str, Alarms]:
    """Every test, restarted with every weight; those of means also pooled over weights."""
    c, s = (since_step(counts.step, values) for values in (counts.c, counts.s))
    found = {name: test(c, s, counts.grid) for name, test in TESTS.items()}
    last = int(counts.step[-1])
    found["Kayenta"] = np.concatenate(
        [
            kayenta(counts.c[:, counts.step == one], counts.s[:, counts.step == one], counts.grid)
            for one in range(last + 1)
        ],
        axis=1,
    )
    if last > 0:
        c, s = (np.cumsum(values, axis=1) for values in (counts.c, counts.s))
        found["t, pooled over steps"] = welch(c, s, counts.grid)
        found["χ², pooled over steps"] = chi_squared(c, s, counts.grid)
    return found


def safe(counts: Counts, margin: float, ratio: float = 1.0) -> dict[str, Alarms]:
    """Non-inferiority by the one that has such a form: t, restarted with every weight, and pooled."""
    ways = {"t": [since_step(counts.step, values) for values in (counts.c, counts.s)]}
    if int(counts.step[-1]) > 0:
        ways["t, pooled over steps"] = [np.cumsum(values, axis=1) for values in (counts.c, counts.s)]
    found: dict[str, Alarms] = {}
    for name, (c, s) in ways.items():
        enough = np.minimum(c.sum(axis=2), s.sum(axis=2)) >= 10.0
        found[name] = np.asarray(enough & (t_statistic(c, s, counts.grid, margin, ratio) < -_ONE_SIDED))
    return found


def pairs(n: Floats, total: Floats, squares: Floats, above: Floats, below: Floats) -> dict[str, Alarms]:
    """Paired t and sign test of single pairs, from sums so far, (R, L) each."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = total / np.sqrt(np.maximum(squares - total**2 / n, 0.0) * n / (n - 1.0))
        sign = (above - below) / np.sqrt(above + below)
    return {"paired t": np.asarray(t > _ONE_SIDED), "sign test": np.asarray(sign > _ONE_SIDED)}
