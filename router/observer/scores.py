"""What predictions become in the sums: scaled means, bin shares and selected shares of one request."""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...store.measurement import Extraction, MeasurementPlan, Selected

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
    "!=": operator.ne,
}


class Scores(NamedTuple):
    """One request's y: `mean` in [0, 1], shares `selected` and `bins`; None where the plan keeps none.

    `bins` is the one bin where there is one prediction, else {bin: share}.
    """

    mean: float | None
    selected: float | None
    bins: int | dict[int, float] | None


class Scorer:
    """Compiled for one plan. `bins`: the names of the bins, empty where there are none."""

    def __init__(self, plan: MeasurementPlan, extraction: Extraction) -> None:
        self._number = extraction.type == "number"
        self._limits = plan.limits if self._number else None
        self._edges = plan.edges if self._limits is not None else ()
        self._classes = {} if self._number else {label: k for k, label in enumerate(plan.classes)}
        self.means = self._limits is not None
        self._operand = _operand(extraction.selected, number=self._number)
        wanted = extraction.selected
        self._compare = _OPERATORS[wanted.operator] if wanted and self._operand is not None else None
        self.selects = self._compare is not None
        self.bins: tuple[str, ...] = ()
        if self._edges:
            self.bins = tuple(f"bin.{k}" for k in range(len(self._edges) + 1))
        elif self._classes:
            self.bins = (*(f"bin.{k}" for k in range(len(self._classes))), "bin.other")

    def plain(self, value: float | str) -> tuple[float | None, bool, int | None]:
        """Mean, whether it is selected, and bin of a single prediction."""
        y: float | None = None
        k: int | None = None
        if isinstance(value, str):
            if self._classes:
                k = self._classes.get(value, len(self._classes))
        elif self._limits is not None:
            low, high = self._limits
            if value <= low:
                y = 0.0
            elif value < high:
                y = (value - low) / (high - low)
            else:
                y = float(high > low)
            if self._edges:
                k = bisect_right(self._edges, y)
        return y, self._compare is not None and self._compare(value, self._operand), k

    def one(self, value: float | str) -> Scores:
        """The y of a single prediction."""
        y, selected, k = self.plain(value)
        return Scores(y, float(selected) if self.selects else None, k)

    def many(self, values: Sequence[float | str]) -> Scores:
        """The y of a request with these usable predictions: means of theirs. At least one value."""
        if len(values) == 1:
            return self.one(values[0])
        share = 1.0 / len(values)
        singles = [self.one(value) for value in values]
        counts: dict[int, int] = {}
        for single in singles:
            if isinstance(single.bins, int):
                counts[single.bins] = counts.get(single.bins, 0) + 1
        return Scores(
            sum(single.mean or 0.0 for single in singles) * share if self.means else None,
            sum(single.selected or 0.0 for single in singles) * share if self.selects else None,
            {k: count * share for k, count in counts.items()} if self.bins else None,
        )


def _operand(selected: Selected | None, *, number: bool) -> float | str | None:
    """What predictions are compared with, of their type; None where nothing is selected."""
    if selected is None:
        return None
    operand = selected.operand
    if number and isinstance(operand, str):
        try:
            return float(operand)
        except ValueError:
            return None
    if not number and not isinstance(operand, str):
        return str(int(operand)) if float(operand).is_integer() else repr(operand)
    return operand
