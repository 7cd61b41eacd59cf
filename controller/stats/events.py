"""Relative risk from event counts, for events that are independent given the assignment.

Given that an event happened in an epoch with candidate share pi, it came from the candidate with
probability theta(r) = pi r / (pi r + 1 - pi) at relative risk r, whatever the base rate does (Lindon and
Malek 2022, for the count view).

Validity of the grid over epochs: for one grid point r_k > r0 the factor of an event is
theta_k/theta_0 or (1 - theta_k)/(1 - theta_0); its mean under a true theta is linear and increasing in theta
and equals 1 at theta_0. So for every epoch's theta <= theta_0 the product over events, also across epochs
with different pi, is a supermartingale, and so is the mean over k. For r_k < r0 the same with signs turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from .result import NotComputable
from .roots import root
from .tuning import log_threshold

_GRID = np.geomspace(0.02, 3.0, 32)
_LOG_RATIO_LIMIT = 30.0
"""The interval is sought within exp(+-30); beyond that an end is reported as 0 or infinity."""


@dataclass(frozen=True, slots=True)
class EventEpoch:
    """Candidate share ``pi``, ``x`` events of the candidate among ``n`` events of both arms."""

    pi: float
    x: float
    n: float


def log_e_harm(epochs: Sequence[EventEpoch], r0: float) -> float | NotComputable:
    """Log E-value against "relative risk <= r0 at all times"."""
    problem = _problem(epochs)
    return NotComputable(problem) if problem is not None else _log_e(epochs, _log_ratio(r0), 1.0)


def log_e_safe(epochs: Sequence[EventEpoch], r0: float) -> float | NotComputable:
    """Log E-value against "relative risk >= r0 at all times": non-inferiority at ratio ``r0``."""
    problem = _problem(epochs)
    return NotComputable(problem) if problem is not None else _log_e(epochs, _log_ratio(r0), -1.0)


def interval(
    epochs: Sequence[EventEpoch], level_low: float, level_high: float
) -> tuple[float, float] | NotComputable:
    """Confidence sequence for the relative risk; the ends may be 0 and infinity.

    The log E-value is strictly monotone in r0 (its slope in ln r0 is n (theta(r0) - theta(r_k)) for every
    grid point), so each end is one root.
    """
    problem = _problem(epochs)
    if problem is not None:
        return NotComputable(problem)

    def end(sign: float, level: float) -> float | None:
        threshold = log_threshold(level)
        return _root(lambda log_r: _log_e(epochs, log_r, sign) - threshold)

    low, high = end(1.0, level_low), end(-1.0, level_high)
    return (0.0 if low is None else math.exp(low), math.inf if high is None else math.exp(high))


def _log_e(epochs: Sequence[EventEpoch], log_r0: float, sign: float) -> float:
    log_r = log_r0 + sign * _GRID
    total = np.zeros_like(_GRID)
    for epoch in epochs:
        if epoch.n == 0.0:
            continue
        log_odds = math.log(epoch.pi) - math.log1p(-epoch.pi)
        # ln theta = -ln(1 + e^-(log odds + ln r)), ln(1 - theta) = -ln(1 + e^(log odds + ln r))
        here, null = log_odds + log_r, log_odds + log_r0
        total += epoch.x * (np.logaddexp(0.0, -null) - np.logaddexp(0.0, -here))
        total += (epoch.n - epoch.x) * (np.logaddexp(0.0, null) - np.logaddexp(0.0, here))
    return float(logsumexp(total)) - math.log(len(_GRID))


def _root(f: Callable[[float], float]) -> float | None:
    if f(-_LOG_RATIO_LIMIT) * f(_LOG_RATIO_LIMIT) > 0.0:
        return None
    return root(f, -_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT, xtol=1e-12, rtol=1e-12)


def _log_ratio(r0: float) -> float:
    if not (math.isfinite(r0) and r0 > 0.0):
        msg = f"a relative risk must be positive and finite, got {r0!r}"
        raise ValueError(msg)
    return math.log(r0)


def _problem(epochs: Sequence[EventEpoch]) -> str | None:
    events = 0.0
    for position, epoch in enumerate(epochs):
        if not (math.isfinite(epoch.x) and math.isfinite(epoch.n)):
            return f"epoch {position} has counts that are not finite (x={epoch.x!r}, n={epoch.n!r})"
        if not 0.0 <= epoch.x <= epoch.n:
            return f"epoch {position} has {epoch.x:g} candidate events among {epoch.n:g}"
        if epoch.n > 0.0 and not 0.0 < epoch.pi < 1.0:
            return f"epoch {position} has events at a candidate share of {epoch.pi!r}"
        events += epoch.n
    return None if events > 0.0 else "no events at all; only an absolute margin can decide"
