"""Latency on pairs, as advice: thresholds from the baseline's rows, then what a shadow says of its pairs.

It decides nothing: both versions were asked from here, by this command, at its own pace.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ...controller.analysis.cells import quantile_of
from ...controller.analysis.freeze import thresholds_of
from ...controller.analysis.wording import gate_text
from ...controller.stats.histogram import quantile
from ...controller.stats.result import NotComputable
from ...policies.metrics import with_default_margins
from ...policies.policy import Gate
from ...store.histogram import BINS, bin_of
from ...store.rollouts import Advice, Outcome

_FEWEST_OVER: Final = 10.0  # rows of the baseline beyond the quantile, below which it is a guess


class Latencies:
    """What the baseline says of all latency gates of a policy (place in it -> gate)."""

    def __init__(self, gates: dict[int, Gate]) -> None:
        self.gates = {index: with_default_margins(gate) for index, gate in gates.items()}
        self._baseline = np.zeros(BINS)

    def stable_alone(self, seconds: float) -> None:
        """One answer of the baseline."""
        self._baseline[bin_of(seconds)] += 1

    def thresholds(self) -> dict[str, tuple[int, int, int]]:
        """Metric -> over, mid, far, of the gates that the baseline has enough rows for."""
        found: dict[str, tuple[int, int, int]] = {}
        for gate in self.gates.values():
            q = quantile_of(gate.metric)
            over = quantile(self._baseline, q)
            few = self._baseline.sum() * (1.0 - q) < _FEWEST_OVER
            if gate.max_ratio is not None and not few and not isinstance(over, NotComputable):
                found[gate.metric] = thresholds_of(gate, gate.max_ratio, over)
        return found

    def unknown(self) -> list[Advice]:
        """Of the gates for which the baseline is too small."""
        known = self.thresholds()
        reason = "too few rows to know stable's quantile"
        return [
            Advice(index, gate_text(gate), Outcome.INCONCLUSIVE, reason)
            for index, gate in self.gates.items()
            if gate.metric not in known
        ]
