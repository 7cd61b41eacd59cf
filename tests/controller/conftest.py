"""What the controller's tests share: a demo service and policy, and records and looks built in one line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
import pytest

from accede.controller.rollout.operations import start
from accede.controller.rollout.routing import idle_route
from accede.controller.rollout.signals import Look, Signals
from accede.policies.load import parse_policy, parse_service
from accede.policies.policy import RolloutPolicy
from accede.policies.service import ModelService
from accede.store.rollouts import (
    Analysis,
    EpochRecord,
    FrozenConstants,
    Outcome,
    Phase,
    RolloutRecord,
    Validity,
    Verdict,
)
from accede.store.routes import ServiceRoute

SERVICE = """
format: accede/v1
kind: ModelService
name: fraud
match: {path: /v1/models/fraud}
protocol: tensorflow-serving
versions:
  "42": {url: "http://127.0.0.1:8501", card: {trained_on: transactions-2026-02}}
  "43": {url: "http://127.0.0.1:8502", card: {trained_on: transactions-2026-05}}
  "44": {url: "http://127.0.0.1:8503"}
stable: "42"
side_effects: none
prediction: {range: [0, 1], selected: ">= 0.5", agree_within: 0.05}
slices:
  sex: {path: "instances[*].sex", values: [female, male]}
limits: {deadline: 2s}
policy: guarded
"""

POLICY = """
format: accede/v1
kind: RolloutPolicy
name: careful
baseline: {requests: 100, for: 10s}
max_duration: 1h
steps:
  - {shadow: 50%, until: gates, for: 20s, requests: 50, deadline: 5m}
  - {canary: 5%, for: 20s, requests: 50, deadline: 5m}
  - {canary: 50%, until: gates, for: 20s, requests: 50, deadline: 5m}
gates:
  - {metric: errors, max_increase: 1pp, in: canary}
  - {metric: prediction.agreement, min: 90%, in: shadow}
  - {metric: selection_rate, by: sex, max_shift: 3pp, on_fail: pause}
  - {metric: latency.p95, max_ratio: 1.5, require: no-harm}
  - {metric: prediction.missing, max_increase: 1pp, require: nothing}
on_error: {action: rollback, after: 60s}
"""

CONSTANTS = FrozenConstants(
    limits=(0.0, 1.0),
    centres={"mean|": 0.4},
    deviations={"mean|": 0.2},
    quantiles={"latency.p95": 0.05},
    edges=tuple(k / 10 for k in range(1, 10)),
    requests=120,
)

# gate index -> where the policy above decides it
DECIDED: dict[int, tuple[Literal["shadow", "canary"], ...]] = {
    0: ("canary",),
    1: ("shadow",),
    2: ("shadow", "canary"),
    3: ("canary",),
    4: ("shadow", "canary"),
}


@dataclass(frozen=True)
class Story:
    """Builders for one service under one policy."""

    service: ModelService
    policy: RolloutPolicy

    def varied(self, **changes: Any) -> Story:
        """The same with another policy."""
        return replace(self, policy=self.policy.model_copy(update=changes))

    def idle(self) -> ServiceRoute:
        return idle_route(self.service, "42", None)

    def started(self, now: float = 1000.0) -> RolloutRecord:
        record = start(self.service, self.policy, "43", self.idle(), (), "anna", now).record
        assert record is not None
        return record

    def at(self, step: int | None, now: float = 1000.0, **changes: Any) -> RolloutRecord:
        """A record whose step (None: the baseline) began at `now`."""
        record = msgspec.structs.replace(self.started(now))
        if step is not None:
            chosen = self.policy.steps[step]
            epoch = EpochRecord(
                step + 1,
                step,
                "shadow" if chosen.shadow else "canary",
                0.0 if chosen.shadow else chosen.share,
                chosen.shadow or 0.0,
                now,
            )
            record = msgspec.structs.replace(
                record,
                phase=Phase(chosen.place), phase_since=now, step=step, step_since=now, epoch=step + 1,
                epochs=(*record.epochs, epoch), constants=CONSTANTS,
            )  # fmt: skip
        return msgspec.structs.replace(record, **changes)

    def verdict(self, index: int, place: Any, outcome: Outcome, *, last: bool = True) -> Verdict:
        gate = self.policy.gates[index]
        return Verdict(
            gate=gate.metric, index=index, place=place, outcome=outcome, reason=f"is {outcome.value}",
            proven_last_weight=last and outcome is Outcome.PASS,
        )  # fmt: skip

    def analysis(
        self,
        outcome: Outcome = Outcome.PASS,
        *,
        odd: dict[tuple[int, str], Outcome | None] | None = None,
        last: bool = True,
        requests: int = 1000,
        validity: tuple[Validity, ...] = (),
        at: float = 0.0,
    ) -> Analysis:
        """Every gate with `outcome` wherever it decides, but for the `odd` ones; None: no verdict at all."""
        odd = odd or {}
        verdicts = []
        for index, where in DECIDED.items():
            if index >= len(self.policy.gates):
                continue
            for place in where:
                chosen = odd.get((index, place), outcome)
                if chosen is not None:
                    verdicts.append(self.verdict(index, place, chosen, last=last))
        return Analysis(at, tuple(verdicts), validity, candidate_requests=requests, stable_requests=requests)

    def look(self, analysis: Analysis | None = None, **fields: Any) -> Look:
        return Look(analysis or self.analysis(), fields.pop("signals", Signals()), **fields)


@pytest.fixture(scope="session")
def story() -> Story:
    return Story(parse_service(SERVICE), parse_policy(POLICY))


@pytest.fixture(scope="session")
def constants() -> FrozenConstants:
    return CONSTANTS


@pytest.fixture(scope="session")
def declared_files() -> dict[str, str]:
    """File name -> text, for directories that a controller reads."""
    return {"fraud.yaml": SERVICE, "careful.yaml": POLICY}
