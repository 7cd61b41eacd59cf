"""RolloutPolicy: the steps, gates and clocks that decide a rollout.

Values only: quantities parse themselves (`quantities`), what must fit together is in `policy_rules`.
The descriptions are what an editor shows; `schema` exports them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .approve import Approve
from .quantities import Clock, Duration, Fraction, Least, Value, WrittenMargin
from .service import Name

Action = Literal["rollback", "pause"]
Place = Literal["shadow", "canary"]
StepKind = Place | Literal["approve"]

_Risk = Annotated[Fraction, Field(gt=0, le=0.5)]


class Risk(Value):
    """Error probabilities over the whole rollout, however often it is looked at."""

    false_rollback: _Risk = Field(
        default=0.05, description="Chance to roll back a candidate that is no worse."
    )
    false_promotion: _Risk = Field(
        default=0.05, description="Chance to promote a candidate that is worse than a margin."
    )


class Baseline(Value):
    """Epoch 0, stable alone: minima of requests and seconds before constants are frozen."""

    requests: int = Field(default=1000, gt=0, description="Requests of stable alone, at least.")
    duration: Duration = Field(
        default=600.0,
        validation_alias="for",
        serialization_alias="for",
        description="Time of stable alone, at least.",
    )


class Step(Value):
    """One step. Exactly one of `shadow`, `canary` (shares in 0..1) and `approve` is given.

    `duration` (written `for`, s) and `requests` (of the candidate) are minima, `deadline` (s) a maximum.
    `until_gates`: advance only when every gate that this step can decide is proven. `mirror_back`: of what
    the candidate answers, the share that is also copied to stable (0..1), so that there are pairs.
    `approve` waits for people and has no minima: `RolloutPolicy.traffic` is the step whose traffic goes on.
    """

    shadow: Annotated[Fraction, Field(gt=0)] | None = Field(
        default=None, description="Share of requests copied to the candidate, whose answers nobody sees."
    )
    canary: Annotated[Fraction, Field(gt=0)] | None = Field(
        default=None, description="Share of requests that the candidate answers."
    )
    approve: Approve | None = Field(
        default=None,
        description="People have to approve before the rollout goes on. Traffic stays as the step before "
        "leaves it.",
    )
    mirror_back: Annotated[Fraction, Field(gt=0)] | None = Field(
        default=None,
        description="In a canary step: share of the candidate's requests copied to stable, whose answers "
        "nobody sees. Gates on pairs can then be decided here too.",
        examples=["20%"],
    )
    until: Literal["gates"] | None = Field(
        default=None, description="gates: go on only when every gate that this step can decide is proven."
    )
    duration: Duration = Field(
        default=600.0,
        validation_alias="for",
        serialization_alias="for",
        description="The step lasts at least this long.",
    )
    requests: int = Field(default=500, ge=0, description="The candidate gets at least so many requests.")
    deadline: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="The step lasts at most this long; then on_inconclusive says what happens."
    )

    @property
    def place(self) -> StepKind:
        """Where the candidate is seen in this step; `approve` for one that changes nothing about that."""
        if self.approve is not None:
            return "approve"
        return "shadow" if self.shadow is not None else "canary"

    @property
    def least_seconds(self) -> float:
        """The step lasts at least so long."""
        return 0.0 if self.approve is not None else self.duration

    @property
    def least_requests(self) -> int:
        """The candidate gets at least so many requests in the step."""
        return 0 if self.approve is not None else self.requests

    @property
    def text(self) -> str:
        """The step in a table: `canary 5%, until gates`."""
        if self.approve is not None:
            return self.approve.text
        back = f", {self.mirror_back * 100:g}% mirrored back" if self.mirror_back is not None else ""
        return f"{self.place} {self.share * 100:g}%{back}{', until gates' if self.until_gates else ''}"

    @property
    def share(self) -> float:
        """The mirrored share (shadow) or the candidate's weight (canary), in 0..1."""
        return self.shadow if self.shadow is not None else self.canary or 0.0

    @property
    def until_gates(self) -> bool:
        """True where the step ends by proof, not by time."""
        return self.until == "gates"


class Labels(Value):
    """When what feedback tells counts."""

    mature_after: Annotated[Duration, Field(gt=0)] = Field(
        description="Labels of a request count when it is this old; earlier ones would count for more.",
        examples=["7d"],
    )
    min_group: int = Field(
        default=10,
        ge=1,
        description="A group with fewer labelled requests of a version is neither shown nor decided.",
    )


