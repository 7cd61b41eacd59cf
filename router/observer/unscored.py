"""Predictions that are compared, not scored: texts, sets of labels, vectors.

Two texts, and two sets of labels, agree when they are equal, so a fingerprint stands for them: neither the
memory of what waits its turn nor any record can then hold what a model wrote. Vectors agree by the cosine
of the angle between them. What is absent or empty is no prediction.
"""

from __future__ import annotations

from array import array
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable, Sequence
from math import fsum, isfinite, sqrt
from operator import mul
from sys import byteorder
from typing import Any, Final, cast

from xxhash import xxh3_128_hexdigest

from ..paths import kind_of
from .values import READERS, Prediction, label_of

Vector = tuple[float, ...]
Value = Prediction | Vector

_MAX_LABELS: Final = 4096  # of one instance; a classifier with more is read by `vector`
_MAX_NESTING: Final = 4  # of one-element lists around a prediction
_FLOAT: Final = 4  # bytes


def text_of(value: Any) -> str | None:
    """A fingerprint of a text that is not blank."""
    if kind_of(value) is not str or not value or value.isspace():
        return None
    return xxh3_128_hexdigest(value.encode(errors="surrogatepass"))


def labels_of(value: Any) -> str | None:
    """A fingerprint of a set of labels: neither order nor repetition matters. One label is a set of one."""
    items = cast("list[Any]", value) if kind_of(value) is list else [value]
    if not 0 < len(items) <= _MAX_LABELS:
        return None
    labels: set[str] = set()
    for item in items:
        label = label_of(item)
        if label is None:
            return None
        labels.add(label)
    return xxh3_128_hexdigest("".join(f"{len(label)}:{label}" for label in sorted(labels)).encode())


def vector_of(value: Any) -> Vector | None:
    """Finite numbers, not all zero; also base64 of little-endian 32-bit floats, as OpenAI's API may send."""
    for _ in range(_MAX_NESTING):
        if kind_of(value) is not list or len(value) != 1 or kind_of(value[0]) is not list:
            break
        value = value[0]
    found: Sequence[Any]
    if kind_of(value) is str:
        found = _packed(value)
    elif kind_of(value) is list:
        found = cast("list[Any]", value)
    else:
        return None
    for item in found:
        if kind_of(item) is not float and kind_of(item) is not int:
            return None
    try:
        vector = tuple(map(float, found))
    except OverflowError:
        return None
    return vector if any(vector) and all(map(isfinite, vector)) else None


def _packed(text: str) -> Sequence[float]:
    try:
        data = a2b_base64(text.encode(), strict_mode=True)
    except (Base64Error, UnicodeEncodeError):
        return ()
    if len(data) % _FLOAT:
        return ()
    found = array("f", data)
    if byteorder == "big":
        found.byteswap()
    return found


def agree(one: Vector, other: Vector, within: float) -> bool:
    """True where the cosine distance, 1 − cos of the angle between them, is at most `within`."""
    if len(one) != len(other):
        return False
    # Scaled first: squares of numbers that a float just holds would overflow.
    largest, most = max(map(abs, one)), max(map(abs, other))
    left, right = [x / largest for x in one], [x / most for x in other]
    length = sqrt(fsum(map(mul, left, left)) * fsum(map(mul, right, right)))
    # A few units in the last place, or equal vectors would not be within 0.
    return 1.0 - fsum(map(mul, left, right)) / length <= within + 1e-12


def compared(
    stable: Sequence[Value], shadow: Sequence[Value], within: float
) -> tuple[list[Prediction], list[Prediction]]:
    """Vectors of both sides as numbers that are equal exactly where the vectors of an instance agree."""
    ours: list[Prediction] = [None if value is None else 1.0 for value in stable]
    theirs: list[Prediction] = [None if value is None else 0.0 for value in shadow]
    for at, (one, other) in enumerate(zip(stable, shadow, strict=False)):
        if isinstance(one, tuple) and isinstance(other, tuple) and agree(one, other, within):
            theirs[at] = 1.0
    return ours, theirs


def usable(value: Any) -> float | None:
    """1 for a vector: of one arm alone only its presence counts."""
    return None if vector_of(value) is None else 1.0


ALL_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    **READERS,
    "text": text_of,
    "labels": labels_of,
    "vector": vector_of,
}
UNSCORED: Final = frozenset({"text", "labels", "vector"})
