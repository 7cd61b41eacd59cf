"""What has changed in a source's evidence since an earlier publication of its own, as bytes.

Totals grow, but from one publication to the next they grow in few places: of a series that is clustered by
time in one cluster or two of its 128. So of each series the clusters are told that differ, of each histogram
the bins, and the rest of the head whole. Pure.
"""

from __future__ import annotations

from array import array
from collections.abc import MutableSequence, Sequence
from math import isfinite
from typing import Annotated, Final, TypeVar

import msgspec

from ..errors import WireError
from .columns import SAME, pack, unpack
from .evidence import Evidence, Series, SeriesKey, refuse_impossible
from .measurement import CLUSTERS
from .wire import check_version, read_msgpack

WIRE: Final = "accede.evidence-changes/1"

K = TypeVar("K")

# Fields of a head that are counts by bin or label, and those that are several of them by name.
_HISTOGRAMS: Final = ("values", "labels", "tokens")
_SEVERAL: Final = ("latency", "first_token", "inputs")


class _Change(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Of the `series`-th of the base, by key: these clusters are now these sums (store.columns)."""

    series: Annotated[int, msgspec.Meta(ge=0)]
    clusters: bytes
    n: bytes
    sum: bytes
    square: bytes


class _Changes(msgspec.Struct, forbid_unknown_fields=True):
    """`head`: the evidence without its series, of its histograms what differs.

    `base`: when what it has to be applied to was published.
    """

    wire: str
    base: float
    head: Evidence
    series: list[_Change]


_decoder = msgspec.msgpack.Decoder(_Changes)


def changes(base: Evidence, now: Evidence) -> bytes | None:
    """The wire form of what `now` has that `base` has not; None where that says too little.

    As where they are not of the same series, or something that was counted is not there any more.
    """
    if base.series.keys() != now.series.keys():
        return None
    head = msgspec.structs.replace(now, series={})
    for name in _HISTOGRAMS:
        some = _some(getattr(base, name), getattr(now, name))
        if some is None:
            return None
        setattr(head, name, some)
    for name in _SEVERAL:
        before, after = getattr(base, name), getattr(now, name)
        if before.keys() - after.keys():
            return None
        each = {key: _some(before.get(key, {}), counts) for key, counts in after.items()}
        if None in each.values():
            return None
        setattr(head, name, each)
    told: list[_Change] = []
    for index, key in enumerate(sorted(base.series)):
        before, after = base.series[key], now.series[key]
        if len(before.n) != len(after.n):
            return None
        at = _places(before, after)
        if at:
            told.append(_change(index, at, after))
    return msgspec.msgpack.encode(_Changes(WIRE, base.published, head, told))


def _some(before: dict[K, int], after: dict[K, int]) -> dict[K, int] | None:
    """The counts that differ; None where one has gone."""
    if before.keys() - after.keys():
        return None
    return {key: count for key, count in after.items() if before.get(key) != count}


def _places(before: Series, after: Series) -> list[int]:
    # Comparing lists as they are is quick, and most are equal where there is little traffic.
    if before.n == after.n and before.sum == after.sum and before.square == after.square:
        return []
    columns = zip(before.n, after.n, before.sum, after.sum, before.square, after.square, strict=True)
    return [at for at, (n, m, y, z, v, w) in enumerate(columns) if n != m or y != z or v != w]


def _change(index: int, at: Sequence[int], after: Series) -> _Change:
    n, sums, squares = ([column[place] for place in at] for column in (after.n, after.sum, after.square))
    return _Change(index, bytes(at), pack(n), pack(sums), SAME if squares == sums else pack(squares))


def changed(base: Evidence, data: bytes) -> Evidence:
    """`base` with the changes of a wire form; the base stays as it is.

    Raises WireError for anything malformed, of another version, of another base, or impossible as sums.
    """
    told = read_msgpack(data, _decoder, "stored changes of evidence", WIRE)
    check_version(told.wire, WIRE, "stored changes of evidence")
    head = told.head
    where = f"changes of evidence of {head.source!r}"
    same = (head.service, head.rollout, head.epoch, head.source) == (
        base.service, base.rollout, base.epoch, base.source,
    )  # fmt: skip
    if not same or told.base != base.published or head.series:
        raise WireError(f"{where}: they are of something else than what lies beside them")
    if not (isfinite(head.published) and isfinite(head.watermark)):
        raise WireError(f"{where}: the head is malformed")
    keys = sorted(base.series)
    series: dict[SeriesKey, Series] = dict(base.series)
    for change in told.series:
        try:
            key = keys[change.series]
            series[key] = _applied(base.series[key], change)
        except (ValueError, IndexError) as problem:
            raise WireError(f"{where}: series {change.series}: {problem}") from problem
    head.series = series
    for name in _HISTOGRAMS:
        setattr(head, name, {**getattr(base, name), **getattr(head, name)})
    for name in _SEVERAL:
        before = getattr(base, name)
        each = {key: {**before.get(key, {}), **counts} for key, counts in getattr(head, name).items()}
        setattr(head, name, each)
    return head


def _applied(before: Series, change: _Change) -> Series:
    at = change.clusters
    if not at or max(at) >= min(len(before.n), CLUSTERS) or len(set(at)) < len(at):
        raise ValueError("clusters that it does not have")
    n, sums = unpack(change.n, len(at)), unpack(change.sum, len(at))
    squares = sums if change.square == SAME else unpack(change.square, len(at))
    refuse_impossible(n, sums, squares)
    same = before.square is before.sum and change.square == SAME
    total = _put(before.sum, at, sums)
    return Series(_put(before.n, at, n), total, total if same else _put(before.square, at, squares))


def _put(column: MutableSequence[float], at: bytes, values: Sequence[float]) -> array[float]:
    copy = array("d", column)
    for place, value in zip(at, values, strict=True):
        copy[place] = value
    return copy
