"""How far stated probabilities are from what turned out true, in bins: a number to show, never to decide by.

The binned calibration error is no mean over requests, and it is biased: absolute values of noise do not
cancel, so a perfectly calibrated model shows an error too, the more the fewer observations a bin has
(Roelofs, Cain, Shlens, Mozer, *Mitigating bias in calibration error estimation*, AISTATS 2022; Kumar, Liang,
Ma, *Verified uncertainty calibration*, NeurIPS 2019). So it is withheld below ``OBSERVATIONS_PER_BIN``
observations per filled bin, and shown beside what chance alone would make of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from .distribution import OBSERVATIONS_PER_BIN
from .result import NotComputable

BINS: Final = 10  # of equal width over 0..1


@dataclass(frozen=True, slots=True)
class CalibrationError:
    """``error``: sum over bins of n_k/n |mean of p - o in bin k|. ``by_chance``: at most its expectation,
    were every bin calibrated and its mean normal. ``n``: observations.
    """

    error: float
    by_chance: float
    n: float


def calibration_error(
    n: ArrayLike,
    gap: ArrayLike,
    square: ArrayLike,
    *,
    observations_per_bin: float = OBSERVATIONS_PER_BIN,
) -> CalibrationError | NotComputable:
    """The expected calibration error of the positive class (Naeini, Cooper, Hauskrecht, *Obtaining well
    calibrated probabilities using Bayesian binning*, AAAI 2015).

    Args:
        n: observations per bin of p, length k.
        gap: sum of p - o in each bin, p and o in [0, 1].
        square: sum of (p - o)^2 in each bin.
        observations_per_bin: fewer than this many times the filled bins is not computable.
    """
    counts, gaps, squares = (np.asarray(column, dtype=np.float64) for column in (n, gap, square))
    if not counts.ndim == gaps.ndim == squares.ndim == 1 or not counts.size == gaps.size == squares.size:
        return NotComputable("bins of different numbers")
    columns = np.concatenate((counts, gaps, squares))
    if not np.isfinite(columns).all() or (counts < 0.0).any() or (squares < 0.0).any():
        return NotComputable("the sums of a bin are not those of probabilities and outcomes")
    if (np.abs(gaps) > counts + 1e-6).any() or (gaps * gaps > squares * counts + 1e-6 * (1.0 + counts)).any():
        return NotComputable("the sums of a bin contradict each other")
    total, filled = float(counts.sum()), int(np.count_nonzero(counts))
    if total <= 0.0 or not total >= observations_per_bin * filled:  # so that a NaN withholds
        return NotComputable(
            f"{total:.0f} labels in {filled} bins, at least {observations_per_bin:g} per bin"
        )
    # Under calibration a bin's mean gap is about normal with mean 0 and variance E(p - o)^2 / n_k.
    chance = math.sqrt(2.0 / math.pi) * float(np.sqrt(squares).sum()) / total
    return CalibrationError(float(np.abs(gaps).sum()) / total, chance, total)
