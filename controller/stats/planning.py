"""How much traffic a decision needs, for ``plan``. Medians; the 90th percentile is about twice as much.

Bounded means come within 5-20% of simulation, event counts within 9%.
"""

from __future__ import annotations

import math

from .mixture import gamma_exponential_log
from .roots import root
from .tuning import asymptotic_v_opt, kappa, log_threshold, mean_v_opt, rho

__all__ = [
    "asymptotic_v_opt",
    "event_information",
    "events_needed",
    "information_needed",
    "kappa",
    "mean_v_opt",
    "mean_weight",
    "paired_pairs",
    "requests_for_weight",
    "rho",
]


def mean_weight(effect_gap: float, variance: float, level: float) -> float:
    """Weight W = sum of n pi (1 - pi) at which a bounded mean decides.

    Args:
        effect_gap: |true effect - null|, in units of y in [0, 1].
        variance: of y around its centre.
        level: of this one test.

    The closed form kappa * variance / gap^2 is only the first guess: it is off by 2 for pi up to 5%.
    For paired differences W counts pairs and ``variance`` is that of d.
    """
    gap = abs(effect_gap)
    v_opt = mean_v_opt(variance, gap, level)
    threshold = log_threshold(level)

    def missing(weight: float) -> float:
        return gamma_exponential_log(weight * gap, weight * variance, v_opt=v_opt, level=level) - threshold

    low = high = max(kappa(level) * variance / gap**2, threshold / gap)
    while missing(high) < 0.0:
        high *= 2.0
    while missing(low) > 0.0:
        low /= 2.0
    return root(missing, low, high, rtol=1e-9) if low < high else low


def requests_for_weight(weight: float, pi: float) -> float:
    """Requests of both arms that add up to ``weight`` at candidate share ``pi``."""
    if not 0.0 <= weight < math.inf:
        msg = f"weight must be finite and not negative, got {weight!r}"
        raise ValueError(msg)
    return weight / (_share(pi) * (1.0 - pi))


def information_needed(effect_gap: float, level: float) -> float:
    """Information (1/variance of the estimate) at which an asymptotic test decides: kappa / gap^2."""
    return asymptotic_v_opt(effect_gap, level)


def event_information(pi: float, stable_rate: float, relative_risk: float, null_ratio: float) -> float:
    """Expected growth of the log E-value per request (both arms): event rate times Bernoulli divergence."""
    if (
        not 0.0 < stable_rate <= 1.0
        or not 0.0 <= relative_risk * stable_rate <= 1.0
        or not 0.0 < null_ratio < math.inf
    ):
        msg = (
            "rates must lie in (0, 1] and ratios be positive, got "
            f"rate {stable_rate!r}, ratio {relative_risk!r}, null {null_ratio!r}"
        )
        raise ValueError(msg)
    rate = _share(pi) * relative_risk * stable_rate + (1.0 - pi) * stable_rate
    truth = pi * relative_risk / (pi * relative_risk + 1.0 - pi)
    null = pi * null_ratio / (pi * null_ratio + 1.0 - pi)
    divergence = (1.0 - truth) * math.log((1.0 - truth) / (1.0 - null))
    if truth > 0.0:
        divergence += truth * math.log(truth / null)
    return rate * divergence


def events_needed(
    pi: float, stable_rate: float, relative_risk: float, null_ratio: float, level: float
) -> float:
    """Requests of both arms after which an event count decides; infinite if the truth is the null."""
    information = event_information(pi, stable_rate, relative_risk, null_ratio)
    return (log_threshold(level) + 1.0) / information if information > 0.0 else math.inf


def paired_pairs(effect_gap: float, variance: float, correlation: float, level: float) -> float:
    """Shadow pairs a paired mean needs: kappa * 2 variance (1 - correlation) / gap^2."""
    if not -1.0 <= correlation <= 1.0:
        msg = f"correlation must lie in [-1, 1], got {correlation!r}"
        raise ValueError(msg)
    return mean_weight(effect_gap, 2.0 * variance * (1.0 - correlation), level)


def _share(pi: float) -> float:
    if not 0.0 < pi < 1.0:
        msg = f"the candidate's share must lie between 0 and 1, got {pi!r}"
        raise ValueError(msg)
    return pi
