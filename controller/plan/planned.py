"""A plan as the API answers it and a command prints it: no statistics, quick to import. None: never."""

from __future__ import annotations

import msgspec

from .assumed import Fact


class Needed(msgspec.Struct, frozen=True):
    """Until a decision, from the step's start: seconds and requests of the service; median and 90 %."""

    seconds: float | None
    seconds_90: float | None
    requests: float | None
    requests_90: float | None


class GateStep(msgspec.Struct, frozen=True):
    """One gate in one step. `required`: the step waits for its proof. `proof`: until it is proven where the
    candidate equals stable; None for a gate that needs none or is not planned. `cell`: the slowest
    comparison. `problem`: why it is not decided within `limit` seconds; `advice`: what to change.
    """

    step: int
    required: bool
    cell: str
    method: str
    proof: Needed | None
    limit: float
    problem: str = ""
    advice: tuple[str, ...] = ()


class Harm(msgspec.Struct, frozen=True):
    """A harm of a size, present from the first step that sees the candidate: how long it goes unfound.

    `seconds`, `exposed`: until it is proven (median, 90 %), and requests that the candidate had answered
    for users until then. None: not within the planned rollout.
    """

    size: str
    seconds: float | None
    seconds_90: float | None
    exposed: float | None
    exposed_90: float | None
    step: int | None


class GatePlan(msgspec.Struct, frozen=True):
    """One gate. `unplanned`: why there is no plan for it."""

    gate: str
    steps: tuple[GateStep, ...]
    harm: Harm | None
    unplanned: str = ""


class StepPlan(msgspec.Struct, frozen=True):
    """One step: how long it lasts (median, 90 %), what holds it longest; None where it never ends.

    `people`: it waits for them, which no plan knows the length of; its seconds are 0.
    """

    number: int
    text: str
    seconds: float | None
    seconds_90: float | None
    held_by: str
    people: bool = False


class Plan(msgspec.Struct, frozen=True):
    """The whole. `reachable`: every required proof comes within its limit at the median."""

    service: str
    policy: str
    reachable: bool
    seconds: float | None
    seconds_90: float | None
    max_duration: float
    rate: float
    baseline_seconds: float
    steps: tuple[StepPlan, ...]
    gates: tuple[GatePlan, ...]
    facts: tuple[Fact, ...]
