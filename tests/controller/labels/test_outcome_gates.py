"""Gates on outcomes, from sums of labels to verdicts."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from accede.controller.analysis.cells import cells_of, display_of, limits_of
from accede.controller.analysis.freeze import freeze
from accede.store.evidence import ArmCounts, ArmKey, MirrorCounts
from accede.store.histogram import value_bin
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import FrozenConstants, Outcome, Verdict
from tests.controller.test_analysis import CONSTANTS, Scene, policy
from tests.controller.test_freeze import baseline, frozen, service
from tests.controller.test_freeze import policy as plain_policy

ACCURACY = {"metric": "outcome.accuracy", "max_decrease": "2pp", "in": "canary"}
BRIER = {"metric": "outcome.brier", "max_increase": 0.02, "in": "canary"}
CALIBRATION = {"metric": "outcome.calibration", "max_shift": 0.03, "in": "canary"}
INSIDE = {"metric": "uncertainty.coverage", "min": "90%", "in": "canary"}


def known(**changes: Any) -> FrozenConstants:
    return msgspec.structs.replace(CONSTANTS, **changes)


def arms(
    scene: Scene, metric: str, n: float, candidate: float, stable: float, *, sd: float | None = None
) -> Scene:
    """`n` observations of either arm in the last epoch (weight 50%), with means; shares without an sd."""
    each: tuple[tuple[ArmKey, float], ...] = (("candidate", candidate), ("stable", stable))
    for arm, mean in each:
        square = n * mean if sd is None else n * (mean * mean + sd * sd)
        scene.put(3, arm, metric, [n], [n * mean], [square])
    return scene


def mature(scene: Scene, n: float, candidate: float = 0.9, stable: float = 0.9, chosen: float = 0.0) -> Scene:
    """`n` mature predictions of either arm, a share labelled; `chosen`: all of so many selected."""
    each: tuple[tuple[ArmKey, float], ...] = (("candidate", candidate), ("stable", stable))
    for arm, share in each:
        scene.put(3, arm, "labelled", [n], [n * share])
        if chosen:
            scene.put(3, arm, "labelled.selected", [chosen], [n * share])
    return scene


def only(scene: Scene, gate: dict[str, Any]) -> Verdict:
    (verdict,) = scene.analysis(policy(gate)).verdicts
    return verdict


@pytest.mark.parametrize(
    ("gate", "bad", "good", "sd"),
    [
        (ACCURACY, 0.80, 0.90, None),
        ({"metric": "outcome.recall", "max_decrease": "2pp", "in": "canary"}, 0.80, 0.90, None),
        ({"metric": "outcome.false_positive_rate", "max_increase": "2pp", "in": "canary"}, 0.99, 0.90, None),
        (BRIER, 0.95, 0.90, 0.1),
        (CALIBRATION, 0.93, 0.90, 0.1),
        (CALIBRATION, 0.87, 0.90, 0.1),
    ],
)
def test_a_worse_candidate_fails_and_an_equal_one_passes(
    gate: dict[str, Any], bad: float, good: float, sd: float | None
) -> None:
    metric = gate["metric"]
    worse = only(arms(mature(Scene(), 30000), metric, 20000, bad, 0.90, sd=sd), gate)
    assert worse.outcome is Outcome.FAIL, worse.reason
    equal = only(arms(mature(Scene(), 30000), metric, 20000, good, 0.90, sd=sd), gate)
    assert equal.outcome is Outcome.PASS, equal.reason


def test_a_better_candidate_is_no_harm_where_only_a_decrease_is() -> None:
    better = only(arms(mature(Scene(), 30000), "outcome.accuracy", 20000, 0.99, 0.90), ACCURACY)
    assert better.outcome is Outcome.PASS


def test_coverage_of_stated_intervals_is_the_candidates_own() -> None:
    for share, outcome in ((0.95, Outcome.PASS), (0.85, Outcome.FAIL), (0.90, Outcome.INCONCLUSIVE)):
        got = only(arms(mature(Scene(), 3000), "uncertainty.coverage", 2000, share, 0.5), INSIDE)
        assert got.outcome is outcome, got.reason
        assert got.findings[0].estimate == pytest.approx(100 * share)


def test_coverage_over_clusters_of_units() -> None:
    rng = np.random.default_rng(3)
    for share, outcome in ((0.96, Outcome.PASS), (0.80, Outcome.FAIL)):
        scene = Scene(known(sticky=True))
        y = list(map(float, rng.binomial(40, share, CLUSTERS)))
        scene.put(3, "candidate", "uncertainty.coverage", [40.0] * CLUSTERS, y)
        assert only(scene, INSIDE).outcome is outcome


def test_pairs_in_a_shadow_decide_the_same() -> None:
    gate = {"metric": "outcome.brier", "max_increase": 0.02, "in": "shadow"}
    for shift, outcome in ((0.06, Outcome.FAIL), (0.0, Outcome.PASS)):
        scene = Scene(step=0).paired("outcome.brier", 400, shift, 0.01, clusters=60)
        assert only(scene, gate).outcome is outcome


def test_an_open_gate_says_how_many_labels_it_has() -> None:
    got = only(arms(mature(Scene(), 400, 0.1, 0.1), "outcome.accuracy", 40, 0.9, 0.9), ACCURACY)
    assert got.outcome is Outcome.INCONCLUSIVE
    assert got.reason.endswith("40 labels of 400 mature predictions")
    assert only(Scene(), ACCURACY).reason.endswith("0 labels of 0 mature predictions")


def test_labels_that_come_for_one_arm_more_often_decide_nothing() -> None:
    got = only(arms(mature(Scene(), 3000, 0.8, 0.9), "outcome.accuracy", 2500, 0.5, 0.9), ACCURACY)
    assert got.outcome is Outcome.INCONCLUSIVE
    assert "10.0% fewer of the candidate's predictions have a label" in got.reason
    chance = only(arms(mature(Scene(), 30000, 0.89, 0.9), "outcome.accuracy", 25000, 0.5, 0.9), ACCURACY)
    assert chance.outcome is Outcome.FAIL


def test_labels_of_selected_predictions_alone_decide_nothing() -> None:
    scene = arms(mature(Scene(), 3000, 0.2, 0.2, chosen=800), "outcome.accuracy", 600, 0.5, 0.9)
    got = only(scene, ACCURACY)
    assert got.outcome is Outcome.INCONCLUSIVE
    assert "selective labels: 75% of the selected predictions have one and 0.0% of the others" in got.reason


def test_labels_of_another_length_are_named() -> None:
    scene = mature(Scene(), 3000).put(3, "candidate", "labelled.mismatched", [200.0], [200.0])
    assert "another number of values" in only(scene, ACCURACY).reason


def test_a_watched_gate_without_any_label_is_an_error_once_predictions_are_mature() -> None:
    gate = {**ACCURACY, "require": "no-harm"}
    proof = {"metric": "errors", "max_increase": "1pp"}
    young = Scene().analysis(policy(gate, proof)).verdicts[0]
    assert young.outcome is Outcome.INCONCLUSIVE
    silent = mature(Scene(), 3000, 0.0, 0.0).analysis(policy(gate, proof)).verdicts[0]
    assert silent.outcome is Outcome.ERROR


def test_margins_are_in_the_metrics_own_unit() -> None:
    constants = known(limits=(0.0, 200.0))
    for place, halved in (("canary", 2.0), ("shadow", 1.0)):
        (up, _) = cells_of(
            policy({"metric": "outcome.calibration", "max_shift": 4.0, "in": place}), constants
        )
        assert limits_of(up, constants)[0].margin == pytest.approx(4.0 / 200.0 / halved)
        assert display_of(up, constants).factor == pytest.approx(200.0 * halved)
    (brier,) = cells_of(policy(BRIER), constants)
    assert limits_of(brier, constants)[0].margin == pytest.approx(0.02)
    (accuracy,) = cells_of(policy(ACCURACY), constants)
    assert accuracy.direction == "down"
    assert limits_of(accuracy, constants)[0].margin == pytest.approx(0.02)


def test_before_any_label_stable_is_taken_as_calibrated() -> None:
    values = {value_bin(p): 100 for p in (0.2, 0.4, 0.6, 0.8)}
    gates: list[dict[str, Any]] = [
        ACCURACY, BRIER, CALIBRATION, {"metric": "outcome.recall", "max_decrease": "2pp"},
        {"metric": "outcome.false_positive_rate", "max_increase": "2pp"},
    ]  # fmt: skip
    found = frozen(freeze(plain_policy(*gates), service(range=(0.0, 1.0)), baseline(values=values)))
    p = np.array([0.2, 0.4, 0.6, 0.8])
    draw = np.random.default_rng(1).random((200_000, 4)) < p
    brier = (p - draw) ** 2
    assert found.centres["outcome.accuracy|"] == pytest.approx(0.7, abs=0.01)
    assert found.centres["outcome.brier|"] == pytest.approx(brier.mean(), abs=0.01)
    assert found.deviations["outcome.brier|"] == pytest.approx(brier.std(), abs=0.01)
    assert found.centres["outcome.recall|"] == pytest.approx(0.7, abs=0.01)
    assert found.centres["outcome.false_positive_rate|"] == pytest.approx(0.3, abs=0.01)
    assert found.centres["outcome.calibration|"] == pytest.approx(0.5)
    assert found.deviations["outcome.calibration|"] == pytest.approx((p - draw).std() / 2, abs=0.01)


def test_a_decrease_is_told_as_one() -> None:
    worse = only(arms(mature(Scene(), 30000), "outcome.accuracy", 20000, 0.80, 0.90), ACCURACY)
    (finding,) = worse.findings
    assert worse.gate == "outcome.accuracy max_decrease 2pp"
    assert (finding.cell, finding.unit) == ("outcome.accuracy", "pp")
    assert finding.estimate == pytest.approx(-10.0, abs=0.1)
    assert finding.margin == pytest.approx(-2.0)
    assert finding.harm_at == pytest.approx(-1.0)
    assert finding.high is not None
    assert finding.high < -1.0
    assert "−10pp" in worse.reason
    assert "margin 2pp: harm proven" in worse.reason
    assert "either way" not in worse.reason


def test_harm_at_of_a_decrease() -> None:
    gate = {**ACCURACY, "harm_at": "0.5pp"}
    (cell,) = cells_of(policy(gate), CONSTANTS)
    assert limits_of(cell, CONSTANTS)[0].harm_at == pytest.approx(0.005)


def test_without_a_selection_the_check_says_what_it_cannot_see() -> None:
    told = {
        chosen: mature(Scene(), 3000, chosen=chosen).check("labels", policy(ACCURACY)).reason
        for chosen in (0.0, 1000.0)
    }
    assert told[0.0].endswith("labels of selected predictions alone would not be noticed")
    assert "noticed" not in told[1000.0]


@pytest.mark.parametrize("arm", ["stable", "candidate"])
def test_predictions_that_were_not_stored_decide_nothing(arm: str) -> None:
    def scene(lost: int, sample: float = 1.0) -> Scene:
        found = arms(mature(Scene(known(label_sample=sample)), 30000), "outcome.accuracy", 20000, 0.80, 0.90)
        for one in ("stable", "candidate"):
            found.epoch(3).arms[one] = ArmCounts(accounted=30000, unremembered=lost if one == arm else 0)
        return found

    held = only(scene(400), ACCURACY)
    assert held.outcome is Outcome.INCONCLUSIVE
    assert f"400 of about 30000 predictions of {arm} were not stored" in held.reason
    assert only(scene(200), ACCURACY).outcome is Outcome.FAIL
    assert only(scene(200, sample=0.1), ACCURACY).outcome is Outcome.INCONCLUSIVE
    assert only(scene(9, sample=0.001), ACCURACY).outcome is Outcome.FAIL


def test_pairs_that_were_not_stored_are_the_candidates() -> None:
    gate = {"metric": "outcome.brier", "max_increase": 0.02, "in": "shadow"}
    scene = Scene(step=0).paired("outcome.brier", 400, 0.06, 0.01, clusters=60)
    scene.epoch(1).mirror = MirrorCounts(chosen=24000, sent=24000, paired=24000)
    scene.epoch(1).arms = {"candidate": ArmCounts(unremembered=200)}
    assert only(scene, gate).outcome is Outcome.FAIL
    scene.epoch(1).arms = {"candidate": ArmCounts(unremembered=300)}
    assert only(scene, gate).outcome is Outcome.INCONCLUSIVE
