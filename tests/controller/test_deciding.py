"""The rules of deciding, for every kind of gate: what fails a candidate, what promotes it, and when."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from accede.controller.analysis.cells import cells_of
from accede.policies.metrics import MARGIN_KEYS, with_default_margins
from accede.policies.policy import Gate, RolloutPolicy
from accede.policies.policy_rules import advice
from accede.policies.quantities import Margin
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import FrozenConstants, Outcome
from tests.controller.test_analysis import CONSTANTS, Scene, policy

Fill = Callable[[Scene, int, bool], Scene]

STICKY = msgspec.structs.replace(CONSTANTS, sticky=True)
STEPS: tuple[dict[str, Any], ...] = (
    {"shadow": "100%"}, {"canary": "10%", "mirror_back": "50%"}, {"canary": "50%", "mirror_back": "50%"},
)  # fmt: skip
NEW_KINDS: tuple[dict[str, Any], ...] = (
    {"metric": "selection_gap", "by": "sex", "max_increase": "3pp"},
    {"metric": "selection_ratio", "by": "sex", "min": 0.8},
    {"metric": "prediction.divergence", "max_increase": "2pp"},
    {"metric": "prediction.rank", "max_shift": "0.1sd"},
    {"metric": "uncertainty.mean", "max_shift": "0.1sd"},
    {"metric": "explanation.agreement", "min": "90%"},
    {"metric": "class_share.yes", "max_shift": "3pp"},
    {"metric": "stream.truncated", "max_increase": "0.5pp"},
)


def share(number: int) -> float:
    return 9.0 if number == 2 else 1.0


def errors(scene: Scene, number: int, harmful: bool) -> Scene:
    return scene.clustered(
        number, "errors", (300.0, 0.05 if harmful else 0.01), (300.0 * share(number), 0.01)
    )


def latency(scene: Scene, number: int, harmful: bool) -> Scene:
    for part, fine in (("over", 0.05), ("mid", 0.03), ("far", 0.02)):
        scene.clustered(
            number, f"latency.p95.{part}", (200.0, 0.3 if harmful else fine), (200.0 * share(number), fine)
        )
    return scene


def means(scene: Scene, number: int, harmful: bool) -> Scene:
    return scene.means(number, 20_000.0, 0.06 if harmful else 0.0)


def units(scene: Scene, number: int, harmful: bool) -> Scene:
    """By clusters of users, whose own means differ."""
    rng = np.random.default_rng(number)
    for arm, n, mean in (
        ("candidate", 200.0, 0.56 if harmful else 0.5), ("stable", 200.0 * share(number), 0.5)
    ):  # fmt: skip
        y = n * (mean + 0.02 * rng.uniform(-1.0, 1.0, CLUSTERS))
        many = [n] * CLUSTERS
        scene.put(number, arm, "mean", many, list(y), list(y * y / n + 0.03 * n))  # type: ignore[arg-type]
    return scene


def by_group(scene: Scene, number: int, harmful: bool) -> Scene:
    for group in ("sex=female", "sex=male"):
        harmed = harmful and group == "sex=female"
        scene.means(number, 20_000.0, -0.1 if harmed else 0.0, "selected", group, 0.3)
    return scene


def agreement(scene: Scene, number: int, harmful: bool) -> Scene:
    y = [200.0 - (60.0 if harmful else 4.0) * (1.0 + 0.2 * (-1) ** k) for k in range(CLUSTERS)]
    return scene.put(number, "pair", "agreement", [200.0] * CLUSTERS, y)


def divergence(scene: Scene, number: int, harmful: bool) -> Scene:
    rng = np.random.default_rng(number)
    for arm, n, rate in (("pair", 400, 0.15 if harmful else 0.02), ("floor", 400, 0.02)):
        y = n - rng.binomial(n, rate, CLUSTERS)
        scene.put(number, arm, "agreement", [float(n)] * CLUSTERS, [float(one) for one in y])  # type: ignore[arg-type]
    return scene


KINDS: dict[str, tuple[dict[str, Any], Fill, FrozenConstants]] = {
    "time clusters": ({"metric": "errors", "max_increase": "1pp"}, errors, CONSTANTS),
    "ratio": ({"metric": "errors", "max_ratio": 1.5}, errors, CONSTANTS),
    "two limits": ({"metric": "errors", "max_increase": "0.5pp", "max_ratio": 1.5}, errors, CONSTANTS),
    "latency": ({"metric": "latency.p95", "max_ratio": 1.2}, latency, CONSTANTS),
    "bounded mean": ({"metric": "prediction.mean", "max_shift": "0.1sd"}, means, CONSTANTS),
    "clusters of units": ({"metric": "prediction.mean", "max_shift": "0.1sd"}, units, STICKY),
    "slices": ({"metric": "selection_rate", "by": "sex", "max_shift": "3pp"}, by_group, CONSTANTS),
    "gap of groups": ({"metric": "selection_gap", "by": "sex", "max_increase": "3pp"}, by_group, CONSTANTS),
    "ratio of groups": ({"metric": "selection_ratio", "by": "sex", "min": 0.8}, by_group, CONSTANTS),
    "mirrored back": ({"metric": "prediction.agreement", "min": "90%"}, agreement, CONSTANTS),
    "divergence": ({"metric": "prediction.divergence", "max_increase": "4pp"}, divergence, CONSTANTS),
}
KIND = pytest.mark.parametrize("kind", KINDS)


def given(kind: str, **more: Any) -> tuple[Scene, RolloutPolicy, Fill]:
    gate, fill, constants = KINDS[kind]
    return Scene(constants=constants), policy({**gate, "in": "canary"}, steps=STEPS, **more), fill


# --- rollback and promotion -----------------------------------------------------------------------------


@KIND
def test_harm_of_the_last_weight_is_found_behind_a_fine_one(kind: str) -> None:
    """E is carried over the planned steps: the mean of those since each, so at least half the last one's."""
    scene, rules, fill = given(kind)
    late = fill(fill(scene, 2, False), 3, True).verdict(rules)
    assert late.outcome is Outcome.FAIL, late.reason
    alone = fill(given(kind)[0], 3, True).verdict(rules)
    both = fill(fill(given(kind)[0], 2, True), 3, True).verdict(rules)
    assert (alone.outcome, both.outcome) == (Outcome.FAIL, Outcome.FAIL)
    most = [
        max(finding.log_e_harm for finding in verdict.findings if finding.log_e_harm is not None)
        for verdict in (late, alone)
    ]
    assert most[0] >= most[1] - math.log(2.0) - 1e-9


