"""The series of one stored record of evidence: a few arrays, unpacked where somebody asks.

A controller reads the same evidence many times a second, and hardly ever all of it. Columns stay in the form
in which they were packed (store.columns), those of one form and length together in one table.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...store.columns import SAME
from ...store.evidence import Series, SeriesKey

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

_SAME: Final = SAME[0]
_KINDS: Final = ("u1", "<u2", "<u4", "<f8")
_DTYPES: Final = {
    ord(form): np.dtype(kind) for form, kind in zip("BHId", ("u1", "<u2", "<u4", "<f8"), strict=True)
}
_SIZES: Final = np.zeros(256, dtype=np.intp)
for _form, _kind in _DTYPES.items():
    _SIZES[_form] = _kind.itemsize
_WIDEST_COUNT: Final = 2.0**32


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """The keys of S series in order, shared by all records that have the same. `raw`: their wire form."""

    raw: bytes
    keys: tuple[SeriesKey, ...]
    place: dict[SeriesKey, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", {key: k for k, key in enumerate(self.keys)})


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """n, Σy and Σy² of S series. `clusters`: (S,); `table` and `row`: where each column lies, (S, 3).

    Σy² that lies where Σy lies is the same.
    """

    clusters: NDArray[np.int16]
    table: NDArray[np.int16]
    row: NDArray[np.int32]
    tables: tuple[NDArray[Any], ...]

    @classmethod
    def packed(cls, clusters: Sequence[int], columns: Sequence[bytes]) -> Columns:
        """Of three packed columns a series. Raises ValueError where one is malformed, without a name."""
        count = len(columns)
        data = np.frombuffer(b"".join(columns), dtype=np.uint8)
        lengths = np.fromiter(map(len, columns), dtype=np.intp, count=count)
        width = np.repeat(np.fromiter(clusters, dtype=np.intp, count=count // 3), 3)
        if not lengths.all():
            raise ValueError("a column is empty")
        starts = np.cumsum(lengths) - lengths
        form = data[starts] if count else np.zeros(0, dtype=np.uint8)
        size = _SIZES[form]
        same = form == _SAME
        same[0::3] = same[1::3] = False
        if ((lengths != 1 + size * width) | ((size == 0) & ~same)).any():
            raise ValueError("a column has another form or length")
        kind = np.where(same, -1, form.astype(np.intp) << 8 | width)  # a width is at most 128
        tables: list[NDArray[Any]] = []
        table, row = np.zeros(count, dtype=np.int16), np.zeros(count, dtype=np.int32)
        for one in np.unique(kind[kind >= 0]):
            which = np.flatnonzero(kind == one)
            taken = data[(starts[which] + 1)[:, None] + np.arange((one & 255) * _SIZES[one >> 8])]
            table[which], row[which] = len(tables), np.arange(which.size)
            tables.append(taken.view(_DTYPES[int(one) >> 8]))
        at = np.flatnonzero(same)
        table[at], row[at] = table[at - 1], row[at - 1]
        return cls(width[::3].astype(np.int16), table.reshape(-1, 3), row.reshape(-1, 3), tuple(tables))

    @classmethod
    def of(cls, clusters: NDArray[np.int16], sums: dict[int, Floats]) -> Columns:
        """Of sums by number of clusters, each (S of that number, 3, clusters)."""
        count = clusters.size
        table, row = np.zeros((count, 3), dtype=np.int16), np.zeros((count, 3), dtype=np.int32)
        tables: list[NDArray[Any]] = []
        for width, values in sums.items():
            which = np.flatnonzero(clusters == width)
            counts = ((values >= 0.0) & (values < _WIDEST_COUNT) & (values == np.floor(values))).all(axis=2)
            same = (values[:, 1] == values[:, 2]).all(axis=1)
            for k in range(3):
                here, row_of = np.zeros(which.size, np.int16), np.zeros(which.size, np.int32)
                for whole, dtype in ((True, np.dtype("<u4")), (False, np.dtype("<f8"))):
                    chosen = np.flatnonzero((counts[:, k] == whole) & ~(same & (k > 1)))
                    here[chosen], row_of[chosen] = len(tables), np.arange(chosen.size)
                    tables.append(values[chosen, k].astype(dtype))
                table[which, k], row[which, k] = here, row_of
            alike = which[same]
            table[alike, 2], row[alike, 2] = table[alike, 1], row[alike, 1]
        return cls(clusters, table, row, tuple(tables))

    @property
    def same(self) -> NDArray[np.bool_]:
        """Series whose Σy² is their Σy, (S,)."""
        return np.asarray((self.table[:, 1] == self.table[:, 2]) & (self.row[:, 1] == self.row[:, 2]))

    def floats(self, places: Places, width: int, kinds: int = 3) -> Floats:
        """The first `kinds` of n, Σy and Σy² of series that all have `width` clusters: (P, kinds, width)."""
        values = np.empty((places.size, kinds, width))
        table, row = self.table[places, :kinds], self.row[places, :kinds]
        for number in np.unique(table):
            where = table == number
            values[where] = self.tables[int(number)][row[where]]
        return values

    def by_width(self) -> Iterator[tuple[int, Places]]:
        """Each number of clusters that occurs, with the places of its series."""
        for width in np.unique(self.clusters):
            yield int(width), np.flatnonzero(self.clusters == width)

    def series(self, place: int) -> Series:
        """One series, unpacked."""
        table = [int(number) for number in self.table[place]]
        row = [int(number) for number in self.row[place]]
        n, total = (_unpacked(self.tables[table[k]], row[k]) for k in (0, 1))
        if (table[1], row[1]) == (table[2], row[2]):
            return Series(n, total, total)
        return Series(n, total, _unpacked(self.tables[table[2]], row[2]))


def _unpacked(table: NDArray[Any], row: int) -> array[float]:
    column: Floats = np.asarray(table[row], dtype=np.float64)
    return array("d", column.tobytes())


class StoredSeries(MutableMapping[SeriesKey, Series]):
    """A mapping of series that unpacks each where it is asked for; written to, it becomes a dict."""

    def __init__(self, keys: Keys, columns: Columns) -> None:
        self._keys = keys
        self._columns = columns
        self._written: dict[SeriesKey, Series] | None = None

    @property
    def packed(self) -> tuple[Keys, Columns] | None:
        """What it holds; None once it was written to."""
        return (self._keys, self._columns) if self._written is None else None

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


def added(one: StoredSeries, other: StoredSeries) -> StoredSeries | None:
    """The sums of two records that keep the same series; None where they do not."""
    if one.packed is None or other.packed is None:
        return None
    (keys, mine), (others, theirs) = one.packed, other.packed
    if (keys is not others and keys.keys != others.keys) or (mine.clusters != theirs.clusters).any():
        return None
    sums = {
        width: mine.floats(places, width) + theirs.floats(places, width) for width, places in mine.by_width()
    }
    return StoredSeries(keys, Columns.of(mine.clusters, sums))
