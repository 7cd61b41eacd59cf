"""Freezing: what epoch 0 fixes for the whole rollout, and what each epoch fixes when it opens.

Everything that a test is tuned or scaled by comes from stable alone, before the candidate was seen, and is
never recomputed for the same epoch. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor, log, sqrt
from operator import eq, ge, gt, le, lt, ne
from typing import Any, Final

import numpy as np

from ...policies.groups import EVERY, groups_of_slice, paths_of
from ...policies.metrics import with_default_margins
from ...policies.policy import Gate, RolloutPolicy
from ...policies.quantities import Comparison
from ...policies.service import ModelService
from ...store.evidence import Evidence, SeriesKey
from ...store.histogram import BINS, GAMMA, bin_of, edge
from ...store.measurement import is_latency
from ...store.rollouts import FrozenConstants
from ..labels.expected import as_if_calibrated
from ..stats.histogram import quantile, snapped_margin
from ..stats.result import NotComputable
from ..validity.lacking import unready
from .batching import chosen_batch
from .cells import MEANS, harm_ratio, quantile_of, series_of
from .reference import (
    Values,
    bin_shares,
    class_shares,
    classes_of,
    edges_of,
    limits_of,
    rank_moments,
    rank_table,
    scaled,
    tokens_of,
    tokens_seen,
)
from .sums import Sums, sums_of

FEWEST_FOR_AN_EPOCH: Final = 1000.0
"""Stable's observations in the epoch before, below which an epoch keeps the baseline's constants."""

_UNEXTRACTED: Final = 0.01
_COMPARED: Final = frozenset({"agreement", "explanation"})  # of two answers: stable alone has neither
_FEWEST_EVENTS: Final = 10.0
_LEAST_CLASS: Final = 0.01  # a rarer class is counted with the others
_LEAST_SPAN: Final = 1e-6
_EXTRACTED: Final = ("mean", "rank", "selected", "bin", "agreement", "missing")

_OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    ">=": ge, ">": gt, "<=": le, "<": lt, "==": eq, "!=": ne,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NotReady:
    """Why the baseline cannot be frozen yet."""

    reason: str


def freeze(policy: RolloutPolicy, service: ModelService, baseline: Evidence) -> FrozenConstants | NotReady:
    """The constants of a rollout from the merged evidence of epoch 0, or why there are none yet."""
    gates = [with_default_margins(gate) for gate in policy.gates]
    counts = baseline.arms.get("stable")
    requests = counts.accounted - counts.unassignable if counts is not None else 0
    if requests < policy.baseline.requests:
        return NotReady(f"{policy.baseline.requests - requests} more requests of stable")
    wanted = {series_of(gate.metric) for gate in gates}
    values = Values.of(baseline)
    named = tuple(dict.fromkeys(m[12:] for g in gates if (m := g.metric).startswith("class_share.")))
    problem = _extraction_problem(wanted, service, baseline, values) or unready(wanted, named, baseline)
    if problem is not None:
        return NotReady(problem)
    limits = limits_of(service, values)
    edges = edges_of(values, limits) if limits is not None and "bin" in wanted else ()
    classes = classes_of(baseline.labels, named) if service.prediction.type != "number" else ()
    shares = bin_shares(values, limits, edges) if not classes else class_shares(baseline.labels, classes)
    groups = _groups(gates, service, baseline)
    quantiles = _quantiles(wanted, baseline)
    if isinstance(quantiles, NotReady):
        return quantiles
    tokens = tokens_of(baseline)
    if "tokens.output" in wanted and tokens is None:
        return NotReady("output tokens of stable: no answer of the baseline told any")
    centres, deviations = _moments(gates, tuple(groups), service, baseline, values, limits, shares)
    return FrozenConstants(
        limits=limits,
        centres=centres,
        deviations=deviations,
        quantiles=quantiles,
        edges=edges,
        classes=classes,
        shares=shares,
        requests=requests,
        autocorrelation_time=_autocorrelation(baseline),
        batch=chosen_batch(policy, baseline),
        groups=groups,
        sticky=service.unit.sticky,
        tokens=tokens,
        ranks=rank_table(values) if "rank" in wanted else None,
        spans={
            f"metrics.{name}": own.range[1] - own.range[0]
            for name, own in service.metrics.items()
            if own.range is not None
        },
        min_coverage=service.mirror.min_coverage,
        references=references_of(service),
        shared=shared_slices(service),
        label_sample=service.outcome.sample if service.outcome is not None else 1.0,
    )


def references_of(service: ModelService) -> dict[str, str]:
    """Slice -> its reference as groups are named in evidence."""
    return {
        name: f"{name}={one.reference}" for name, one in service.slices.items() if one.reference is not None
    }


def shared_slices(service: ModelService) -> tuple[str, ...]:
    """Slices in several of whose groups one request may be, as it may hold several instances."""
    return tuple(name for name in service.slices if EVERY in "".join(paths_of(name, service.slices)))


def epoch_constants(
    policy: RolloutPolicy, constants: FrozenConstants, previous: Evidence | None
) -> tuple[dict[str, float], dict[str, tuple[int, int, int]]]:
    """(centres, thresholds) of the epoch about to open: stable's in the one before, where it saw enough.

    Thresholds: latency metric -> bins at stable's quantile, at the margin of harm and at the whole margin.
    """
    centres = {key: _recent_mean(previous, key, value) for key, value in constants.centres.items()}
    thresholds: dict[str, tuple[int, int, int]] = {}
    for gate in policy.gates:
        gate = with_default_margins(gate)  # noqa: PLW2901 (the same gate, complete)
        if is_latency(gate.metric) and gate.max_ratio is not None:
            over = _recent_quantile(previous, gate.metric, bin_of(constants.quantiles[gate.metric]))
            thresholds[gate.metric] = thresholds_of(gate, gate.max_ratio, over)
    return centres, thresholds


def thresholds_of(gate: Gate, max_ratio: float, over: int) -> tuple[int, int, int]:
    """Bins at stable's quantile, at the margin of harm and at the whole margin of a latency gate."""
    whole = snapped_margin(max_ratio - 1.0, gamma=GAMMA)
    bins = 1 if isinstance(whole, NotComputable) else whole.bins
    over = min(over, BINS - 1 - bins)
    return over, over + _harm_bins(gate, bins), over + bins


