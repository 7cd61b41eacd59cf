"""What follows from a policy alone, worked out once: policies are values, and looks ask again and again."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Final, TypeVar

from ...policies.policy import RolloutPolicy

T = TypeVar("T")

_MOST: Final = 2048


def per_policy(work_out: Callable[[RolloutPolicy], T]) -> Callable[[RolloutPolicy], T]:
    """Remember a function's value for each policy object: comparing policies costs more than most values."""
    known: dict[int, tuple[RolloutPolicy, T]] = {}

    @wraps(work_out)
    def remembered(policy: RolloutPolicy) -> T:
        found = known.get(id(policy))
        if found is not None and found[0] is policy:
            return found[1]
        value = work_out(policy)
        while len(known) >= _MOST:
            known.pop(next(iter(known)), None)
        known[id(policy)] = policy, value
        return value

    return remembered