@KIND
def test_proof_is_over_all_weights_and_on_the_last_one_alone(kind: str) -> None:
    scene, rules, fill = given(kind)
    early = fill(scene, 2, False).verdict(rules)
    assert early.outcome is Outcome.PASS, early.reason
    assert not early.proven_last_weight
    whole = fill(scene, 3, False).verdict(rules)
    assert whole.outcome is Outcome.PASS
    assert whole.proven_last_weight


@KIND
def test_harm_of_an_advisory_gate_never_fails_and_asks_for_no_level(kind: str) -> None:
    gate, fill, constants = KINDS[kind]
    rules = policy({**gate, "in": "canary", "require": "nothing"}, steps=STEPS)
    verdict = fill(fill(Scene(constants=constants), 2, True), 3, True).verdict(rules)
    assert verdict.outcome is not Outcome.FAIL
    assert {finding.log_needed_harm for finding in verdict.findings} == {None}


# --- levels -----------------------------------------------------------------------------------------------


@KIND
@pytest.mark.parametrize("attempt", [0, 1, 3])
def test_levels_are_the_cells_share_and_halve_with_each_attempt(kind: str, attempt: int) -> None:
    scene, rules, fill = given(kind, risk={"false_rollback": "4%", "false_promotion": "2%"})
    scene.attempt = attempt
    verdict = fill(fill(scene, 2, False), 3, False).verdict(rules)
    weights = [cell.weight for cell in cells_of(rules, KINDS[kind][2])]
    assert len(weights) == len(verdict.findings)
    for weight, finding in zip(weights, verdict.findings, strict=True):
        assert finding.log_needed_harm == pytest.approx(-math.log(0.04 * 0.5**attempt * weight))
        assert finding.log_needed_safe == pytest.approx(-math.log(0.02 * 0.5**attempt))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in {"latency", "slices"}])
def test_the_ends_shown_are_those_that_decide(kind: str) -> None:
    """One end moves with the level of rollback alone, the other with that of promotion alone."""

    def ends(**risk: str) -> tuple[float, float]:
        scene, rules, fill = given(kind, risk=risk)
        finding = fill(fill(scene, 2, False), 3, False).verdict(rules).findings[0]
        assert finding.low is not None
        assert finding.high is not None
        near, far = finding.low, finding.high
        return (far, near) if KINDS[kind][0].get("min") is not None else (near, far)

    usual = ends(false_rollback="5%", false_promotion="5%")
    rollback = ends(false_rollback="1%", false_promotion="5%")
    promotion = ends(false_rollback="5%", false_promotion="1%")
    assert rollback[1] == usual[1]
    assert abs(rollback[0]) != abs(usual[0])
    assert promotion[0] == usual[0]
    assert abs(promotion[1]) != abs(usual[1])


