"""Other procedures that may be watched (each under its own assumptions), on z-scores at every look.

All of them assume independent observations at one weight and a variance that is estimated well; one-sided
at 5% unless said. ``z`` and ``information`` (1/variance of the estimate) are (R, L).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm

from . import naive
from .naive import LEVEL, Alarms
from .scenes import Counts, Floats

O_BRIEN_FLEMING = 1.751
"""C_B(5, 0.10): five equal looks, two-sided 10% or one-sided 5% (Jennison and Turnbull 2000, table 2.3)."""

INFLATION = 1.03
"""Its largest sample over that of one look, at 80% power (ibid., table 2.4; rounded up)."""

LOOKS = 5


def scale(counts: Counts) -> tuple[Floats, Floats]:
    """z and information of a difference of means at one weight."""
    c, s = np.cumsum(counts.c, axis=1), np.cumsum(counts.s, axis=1)
    (n_c, mean_c, var_c), (n_s, mean_s, var_s) = (naive.moments(each, counts.grid) for each in (c, s))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = var_c / n_c + var_s / n_s
        return np.asarray((mean_c - mean_s) / np.sqrt(variance)), np.asarray(1.0 / variance)


def mixture(z: Floats, information: Floats, gap: float, level: float) -> Alarms:
    """mSPRT with a normal prior of standard deviation ``gap`` (Johari, Koomen, Pekelis and Walsh 2022)."""
    with np.errstate(invalid="ignore", over="ignore"):
        more = information * gap**2
        logs = 0.5 * z**2 * more / (1.0 + more) - 0.5 * np.log1p(more)
        return np.asarray((z > 0.0) & (logs >= -math.log(level)))


def group_sequential(z: Floats, last: int) -> Alarms:
    """O'Brien-Fleming with five looks fixed beforehand, the last after ``last`` of the looks."""
    alarms = np.zeros(z.shape, dtype=bool)
    for k in range(1, LOOKS + 1):
        at = min(z.shape[1], max(1, round(last * k / LOOKS))) - 1
        alarms[:, at] = z[:, at] > O_BRIEN_FLEMING * math.sqrt(LOOKS / k)
    return alarms


def alarms(z: Floats, information: Floats, *, gap: float, most: int | None) -> dict[str, Alarms]:
    """All of them. ``most``: looks after which a design for exactly this ``gap`` ends, where there is one."""
    looks = z.shape[1]
    found = {
        "mSPRT, two-sided": mixture(z, information, gap, LEVEL),
        "mSPRT, one direction at twice the level": mixture(z, information, gap, 2 * LEVEL),
        "Bonferroni over looks": np.asarray(z > float(norm.isf(LEVEL / looks))),
        "O'Brien-Fleming over all the time": group_sequential(z, looks),
    }
    if most is not None:
        found["O'Brien-Fleming for exactly this effect"] = group_sequential(z, most)
    return found
