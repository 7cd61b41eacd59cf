"""How the series of a body of evidence lie in its bytes: the same as in the one before it, nearly always.

A source publishes the same series again and again, and a packed column changes its length only where a count
outgrows its form. Where every byte that is no number is the same, numbers lie in the same places, and are
taken from there in a few steps instead of series by series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from ...store.columns import SAME, WIDEST
from .columns import Columns, Keys, Layout

Bytes = NDArray[np.uint8]
Places = NDArray[np.intp]

_SAME: Final = SAME[0]
_DTYPES: Final = {
    ord(form): np.dtype(kind) for form, kind in zip("BHId", ("u1", "<u2", "<u4", "<f8"), strict=True)
}
_SOME: Final = 16  # bytes that tell at once whether a body ends in as many
_SIZES: Final = np.zeros(256, dtype=np.intp)
for _form, _kind in _DTYPES.items():
    _SIZES[_form] = _kind.itemsize


class Packed:
    """The packed columns of S series, three each. `clusters`: (S,); `lengths` and `form`: (3 S,)."""

    def __init__(self, clusters: Sequence[int], columns: Sequence[bytes]) -> None:
        count = len(columns)
        self.data = b"".join(columns)
        self.clusters = np.fromiter(clusters, dtype=np.intp, count=count // 3)
        self.lengths = np.fromiter(map(len, columns), dtype=np.intp, count=count)
        if not self.lengths.all():
            raise ValueError("a column is empty")
        self.starts: Places = np.cumsum(self.lengths) - self.lengths
        self.form = np.frombuffer(self.data, np.uint8)[self.starts]


@dataclass(frozen=True, slots=True, eq=False)
class _Move:
    """Columns of one form and length that go into one block, (N,). `starts`: of their numbers in the data.

    `to`: where they go, in the block seen as (its series x columns, clusters).
    """

    starts: Places
    dtype: np.dtype[Any]
    width: int
    block: int
    to: Places

    def take(self, data: Bytes) -> NDArray[Any]:
        """The numbers, (N, width)."""
        return np.asarray(_windows(data, self.width * self.dtype.itemsize)[self.starts].view(self.dtype))


def _windows(data: Bytes, span: int) -> Bytes:
    """All runs of `span` bytes, sharing memory: (size - span + 1, span)."""
    return np.ndarray((data.size - span + 1, span), np.uint8, data, strides=(1, 1))


@dataclass(frozen=True, slots=True, eq=False)
class Taking:
    """How packed columns lie in some data, and where their numbers go."""

    layout: Layout
    moves: tuple[_Move, ...]

    @classmethod
    def of(cls, packed: Packed, starts: Places) -> Taking:
        """`starts`: of every column in the data. Raises ValueError where one is malformed, without a name."""
        form, width = packed.form.astype(np.intp), packed.clusters
        size = _SIZES[form]
        same = form == _SAME
        same[0::3] = same[1::3] = False
        if ((packed.lengths != 1 + size * np.repeat(width, 3)) | ((size == 0) & ~same)).any():
            raise ValueError("a column has another form or length")
        most = np.maximum(size[0::3], size[1::3])
        counted = np.where(same[2::3] & (most < WIDEST), most, 0)
        layout = Layout.of(width.astype(np.int16), counted, same[2::3])
        before = np.arange(form.size) - same  # what is the same lies where the column before it does
        form, starts = form[before], starts[before] + 1
        moves: list[_Move] = []
        for number, (_, kinds, wide) in enumerate(layout.shapes):
            mine = (layout.places(number)[:, None] * 3 + np.arange(kinds)).ravel()
            forms = form[mine]
            for one in np.flatnonzero(np.bincount(forms)):
                to = np.flatnonzero(forms == one)
                moves.append(_Move(starts[mine[to]], _DTYPES[int(one)], wide, number, to))
        return cls(layout, tuple(moves))

    def columns(self, data: Bytes) -> Columns:
        """The columns of the data."""
        layout = self.layout
        blocks = [np.empty(shape, dtype) for shape, dtype in zip(layout.shapes, layout.dtypes, strict=True)]
        for move in self.moves:
            blocks[move.block].reshape(-1, move.width)[move.to] = move.take(data)
        return Columns(self.layout, tuple(blocks))

    def numbers(self, size: int) -> NDArray[np.bool_]:
        """Which of the data's bytes are those of numbers."""
        found = np.zeros(size, dtype=np.uint8)
        for move in self.moves:
            _windows(found, move.width * move.dtype.itemsize)[move.starts] = 1
        return found.view(np.bool_)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Form:
    """A body's series. `fixed`: its last bytes, from the name of the field on, with zeros for all numbers.

    `mask`: zeros for the bytes of numbers, ones in all bits of the others.
    """

    keys: Keys
    fixed: bytes
    mask: Bytes
    taking: Taking

    @classmethod
    def of(cls, keys: Keys, tail: bytes, taking: Taking) -> Form:
        """Of the last bytes of a body. Those of many services are of one form, which is kept once."""
        data = np.frombuffer(tail, np.uint8)
        mask = np.where(taking.numbers(data.size), 0, 255).astype(np.uint8)
        fixed = (data & mask).tobytes()
        known = _KNOWN.get(fixed)
        if known is None or known.keys is not keys:
            _KNOWN[fixed] = known = cls(keys, fixed, mask, taking)
        return known

    def columns(self, body: bytes) -> Columns | None:
        """The columns of another body; None where it does not have this form."""
        if not body.startswith(self.fixed[:_SOME], len(body) - len(self.fixed)):
            return None
        data = np.frombuffer(body, np.uint8, offset=len(body) - len(self.fixed))
        if (data & self.mask).tobytes() != self.fixed:
            return None
        return self.taking.columns(data)


_KNOWN: Final[WeakValueDictionary[bytes, Form]] = WeakValueDictionary()
