"""Taking sums off sums: what a source has seen since a publication of its own. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from .evidence import ArmCounts, Evidence, MirrorCounts, Series, SeriesKey

K = TypeVar("K")
C = TypeVar("C", ArmCounts, MirrorCounts)


def less(total: Evidence, part: Evidence) -> Evidence:
    """What `total` has beyond `part`, an earlier total of the same sums; merged they are `total` again.

    But for the exchanges that were open at `part`: those that have ended since are among what was accounted
    since, and also open in `part`, where nobody takes them off any more.
    """
    return msgspec.structs.replace(
        total,
        arms={
            arm: _fields(counts, part.arms[arm]) if arm in part.arms else counts
            for arm, counts in total.arms.items()
        },
        open=_counts(total.open, part.open),
        mirror=_fields(total.mirror, part.mirror),
        back=_fields(total.back, part.back),
        floor=_fields(total.floor, part.floor),
        series=_series(total, part),
        latency=_several(total.latency, part.latency),
        values=_counts(total.values, part.values),
        labels=_counts(total.labels, part.labels),
        first_token=_several(total.first_token, part.first_token),
        tokens=_counts(total.tokens, part.tokens),
        inputs=_several(total.inputs, part.inputs),
    )


def _fields(total: C, part: C) -> C:
    names = total.__struct_fields__
    return type(total)(*(max(0, getattr(total, name) - getattr(part, name)) for name in names))


def _counts(total: dict[K, int], part: dict[K, int]) -> dict[K, int]:
    left = {key: count - part.get(key, 0) for key, count in total.items()}
    return {key: count for key, count in left.items() if count > 0}


def _several(total: dict[str, dict[K, int]], part: dict[str, dict[K, int]]) -> dict[str, dict[K, int]]:
    left = {name: _counts(counts, part.get(name, {})) for name, counts in total.items()}
    return {name: counts for name, counts in left.items() if counts}


def _series(total: Evidence, part: Evidence) -> dict[SeriesKey, Series]:
    return {
        key: _less(series, part.series[key]) if key in part.series else series
        for key, series in total.series.items()
    }


def _less(total: Series, part: Series) -> Series:
    n = [a - b for a, b in zip(total.n, part.n, strict=True)]
    sums = _amounts(n, total.sum, part.sum, -1.0)
    same = list(total.square) == list(total.sum) and list(part.square) == list(part.sum)
    return Series(n, sums, list(sums) if same else _amounts(n, total.square, part.square, 0.0))


def _amounts(n: Sequence[float], total: Sequence[float], part: Sequence[float], lowest: float) -> list[float]:
    """Differences, held to what sums of n values from `lowest` to 1 can be: fractions were rounded."""
    return [min(count, max(lowest * count, a - b)) for count, a, b in zip(n, total, part, strict=True)]