def test_the_weights_of_all_cells_of_old_and_new_kinds_sum_to_one() -> None:
    constants = msgspec.structs.replace(
        CONSTANTS, classes=("yes", "no"), deviations={"mean|": 0.2, "rank|": 0.3, "uncertainty|": 0.1}
    )
    gates = ({"metric": "errors", "max_ratio": 1.5}, {"metric": "latency.p95", "max_ratio": 1.2}, *NEW_KINDS)
    cells = cells_of(policy(*gates, steps=STEPS), constants)
    assert sum(cell.weight for cell in cells) == pytest.approx(1.0)
    assert {cell.gate.metric for cell in cells} == {gate["metric"] for gate in gates}
    primary = sum(cell.weight for cell in cells if cell.gate.metric in {"errors", "latency.p95"})
    assert primary == pytest.approx(0.5)
    quiet = cells_of(policy(*gates, {**NEW_KINDS[0], "require": "nothing"}, steps=STEPS), constants)
    assert sum(cell.weight for cell in quiet) == pytest.approx(1.0)
    assert {cell.weight for cell in quiet if cell.gate.require == "nothing"} == {0.0}


# --- two-sided gates --------------------------------------------------------------------------------------


def test_a_shift_is_two_cells_at_half_the_weight_and_both_must_be_proven() -> None:
    scene, rules, _ = given("bounded mean")
    up, down = cells_of(rules, CONSTANTS)
    assert (up.direction, down.direction) == ("up", "down")
    assert up.weight == down.weight == pytest.approx(0.5)
    verdict = scene.means(3, 4_000.0, 0.009).verdict(rules)  # nearer to the margin on one side
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert {finding.cell.rpartition(" ")[2]: finding.outcome for finding in verdict.findings} == {
        "up": Outcome.INCONCLUSIVE, "down": Outcome.PASS,
    }  # fmt: skip


@pytest.mark.parametrize("shift", [0.06, -0.06])
def test_a_shift_beyond_the_margin_fails_whichever_way_and_is_told_so(shift: float) -> None:
    scene, rules, _ = given("bounded mean")
    verdict = scene.means(3, 20_000.0, shift).verdict(rules)
    assert verdict.outcome is Outcome.FAIL
    assert "a shift either way is harm here, an improvement too" in verdict.reason
    one_sided = errors(Scene(), 3, True).verdict(policy({"metric": "errors", "max_increase": "1pp"}))
    assert "either way" not in one_sided.reason


# --- minima and defaults ----------------------------------------------------------------------------------


def test_steps_ask_for_500_requests_and_ten_minutes_and_less_is_warned_of() -> None:
    usual = policy(KINDS["time clusters"][0], steps=STEPS)
    assert {(step.requests, step.duration) for step in usual.steps if step.place == "canary"} == {
        (500, 600.0)
    }
    assert advice(usual) == ()
    for less in ({"requests": 499}, {"for": "599s"}):
        lines = advice(policy(KINDS["time clusters"][0], steps=({"canary": "50%", **less},)))
        assert len(lines) == 1
        assert lines[0].startswith(f"steps[0].{next(iter(less))}: ")


@pytest.mark.parametrize(
    ("metric", "default"),
    [
        ("errors", {"max_ratio": 1.5, "max_increase": Margin(value=0.005, unit="pp")}),
        ("latency.p50", {"max_ratio": 1.1}),
        ("latency.p95", {"max_ratio": 1.1}),
        ("latency.p99", {"max_ratio": 1.2}),
        ("prediction.mean", {"max_shift": Margin(value=0.1, unit="sd")}),
        ("selection_rate", {"max_shift": Margin(value=0.03, unit="pp")}),
    ],
)
def test_the_margins_of_a_gate_that_gives_none(metric: str, default: dict[str, Any]) -> None:
    gate = with_default_margins(Gate.model_validate({"metric": metric}))
    assert {key: getattr(gate, key) for key in MARGIN_KEYS if getattr(gate, key) is not None} == default


def test_the_levels_of_a_policy_that_gives_none() -> None:
    risk = policy(KINDS["time clusters"][0]).risk
    assert (risk.false_rollback, risk.false_promotion) == (0.05, 0.05)
