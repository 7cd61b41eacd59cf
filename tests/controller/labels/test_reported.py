"""What labels say beside the gates: of which step, of both versions, and not of too few."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accede.cli.informing import calibration_lines
from accede.controller.labels.joining import Meaning, fold
from accede.controller.labels.reported import reported
from accede.controller.stats.calibration import BINS
from accede.store.labels import ARM, PAIR, Joined, Label, Prediction, request_key
from accede.store.measurement import Selected
from accede.store.rollouts import Calibration
from tests.controller.test_analysis import Scene, policy

BRIER = Meaning("binary", frozenset({"outcome.brier"}), (0.0, 1.0), Selected(">=", 0.5))
INTERVALS = Meaning("number", frozenset({"uncertainty.coverage"}))


def scene(rows: list[tuple[Prediction, Label]], meaning: Meaning = BRIER) -> Scene:
    """Evidence as the controller folds it."""
    found = Scene()
    _, sums = fold("s", [Joined(row, label, 0) for row, label in rows], [], meaning, 1.0)
    for one in sums:
        found.epoch(one.epoch).series.update(one.series)
    return found


def arms(
    rng: np.random.Generator, epoch: int, size: int, *, candidate: float = 1.0
) -> list[tuple[Prediction, Label]]:
    """Calibrated probabilities of stable; true is a case with p**candidate of the candidate's."""
    rows: list[tuple[Prediction, Label]] = []
    for k, p in enumerate(rng.random(2 * size)):
        arm, key = k % 2, request_key("s", f"{epoch}/{k}")
        true = float(rng.random() < (p**candidate if arm else p))
        rows.append(
            (Prediction(key, ARM, "r", epoch, 1.0, 9.0, arm, 0, 0, ((float(p),),)), Label(key, (true,)))
        )
    return rows


def told(found: Scene) -> Calibration:
    (one,) = reported(found.record(), found.evidence)
    return one


def test_calibration_error_of_both_arms_beside_chance() -> None:
    got = told(scene(arms(np.random.default_rng(71), 3, 3000, candidate=2.0)))
    assert (got.what, got.step, got.place) == ("calibration error", 3, "canary")
    assert (got.n_stable, got.n_candidate, got.note) == (3000.0, 3000.0, "")
    assert got.candidate == pytest.approx(1.0 / 6.0, abs=0.02)  # E(p - p^2)
    assert got.stable is not None
    assert got.stable_by_chance is not None
    assert got.stable < 2.0 * got.stable_by_chance < 0.05


def test_the_newest_step_with_enough_labels_counts_and_steps_are_not_pooled() -> None:
    rng = np.random.default_rng(72)
    both = scene([*arms(rng, 2, 1500, candidate=2.0), *arms(rng, 3, 1500)])
    got = told(both)
    assert (got.step, got.n_candidate) == (3, 1500.0)
    assert got.candidate is not None
    assert got.candidate < 0.05
    young = told(scene([*arms(rng, 2, 1500), *arms(rng, 3, 200)]))
    assert (young.step, young.n_candidate) == (2, 1500.0)
    few = told(scene(arms(rng, 3, 200)))
    assert (few.stable, few.candidate, few.n_candidate) == (None, None, 200.0)
    assert "200 labels in 10 bins, at least 100 per bin" in few.note


def test_pairs_show_both_sides_in_their_own_bins() -> None:
    rng = np.random.default_rng(73)
    rows = []
    for k, p in enumerate(rng.random(2000)):
        key = request_key("s", str(k))
        sides = ((float(p),), (float(p) * 0.5,))
        row = Prediction(key, PAIR, "r", 1, 1.0, 9.0, 0, 0, k % 128, sides)
        rows.append((row, Label(key, (float(rng.random() < p),))))
    got = told(scene(rows))
    assert (got.place, got.n_stable, got.n_candidate) == ("shadow", 2000.0, 2000.0)
    assert got.candidate == pytest.approx(0.25, abs=0.02)
    assert got.stable is not None
    assert got.stable < 0.05


def test_coverage_of_intervals_is_shown_of_both_arms() -> None:
    rng = np.random.default_rng(74)
    rows = []
    for k in range(1000):
        key, arm = request_key("s", str(k)), k % 2
        width = 1.0 if arm else 1.96
        stated = (((-width, width),),)
        row = Prediction(key, ARM, "r", 3, 1.0, 9.0, arm, 0, 0, ((0.0,),), stated)
        rows.append((row, Label(key, (float(rng.normal()),))))
    got = told(scene(rows, INTERVALS))
    assert (got.what, got.n_stable, got.n_candidate) == ("coverage of intervals", 500.0, 500.0)
    assert got.stable == pytest.approx(0.95, abs=0.04)
    assert got.candidate == pytest.approx(0.68, abs=0.08)
    assert reported(Scene().record(), scene(rows[:100], INTERVALS).evidence) == ()


def test_it_is_told_and_decides_nothing() -> None:
    found = scene(arms(np.random.default_rng(75), 3, 3000, candidate=4.0))
    analysis = found.analysis(policy({"metric": "errors", "max_increase": "1pp"}))
    assert analysis.calibration == reported(found.record(), found.evidence)
    assert not any(check.outcome.value != "pass" for check in analysis.validity)
    ((name, text),) = calibration_lines(analysis.calibration)
    assert name == "outcomes"
    assert text.plain.startswith("calibration error, step 3: stable ")
    assert "of a calibrated one" in text.plain
    assert text.plain.endswith("(n = 3000 and 3000; decides nothing)")


def test_broken_sums_show_nothing() -> None:
    found = scene(arms(np.random.default_rng(76), 3, 1500))
    found.put(3, "candidate", "labelled.bin.4", [10.0], [20.0])
    got: Any = told(found)
    assert got.candidate is None
    assert "cannot come from values" in got.note
    assert BINS == 10
