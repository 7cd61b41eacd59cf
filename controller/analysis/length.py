"""How long a batch of time is in an epoch. Quick to import: no statistics."""

from __future__ import annotations

from typing import Final

from ...policies.policy import RolloutPolicy
from ...store.rollouts import FrozenConstants

DEFAULT_BATCH: Final = 5.0
"""Seconds: two or three times an ordinary stall."""


def batch_of(policy: RolloutPolicy, constants: FrozenConstants | None) -> float:
    """Seconds of a batch in an epoch: the policy's, the one chosen in the baseline, or the usual one."""
    chosen = constants.batch if constants is not None else None
    return policy.batch or chosen or DEFAULT_BATCH
