"""Stable's own predictions of epoch 0: limits, scale, bins and classes that hold for the whole rollout."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil, sqrt
from sys import float_info
from typing import Final

import numpy as np

from ...policies.service import ModelService
from ...store.evidence import Evidence
from ...store.histogram import GAMMA, value_of
from ...store.measurement import RankTable

MAX_CLASSES: Final = 20
MAX_STEPS: Final = 500  # of a frozen distribution; it travels in every route
_LEAST_CLASS: Final = 0.01  # a rarer class is counted with the others
_ROUNDING: Final = 1e-12
_LEAST_SPAN: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Values:
    """Stable's raw numeric predictions of epoch 0: sorted values (bin middles) and how often each came."""

    value: tuple[float, ...]
    count: tuple[int, ...]

    @classmethod
    def of(cls, baseline: Evidence) -> Values:
        """From the histogram that sources keep in epoch 0."""
        return cls.of_histogram(baseline.values)

    @classmethod
    def of_histogram(cls, counts: Mapping[int, int]) -> Values:
        """From any histogram in value bins."""
        indices = sorted(counts)
        return cls(tuple(map(value_of, indices)), tuple(counts[index] for index in indices))

    @property
    def total(self) -> int:
        """How many predictions."""
        return sum(self.count)


def limits_of(service: ModelService, values: Values) -> tuple[float, float] | None:
    """The declared range, else what stable showed, widened by half its span on each side."""
    if service.prediction.type != "number":
        return None
    if service.prediction.range is not None:
        return service.prediction.range
    if not values.total:
        return None
    low, high = values.value[0], values.value[-1]
    # The middles of 2% bins stand for what is in them; a constant needs room as well.
    span = max(high - low, 0.1 * max(abs(low), abs(high)), _LEAST_SPAN)
    return low - span / 2.0, high + span / 2.0


def tokens_seen(baseline: Evidence) -> Values:
    """Output tokens of stable's answers in epoch 0."""
    return Values.of_histogram(baseline.tokens)


def tokens_of(baseline: Evidence) -> float | None:
    """The number of output tokens that is y = 1: half more than stable's longest answer; None without any."""
    seen = tokens_seen(baseline)
    return float(max(1, ceil(1.5 * seen.value[-1]))) if seen.total else None


def scaled(value: float, limits: tuple[float, float]) -> float:
    """A raw prediction as y: clipped to the limits, 0..1."""
    return min(1.0, max(0.0, (value - limits[0]) / (limits[1] - limits[0])))


def _bounds(value: float) -> tuple[float, float]:
    """The range of raw values that one value bin's middle stands for."""
    half = sqrt(GAMMA)
    if value == 0.0:
        return -_LEAST_SPAN, _LEAST_SPAN
    return (value / half, value * half) if value > 0.0 else (value * half, value / half)


def edges_of(values: Values, limits: tuple[float, float]) -> tuple[float, ...]:
    """Inner edges at stable's deciles. Equal ones merge; a value that holds several gets a bin of its own."""
    if not values.total:
        return ()
    below = list(accumulate(values.count))
    deciles_at = Counter(bisect_left(below, below[-1] * tenth / 10 * (1 - 1e-12)) for tenth in range(1, 10))
    edges: set[float] = set()
    for at, deciles in deciles_at.items():
        low, high = _bounds(values.value[at])
        edges.update({scaled(low, limits), scaled(high, limits)} if deciles > 1 else {scaled(high, limits)})
    return tuple(sorted(e for e in edges if 0.0 < e < 1.0))


def classes_of(labels: Mapping[str, int], named: Sequence[str] = ()) -> tuple[str, ...]:
    """The labels that gates name, and the common ones; most frequent first."""
    total = sum(labels.values())
    common = [label for label, count in labels.items() if label != "other" and count >= _LEAST_CLASS * total]

    def often(label: str) -> tuple[int, str]:
        return -labels.get(label, 0), label

    others = sorted((label for label in common if label not in named), key=often)
    return tuple(sorted((*named, *others[: max(0, MAX_CLASSES - len(named))]), key=often))


def rank_table(values: Values) -> RankTable:
    """F_ref: mid-ranks of stable's values as steps, at most MAX_STEPS of them with values.

    Where there are more, neighbours share a step, as if they tied. Any monotone function that is frozen
    before the candidate is seen serves: it is the same for both arms.
    """
    most = float_info.max
    total, least = max(1, values.total), values.total / MAX_STEPS
    cuts: list[float] = []
    ranks: list[float] = [0.0]
    below = held = 0
    for at, (value, count) in enumerate(zip(values.value, values.count, strict=True)):
        low, high = (min(most, max(-most, end)) for end in _bounds(value))
        if not held:
            if cuts and low - cuts[-1] <= _ROUNDING * abs(low):
                ranks.pop()  # the step before ends where this one begins
            else:
                cuts.append(low)
        held += count
        if held < least and at + 1 < len(values.value):
            continue
        ranks += [(below + held / 2.0) / total, (below + held) / total]
        cuts.append(high)
        below, held = below + held, 0
    return RankTable(tuple(cuts), tuple(ranks))


def rank_moments(values: Values) -> tuple[float, float]:
    """Mean and sd of stable's own ranks."""
    table = rank_table(values)
    ranks = np.array([table.ranks[bisect_right(table.cuts, value)] for value in values.value])
    weight = np.array(values.count) / max(1, values.total)
    mean = float(ranks @ weight)
    return mean, sqrt(max(0.0, float((ranks - mean) ** 2 @ weight)))


def bin_shares(
    values: Values, limits: tuple[float, float] | None, edges: tuple[float, ...]
) -> dict[str, float]:
    """Stable's share of each bin, by series."""
    if limits is None or not edges:
        return {}
    y = [scaled(value, limits) for value in values.value]
    bins = np.bincount(np.searchsorted(edges, y, side="right"), values.count, len(edges) + 1)
    return {f"bin.{k}": float(count / values.total) for k, count in enumerate(bins)}


def class_shares(labels: Mapping[str, int], classes: tuple[str, ...]) -> dict[str, float]:
    """Stable's share of each class and of any other label, by series."""
    total = sum(labels.values())
    shares = {f"bin.{k}": labels[label] / total for k, label in enumerate(classes)}
    return {**shares, "bin.other": max(0.0, 1.0 - sum(shares.values()))}
