"""What a look or an operator can decide, as values. `machine.apply` and `performing.change` do them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...store.approvals import Approval, GateAt
from ...store.rollouts import FrozenConstants, Hold


@dataclass(frozen=True, slots=True)
class Advance:
    """Open the step `step`. `constants`: frozen just now, where the baseline ends."""

    act: ClassVar[str] = "advance"
    step: int
    reason: str
    constants: FrozenConstants | None = None
    override: str | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """Open the step `step`, which waits for people: no epoch begins, traffic stays. `proven`: gates now."""

    act: ClassVar[str] = "advance"
    step: int
    reason: str
    proven: tuple[GateAt, ...] = ()
    override: str | None = None


@dataclass(frozen=True, slots=True)
class Approve:
    """Somebody approves the step at hand."""

    act: ClassVar[str] = "approve"
    approval: Approval
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """The candidate becomes stable."""

    act: ClassVar[str] = "promote"
    reason: str
    override: str | None = None


@dataclass(frozen=True, slots=True)
class RollBack:
    """Stable alone again, decided by evidence, a clock or a router."""

    act: ClassVar[str] = "rollback"
    reason: str


@dataclass(frozen=True, slots=True)
class Abort:
    """Stable alone again, decided by a person."""

    act: ClassVar[str] = "abort"
    reason: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Stay, with traffic as it is, until somebody resumes or the hold's clock rolls back."""

    act: ClassVar[str] = "pause"
    hold: Hold

    @property
    def reason(self) -> str:
        """Why."""
        return self.hold.reason


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on where it was paused. `fresh`: the step's clock starts anew, because its deadline has passed."""

    act: ClassVar[str] = "resume"
    reason: str
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class HoldError:
    """What cannot be measured starts a clock; the phase stays."""

    act: ClassVar[str] = "hold"
    hold: Hold

    @property
    def reason(self) -> str:
        """Why."""
        return self.hold.reason


@dataclass(frozen=True, slots=True)
class Release:
    """The error is gone, its clock with it."""

    act: ClassVar[str] = "release"
    reason: str = "the evidence can be measured again"


@dataclass(frozen=True, slots=True)
class Void:
    """Approvals that count no more, each with its reason."""

    act: ClassVar[str] = "void"
    approvals: tuple[tuple[Approval, str], ...]

    @property
    def reason(self) -> str:
        """Whose, and why."""
        return "; ".join(f"the approval of {one.by} is void: {why}" for one, why in self.approvals)


@dataclass(frozen=True, slots=True)
class Prove:
    """More gates are proven during a step that waits for people: losing a proof voids approvals."""

    act: ClassVar[str] = "prove"
    proven: tuple[GateAt, ...]
    reason: str = "more gates are proven"


@dataclass(frozen=True, slots=True)
class Note:
    """Nothing moves; this is what the rollout waits for."""

    act: ClassVar[str] = "note"
    reason: str


Move = Advance | Ask | Approve | Promote | RollBack | Abort | Pause | Resume
Action = Move | HoldError | Release | Void | Prove | Note
