"""Input features as counts: what the requests of each arm look like, without keeping any of them.

Between randomised arms the inputs must look alike, or the assignment is broken; against the training card
a difference is drift. A number with a declared range falls into one of ten equal parts of it, `below` or
`above`; without one into a logarithmic bin (store.histogram.value_bin). A category is counted by its
declared name, or as `new`: no value that a stranger made up is stored. What is not there, or is of another
type, is `missing`. Of a batch the first instance counts: one request is one unit, and its instances are not
independent of each other.
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


Labels = tuple[str, ...]
"""Of one request: the label of every input, in the plan's order. Empty where none was read."""

NO_LABELS: Final[Labels] = ()


class Inputs:
    """The counts of one epoch: those of the stable arm, and those of the candidate's."""

    def __init__(self, plans: Sequence[InputPlan], feature: Callable[[str], Feature]) -> None:
        self._names = tuple(plan.name for plan in plans)
        self._readers = tuple(
            (feature(plan.path), _numbers(plan) if plan.type == "number" else _categories(plan))
            for plan in plans
        )
        self._arms: tuple[tuple[dict[str, int], ...], ...] = tuple(tuple({} for _ in plans) for _ in range(2))

    def labels(self, document: Any) -> Labels:
        """What stands in one request (MISSING: a request that cannot be read)."""
        return tuple(label(_first(feature, document)) for feature, label in self._readers)

    def add(self, arm: int, labels: Labels) -> None:
        """Count one request that was assigned to `arm`."""
        for counts, label in zip(self._arms[arm], labels, strict=True):
            kept = label if label in counts or len(counts) < _MOST else _OTHER
            counts[kept] = counts.get(kept, 0) + 1

    def counts(self, arms: Sequence[str]) -> dict[str, dict[str, int]]:
        """Label -> count by "arm|input", of what was counted at all."""
        return {
            f"{arm}|{name}": dict(counts)
            for arm, counted in zip(arms, self._arms, strict=True)
            for name, counts in zip(self._names, counted, strict=True)
            if counts
        }


def _first(feature: Feature, document: Any) -> Any:
    if not feature.every:
        return feature.one(document)
    found = feature.instances(document) if document is not MISSING else None
    return found[0] if found and len(found) <= MAX_INSTANCES else MISSING


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