def _harm_bins(gate: Gate, bins: int) -> int:
    if gate.require == "no-harm" or gate.harm_at is not None:
        return min(bins, floor(log(harm_ratio(gate)) / log(GAMMA) + 1e-9))
    return bins // 2


def _recent_mean(previous: Evidence | None, key: str, frozen: float) -> float:
    metric, _, group = key.partition("|")
    sums = _stable(previous, metric, group)
    if sums is None or sums.n.sum() < FEWEST_FOR_AN_EPOCH:
        return frozen
    return min(1.0, max(0.0, float(sums.y.sum() / sums.n.sum())))


def _recent_quantile(previous: Evidence | None, metric: str, frozen: int) -> int:
    if previous is None or sum(_times(previous, metric).values()) < FEWEST_FOR_AN_EPOCH:
        return frozen
    got = quantile(_dense(previous, metric), quantile_of(metric))
    return frozen if isinstance(got, NotComputable) else got


def _stable(evidence: Evidence | None, metric: str, group: str = "") -> Sums | None:
    """Stable's sums of a series; broken ones are no reference (the analysis calls them an error)."""
    sums = None if evidence is None else sums_of(evidence, SeriesKey("stable", group, metric))
    return sums if isinstance(sums, Sums) else None


def _times(evidence: Evidence, metric: str) -> Mapping[int, int]:
    """Stable's histogram behind a latency metric."""
    histograms = evidence.latency if metric.startswith("latency.") else evidence.first_token
    return histograms.get("stable", {})


def _dense(evidence: Evidence, metric: str) -> list[int]:
    counts = [0] * BINS
    for index, count in _times(evidence, metric).items():
        counts[min(max(index, 0), BINS - 1)] += count
    return counts


def _extraction_problem(
    wanted: set[str], service: ModelService, baseline: Evidence, values: Values
) -> str | None:
    if not wanted.intersection(_EXTRACTED):
        return None
    sums = _stable(baseline, "extraction")
    if sums is not None and sums.n.sum() > 0.0:
        share = float(sums.y.sum() / sums.n.sum())
        if share > _UNEXTRACTED:
            return f"predictions: the path under `prediction` found none in {share:.1%} of stable's answers"
    needed = wanted.intersection({"mean", "rank", "bin", "selected"})
    if needed and not values.total and not baseline.labels:
        return "predictions of stable: none was seen in the baseline"
    if "mean" in needed and service.prediction.type != "number":
        return "a numeric prediction: `prediction.mean` needs `type: number` in the service's file"
    return None


def _groups(gates: list[Gate], service: ModelService, baseline: Evidence) -> dict[str, float]:
    """Every named group of the slices that gates ask for, with its share of stable's requests."""
    groups: dict[str, float] = {}
    for name in dict.fromkeys(gate.by for gate in gates if gate.by is not None):
        for one in groups_of_slice(name, service.slices):
            group = f"{name}={one}"
            groups[group] = _group_share(gates, name, group, baseline)
    return groups


