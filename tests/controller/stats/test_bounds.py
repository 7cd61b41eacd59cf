"""Bounds on log E-values hold everywhere, and tell in most places."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammainc

from accede.controller.stats import arrays, bounds

Floats = NDArray[np.float64]
COUNT = 200_000


def held(low: Floats, exact: Floats, high: Floats) -> bool:
    rounding = 1e-8 * (1.0 + np.abs(np.where(np.isfinite(exact), exact, 0.0)))
    return bool(((low <= exact + rounding) & (exact <= high + rounding)).all())


def test_a_bounded_mean_lies_between_its_bounds() -> None:
    draw = np.random.default_rng(1)
    v = 10.0 ** draw.uniform(-2, 6, COUNT)
    precision = 10.0 ** draw.uniform(-1, 5, COUNT)
    s = draw.normal(0.0, 4.0, COUNT) * np.sqrt(v) * draw.choice([1.0, 5.0], COUNT)
    low, high = bounds.gamma_exponential_bounds(s, v, precision)
    exact = arrays.gamma_exponential_log(s, v, precision)
    assert held(low, exact, high)
    usual = (exact > 3.0) & (precision > 1.0)
    assert float(np.quantile((high - low)[usual], 0.9)) < 0.7
    assert float(np.median((high - low)[usual])) < 0.3


def test_an_estimate_lies_between_its_bounds() -> None:
    draw = np.random.default_rng(2)
    variance = 10.0 ** draw.uniform(-8, 2, COUNT)
    df = 10.0 ** draw.uniform(0, 3, COUNT)
    precision = 10.0 ** draw.uniform(-3, 6, COUNT)
    estimate = draw.normal(size=COUNT) * np.sqrt(variance) * draw.choice([1.0, 8.0], COUNT)
    null = np.zeros(COUNT)
    low, high = bounds.asymptotic_bounds(estimate, variance, null, precision, df)
    exact = arrays.asymptotic_log_e(estimate, variance, null, precision, df)
    assert held(low, exact, high)
    usual = (exact > 3.0) & (df > 20.0)
    assert float(np.quantile((high - low)[usual], 0.9)) < 0.5


def test_who_needs_no_lower_end_gets_the_same_upper_one() -> None:
    draw = np.random.default_rng(3)
    s, v, some = draw.normal(size=1000) * 9.0, draw.uniform(0.1, 50.0, 1000), np.full(1000, 4.0)
    s[0] = np.nan
    for both, one in (
        (
            bounds.gamma_exponential_bounds(s, v, some),
            bounds.gamma_exponential_bounds(s, v, some, below=False),
        ),
        (
            bounds.asymptotic_bounds(s, v, some, some, some),
            bounds.asymptotic_bounds(s, v, some, some, some, below=False),
        ),
    ):
        assert np.array_equal(one[1], both[1], equal_nan=True)
        assert np.isnan(one[0][0])
        assert np.isneginf(one[0][1:]).all()


def test_the_expansion_bounds_the_incomplete_gamma_function_at_its_mean() -> None:
    shape = np.geomspace(1e-3, 1e9, 400_001)
    at_mean = gammainc(shape, shape)
    assert (at_mean > 0.5).all()
    assert (at_mean < 0.5 + 1.0 / (3.0 * np.sqrt(2.0 * np.pi * shape)) + 1e-4).all()


def test_what_cannot_be_computed_has_no_bounds() -> None:
    nothing = np.array([np.nan, 1.0, 1.0])
    ones = np.ones(3)
    for low, high in (
        bounds.gamma_exponential_bounds(nothing, np.array([1.0, np.nan, 1.0]), ones),
        bounds.asymptotic_bounds(nothing, np.array([1.0, 0.0, 1.0]), 0.0 * ones, ones, 20.0 * ones),
        bounds.asymptotic_bounds(ones, ones, 0.0 * ones, ones, np.array([np.nan, 0.5, 20.0])),
    ):
        assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, True, False]
