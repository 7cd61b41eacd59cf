"""From a JSON value to a prediction: a finite number or a label, None where it is neither.

Protocols wrap scalars in lists of one, so these are looked into.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any, Final, cast

from ..paths import kind_of

Prediction = float | str | None

_MAX_LABEL = 256  # characters; longer text is no class of a classifier
_MAX_NESTING = 4  # of one-element lists around a prediction


def number_of(value: Any) -> float | None:
    """A finite number, also inside one-element lists."""
    for _ in range(_MAX_NESTING):
        kind = kind_of(value)
        if kind is float:
            return value if isfinite(value) else None
        if kind is int:
            try:
                return float(value)
            except OverflowError:
                return None
        if kind is not list:
            return None
        value = only_item(value)
    return None


def label_of(value: Any) -> str | None:
    """A class as text: numbers and booleans as JSON writes them, whole numbers without a fraction."""
    for _ in range(_MAX_NESTING):
        kind = kind_of(value)
        if kind is str:
            return value if len(value) <= _MAX_LABEL and _encodable(value) else None
        if kind is bool:
            return "true" if value else "false"
        if kind is float:
            if not isfinite(value):
                return None
            return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
        if kind is int:
            return str(value) if value.bit_length() <= _MAX_LABEL else None
        if kind is not list:
            return None
        value = only_item(value)
    return None


def only_item(value: Any) -> Any:
    """What is in a list of one; None, which is no prediction, of any other list."""
    items = cast("list[Any]", value)
    return items[0] if len(items) == 1 else None


def best_of(value: Any, *, number: bool) -> Any:
    """Of a classification, the best class or its score; any other value as it is.

    A classification is `[[label, score], …]` or `{label: score, …}` with two classes or more.
    """
    kind = kind_of(value)
    if kind is list:
        pairs = cast("list[Any]", value)
        if not pairs or not all(_is_scored(pair) for pair in pairs):
            return value
    elif kind is dict:
        pairs = list(cast("dict[str, Any]", value).items())
        if len(pairs) < 2 or not all(_is_score(score) for _, score in pairs):  # noqa: PLR2004  (see above)
            return value
    else:
        return value
    label, score = max(pairs, key=lambda pair: pair[1])
    return score if number else label


def _is_scored(pair: Any) -> bool:
    # TF Serving writes an empty label where the model gives scores only.
    return kind_of(pair) is list and len(pair) == 2 and kind_of(pair[0]) is str and _is_score(pair[1])  # noqa: PLR2004


def _is_score(value: Any) -> bool:
    return kind_of(value) is int or (kind_of(value) is float and isfinite(value))


def _encodable(text: str) -> bool:
    """False for lone surrogates, which no wire form can hold."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# By the type that a service file declares.
READERS: Final[dict[str, Callable[[Any], Prediction]]] = {"number": number_of, "label": label_of}
