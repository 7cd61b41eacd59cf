"""RolloutPolicy: the steps, gates and clocks that decide a rollout. Values only."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .quantities import Clock, Duration, Fraction, Margin
from .service import Value

Action = Literal["rollback", "pause"]
Place = Literal["shadow", "canary"]


class Risk(Value):
    """Error probabilities over the whole rollout, however often it is looked at."""

    false_rollback: Fraction = 0.05
    false_promotion: Fraction = 0.05


class Baseline(Value):
    """Epoch 0, stable alone: minima of requests and seconds before constants are frozen."""

    requests: int = Field(default=1000, gt=0)
    duration: Duration = Field(default=600.0, alias="for")


class Step(Value):
    """One step. Exactly one of `shadow`, `canary` (shares in 0..1) is given.

    `duration` (written `for`, s) and `requests` (of the candidate) are minima, `deadline` (s) a maximum.
    `until_gates`: advance only when every gate that this step can decide is proven.
    """

    shadow: Fraction | None = None
    canary: Fraction | None = None
    until: Literal["gates"] | None = None
    duration: Duration = Field(default=600.0, alias="for")
    requests: int = Field(default=500, ge=0)
    deadline: Duration | None = None

    @property
    def place(self) -> Place:
        """Where the candidate is seen in this step."""
        return "shadow" if self.shadow is not None else "canary"

    @property
    def share(self) -> float:
        """The mirrored share (shadow) or the candidate's weight (canary), in 0..1."""
        return self.shadow if self.shadow is not None else self.canary or 0.0

    @property
    def until_gates(self) -> bool:
        """True where the step ends by proof, not by time."""
        return self.until == "gates"


class Gate(Value):
    """A condition that must hold. Exactly the margins that the metric allows are given."""

    metric: str
    by: str | None = None  # a slice name: the gate holds in every value of it
    max_increase: Margin | None = None  # absolute: pp, ms, plain
    max_ratio: float | None = Field(default=None, gt=1)
    max_shift: Margin | None = None  # two-sided, absolute: sd, pp, plain
    min: Fraction | None = None  # "at least", for agreement
    place: Place | None = Field(default=None, alias="in")  # None: both
    require: Literal["proof", "no-harm", "nothing"] = "proof"
    harm_at: Margin | None = None  # None: half the margin (root on the ratio scale)
    on_fail: Action | None = None  # None: the policy's
    small_slices: Literal["hold", "no-harm"] = "hold"


class Breaker(Value):
    """Inside the router: a share of errors over seconds sends the weight to 0. No statistics claimed."""

    errors: Fraction = 0.5
    over: Duration = 10.0
    min_requests: int = Field(default=20, gt=0)


class RolloutPolicy(Value):
    """One policy file."""

    format: Literal["accede/v1"]
    kind: Literal["RolloutPolicy"]
    name: str
    risk: Risk = Risk()
    baseline: Baseline = Baseline()
    batch: Duration = 5.0  # length of a time cluster and of a batch of pairs, s
    max_duration: Duration = 7 * 86400.0
    steps: tuple[Step, ...]
    gates: tuple[Gate, ...]
    breaker: Breaker | None = Breaker()
    on_fail: Action = "rollback"
    on_inconclusive: Action = "pause"
    on_error: Clock = Clock(action="rollback", after=900.0)
    unattended: Clock = Clock(action="rollback", after=900.0)
