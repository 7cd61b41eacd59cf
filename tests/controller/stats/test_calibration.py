"""The calibration error in bins: by hand, against another formula, and what chance makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from accede.controller.stats.calibration import BINS, CalibrationError, calibration_error
from accede.controller.stats.result import NotComputable


def sums(p: np.ndarray, o: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = np.minimum(BINS - 1, (p * BINS).astype(int))
    gap = p - o
    return tuple(np.bincount(at, weight, BINS) for weight in (np.ones(p.size), gap, gap * gap))  # type: ignore[return-value]


def of(p: np.ndarray, o: np.ndarray) -> CalibrationError:
    got = calibration_error(*sums(p, o))
    assert isinstance(got, CalibrationError)
    return got


def test_by_hand() -> None:
    got = calibration_error([2.0, 2.0], [0.4, -1.0], [0.34, 0.5], observations_per_bin=2)
    assert isinstance(got, CalibrationError)
    assert (got.error, got.n) == (1.4 / 4.0, 4.0)
    assert got.by_chance == pytest.approx(math.sqrt(2 / math.pi) * (math.sqrt(0.34) + math.sqrt(0.5)) / 4.0)


def test_against_the_definition_on_single_values() -> None:
    rng = np.random.default_rng(61)
    p = rng.beta(2.0, 3.0, 5000)
    o = (rng.random(5000) < p**1.5).astype(float)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    direct = sum(
        here.mean() * abs(p[here].mean() - o[here].mean())
        for low, high in pairwise(edges)
        if (here := (p >= low) & (p < high)).any()
    )
    assert of(p, o).error == pytest.approx(direct, rel=1e-12)
    assert of(p, o).error > 3.0 * of(p, o).by_chance


@pytest.mark.parametrize(("size", "most"), [(1000, 0.04), (20000, 0.01)])
def test_a_calibrated_model_shows_what_chance_makes_of_it(size: int, most: float) -> None:
    rng = np.random.default_rng(62)
    errors: list[float] = []
    chance: list[float] = []
    for _ in range(200):
        p = rng.random(size)
        got = of(p, (rng.random(size) < p).astype(float))
        errors.append(got.error)
        chance.append(got.by_chance)
    assert np.mean(errors) == pytest.approx(np.mean(chance), rel=0.05)
    assert np.mean(errors) < most


def test_too_few_labels_show_nothing() -> None:
    rng = np.random.default_rng(63)
    p = rng.random(999)
    got = calibration_error(*sums(p, (rng.random(999) < p).astype(float)))
    assert got == NotComputable("999 labels in 10 bins, at least 100 per bin")
    narrow = rng.random(300) * 0.1  # in one bin
    assert isinstance(calibration_error(*sums(narrow, np.zeros(300))), CalibrationError)
    assert isinstance(calibration_error([], [], []), NotComputable)


@pytest.mark.parametrize(
    ("n", "gap", "square"),
    [
        ([500.0], [math.nan], [1.0]), ([math.inf], [0.0], [1.0]), ([-500.0], [0.0], [1.0]),
        ([500.0], [0.0], [-1.0]), ([500.0], [600.0], [720.0]), ([500.0], [400.0], [10.0]),
        ([500.0], [0.0, 1.0], [1.0]), ([[500.0]], [[0.0]], [[1.0]]),
    ],
)  # fmt: skip
def test_sums_that_cannot_be_right_show_nothing(
    n: Sequence[float], gap: Sequence[float], square: Sequence[float]
) -> None:
    assert isinstance(calibration_error(n, gap, square), NotComputable)
