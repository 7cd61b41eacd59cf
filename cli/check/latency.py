"""Latency on pairs, as advice: the canary's question asked of both answers to the same requests.

The same three counts as in a canary (over stable's frozen quantile, half the margin and the whole of it), as
differences within pairs, over batches. It decides nothing: both versions were asked from here, by this
command, at its own pace.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from ...controller.cells import quantile_of
from ...controller.methods import BATCHES, Asymptotic
from ...controller.stats.clusters import batch_estimate
from ...controller.stats.histogram import quantile, snapped_margin
from ...controller.stats.result import NotComputable
from ...policies.policy import Gate, RolloutPolicy
from ...store.histogram import BINS, GAMMA, bin_of
from ...store.measurement import CLUSTERS
from ...store.rollouts import Outcome

_FEWEST_OVER = 10.0  # rows of the baseline beyond the quantile, below which it is a guess


@dataclass(frozen=True, slots=True)
class Advice:
    """What pairs say of one latency gate. `factor`: candidate's quantile over stable's, of the pairs."""

    index: int
    outcome: Outcome
    reason: str
    factor: float | None = None
    margin: float | None = None
    pairs: int = 0


class Latencies:
    """Counts for all latency gates; memory does not grow with the rows."""

    def __init__(self, gates: dict[int, Gate]) -> None:
        self._gates = gates
        self._baseline = np.zeros(BINS)
        self._edges: dict[int, tuple[int, int, int]] = {}
        self._n = np.zeros(CLUSTERS)
        self._half = {index: np.zeros(CLUSTERS) for index in gates}
        self._whole = {index: np.zeros(CLUSTERS) for index in gates}
        self._seen = np.zeros((2, BINS))

    def stable_alone(self, seconds: float) -> None:
        """One answer of the baseline."""
        self._baseline[bin_of(seconds)] += 1

    def freeze(self) -> None:
        """Thresholds from the baseline, for the gates that it has enough rows for."""
        for index, gate in self._gates.items():
            q = quantile_of(gate.metric)
            over = quantile(self._baseline, q)
            margin = snapped_margin((gate.max_ratio or 1.0) - 1.0)
            few = self._baseline.sum() * (1.0 - q) < _FEWEST_OVER
            if not few and not isinstance(over, NotComputable) and not isinstance(margin, NotComputable):
                over = min(over, BINS - 1 - margin.bins)
                self._edges[index] = (over, over + margin.bins // 2, over + margin.bins)

    def pair(self, block: int, stable: float | None, candidate: float | None) -> None:
        """One pair; None: no answer without an error, which is over every threshold."""
        ours, theirs = (BINS if one is None else bin_of(one) for one in (candidate, stable))
        for place, found in enumerate((theirs, ours)):
            if found < BINS:
                self._seen[place, found] += 1
        self._n[block] += 1
        for index, (over, mid, far) in self._edges.items():
            self._half[index][block] += (ours >= mid) - (theirs >= over)
            self._whole[index][block] += (ours >= far) - (theirs >= over)

    def advice(self, policy: RolloutPolicy) -> list[Advice]:
        """One per gate, in order."""
        return [self._advice(index, gate, policy) for index, gate in self._gates.items()]

    def _advice(self, index: int, gate: Gate, policy: RolloutPolicy) -> Advice:
        pairs = int(self._n.sum())
        if index not in self._edges:
            return Advice(index, Outcome.INCONCLUSIVE, "too few rows to know stable's quantile", pairs=pairs)
        q = quantile_of(gate.metric)
        over, _, far = self._edges[index]
        margin = GAMMA ** (far - over)
        factor = self._factor(q)
        half, whole = (batch_estimate(self._n, d[index]) for d in (self._half, self._whole))
        if isinstance(half, NotComputable) or isinstance(whole, NotComputable):
            reason = half.reason if isinstance(half, NotComputable) else "too few batches"
            return Advice(index, Outcome.INCONCLUSIVE, reason, factor, margin, pairs)
        gap = (1.0 - q) / 2.0
        harm = _as_asymptotic(half.estimate, half.variance, half.df, pairs).harm(
            0.0, gap, policy.risk.false_rollback
        )
        safe = _as_asymptotic(whole.estimate, whole.variance, whole.df, pairs).safe(
            0.0, gap, policy.risk.false_promotion
        )
        outcome, told = Outcome.INCONCLUSIVE, "neither slower nor within the margin beyond doubt"
        if not isinstance(safe, NotComputable) and safe >= -log(policy.risk.false_promotion):
            outcome, told = Outcome.PASS, "within the margin here"
        elif not isinstance(harm, NotComputable) and harm >= -log(policy.risk.false_rollback):
            outcome, told = Outcome.FAIL, "slower here, beyond half the margin"
        return Advice(index, outcome, told, factor, margin, pairs)

    def _factor(self, q: float) -> float | None:
        found = [quantile(counts, q) for counts in self._seen]
        bins = [one for one in found if not isinstance(one, NotComputable)]
        return float(GAMMA ** (bins[1] - bins[0])) if len(bins) == len(found) else None


def _as_asymptotic(estimate: float, variance: float, df: float, pairs: int) -> Asymptotic:
    return Asymptotic(estimate, variance, df, BATCHES, float(pairs), float(pairs))
