"""Traffic as a plan sees it: stable's moments per series and group, how they cluster, how much there is.

Stable's numbers are the frozen constants that a rollout itself would have: frozen from a measured baseline,
or built from what was given and assumed. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erf, exp, log, sqrt
from typing import Final

from scipy.special import ndtri

from ...store.histogram import GAMMA
from ...store.measurement import is_label_series, is_latency
from ...store.rollouts import FrozenConstants
from ..analysis.cells import quantile_of
from ..analysis.groups import members_of, moment_of
from .assumed import Fact

_LATENCY_SIGMA: Final = 0.5  # of the logarithm: p99 is 3.2 times the median


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance of one y. `bursts`: variance of counts per time cluster over independent ones', at
    all of the traffic; 1 is independent.
    """

    mean: float
    variance: float
    bursts: float = 1.0

    def moved(self, mean: float) -> Moments:
        """The same with another mean; a share's variance moves with it."""
        mean = min(1.0, max(0.0, mean))
        is_share = abs(self.variance - self.mean * (1.0 - self.mean)) < 1e-9  # noqa: PLR2004  (rounding)
        return Moments(mean, mean * (1.0 - mean) if is_share else self.variance, self.bursts)


class UnplannedError(Exception):
    """Nothing is known about what a series looks like: its gate is not planned, and the plan says so."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Everything that forecasts are made of.

    `rate`: requests a second. `tails`: latency metric -> P(stable slower than `factor` times its quantile);
    a log-normal where none was measured. `thresholds`: latency metric -> over, mid, far bins. `agreement`:
    share of pairs that agree. `correlation`: of both numeric answers to one request. `bursts`, `units`,
    `within_unit`, `harm`, `attempt`: see `Given`. `batch`: seconds of a time cluster. `mirrors`: whether
    the service allows copies of its requests. `mature`: seconds after which labels count. `labelled`: share
    of requests whose prediction is remembered and whose label comes. `true_cases`: of those, the true ones.
    """

    constants: FrozenConstants
    rate: float
    batch: float
    facts: tuple[Fact, ...]
    thresholds: dict[str, tuple[int, int, int]]
    tails: dict[str, Callable[[float], float]]
    agreement: float
    correlation: float
    bursts: float
    units: float
    within_unit: float
    harm: float = 2.0
    attempt: int = 0
    mirrors: bool = True
    mature: float = 0.0
    labelled: float = 1.0
    true_cases: float = 0.5

    def carrying(self, series: str) -> float:
        """Share of requests that have a series."""
        if not is_label_series(series):
            return 1.0
        cases = {"outcome.recall": self.true_cases, "outcome.false_positive_rate": 1.0 - self.true_cases}
        return self.labelled * cases.get(series, 1.0)

    def share(self, group: str) -> float:
        """Of all requests, those of a group; 1 for all."""
        if not group:
            return 1.0
        return sum(self.constants.groups.get(one, 0.0) for one in members_of(group, self.constants))

    def moments(self, series: str, group: str) -> Moments:
        """Of stable's y, or of how alike pairs are. Raises UnplannedError for a series nobody described."""
        if series in {"agreement", "explanation"}:
            return _event(self.agreement)
        metric, _, part = series.rpartition(".")
        if is_latency(metric) and part in {"over", "mid", "far"}:
            return _event(self.slower(metric, part), self.bursts)
        centres = self.constants.centres
        mean = moment_of(centres, series, group, self.constants)
        mean = centres.get(f"{series}|") if mean is None else mean
        if mean is None:
            raise UnplannedError(f"a plan does not know {series}")
        deviations = self.constants.deviations
        sd = moment_of(deviations, series, group, self.constants)
        sd = deviations.get(f"{series}|", sqrt(mean * (1.0 - mean))) if sd is None else sd
        return Moments(mean, sd * sd, self.bursts if series in {"errors", "client_disconnects"} else 1.0)

    def slower(self, metric: str, part: str, by: float = 1.0) -> float:
        """Share of answers over a threshold where everything takes `by` times as long."""
        over, mid, far = self.thresholds[metric]
        factor = float(GAMMA ** ({"over": over, "mid": mid, "far": far}[part] - over)) / by
        tail = self.tails.get(metric)
        return tail(factor) if tail is not None else _log_normal_tail(quantile_of(metric), factor)


def _event(rate: float, bursts: float = 1.0) -> Moments:
    return Moments(rate, rate * (1.0 - rate), bursts)


def _log_normal_tail(q: float, factor: float) -> float:
    z = float(ndtri(q)) + log(factor) / _LATENCY_SIGMA
    return 0.5 * (1.0 - erf(z / sqrt(2.0)))


def histogram_tail(counts: dict[int, int], q: float) -> Callable[[float], float] | None:
    """P(slower than factor times the q-quantile) from a histogram of times; None with too few."""
    total = sum(counts.values())
    if total * (1.0 - q) < 10.0:  # noqa: PLR2004  (fewer answers than this say nothing about a tail)
        return None
    bins = sorted(counts)
    seen, at = 0, bins[-1]
    for index in bins:
        seen += counts[index]
        if seen >= q * total:
            at = index
            break

    def tail(factor: float) -> float:
        edge = at + log(factor) / log(GAMMA)
        beyond = 0.0
        for index in bins:
            beyond += counts[index] * min(1.0, max(0.0, index + 1.0 - edge))
        # Beyond the slowest answer there is still a tail, if a thin one.
        return max(beyond / total, 0.1 / total * exp(-max(0.0, edge - bins[-1])))

    return tail
