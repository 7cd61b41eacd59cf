"""What was read of one exchange, while it waits for its turn to be added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .asides import Stated
from .extract import Groups, Prediction
from .extras import Columns
from .quick import One
from .replies import Told
from .unscored import Value


@dataclass(frozen=True, slots=True)
class Several:
    """What the bodies of one exchange held: all instances' predictions and groups, and what else was told.

    `stated`: how sure the answer is, where predictions are remembered.
    """

    values: list[Prediction]
    groups: Groups
    told: Told | None = None
    more: Columns = ()
    stated: Sequence[Stated | None] = ()


Seen = One | Several  # by far the most are ordinary and hold one prediction: see Quick


def weight_of(seen: Seen | None) -> int:
    """About how many values wait in memory with an exchange."""
    if seen is None:
        return 1
    return 1 + len(seen.values) + sum(map(len, seen.more)) if isinstance(seen, Several) else 2


def shrunk(values: Sequence[Value]) -> list[Prediction]:
    """Vectors as numbers: one arm by itself only tells that there is one, and many of them may wait."""
    return [1.0 if isinstance(value, tuple) else value for value in values]
