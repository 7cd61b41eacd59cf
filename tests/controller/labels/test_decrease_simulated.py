"""Seeded campaigns of gates with `max_decrease` through the whole analysis: less is harm, more never is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from accede.controller.analyse import analyse
from accede.store.rollouts import Outcome
from tests.controller.test_analysis import NOW, Scene, policy

MARGIN = 0.03
LEVEL = 0.05
RATE = 0.85  # of stable
LOOKS = 10
EACH = 400  # labelled requests of an arm between two looks, at 50%
GATES: dict[str, dict[str, Any]] = {
    "down": {"metric": "outcome.accuracy", "max_decrease": "3pp", "in": "canary"},
    "up": {"metric": "outcome.false_positive_rate", "max_increase": "3pp", "in": "canary"},
}


def at_most(runs: int) -> float:
    return LEVEL + 3.0 * math.sqrt(LEVEL * (1.0 - LEVEL) / runs)


def seen(rng: np.random.Generator, gate: dict[str, Any], shift: float) -> set[Outcome]:
    """Every outcome of a gate over the looks at one rollout whose candidate is higher by `shift`."""
    given, scene = policy(gate), Scene()
    found: set[Outcome] = set()
    totals = np.zeros((2, 2, 2))  # epoch, arm, (n, y)
    for look in range(LOOKS):
        epoch = 0 if look < LOOKS // 3 else 1  # first 10%, then 50%
        for arm, rate in enumerate((RATE, RATE + shift)):
            n = EACH if epoch else (EACH // 5, EACH * 9 // 5)[1 - arm]
            totals[epoch, arm] += n, rng.binomial(n, rate)
            n_all, y_all = map(float, totals[epoch, arm])
            scene.put(2 + epoch, "candidate" if arm else "stable", gate["metric"], [n_all], [y_all])
        record = scene.record()
        analysis = analyse(record, given, scene.evidence, (), NOW, intervals=False, told=False)
        found |= {verdict.outcome for verdict in analysis.verdicts}
    return found


def share(direction: str, shift: float, outcome: Outcome, runs: int, seed: int) -> float:
    """How often an outcome is ever seen. `shift`: towards harm where positive."""
    rng = np.random.default_rng(seed)
    signed = -shift if direction == "down" else shift
    return sum(outcome in seen(rng, GATES[direction], signed) for _ in range(runs)) / runs


@pytest.mark.parametrize("direction", list(GATES))
@pytest.mark.parametrize("runs", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_equal_versions_are_called_harmful_at_most_at_the_level(direction: str, runs: int) -> None:
    assert share(direction, 0.0, Outcome.FAIL, runs, seed=41) <= at_most(runs)


@pytest.mark.parametrize("direction", list(GATES))
@pytest.mark.parametrize("runs", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_candidate_at_the_margin_is_called_safe_at_most_at_the_level(direction: str, runs: int) -> None:
    assert share(direction, MARGIN, Outcome.PASS, runs, seed=42) <= at_most(runs)


@pytest.mark.parametrize("direction", list(GATES))
def test_harm_lies_in_one_direction_only(direction: str) -> None:
    assert share(direction, 3.0 * MARGIN, Outcome.FAIL, 20, seed=43) >= 0.95
    assert share(direction, -3.0 * MARGIN, Outcome.FAIL, 20, seed=44) == 0.0
    assert share(direction, -3.0 * MARGIN, Outcome.PASS, 20, seed=45) >= 0.95
