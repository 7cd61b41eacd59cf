"""Ranks: of a prediction among stable's, and how alike two explanations rank the features.

The distance of two rankings is Spearman's footrule over mid-ranks, as a share of the largest one that n
features can have: sum |r_i - s_i| / floor(n^2 / 2), in [0, 1]. Mid-ranks make it a metric also where features
tie (Diaconis & Graham 1977; Fagin, Kumar, Mahdian, Sivakumar & Vee 2006, "Comparing partial rankings",
the profile metric F_prof). Unlike a correlation it is defined where all features tie.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from ...store.measurement import RankTable
from ..paths import kind_of
from .values import number_of

Importance = dict[str, float] | tuple[float, ...]
"""How important each feature was: by its name, or by its position."""

_MOST: Final = 1024  # features of one explanation


def ranker(table: RankTable | None) -> Callable[[float], float] | None:
    """F_ref: from a raw prediction to its rank among stable's, in [0, 1]."""
    if table is None:
        return None
    cuts, ranks = table.cuts, table.ranks

    def rank(value: float) -> float:
        return ranks[bisect_right(cuts, value)]

    return rank


def importance_of(value: Any) -> Importance | None:
    """The sizes of a number per feature; None where one of them is none, or there are none."""
    if kind_of(value) is list:
        items = cast("list[Any]", value)
        if len(items) == 1 and kind_of(items[0]) in {list, dict}:
            return importance_of(items[0])
        if not 0 < len(items) <= _MOST:
            return None
        numbers = [number_of(item) for item in items]
        sizes = tuple(abs(number) for number in numbers if number is not None)
        return sizes if len(sizes) == len(items) else None
    if kind_of(value) is not dict:
        return None
    named = cast("dict[str, Any]", value)
    if not 0 < len(named) <= _MOST:
        return None
    found = {name: abs(number) for name, item in named.items() if (number := number_of(item)) is not None}
    return found if len(found) == len(named) else None


def mid_ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, ties at their mean."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    first = 0
    while first < len(order):
        last = first
        while last + 1 < len(order) and values[order[last + 1]] == values[order[first]]:
            last += 1
        for at in order[first : last + 1]:
            ranks[at] = (first + last) / 2.0 + 1.0
        first = last + 1
    return ranks


def rank_agreement(one: Importance, other: Importance) -> float:
    """1 less the normalised footrule: 1 for the same order of features, 0 for opposite ones.

    A feature that only one of two mappings names has no importance in the other. Lists of unequal length
    speak of different features: 0.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        names = [*one, *(name for name in other if name not in one)]
        left, right = [one.get(name, 0.0) for name in names], [other.get(name, 0.0) for name in names]
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        left, right = list(one), list(other)
    else:
        return 0.0
    if len(left) == 1:
        return 1.0
    apart = sum(abs(r - s) for r, s in zip(mid_ranks(left), mid_ranks(right), strict=True))
    return 1.0 - apart / (len(left) ** 2 // 2)
