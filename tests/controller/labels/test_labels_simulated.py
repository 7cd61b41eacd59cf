"""Seeded campaigns of gates on outcomes while labels come late: false harm and false safety over all looks.

Positive cases are labelled later than others, predictions wait until they are mature, and labels that come
after that still count. A run is looked at many times, and one wrong conclusion is enough.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from accede.controller.analysis.methods import unit_outcomes, unit_share
from accede.controller.analysis.sums import CanaryEpoch, Sums
from accede.controller.stats.result import NotComputable

Floats = NDArray[np.float64]
LEVEL = 0.05
MARGIN = 0.03
WEIGHTS = (0.1, 0.5)
REQUESTS = 4000  # of an epoch, one a second
MATURE = 600.0
LOOKS = np.arange(1200.0, 12000.0, 600.0)


def allowed(runs: int) -> float:
    return LEVEL + 3.0 * math.sqrt(LEVEL * (1.0 - LEVEL) / runs)


def sums(y: Floats, seen: NDArray[np.bool_]) -> Sums:
    kept = y[seen]
    return Sums(*(np.array([float(v)]) for v in (kept.size, kept.sum(), np.square(kept).sum())))


def run(rng: np.random.Generator, metric: str, worse: float, *, harm: bool) -> bool:
    """Whether any look draws the conclusion that is wrong. `worse`: by how much the candidate's y is."""
    at = np.arange(REQUESTS * len(WEIGHTS), dtype=float)
    weight = np.repeat(WEIGHTS, REQUESTS)
    ours = rng.random(at.size) < weight
    true = rng.random(at.size) < 0.3
    delay = rng.exponential(np.where(true, 1500.0, 300.0))
    if metric == "accuracy":  # as often wrong in both kinds of cases, whose labels come at different times
        y = (rng.random(at.size) < 0.85 - worse * ours).astype(float)
    else:  # Brier: a calibrated stable, and a candidate whose squared error is `worse` more on average
        p = np.clip(rng.normal(0.3, 0.1, at.size), 0.0, 1.0)
        y = np.clip((p - true) ** 2 + worse * ours, 0.0, 1.0)
    for now in LOOKS:
        seen = (at + MATURE <= now) & (at + delay <= now)
        epochs = [
            CanaryEpoch(k, WEIGHTS[k], 0.85 if metric == "accuracy" else 0.2,
                        sums(y, seen & ours & (weight == WEIGHTS[k])),
                        sums(y, seen & ~ours & (weight == WEIGHTS[k])), 0.0, 0.0)
            for k in range(len(WEIGHTS))
        ]  # fmt: skip
        epochs = [one for one in epochs if one.candidate.n[0] + one.stable.n[0] > 0]
        got = unit_outcomes(epochs, sticky=False, counted=metric == "accuracy", variance=0.12)
        if isinstance(got, NotComputable):
            continue
        got = got.mirrored() if metric == "accuracy" else got
        value = (got.harm if harm else got.safe)(0.0 if harm else MARGIN, MARGIN, LEVEL)
        if not isinstance(value, NotComputable) and value >= -math.log(LEVEL):
            return True
    return False


def share(runs: int, metric: str, worse: float, *, harm: bool, seed: int) -> float:
    rng = np.random.default_rng(seed)
    return sum(run(rng, metric, worse, harm=harm) for _ in range(runs)) / runs


def inside(runs: int, true: float, *, harm: bool, sticky: bool, seed: int) -> float:
    """How often the coverage of stated intervals, at its least share, is called harm (or safe)."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(runs):
        if sticky:  # 300 users whose intervals fit better or worse
            rate = rng.beta(true * 20, (1 - true) * 20, 300)
            at = rng.integers(0, 128, 300)
            y_of = rng.binomial(20, rate).astype(float)
            n, y = (np.bincount(at, v, 128).astype(float) for v in (np.full(300, 20.0), y_of))
            looks = [(n, y)]
        else:
            flow = (rng.random(3000) < true).astype(float)
            looks = [(np.array([float(k)]), np.array([flow[:k].sum()])) for k in range(150, 3001, 150)]
        for n, y in looks:
            got = unit_share(
                [CanaryEpoch(0, 0.5, 0.5, Sums(n, y, y), Sums(n, y, y), 0.0, 0.0)], least=0.9, sticky=sticky
            )
            if isinstance(got, NotComputable):
                continue
            turned = got.mirrored()
            value = (turned.harm if harm else turned.safe)(0.0, 0.1, LEVEL)
            if not isinstance(value, NotComputable) and value >= -math.log(LEVEL):
                wrong += 1
                break
    return wrong / runs


@pytest.mark.parametrize("metric", ["accuracy", "brier"])
@pytest.mark.parametrize("harm", [True, False])
@pytest.mark.parametrize("runs", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_late_labels_make_no_more_wrong_conclusions_than_the_level(
    metric: str, harm: bool, runs: int
) -> None:
    """Equal versions are called harmful, or a candidate at its margin safe, at most at the level."""
    assert share(runs, metric, 0.0 if harm else MARGIN, harm=harm, seed=17) <= allowed(runs)


@pytest.mark.parametrize("metric", ["accuracy", "brier"])
def test_the_campaign_finds_what_is_there(metric: str) -> None:
    assert share(20, metric, 3.0 * MARGIN, harm=True, seed=18) >= 0.9
    assert share(20, metric, 0.0, harm=False, seed=19) >= 0.5


@pytest.mark.parametrize("harm", [True, False])
@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("runs", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_coverage_at_its_least_share_is_neither(harm: bool, sticky: bool, runs: int) -> None:
    assert inside(runs, 0.9, harm=harm, sticky=sticky, seed=20) <= allowed(runs)
