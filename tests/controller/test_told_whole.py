"""From bodies to verdicts: what a router adds up is what the controller plans, freezes and decides."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from accede.controller.analyse import analyse
from accede.controller.analysis.freeze import freeze
from accede.controller.rollout.measuring import measurement_plan
from accede.policies.load import parse_policy, parse_service
from accede.policies.pair_rules import require_pair
from accede.router.facts import PAIR_FLOOR, PAIR_SHADOW, Body, Ending, Fact, Pair
from accede.router.observer.fold import Fold
from accede.store.evidence import Evidence
from accede.store.measurement import MeasurementPlan
from accede.store.rollouts import EpochRecord, FrozenConstants, Outcome
from accede.store.routes import WIRE, Arm, ServiceRoute
from tests.controller.test_analysis import Scene

SERVICE = """
format: accede/v1
kind: ModelService
name: s
match: {path: /s}
protocol: json
versions: {"1": {url: "http://a"}, "2": {url: "http://b"}}
stable: "1"
side_effects: none
prediction: {path: y, range: [0, 1000], agree_within: 0.5}
uncertainty: {path: sd}
explanation: {path: why}
metrics: {refused: {path: refused, type: share}, cost: {path: cost, type: number, range: [0, 10]}}
mirror: {noise_floor: 20%}
"""
POLICY = """
format: accede/v1
kind: RolloutPolicy
name: p
baseline: {requests: 1000, for: 1s}
batch: 1s
steps: [{shadow: 100%, until: gates}, {canary: 50%}]
gates:
  - {metric: prediction.rank, max_shift: 0.3sd, in: shadow}
  - {metric: metrics.refused, max_shift: 5pp, in: shadow}
  - {metric: metrics.cost, max_shift: 0.5, in: shadow}
  - {metric: uncertainty.mean, max_shift: 1, in: shadow}
  - {metric: explanation.agreement, min: 80%, in: shadow}
  - {metric: prediction.divergence, max_increase: 10pp, in: shadow}
"""
GATES = ("rank", "refused", "cost", "uncertainty", "explanation", "divergence")


def answer(rng: np.random.Generator, base: float, harm: str) -> bytes:
    shifted = base * (3.0 if harm == "rank" else 1.0)
    noisy = rng.random() < (0.6 if harm == "divergence" else 0.2)
    why = {"a": 3.0, "b": 2.0, "c": 1.0 + rng.random() * 0.5}
    said: dict[str, Any] = {
        "y": shifted + (1.0 if noisy else 0.0),
        "sd": 5.0 + (4.0 if harm == "uncertainty" else 0.0) + rng.random(),
        "refused": bool(rng.random() < (0.4 if harm == "refused" else 0.1)),
        "cost": min(10.0, 2.0 + rng.random() + (2.0 if harm == "cost" else 0.0)),
        "why": {"a": 0.0, "b": 1.0, "c": 2.0} if harm == "explanation" else why,
    }
    return json.dumps(said).encode()


def folded(plan: MeasurementPlan) -> Fold:
    arms = (Arm("stable", "1", ("http://a",), 10_000), Arm("candidate", "2", ("http://b",), 0))
    route = ServiceRoute(
        wire=WIRE, service="s", generation=1, path="/", host=None, protocol="json", arms=arms, plan=plan
    )
    return Fold(route, plan)


def seen(fold: Fold, plan: MeasurementPlan, harm: str, seed: int) -> Evidence:
    rng = np.random.default_rng(seed)
    for number in range(4500):
        at = number / 45.0
        base = float(np.exp(rng.normal(2.0, 1.0)))
        stable = answer(rng, base, "")
        fact = Fact(number, 0, 0, 0, at, Ending.ANSWERED, 200, 0.1, -1, False, 1, 10, 10)
        fold.add(fact, fold.read(fact, Body(number, b"{}", stable, "", "")))
        if plan.stage == "baseline":
            continue
        kinds = [(PAIR_SHADOW, harm), *([(PAIR_FLOOR, "")] if number % 5 == 0 else [])]
        for kind, how in kinds:
            pair = Pair(
                number, 0, at, Ending.ANSWERED, 200, 0.1, Ending.ANSWERED, 200, 0.1, False, b"{}",
                stable, answer(rng, base, how), "", "", "", kind,
            )  # fmt: skip
            fold.add_pair(pair, fold.read_pair(pair))
    return fold.evidence("a:b", 200.0, 200.0, {})


@pytest.mark.parametrize("harm", ["", *GATES])
def test_each_harm_fails_its_gate_and_none_passes_all(harm: str) -> None:
    service, policy = parse_service(SERVICE), parse_policy(POLICY)
    require_pair(service, policy)
    before = EpochRecord(0, None, "baseline", 0.0, 0.0, 0.0)
    first = measurement_plan(None, policy, service, before, None)
    constants = freeze(policy, service, seen(folded(first), first, "", 1))
    assert isinstance(constants, FrozenConstants), constants
    epoch = EpochRecord(1, 0, "shadow", 0.0, 1.0, 100.0)
    plan = measurement_plan(None, policy, service, epoch, constants)
    assert plan.floor
    evidence = seen(folded(plan), plan, harm, 2)
    record = msgspec.structs.replace(Scene().record(), epochs=(before, epoch), constants=constants, step=0)
    verdicts = analyse(record, policy, {1: evidence}, (), 300.0).verdicts
    got: dict[str, Outcome] = dict(zip(GATES, (verdict.outcome for verdict in verdicts), strict=True))
    if not harm:
        assert set(got.values()) == {Outcome.PASS}, [verdict.reason for verdict in verdicts]
    else:
        assert got[harm] is Outcome.FAIL, [verdict.reason for verdict in verdicts]
