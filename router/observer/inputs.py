"""Input features as counts: what the requests of each arm look like, without keeping any of them.

Between randomised arms the inputs must look alike, or the assignment is broken; against the training card
a difference is drift. A number with a declared range falls into one of ten equal parts of it, `below` or
`above`; without one into a logarithmic bin (store.histogram.value_bin). A category is counted by its
declared name, or as `new`: no value that a stranger made up is stored. What is not there, or is of another
type, is `missing`. Instances of a batch count one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ...store.histogram import value_bin
from ...store.measurement import InputPlan
from ..paths import MISSING
from .extract import MAX_INSTANCES
from .formats import Feature
from .values import label_of, number_of

PARTS: Final = 10  # deciles of the declared range: what PSI and chi-squared are usually computed from
_MOST: Final = 256  # different counts of one input; at 2 % a bin that spans two orders of magnitude
_NEW, _OTHER, _ABSENT = "new", "other", "missing"


class Sketch:
    """The counts of one input in one arm, by label."""

    def __init__(self, plan: InputPlan, feature: Feature) -> None:
        self.counts: dict[str, int] = {}
        self._feature = feature
        self._label: Callable[[Any], str] = _numbers(plan) if plan.type == "number" else _categories(plan)

    def add(self, document: Any) -> None:
        """Count what stands in one request (MISSING: a request that cannot be read)."""
        if not self._feature.every:
            self._count(self._label(self._feature.one(document)))
            return
        found = self._feature.instances(document) if document is not MISSING else None
        if not found or len(found) > MAX_INSTANCES:
            self._count(_ABSENT)
            return
        for value in found:
            self._count(self._label(value))

    def _count(self, label: str) -> None:
        counts = self.counts
        if label not in counts and len(counts) >= _MOST:
            label = _OTHER
        counts[label] = counts.get(label, 0) + 1


class Inputs:
    """All sketches of one epoch: those of the stable arm, and those of the candidate's."""

    def __init__(self, plans: Sequence[InputPlan], feature: Callable[[str], Feature]) -> None:
        self._names = tuple(plan.name for plan in plans)
        self._arms = tuple(tuple(Sketch(plan, feature(plan.path)) for plan in plans) for _ in range(2))

    def add(self, arm: int, document: Any) -> None:
        """Count one request that was assigned to `arm`."""
        for sketch in self._arms[arm]:
            sketch.add(document)

    def counts(self, arms: Sequence[str]) -> dict[str, dict[str, int]]:
        """Label -> count by "arm|input", of what was counted at all."""
        return {
            f"{arm}|{name}": dict(sketch.counts)
            for arm, sketches in zip(arms, self._arms, strict=True)
            for name, sketch in zip(self._names, sketches, strict=True)
            if sketch.counts
        }


def _numbers(plan: InputPlan) -> Callable[[Any], str]:
    limits = plan.range

    def label(value: Any) -> str:
        number = number_of(value)
        if number is None:
            return _ABSENT
        if limits is None:
            return str(value_bin(number))
        low, high = limits
        if number < low:
            return "below"
        if number > high:
            return "above"
        return str(min(PARTS - 1, int((number - low) / (high - low) * PARTS)))

    return label


def _categories(plan: InputPlan) -> Callable[[Any], str]:
    declared = frozenset(plan.values)

    def label(value: Any) -> str:
        text = label_of(value)
        if text is None:
            return _ABSENT
        return text if text in declared else _NEW

    return label
