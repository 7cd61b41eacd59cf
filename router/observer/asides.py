"""What answers tell beside their predictions: a service's own metrics, how sure the model is, and why.

Read from the same document, and matched to predictions by position where the path has `[*]`; a path
without it tells one thing for all of them. What cannot be read is None, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, Final, NamedTuple, cast

from ...store.measurement import Extraction, ValuePlan
from ..paths import MISSING, kind_of
from .formats import Feature, Format, compiled
from .ranks import Importance, importance_of
from .tensors import OpenInference
from .values import number_of, only_item

Stated = float | tuple[float, float]
"""How sure an answer is: a standard deviation, or the low and high end of an interval, raw units."""

Column = list[float | None]

_MAX_NESTING: Final = 4  # of one-element lists around a value


class Aside(NamedTuple):
    """What one answer told. Lists have an item for each instance; one item where it told one for all.

    `values`: y of each metric of the service's own, in the plan's order. Lists are empty where the answer
    has nothing at the path.
    """

    values: tuple[Column, ...] = ()
    uncertainty: Sequence[Stated | None] = ()
    explanation: Sequence[Importance | None] = ()


class AsideReader:
    """Compiled for one plan. `wanted`: whether there is anything to read."""

    def __init__(self, extraction: Extraction, form: Format) -> None:
        self._form = form
        self._values = tuple((_place(form, one.path), reader_of(one)) for one in extraction.values)
        self._uncertainty = _place(form, extraction.uncertainty) if extraction.uncertainty else None
        self._explanation = _place(form, extraction.explanation) if extraction.explanation else None
        self.wanted = bool(self._values or extraction.uncertainty or extraction.explanation)

    def read(self, body: bytes, encoding: str, head: int) -> Aside:
        """What an answer tells; of one that is no document, nothing."""
        document = self._form.request(body, encoding, head) if body else MISSING
        if document is MISSING:
            return Aside(tuple([] for _ in self._values))
        return Aside(
            tuple([read(value) for value in _found(place, document)] for place, read in self._values),
            [stated_of(value) for value in _found(self._uncertainty, document)],
            [importance_of(value) for value in _found(self._explanation, document)],
        )


def _place(form: Format, path: str) -> Feature:
    # Tensors have names and binary data; everywhere else an answer is JSON (a request need not be).
    return form.feature(path) if isinstance(form, OpenInference) else compiled(path)


def _found(place: Feature | None, document: Any) -> Sequence[Any]:
    if place is None:
        return ()
    if not place.every:
        return (place.one(document),)
    return place.instances(document) or ()


def reader_of(planned: ValuePlan) -> Callable[[Any], float | None]:
    """From a JSON value to y in [0, 1]; None where it is none."""
    return share_of if planned.type == "share" else _Scaled(*planned.range)


def share_of(value: Any) -> float | None:
    """True and false, or a number from 0 to 1."""
    for _ in range(_MAX_NESTING):
        if kind_of(value) is bool:
            return float(value)
        if kind_of(value) is not list:
            break
        value = only_item(value)
    number = number_of(value)
    return number if number is not None and 0.0 <= number <= 1.0 else None


class _Scaled:
    """A number clipped to its range, as a share of it."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._span = low, high - low

    def __call__(self, value: Any) -> float | None:
        number = number_of(value)
        return None if number is None else min(1.0, max(0.0, (number - self._low) / self._span))


def stated_of(value: Any) -> Stated | None:
    """A standard deviation (a number, not negative), or an interval `{low, high}`."""
    if kind_of(value) is list:
        items = cast("list[Any]", value)
        return stated_of(items[0]) if len(items) == 1 and kind_of(items[0]) is not list else None
    if kind_of(value) is not dict:
        number = number_of(value)
        return number if number is not None and number >= 0.0 else None
    ends = cast("dict[str, Any]", value)
    low, high = number_of(ends.get("low")), number_of(ends.get("high"))
    return (low, high) if low is not None and high is not None and low <= high else None


def spread_of(stated: Stated | None) -> float | None:
    """A stated uncertainty as one number in the prediction's unit: the sd, or half the interval's length."""
    if isinstance(stated, tuple):
        half = stated[1] / 2.0 - stated[0] / 2.0
        return half if isfinite(half) else None
    return stated