class Gate(Value):
    """A condition that must hold. Exactly the margins that the metric allows are given."""

    metric: str = Field(description="What is measured.")
    by: str | None = Field(default=None, description="A slice: the gate holds in each of its groups.")
    max_increase: WrittenMargin | None = Field(
        default=None, description="The candidate may be higher by this much, absolutely."
    )
    max_decrease: WrittenMargin | None = Field(
        default=None, description="The candidate may be lower by this much, absolutely."
    )
    max_ratio: float | None = Field(
        default=None, gt=1, description="The candidate may be higher by this factor.", examples=[1.2]
    )
    max_shift: WrittenMargin | None = Field(
        default=None,
        description="The candidate may be higher or lower by this much, absolutely; more is harm either way, "
        "an improvement too.",
    )
    min: Least | None = Field(
        default=None, description="At least this share; of selection_ratio at least this number, such as 0.8."
    )
    or_else: Literal["not_worse_than_stable"] | None = Field(
        default=None,
        validation_alias="or",
        serialization_alias="or",
        description="Of selection_ratio: it is enough that the ratio is proven at least 95% of stable's.",
    )
    place: Place | None = Field(
        default=None,
        validation_alias="in",
        serialization_alias="in",
        description="Where the gate is decided; without it wherever it can be.",
    )
    labels: Labels | None = Field(
        default=None, description="Of gates on outcomes, the same for all of them: when labels count."
    )
    require: Literal["proof", "no-harm", "nothing"] = Field(
        default="proof",
        description="proof: promotion needs proof; no-harm: only proven harm counts; nothing: only shown.",
    )
    harm_at: WrittenMargin | None = Field(
        default=None,
        description="Roll back when the effect is proven beyond this; without it half the margin.",
    )
    on_fail: Action | None = Field(
        default=None, description="What a failure does; without it the policy's on_fail."
    )
    small_slices: Literal["hold", "pool", "no-harm"] = Field(
        default="hold",
        description="Groups of less than 2% of requests: hold the rollout until they are proven, judge them "
        "together as one group, or only watch each for harm.",
    )


class Breaker(Value):
    """Inside the router: a share of errors over seconds sends the weight to 0. No statistics claimed."""

    errors: Annotated[Fraction, Field(gt=0)] = Field(
        default=0.5, description="The share of errors that trips it."
    )
    over: Annotated[Duration, Field(gt=0)] = Field(default=10.0, description="The time it looks back.")
    min_requests: int = Field(
        default=20, gt=0, description="With fewer requests in that time it does not trip."
    )


class RolloutPolicy(Value):
    """One policy file: the steps of a rollout, the gates that decide it, and its clocks."""

    format: Literal["accede/v1"] = Field(description="The version of this language.")
    kind: Literal["RolloutPolicy"] = Field(description="What this file declares.")
    name: Name = Field(description="The name used in commands.", examples=["guarded"])
    risk: Risk = Field(default=Risk(), description="Chances of a wrong decision over the whole rollout.")
    baseline: Baseline = Field(
        default=Baseline(), description="Stable alone first: it freezes scales and thresholds."
    )
    batch: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None,
        description="Length of a time cluster: at least twice the longest ordinary stall. Unset: chosen in "
        "the baseline, 5s to 60s, ten times as long as stable's errors are correlated.",
    )
    max_duration: Annotated[Duration, Field(gt=0)] = Field(
        default=7 * 86400.0, description="The whole rollout lasts at most this long."
    )
    steps: tuple[Step, ...] = Field(description="In order; weights never go down.", min_length=1)
    gates: tuple[Gate, ...] = Field(description="Every gate must hold.", min_length=1)
    breaker: Breaker | None = Field(default=Breaker(), description="Trips inside the router; null: none.")
    on_fail: Action = Field(default="rollback", description="What proven harm does.")
    on_inconclusive: Action = Field(
        default="pause", description="What happens at a deadline without a verdict."
    )
    on_error: Clock = Field(
        default=Clock(action="rollback", after=900.0), description="When a gate cannot be measured."
    )
    unattended: Clock = Field(
        default=Clock(action="rollback", after=900.0),
        description="When no controller looks after the rollout.",
    )

    def traffic(self, number: int) -> Step:
        """The step whose traffic runs in step `number` (from 0): itself, or what an approve step follows."""
        return next(step for step in reversed(self.steps[: number + 1]) if step.approve is None)

    def without_approvals(self) -> RolloutPolicy:
        """The same policy with the steps that change something only; itself where it has no others."""
        kept = tuple(step for step in self.steps if step.approve is None)
        return self if len(kept) == len(self.steps) else self.model_copy(update={"steps": kept})