def _group_share(gates: list[Gate], name: str, group: str, baseline: Evidence) -> float:
    """0 for a group nobody saw; 1, which is never small, where the baseline kept no sums by group."""
    for metric in (series_of(gate.metric) for gate in gates if gate.by == name):
        whole, part = _stable(baseline, metric), _stable(baseline, metric, group)
        if whole is not None and whole.n.sum() > 0.0:
            return float(part.n.sum() / whole.n.sum()) if part is not None else 0.0
    return 1.0


def _quantiles(wanted: set[str], baseline: Evidence) -> dict[str, float] | NotReady:
    quantiles: dict[str, float] = {}
    for metric in sorted(name for name in wanted if is_latency(name)):
        got = quantile(_dense(baseline, metric), quantile_of(metric))
        if isinstance(got, NotComputable):
            return NotReady(f"a {metric} of stable: {got.reason}")
        quantiles[metric] = edge(got)
    return quantiles


def _moments(
    gates: list[Gate],
    groups: tuple[str, ...],
    service: ModelService,
    baseline: Evidence,
    values: Values,
    limits: tuple[float, float] | None,
    shares: Mapping[str, float],
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and sd of stable's y, "metric|group" each: the group's own, else all requests', else by values."""
    centres: dict[str, float] = {}
    deviations: dict[str, float] = {}
    for gate in gates:
        metric = series_of(gate.metric)
        if metric in _COMPARED:
            continue
        mine = [group for group in groups if group.startswith(f"{gate.by}=")] if gate.by is not None else []
        for series in tuple(shares) if metric == "bin" else (metric,):
            overall = _observed(baseline, series, "") or _expected(
                series, service, baseline, values, limits, shares
            )
            for group in ("", *mine):
                mean, deviation = _observed(baseline, series, group) or overall
                centres[f"{series}|{group}"], deviations[f"{series}|{group}"] = mean, deviation
    return centres, deviations


def _observed(baseline: Evidence, metric: str, group: str) -> tuple[float, float] | None:
    sums = _stable(baseline, metric, group)
    if sums is None or sums.n.sum() <= 1.0:
        return None
    n = float(sums.n.sum())
    mean = min(1.0, max(0.0, float(sums.y.sum()) / n))
    return mean, sqrt(max(0.0, float(sums.square.sum()) / n - mean * mean))


def _expected(
    series: str,
    service: ModelService,
    baseline: Evidence,
    values: Values,
    limits: tuple[float, float] | None,
    shares: Mapping[str, float],
) -> tuple[float, float]:
    """From the histogram of single predictions, where the baseline could not keep the series itself."""
    if series == "tokens.output":
        values, limits = tokens_seen(baseline), (0.0, tokens_of(baseline) or 1.0)
    if series == "rank" and values.total:
        return rank_moments(values)
    if series.startswith("outcome.") or series == "uncertainty.coverage":
        rule = service.prediction.selected
        written = rule is not None and rule.operator in {">=", ">"} and isinstance(rule.operand, float)
        middle = 0.5 if limits is None else (limits[0] + limits[1]) / 2.0
        threshold = float(rule.operand) if rule is not None and written else middle
        return as_if_calibrated(series, values, limits, threshold)
    if series in MEANS and limits is not None and values.total:
        y = np.array([scaled(value, limits) for value in values.value])
        weight = np.array(values.count) / values.total
        mean = float(y @ weight)
        return mean, sqrt(max(0.0, float((y - mean) ** 2 @ weight)))
    if series in shares:
        rate = shares[series]
    elif series == "selected":
        rate = _selected(service.prediction.selected, baseline, values)
    else:
        rate = 0.0
    return rate, sqrt(rate * (1.0 - rate))


def _selected(selected: Comparison | None, baseline: Evidence, values: Values) -> float:
    if selected is None:
        return 0.5
    chosen = _OPERATORS[selected.operator]
    if baseline.labels:
        hit = sum(count for label, count in baseline.labels.items() if chosen(label, str(selected.operand)))
        return hit / sum(baseline.labels.values())
    try:
        operand = float(selected.operand)
    except ValueError:  # a label: no number is selected
        return 0.0
    if not values.total:
        return 0.5
    hit = sum(
        count for value, count in zip(values.value, values.count, strict=True) if chosen(value, operand)
    )
    return hit / values.total


def _autocorrelation(baseline: Evidence) -> float:
    """How many requests are worth one: variance of stable's error counts between batches over binomial.

    1 where epoch 0 saw too few errors to tell.
    """
    sums = _stable(baseline, "errors")
    if sums is None or float(sums.y.sum()) < _FEWEST_EVENTS:
        return 1.0
    filled = sums.n > 0.0
    n, y = sums.n[filled], sums.y[filled]
    rate = float(y.sum() / n.sum())
    if n.size < _FEWEST_EVENTS or rate >= 1.0:
        return 1.0
    return max(1.0, float(np.mean((y - rate * n) ** 2 / (n * rate * (1.0 - rate)))))
