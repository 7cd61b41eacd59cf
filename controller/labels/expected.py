"""What stable's outcomes are expected to be before any label has come: those of a calibrated model.

Centres and deviations tune a test and decide nothing: it is valid for any of them, and stronger for good
ones.
"""

from __future__ import annotations

from math import sqrt

import numpy as np

from ..analysis.reference import Values, scaled

_UNKNOWN = 0.5, 0.5


def as_if_calibrated(
    series: str, values: Values, limits: tuple[float, float] | None, threshold: float
) -> tuple[float, float]:
    """Mean and sd of stable's y where each prediction p is the chance of its outcome.

    `threshold`: in raw units; at or above it a prediction is positive.
    """
    if limits is None or not values.total:
        return _UNKNOWN
    p = np.array([scaled(value, limits) for value in values.value])
    weight = np.array(values.count) / values.total
    flagged = np.array([value >= threshold for value in values.value])
    variance = p * (1.0 - p)
    if series == "outcome.brier":
        mean = float(weight @ variance)
        square = float(weight @ (p * (1.0 - p) ** 4 + (1.0 - p) * p**4))
        return mean, sqrt(max(0.0, square - mean * mean))
    if series == "outcome.calibration":
        return 0.5, sqrt(float(weight @ variance)) / 2.0
    if series == "outcome.accuracy":
        rate = float(weight @ np.where(flagged, p, 1.0 - p))
    elif series == "outcome.recall":
        rate = float(weight @ (p * flagged)) / max(float(weight @ p), 1e-9)
    elif series == "outcome.false_positive_rate":
        rate = float(weight @ ((1.0 - p) * flagged)) / max(float(weight @ (1.0 - p)), 1e-9)
    else:
        return _UNKNOWN
    return rate, sqrt(max(0.0, rate * (1.0 - rate)))
