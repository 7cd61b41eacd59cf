"""The series of one stored record of evidence: a few arrays, unpacked where somebody asks.

A controller reads the same evidence many times a second, and hardly ever all of it. Series that are alike lie
together in a block, whole counts in as few bytes as they need.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ...store.evidence import Series, SeriesKey

if TYPE_CHECKING:
    from .form import Form

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

_WHOLE: Final = tuple(np.dtype(kind) for kind in ("u1", "u2", "u4"))
_AMOUNTS: Final = np.dtype("f8")


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Keys:
    """The keys of S series in order, shared by all records that have the same.

    `raw`: their wire form, end to end, of `lengths` each, (S,).
    """

    raw: bytes
    keys: tuple[SeriesKey, ...]
    lengths: NDArray[np.intp]
    place: dict[SeriesKey, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", {key: k for k, key in enumerate(self.keys)})


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where S series lie. All arrays are (S,).

    `clusters`: of each. `block` and `row`: its place. `same`: Σy² is Σy. `dtypes` and `shapes` of the blocks:
    (series, 2 or 3, clusters). Integers are n and Σy of counts, where 0 <= Σy <= n and Σy² is the same;
    doubles are n, Σy and Σy².
    """

    clusters: NDArray[np.int16]
    block: NDArray[np.int16]
    row: NDArray[np.int32]
    same: NDArray[np.bool_]
    dtypes: tuple[np.dtype[Any], ...]
    shapes: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, clusters: NDArray[np.int16], counted: NDArray[np.intp], same: NDArray[np.bool_]) -> Layout:
        """`counted`: bytes of the larger of n and Σy where both are whole, and Σy² is Σy; 0 for other sums.

        What has one cluster is no larger as a double, and one block is read faster than several.
        """
        size = np.where(clusters > 1, counted, 0)
        kind = clusters.astype(np.intp) << 4 | size
        kinds, block = np.unique(kind, return_inverse=True)
        row = np.zeros(clusters.size, dtype=np.int32)
        shapes: list[tuple[int, int, int]] = []
        for number, one in enumerate(kinds):
            which = np.flatnonzero(block == number)
            row[which] = np.arange(which.size)
            shapes.append((which.size, 2 if one & 15 else 3, int(one) >> 4))
        dtypes = tuple(_dtype(int(one) & 15) for one in kinds)
        return cls(clusters, block.astype(np.int16), row, same, dtypes, tuple(shapes))

    def places(self, block: int) -> Places:
        """The series of a block, by their rows."""
        return np.flatnonzero(self.block == block)


