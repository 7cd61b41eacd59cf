"""A column of sums as bytes: one letter for the form, then packed little-endian numbers.

Counts take 1, 2 or 4 bytes each, other sums 8; msgpack's own floats would take 9 throughout. A source
publishes up to 150 000 sums each second or so, which is why size and speed matter here.

B, H, I   unsigned integers of 8, 16, 32 bits
d         IEEE 754 doubles
=         equal to the column before (Σy² of a metric with y in {0, 1} is its Σy)
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from math import isfinite

SAME = b"="
WIDEST = 8  # bytes of one double

# The largest value of each integer form; array's letters, whose sizes are these on every CPython platform.
_FORMS = (("B", 0xFF), ("H", 0xFFFF), ("I", 0xFFFFFFFF))
_SIZES = {"B": 1, "H": 2, "I": 4, "d": 8}


def pack(values: Sequence[float]) -> bytes:
    """The smallest of the forms above that holds `values` exactly; at least one value."""
    return _bytes(_smallest(values))


def unpack(data: bytes, length: int) -> array[float]:
    """The `length` numbers of a packed column, all finite. Raises ValueError for anything else."""
    form = data[:1].decode("latin-1")
    size = _SIZES.get(form)
    if size is None or len(data) != 1 + size * length:
        raise ValueError(f"a column of {length} numbers has form {form!r} and {len(data)} bytes")
    column: array[float] = array(form)
    column.frombytes(data[1:])
    if sys.byteorder == "big":
        column.byteswap()
    if form != "d":
        return array("d", column)
    if not all(map(isfinite, column)):
        raise ValueError("a sum is not finite")
    return column


def _smallest(values: Sequence[float]) -> array[float] | array[int]:
    low, high = min(values), max(values)
    if low >= 0 and high <= _FORMS[-1][1]:
        whole = [int(value) for value in values]
        if whole == list(values):
            return array(next(form for form, most in _FORMS if high <= most), whole)
    return array("d", values)


def _bytes(column: array[float] | array[int]) -> bytes:
    if sys.byteorder == "big":
        column.byteswap()
    return column.typecode.encode() + column.tobytes()
