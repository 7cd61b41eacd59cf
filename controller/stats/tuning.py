"""Where a mixture is sharpest: its tuning parameters from the level and the planned information.

Tuning changes the width of a bound, never its validity, as long as it is fixed before the data.
"""

from __future__ import annotations

import math

V_OPT_FLOOR = 1.0
"""Smallest v_opt of a bounded mean. Outputs without any variance would ask for 0, where no mixture exists;
at 1 the bound at zero variance is within a fifth of the smallest attainable, ln(1/level)."""

RANDOMISED = 0.5
"""Scale that randomised arms are tuned for: that of equal arms with a centre near 0 or 1, or of a small
weight with one in the middle. The sums themselves are in units of each epoch's own, between 1/4 and 1."""


def log_threshold(level: float) -> float:
    """ln(1/level), the log E-value that rejects at ``level``.

    Raises:
        ValueError: the level is not in (0, 0.5); a one-sided mixture has no tuning from 0.5 on.
    """
    if not 0.0 < level < 0.5:
        msg = f"level must lie between 0 and 0.5, got {level!r}"
        raise ValueError(msg)
    return -math.log(level)


def _spread(level: float) -> float:
    """2b + ln(1 + 2b), b = ln(1/(2 level)): the ratio of v_opt to rho of a one-sided mixture."""
    b = log_threshold(level) - math.log(2.0)
    return 2.0 * b + math.log1p(2.0 * b)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0.0):
        msg = f"{name} must be positive and finite, got {value!r}"
        raise ValueError(msg)
    return value


def rho(v_opt: float, level: float) -> float:
    """Mixture precision for which a one-sided bound at ``level`` is tightest near intrinsic time ``v_opt``.

    Howard, Ramdas, McAuliffe, Sekhon 2021, section 3.5, with the level doubled for one side.
    """
    return _positive("v_opt", v_opt) / _spread(level)


def rho_two_sided(v_opt: float, level: float) -> float:
    """The same for a two-sided normal mixture: v_opt / (2l + ln(1 + 2l)), l = ln(1/level)."""
    threshold = 2.0 * log_threshold(level)
    return _positive("v_opt", v_opt) / (threshold + math.log1p(threshold))


def kappa(level: float) -> float:
    """Squared standardised effect at which a tuned one-sided normal mixture reaches 1/level.

    7.64 at 5%, 11.24 at 1%: the counterpart of (z_alpha + z_beta)^2 for a test that is always being read.
    """
    q = 1.0 / _spread(level)
    return (1.0 + q) * (2.0 * log_threshold(level) + math.log((1.0 + q) / (4.0 * q)))


def mean_v_opt(variance: float, effect_gap: float, level: float, *, scale: float = 1.0) -> float:
    """v_opt of a bounded mean: kappa * variance^2 / (scale gap)^2, both in units of y in [0, 1].

    Args:
        variance: of stable's clipped y, from the warm-up.
        effect_gap: distance between the true effect planned for and the null.
        level: of this one test.
        scale: what the sums are in units of: 1 for pairs, ``RANDOMISED`` for arms.
    """
    _positive("effect_gap", abs(effect_gap))
    _positive("scale", scale)
    if not (math.isfinite(variance) and variance >= 0.0):
        msg = f"variance must be finite and not negative, got {variance!r}"
        raise ValueError(msg)
    return max(V_OPT_FLOOR, kappa(level) * (variance / (scale * effect_gap)) ** 2)


def asymptotic_v_opt(effect_gap: float, level: float) -> float:
    """v_opt of an asymptotic test, in units of information (1/variance): kappa / gap^2."""
    _positive("effect_gap", abs(effect_gap))
    return kappa(level) / effect_gap**2