def _dtype(size: int) -> np.dtype[Any]:
    return next((one for one in _WHOLE if one.itemsize == size), _AMOUNTS)


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Sums of S series in their blocks."""

    layout: Layout
    blocks: tuple[NDArray[Any], ...]

    @classmethod
    def of(cls, clusters: NDArray[np.int16], sums: dict[int, Floats]) -> Columns:
        """Of sums by number of clusters, each (S of that number, 3, clusters)."""
        counted, same = np.zeros(clusters.size, dtype=np.intp), np.zeros(clusters.size, dtype=bool)
        for width, values in sums.items():
            which = np.flatnonzero(clusters == width)
            n, y, square = values[:, 0], values[:, 1], values[:, 2]
            same[which] = (y == square).all(axis=1)
            whole = same[which] & ((y >= 0.0) & (y <= n) & (y == np.floor(y)) & (n == np.floor(n))).all(
                axis=1
            )
            most = n.max(axis=1)
            for dtype in reversed(_WHOLE):
                counted[which[whole & (most <= np.iinfo(dtype).max)]] = dtype.itemsize
        layout = Layout.of(clusters, counted, same)
        blocks: list[NDArray[Any]] = []
        for number, (_, kinds, width) in enumerate(layout.shapes):
            which = np.flatnonzero(clusters == width)
            mine = sums[width][np.searchsorted(which, layout.places(number)), :kinds]
            blocks.append(mine.astype(layout.dtypes[number]))
        return cls(layout, tuple(blocks))

    @property
    def possible(self) -> bool:
        """Whether all are sums of y in [-1, 1]. NaN is none."""
        return all(map(_possible, self.blocks))

    def floats(self, places: Places, width: int) -> Floats:
        """n, Σy and Σy² of series that all have `width` clusters: (P, 3, width)."""
        values = np.empty((places.size, 3, width))
        block, row = self.layout.block[places], self.layout.row[places]
        for number in np.unique(block):
            where = np.flatnonzero(block == number)
            found = self.blocks[int(number)]
            values[where, : found.shape[1]] = found[row[where]]
            values[where, 2] = values[where, found.shape[1] - 1]
        return values

    def series(self, place: int) -> Series:
        """One series, unpacked."""
        found = self.blocks[int(self.layout.block[place])][int(self.layout.row[place])]
        n, total = _unpacked(found[0]), _unpacked(found[1])
        return Series(n, total, total if self.layout.same[place] else _unpacked(found[2]))


# Sums of y in [-1, 1] stay within n but for the rounding of whoever scaled y.
_ROUNDING: Final = 1e-6


def _possible(block: NDArray[Any]) -> bool:
    if block.dtype != _AMOUNTS:
        return bool((block[:, 1] <= block[:, 0]).all())
    n, y, square = block[:, 0], block[:, 1], block[:, 2]
    most = n + _ROUNDING
    return bool(
        n.min() >= 0.0
        and n.max() < np.inf
        and square.min() >= 0.0
        and (np.abs(y) <= most).all()
        and (square <= most).all()
    )


def _unpacked(column: NDArray[Any]) -> array[float]:
    return array("d", column.astype(np.float64).tobytes())


class StoredSeries(MutableMapping[SeriesKey, Series]):
    """A mapping of series that unpacks each where it is asked for; written to, it becomes a dict.

    `forms`: how their body may lie in bytes, the likeliest first.
    """

    def __init__(self, keys: Keys, columns: Columns, forms: tuple[Form, ...] = ()) -> None:
        self._keys = keys
        self._columns = columns
        self._written: dict[SeriesKey, Series] | None = None
        self.forms = forms

    @property
    def packed(self) -> tuple[Keys, Columns] | None:
        """What it holds; None once it was written to."""
        return (self._keys, self._columns) if self._written is None else None

    def counted(self, key: SeriesKey) -> tuple[float, float] | None:
        """n and Σy over all clusters of a series of whole counts; None where it is none, or nothing."""
        place = None if self._written is not None else self._keys.place.get(key)
        if place is None:
            return None
        block: NDArray[Any] = self._columns.blocks[int(self._columns.layout.block[place])]
        if block.dtype == _AMOUNTS:
            return None
        n, y = block[int(self._columns.layout.row[place])].sum(axis=1, dtype=np.int64)
        return float(n), float(y)

    def __getitem__(self, key: SeriesKey) -> Series:
        if self._written is not None:
            return self._written[key]
        return self._columns.series(self._keys.place[key])

    def __setitem__(self, key: SeriesKey, series: Series) -> None:
        self._thawed()[key] = series

    def __delitem__(self, key: SeriesKey) -> None:
        del self._thawed()[key]

    def __iter__(self) -> Iterator[SeriesKey]:
        return iter(self._keys.keys if self._written is None else self._written)

    def __len__(self) -> int:
        return len(self._keys.keys if self._written is None else self._written)

    def __contains__(self, key: object) -> bool:
        return key in (self._keys.place if self._written is None else self._written)

    def _thawed(self) -> dict[SeriesKey, Series]:
        if self._written is None:
            self._written = {key: self._columns.series(k) for k, key in enumerate(self._keys.keys)}
        return self._written


def added(parts: Sequence[StoredSeries]) -> StoredSeries | None:
    """The sums of records that keep the same series, at least one; None where they do not."""
    packed = [part.packed for part in parts]
    first = packed[0]
    if first is None:
        return None
    keys, clusters = first[0], first[1].layout.clusters
    sums: dict[int, Floats] = {}
    for one in packed:
        if one is None or (one[0] is not keys and one[0].keys != keys.keys):
            return None
        if (one[1].layout.clusters != clusters).any():
            return None
        for width in np.unique(clusters):
            more = one[1].floats(np.flatnonzero(clusters == width), int(width))
            sums[int(width)] = sums[int(width)] + more if int(width) in sums else more
    return StoredSeries(keys, Columns.of(clusters, sums))
