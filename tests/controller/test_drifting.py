"""Drift and blame are shown, with their sample sizes, and decide nothing."""

from __future__ import annotations

import msgspec
import pytest
from rich.console import Console

from accede.cli.informing import blame_lines, drift_lines
from accede.controller.analysis.blame import blame
from accede.controller.stats.evalues import closed_e_values
from accede.store.rollouts import (
    WIRE,
    Drift,
    Finding,
    Outcome,
    RolloutRecord,
    Verdict,
    decode_record,
    encode_record,
)
from tests.controller.test_analysis import CONSTANTS, ERRORS, Scene, policy

BINNED = msgspec.structs.replace(CONSTANTS, edges=(0.5,), shares={"bin.0": 0.5, "bin.1": 0.5}, requests=1000)


def binned(number: int, candidate: tuple[float, float], stable: tuple[float, float], scene: Scene) -> Scene:
    for k in (0, 1):
        scene.put(number, "candidate", f"bin.{k}", [sum(candidate)], [candidate[k]])
        scene.put(number, "stable", f"bin.{k}", [sum(stable)], [stable[k]])
    return scene


def drift(scene: Scene) -> tuple[Drift, ...]:
    return scene.analysis(policy(ERRORS)).drift


def test_predictions_are_compared_with_stable_and_stable_with_its_baseline() -> None:
    arms, baseline = drift(binned(3, (600, 400), (500, 500), Scene(constants=BINNED)))
    assert (arms.between, arms.n_now, arms.n_reference) == ("candidate against stable", 1000, 1000)
    assert arms.psi == pytest.approx(0.0405465, rel=1e-5)  # design's [50, 50] against [60, 40]
    assert arms.ks == pytest.approx(0.1)
    assert arms.wasserstein == pytest.approx(0.1 * 0.5)
    assert arms.log_e is not None
    assert arms.log_e > 3.0
    assert (baseline.between, baseline.psi) == ("now against the baseline", 0.0)


def test_arms_are_not_pooled_over_epochs() -> None:
    """Traffic changed with the weight: pooled, equal versions would look apart."""
    scene = binned(2, (90, 10), (810, 90), Scene(constants=BINNED))
    arms, _ = drift(binned(3, (50, 450), (50, 450), scene))
    assert arms.psi == pytest.approx(0.0, abs=1e-9)
    assert arms.log_e is not None
    assert arms.log_e < 0.0


def test_few_observations_are_not_shown_and_say_why() -> None:
    few, _ = drift(binned(3, (60, 40), (50, 50), Scene(constants=BINNED)))
    assert (few.psi, few.js, few.ks, few.chi_squared) == (None, None, None, None)
    assert "100 observations in 2 bins, at least 200 are needed" in few.note


def test_equality_of_sticky_units_is_refused_with_the_reason() -> None:
    sticky = msgspec.structs.replace(BINNED, sticky=True)
    arms = drift(binned(3, (600, 400), (500, 500), Scene(constants=sticky)))[0]
    assert arms.log_e is None
    assert "not independent" in arms.note


def test_pairs_of_a_shadow_are_compared_too() -> None:
    scene = Scene(constants=BINNED, step=0)
    for k, (stable, moved) in enumerate(((500.0, 100.0), (500.0, -100.0))):
        scene.put(1, "paired_stable", f"bin.{k}", [1000.0], [stable])
        scene.put(1, "pair", f"bin.{k}", [1000.0], [moved], [100.0])
    assert drift(scene)[0].psi == pytest.approx(0.0405465, rel=1e-5)


def test_drift_decides_nothing() -> None:
    scene = binned(3, (1000, 0), (0, 1000), Scene(constants=BINNED))
    apart = scene.clustered(3, "errors", (100, 0.01), (100, 0.01)).analysis(policy(ERRORS))
    alike = Scene(constants=BINNED).clustered(3, "errors", (100, 0.01), (100, 0.01))
    assert apart.drift
    assert apart.verdicts == alike.analysis(policy(ERRORS)).verdicts
    assert all(check.check != "drift" for check in apart.validity)


