"""Seeded campaigns of whole policies: sticky users, a shadow that decides, divergence beyond stable's noise.

As test_policies_simulated, which draws the traffic: is an equal candidate promoted, is each class of harm
rolled back, and how many requests of users, or copies, met it until then?
"""

from __future__ import annotations

from statistics import median
from typing import Any

import pytest

from accede.store.rollouts import Phase
from tests.controller.test_policies_simulated import GUARDED, World, at_most, campaign, told

STICKY: dict[str, Any] = {
    **GUARDED,
    "name": "sticky users",
    "steps": (
        {"canary": "5%", "for": "1m", "requests": 500},
        {"canary": "25%", "for": "1m", "requests": 500},
        {"canary": "50%", "until": "gates", "for": "1m", "deadline": "15m"},
    ),
    "gates": (
        {"metric": "errors", "max_increase": "0.5pp", "max_ratio": 1.5},
        {"metric": "latency.p95", "max_ratio": 1.2},
        {"metric": "selection_rate", "by": "sex", "max_shift": "8pp"},
    ),
}
SHADOW: dict[str, Any] = {
    **GUARDED,
    "name": "decided in the shadow",
    "steps": (
        {"shadow": "100%", "until": "gates", "for": "1m", "deadline": "20m"},
        {"canary": "50%", "for": "1m", "requests": 500},
    ),
    "gates": (
        {"metric": "errors", "max_increase": "0.5pp", "max_ratio": 1.5, "in": "shadow"},
        {"metric": "prediction.mean", "max_shift": "0.1sd", "in": "shadow"},
        {"metric": "prediction.agreement", "min": "90%", "in": "shadow"},
        {"metric": "selection_rate", "by": "sex", "max_shift": "3pp", "in": "shadow"},
    ),
}
DIVERGENCE: dict[str, Any] = {
    **SHADOW,
    "name": "against stable's own noise",
    "gates": ({"metric": "prediction.divergence", "max_increase": "4pp", "in": "shadow"},),
}

USERS = World(users=8000, rate=200.0)
TWICE = World(again=0.2)

# Policy, the equal world, and what a candidate does by class of harm, with the gate that has to name it.
CASES: dict[str, tuple[dict[str, Any], World, dict[str, tuple[dict[str, Any], str]]]] = {
    "sticky": (
        STICKY, USERS,
        {
            "errors x3": ({"error_ratio": 3.0}, "errors"),
            "latency x1.6": ({"latency": 1.6}, "latency.p95"),
            "a slice selected 20pp less": ({"female": -0.2}, "sex=female"),
        },
    ),
    "shadow": (
        SHADOW, World(),
        {
            "errors x3": ({"error_ratio": 3.0}, "errors"),
            "scores +0.3 sd": ({"shift": 0.3}, "prediction.mean"),
            "agreement 80%": ({"agreement": 0.8}, "prediction.agreement"),
            "a slice selected 9pp less": ({"female": -0.09}, "sex=female"),
        },
    ),
    "divergence": (DIVERGENCE, TWICE, {"diverges by 8pp": ({"agreement": 0.89}, "prediction.divergence")}),
}  # fmt: skip
HARMS = [(case, harm) for case, (_, _, harms) in CASES.items() for harm in harms]


def judge_equal(case: str, runs: int, every: float, seed: int) -> None:
    policy, world, _ = CASES[case]
    phases = told(f"{case}, equal", campaign(policy, world, runs, seed, every))
    assert phases[Phase.PROMOTED] / runs >= 0.95
    assert phases[Phase.ROLLED_BACK] / runs <= at_most(0.05, runs)


def judge_harm(case: str, harm: str, runs: int, every: float, seed: int) -> None:
    policy, world, harms = CASES[case]
    changes, named = harms[harm]
    ends = campaign(policy, World(**{**_fields(world), **changes}), runs, seed, every)
    told(f"{case}, {harm}", ends)
    caught = [end for end in ends if end.phase is Phase.ROLLED_BACK and named in end.reason]
    exposed, paired = median(end.exposed for end in ends), median(end.paired for end in ends)
    print(f"    exposed until then: {exposed:.0f} requests of users, {paired:.0f} copies (medians)")
    assert len(caught) / runs >= 0.95


def _fields(world: World) -> dict[str, Any]:
    return {name: getattr(world, name) for name in world.__dataclass_fields__}


@pytest.mark.parametrize("case", CASES)
def test_quick_equal_candidates_are_promoted(case: str) -> None:
    judge_equal(case, runs=4, every=60.0, seed=1)


@pytest.mark.parametrize(("case", "harm"), [("sticky", "errors x3"), ("divergence", "diverges by 8pp")])
def test_quick_harm_is_rolled_back(case: str, harm: str) -> None:
    judge_harm(case, harm, runs=4, every=30.0, seed=2)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", CASES)
def test_equal_candidates_are_promoted(case: str) -> None:
    judge_equal(case, runs=200, every=60.0, seed=31)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("case", "harm"), HARMS)
def test_harmful_candidates_are_rolled_back(case: str, harm: str) -> None:
    judge_harm(case, harm, runs=120, every=30.0, seed=32)
