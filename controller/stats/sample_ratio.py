"""Do the arms get the shares they were configured to get? Mismatch means the evidence cannot be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from . import asymptotic
from .clusters import FEWEST_EFFECTIVE_CLUSTERS, effective_number
from .evalues import log_mean_exp
from .result import NotComputable
from .tuning import rho

CONCENTRATION = 10_000.0
"""Prior weight on the configured shares: tuned to find a mismatch of about one percent of a share."""

_REMEMBERED = 16_384  # epochs; those that are closed are asked for at every look

STICKY_CONCENTRATIONS = (1_000.0, 50.0)
"""The same for sticky units, of which there are fewer than requests: half of the E-value is tuned to a
mismatch of some percent, half to a gross one. The variance is not centred (under the null the mean is
known), so a gross mismatch inflates it, and the fine tuning alone would not see an arm that gets nothing."""


@dataclass(frozen=True, slots=True)
class RatioEpoch:
    """Requests per arm and the configured shares (summing to 1) of one epoch, in the same order."""

    counts: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class StickyRatioEpoch:
    """Candidate share and requests per cluster of units (length G) of one epoch."""

    pi: float
    n_c: NDArray[np.float64]
    n_s: NDArray[np.float64]


def log_e(epochs: Sequence[RatioEpoch], concentration: float = CONCENTRATION) -> float | NotComputable:
    """Log E-value against "every request was assigned by the configured shares"; epochs multiply.

    The Dirichlet-multinomial against the multinomial (Lindon and Malek 2022, sequential multinomial test).
    Infinite when an arm without a share got a request.
    """
    total = observed = 0.0
    for position, epoch in enumerate(epochs):
        terms = _terms(tuple(epoch.counts), tuple(epoch.shares), concentration)  # lists have no hash
        if isinstance(terms, str):
            return NotComputable(f"epoch {position} has {terms}")
        observed += sum(epoch.counts)
        for term in terms:
            total += term
        if total == math.inf:
            return math.inf
    return total if observed > 0.0 else NotComputable("no requests")


@lru_cache(maxsize=_REMEMBERED)
def _terms(
    counts: tuple[float, ...], shares: tuple[float, ...], concentration: float
) -> tuple[float, ...] | str:
    """What one epoch adds, or what is wrong with it."""
    if len(counts) != len(shares) or len(counts) < 2:
        return f"{len(counts)} counts and {len(shares)} shares"
    if not all(math.isfinite(n) and n >= 0.0 for n in counts):
        return "a count that is negative or not finite"
    if not all(0.0 <= p <= 1.0 for p in shares) or abs(sum(shares) - 1.0) > 1e-9:
        return f"shares {shares}, they must sum to 1"
    terms = [math.lgamma(concentration) - math.lgamma(concentration + sum(counts))]
    for count, share in zip(counts, shares, strict=True):
        if share == 0.0:
            if count > 0.0:
                return (math.inf,)
            continue
        prior = concentration * share
        terms.append(math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share))
    return tuple(terms)


def sticky_log_e(
    epochs: Sequence[StickyRatioEpoch], level: float, concentrations: Sequence[float] = STICKY_CONCENTRATIONS
) -> float | NotComputable:
    """The same where units stay with their arm: clusters of units instead of requests, asymptotic.

    S_j = (1 - pi) n_jc - pi n_js per cluster; mean over both directions and ``concentrations``, each tuned
    to half the level and to the mismatch expected. Epochs with fewer than 20 effective clusters, or in which
    fewer than 20 effective units are due to the smaller arm, are left out: a few heavy users decide there.

    Epochs do not multiply: a unit keeps its draw, so an arm that got the heavy ones at 5% has them at
    25% too. The k-th one that counts weighs 1/(k (k + 1)) and is 1 before it begins: an E-value again.
    """
    parts: list[float] = []
    reason = "no requests"
    for position, epoch in enumerate(epochs):
        if epoch.n_c.ndim != 1 or epoch.n_c.shape != epoch.n_s.shape:
            return NotComputable(
                f"epoch {position} has clusters of shapes {epoch.n_c.shape} and {epoch.n_s.shape}"
            )
        counts = np.concatenate((epoch.n_c, epoch.n_s))
        if not np.isfinite(counts).all() or (counts < 0.0).any():
            return NotComputable(f"epoch {position} has a count that is negative or not finite")
        if not 0.0 < epoch.pi < 1.0:
            continue
        per_cluster = epoch.n_c + epoch.n_s
        units = min(epoch.pi, 1.0 - epoch.pi) * effective_units(per_cluster)
        effective = min(effective_number(per_cluster), units)
        if effective < FEWEST_EFFECTIVE_CLUSTERS:
            reason = (
                f"{effective:.1f} effective clusters, or units due to the smaller arm, at least "
                f"{FEWEST_EFFECTIVE_CLUSTERS:g} are needed"
            )
            continue
        n = float(per_cluster.sum())
        surplus = (1.0 - epoch.pi) * epoch.n_c - epoch.pi * epoch.n_s
        difference = float(surplus.sum()) / n
        variance = float(np.dot(surplus, surplus)) / n**2
        # The normal mixture's prior precision rho stands where the Dirichlet's is: concentration/(pi (1-pi)).
        half = level / 2.0
        scale = 1.0 / (epoch.pi * (1.0 - epoch.pi)) / rho(1.0, half)
        sides: list[float] = []
        for sign, concentration in product((1.0, -1.0), concentrations):
            side = asymptotic.log_e_harm(
                sign * difference, variance, 0.0, v_opt=concentration * scale, level=half, df=effective - 1.0
            )
            if isinstance(side, NotComputable):
                return NotComputable(f"epoch {position}: {side.reason}")
            sides.append(side)
        parts.append(log_mean_exp(sides))
    return _weighted(parts) if parts else NotComputable(reason)


def effective_units(per_cluster: NDArray[np.float64]) -> float:
    """How many units of equal weight scatter over clusters as these do; infinite where all are alike.

    With a_u requests of unit u, the sum of (n_j - mean)^2 is (1 - 1/G) of the sum of a_u^2 on average.

    Raises:
        ValueError: no cluster, or a count that is negative or not finite.
    """
    g = per_cluster.size
    if not g or not np.isfinite(per_cluster).all() or (per_cluster < 0.0).any():
        msg = "units need clusters with counts that are finite and not negative"
        raise ValueError(msg)
    squares = float(np.square(per_cluster - per_cluster.mean()).sum()) * g / (g - 1.0) if g > 1 else 0.0
    return float(per_cluster.sum()) ** 2 / squares if squares > 0.0 else math.inf


def _weighted(log_e_values: Sequence[float]) -> float:
    """Log of the sum of E_k / (k (k + 1)) and of what is left of 1."""
    count = len(log_e_values)
    terms = [value - math.log(k * (k + 1)) for k, value in enumerate(log_e_values, start=1)]
    return log_mean_exp([*terms, -math.log(count + 1)]) + math.log(count + 1)


def p_value(log_e_value: float) -> float:
    """Anytime-valid p = min(1, 1/E). Raises ValueError for NaN."""
    if math.isnan(log_e_value):
        msg = "an E-value cannot be NaN"
        raise ValueError(msg)
    return math.exp(-max(log_e_value, 0.0))