def test_inputs_beyond_the_training_card_are_an_alert_that_holds_nothing() -> None:
    scene = Scene()
    scene.epoch(0).inputs |= {"stable|amount": {"3": 500, "4": 500}}
    scene.epoch(3).inputs |= {
        "candidate|amount": {"3": 450, "4": 500, "above": 50},
        "stable|amount": {"3": 450, "4": 500, "above": 50, "missing": 3},
    }
    arms, baseline, card = drift(scene)
    assert arms.psi == pytest.approx(0.0, abs=0.01)
    assert baseline.psi is not None
    assert baseline.psi > 0.05
    assert card.alert
    assert card.note == "5.00% are not declared: 5.00% above"
    (check,) = [one for one in scene.analysis(policy(ERRORS)).validity if one.check == "inputs"]
    assert check.outcome is Outcome.PASS


def test_a_few_requests_beyond_the_card_are_no_alert() -> None:
    scene = Scene()
    scene.epoch(3).inputs |= {"stable|amount": {"3": 995, "above": 5}, "candidate|amount": {"3": 1000}}
    assert [one.alert for one in drift(scene) if "card" in one.between] == [False]


def verdict(outcome: Outcome, *log_e: float | None) -> Verdict:
    findings = tuple(
        Finding(f"cell {k}", "", outcome, "", "difference", "pp", log_e_harm=value, log_needed_harm=3.0)
        for k, value in enumerate(log_e)
    )
    return Verdict("errors", 0, "canary", outcome, "", findings)


def test_blame_is_the_closed_adjustment_of_all_comparisons_and_e_bh() -> None:
    report = blame([verdict(Outcome.FAIL, 5.0, 4.0, 0.0, None, -2.0)], 0.05)
    known = closed_e_values([2.718281828459045**value for value in (5.0, 4.0, 0.0, -2.0)])
    assert [one.cell for one in report] == [f"cell {k}, canary" for k in (0, 1, 2, 4)]
    assert [2.718281828459045**one.log_adjusted for one in report] == pytest.approx(known)
    assert [one.blamed for one in report] == [one >= 20.0 for one in known]
    assert report[0].discovered


def test_nobody_is_to_blame_while_nothing_has_failed() -> None:
    assert blame([verdict(Outcome.INCONCLUSIVE, 5.0)], 0.05) == ()


def test_enormous_evidence_adds_up_without_overflow() -> None:
    report = blame([verdict(Outcome.FAIL, *[1e6] * 1000)], 0.05)
    assert all(one.blamed for one in report)


def test_a_rollback_stores_who_is_to_blame() -> None:
    scene = Scene().clustered(3, "errors", (200, 0.05), (200, 0.005))
    analysis = scene.analysis(policy(ERRORS))
    assert [one.blamed for one in analysis.blame] == [True]
    record = msgspec.structs.replace(scene.record(), wire=WIRE, analysis=analysis)
    assert decode_record(encode_record(record), RolloutRecord).analysis == analysis


def test_lines_say_what_is_far_apart_and_that_it_decides_nothing() -> None:
    console = Console(width=200)
    shown = [
        Drift(
            "predictions", "candidate against stable", 1000, 1000, 2, psi=0.04, js=0.1, chi_squared=20.0, df=1
        ),
        Drift("input amount", "candidate against stable", 10, 12, 2, note="too few"),
        Drift("input amount", "requests against the training card", 0, 900, 0, note="5% above", alert=True),
    ]
    with console.capture() as capture:
        for name, words in (*drift_lines(shown), *blame_lines(blame([verdict(Outcome.FAIL, 9.0)], 0.05))):
            console.print(name, words)
    text = capture.get()
    assert "predictions, candidate against stable: PSI 0.04, JS 0.1, χ² 20 (df 1)" in text
    assert "not shown, too few (n = 10 and 12; decides nothing)" in text
    assert (
        "card input amount, requests against the training card: 5% above (n = 900; decides nothing)" in text
    )
    assert "alone proves harm among all 1 comparisons (no power to decide)" in text
