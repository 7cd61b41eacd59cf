"""Sums of what is kept beside means, bins and selected shares: ranks, own metrics, stated uncertainty.

Each is a column of y in [0, 1] over a request's instances (or one item for all of them). A request's y is
the mean of those it has; one that lacks some is counted, because those left may be the harmless ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from ...store.evidence import ArmKey, Series, SeriesKey
from ...store.measurement import Extraction, MeasurementPlan, extra_series
from .asides import Aside, Column, reader_of, spread_of, stated_of
from .ranks import ranker
from .sums import Difference, Put, column
from .values import Prediction

RANK: Final = "rank"
MISSING_OF: Final = ".missing"

Columns = tuple[Column, ...]


class Extras:
    """Compiled for one plan. `names`: the series, in the order of all columns."""

    def __init__(self, plan: MeasurementPlan, extraction: Extraction) -> None:
        limits = plan.limits if extraction.type == "number" else None
        self._rank = ranker(plan.ranks) if limits is not None else None
        self._values = len(extraction.values)
        self._span = limits[1] - limits[0] if limits is not None and extraction.uncertainty else 0.0
        self.names = tuple(extra_series(plan))
        # Beside the prediction itself, for the quick way: where each stands, and what makes y of it.
        beside: list[tuple[str, Callable[[Any], float | None]]] = [
            (one.path, reader_of(one)) for one in extraction.values
        ]
        if self._span > 0.0:
            beside.append((extraction.uncertainty, lambda value: self._sure(spread_of(stated_of(value)))))
        self.beside = tuple(beside)

    def plain(self, value: float | str, beside: Sequence[float | None]) -> tuple[float | None, ...]:
        """The y of a request with one prediction; `beside`: what `self.beside` gave."""
        if self._rank is None:
            return tuple(beside)
        return (self._rank(value) if isinstance(value, float) else None, *beside)

    def columns(self, values: Sequence[Prediction], aside: Aside) -> Columns:
        """All columns of one answer."""
        rank = self._rank
        ranks: list[Column] = []
        if rank is not None:
            ranks = [[rank(value) if isinstance(value, float) else None for value in values]]
        sure: list[Column] = []
        if self._span > 0.0:
            sure = [[self._sure(spread_of(one)) for one in aside.uncertainty]]
        told = aside.values or tuple([] for _ in range(self._values))
        return (*ranks, *told, *sure)

    def _sure(self, spread: float | None) -> float | None:
        return None if spread is None else min(1.0, spread / self._span)


def part(found: Column, group: Sequence[int] | None, index: int) -> Column:
    """The items of the instances in one group; `group` None, or one item for all: the whole column."""
    if group is None or len(found) == 1:
        return found
    return [y for y, at in zip(found, group, strict=False) if at == index]


class Amount:
    """One extra of one arm and slice group: n, sums of y and y squared, and how many requests lacked it."""

    __slots__ = ("_asked", "_lacking", "_n", "_square", "_y")

    def __init__(self, clusters: int) -> None:
        self._n, self._y, self._square = column(clusters), column(clusters), column(clusters)
        self._asked = self._lacking = 0

    def one(self, cluster: int, y: float | None) -> None:
        """A request with one value, or none."""
        self._asked += 1
        if y is None:
            self._lacking += 1
            return
        self._n[cluster] += 1
        self._y[cluster] += y
        self._square[cluster] += y * y

    def add(self, cluster: int, found: Column) -> None:
        """A request with several."""
        usable = [y for y in found if y is not None]
        self.one(cluster, sum(usable) / len(usable) if usable else None)
        if usable and len(usable) < len(found):
            self._lacking += 1

    def series(self, into: dict[SeriesKey, Series], arm: ArmKey, group: str, name: str) -> None:
        """Put what has an observation into `into`."""
        put = Put(into, arm, group)
        put.sums(name, self._n, self._y, self._square)
        if name != RANK:  # a rank is missing where its prediction is
            put.events(name + MISSING_OF, [self._asked], [self._lacking])


class Shift:
    """One extra of pairs: candidate minus stable over the instances that have it on both sides."""

    __slots__ = ("_asked", "_lacking", "_sums")

    def __init__(self) -> None:
        self._sums = Difference()
        self._asked = self._lacking = 0

    def add(self, cluster: int, stable: Column, shadow: Column) -> None:
        """One pair. What only stable has, the candidate lacks."""
        at = [k for k, y in enumerate(stable) if y is not None]
        if not at:
            return
        both = [(a, b) for a, b in zip(stable, shadow, strict=False) if a is not None and b is not None]
        self._asked += 1
        self._lacking += len(both) < len(at)
        if both:
            n = len(both)
            self._sums.add(cluster, sum(b for _, b in both) / n, sum(a for a, _ in both) / n)

    def series(self, into: dict[SeriesKey, Series], group: str, name: str) -> None:
        """Put what has an observation into `into`, for `pair` and `paired_stable`."""
        pair, sums = Put(into, "pair", group), self._sums
        pair.sums(name, sums.n, sums.d, sums.d2)
        Put(into, "paired_stable", group).sums(name, sums.n, sums.y, sums.y2)
        if name != RANK:
            pair.events(name + MISSING_OF, [self._asked], [self._lacking])
