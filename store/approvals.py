"""What people have approved, as it stands in a RolloutRecord."""

from __future__ import annotations

from typing import Literal

import msgspec


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One person's approval of one step, bound to the look that it was given at.

    `step`: from 0. `group`: the one that the step asks for, '' where it asks for none. `number`: of the
    stored Decision that holds the look with all its evidence. `digest`: SHA-256 over epoch, verdicts with
    their numbers, policy hash and `subject`; `subject`: SHA-256 over both versions' addresses and cards.
    It counts while `until` has not come and controller/rollout/approvals.py finds no reason against it.
    """

    by: str
    at: float
    step: int
    group: str
    epoch: int
    number: int
    digest: str
    subject: str
    until: float
    reason: str = ""


class GateAt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One gate in one place. `index`: in the policy."""

    index: int
    place: Literal["shadow", "canary"]
