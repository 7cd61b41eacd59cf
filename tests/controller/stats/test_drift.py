from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial import distance
from scipy.stats import chi2_contingency, ks_2samp, wasserstein_distance

from accede.controller.stats.distribution import psi
from accede.controller.stats.drift import (
    ChiSquared,
    Drift,
    chi_squared,
    drift,
    jensen_shannon,
    kolmogorov_smirnov,
    wasserstein,
)
from accede.controller.stats.result import NotComputable

SAMPLES = [
    ([50, 50], [60, 40]),
    ([10, 20, 30, 40], [40, 30, 20, 10]),
    ([5, 0, 7], [1, 3, 9]),
    ([1000, 900, 1100, 950, 1050], [200, 190, 230, 170, 210]),
    ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 10, 0, 0, 0, 0, 0]),
]


@pytest.mark.parametrize(("reference", "current"), SAMPLES)
def test_against_scipy(reference: list[int], current: list[int]) -> None:
    at = np.arange(len(reference)) * 0.5 + 1.0
    one, other = np.repeat(at, reference), np.repeat(at, current)
    assert kolmogorov_smirnov(reference, current) == pytest.approx(ks_2samp(one, other).statistic, rel=1e-12)
    assert wasserstein(reference, current, at) == pytest.approx(wasserstein_distance(one, other), rel=1e-12)
    js = distance.jensenshannon(reference, current, base=2)
    assert jensen_shannon(reference, current) == pytest.approx(js, rel=1e-12)
    got = chi_squared(reference, current)
    known = chi2_contingency([reference, current], correction=False)
    assert isinstance(got, ChiSquared)
    assert got.statistic == pytest.approx(known.statistic, rel=1e-12)
    assert got.df == known.dof


def test_published_values() -> None:
    assert psi([50, 50], [60, 40], observations_per_bin=0) == pytest.approx(0.0405465, rel=1e-5)
    # Two disjoint samples are as far apart as there is.
    assert jensen_shannon([1, 0], [0, 1]) == pytest.approx(1.0)
    assert kolmogorov_smirnov([1, 0], [0, 1]) == pytest.approx(1.0)
    assert wasserstein([1, 0], [0, 1], [2.0, 5.0]) == pytest.approx(3.0)
    # 2 x 2 by hand: 200 (50*40 - 50*60)^2 / (100 * 100 * 110 * 90)
    got = chi_squared([50, 50], [60, 40])
    assert isinstance(got, ChiSquared)
    assert got.statistic == pytest.approx(200e6 / 99e6)
    assert got.df == 1


def test_all_are_withheld_below_the_guard_and_shown_above() -> None:
    few = drift([150, 50], [150, 40], positions=(0.0, 1.0))
    assert isinstance(few, NotComputable)
    assert "190 observations in 2 bins, at least 200" in few.reason
    got = drift([150, 50], [150, 50], positions=(0.0, 1.0))
    assert got == Drift(0.0, 0.0, ChiSquared(0.0, 1), 0.0, 0.0)
    classes = drift([150, 50], [100, 100], positions=None)
    assert isinstance(classes, Drift)
    assert classes.ks is None
    assert classes.wasserstein is None
    assert classes.psi > 0.1


def test_psi_of_equals_with_100_requests_is_no_alarm_to_act_on() -> None:
    """The measured reason for the guard: half the comparisons of equals look like drift."""
    rng = np.random.default_rng(4)
    one, other = (rng.multinomial(100, np.full(10, 0.1), size=2000) for _ in range(2))
    seen = [psi(a, b, observations_per_bin=0) for a, b in zip(one, other, strict=True)]
    assert 0.35 < np.mean([got > 0.1 for got in seen if isinstance(got, float)]) < 0.9
    large = rng.multinomial(1000, np.full(10, 0.1), size=(2, 2000))
    guarded = [psi(a, b) for a, b in zip(*large, strict=True)]
    assert np.mean([got > 0.1 for got in guarded if isinstance(got, float)]) == 0.0


@pytest.mark.parametrize(
    ("reference", "current"),
    [
        ([1, math.nan], [1, 1]),
        ([1, math.inf], [1, 1]),
        ([1, -1], [1, 1]),
        ([0, 0], [1, 1]),
        ([1, 1], [0, 0]),
        ([1, 1], [1, 1, 1]),
        ([[1, 1]], [[1, 1]]),
        ([1], [1]),
        ([], []),
    ],
)
def test_what_is_no_pair_of_counts_is_not_computable(reference: list[float], current: list[float]) -> None:
    at = np.arange(np.size(reference), dtype=float)
    for got in (
        kolmogorov_smirnov(reference, current),
        jensen_shannon(reference, current),
        wasserstein(reference, current, at),
        chi_squared(reference, current),
        drift(reference, current, positions=at),
    ):
        assert isinstance(got, NotComputable)


def test_wasserstein_needs_a_position_for_each_bin_in_order() -> None:
    for at in ([0.0], [1.0, 0.0], [0.0, math.nan]):
        assert isinstance(wasserstein([1, 2], [2, 1], at), NotComputable)
    assert isinstance(chi_squared([3, 0], [4, 0]), NotComputable)
