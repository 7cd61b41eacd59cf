"""The array forms are the scalar ones, element by element."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from accede.controller.stats import arrays, asymptotic, mixture, tuning
from accede.controller.stats.clusters import ClusterEpoch, cluster_estimate
from accede.controller.stats.result import NotComputable

Floats = NDArray[np.float64]


def same(found: float, expected: float) -> None:
    if math.isinf(expected):
        assert found == expected
    else:
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_tuning_of_arrays() -> None:
    levels = np.array([0.05, 0.025, 0.01, 0.005, 0.001, 1e-6])
    for level, precision, size in zip(levels, arrays.rho(3.0, levels), arrays.kappa(levels), strict=True):
        same(precision, tuning.rho(3.0, level))
        same(size, tuning.kappa(level))


@pytest.mark.parametrize("level", [0.05, 0.0003])
@pytest.mark.parametrize("v_opt", [1.0, 40.0, 1e5])
def test_gamma_exponential_of_arrays(level: float, v_opt: float) -> None:
    draw = np.random.default_rng(1)
    v = np.concatenate(([0.0, 1e-9], np.exp(draw.uniform(-3, 14, 300))))
    s = np.concatenate(([3.0, -5.0], draw.normal(size=300) * 6.0 * np.sqrt(v[2:])))
    s[-3], s[-2], s[-1] = -0.9 * v[-3], -2.0 * v[-2] - v_opt, 0.0
    found = arrays.gamma_exponential_log(s, v, arrays.rho(v_opt, level))
    assert np.isneginf(found).any()  # far below zero is in it
    for k in range(s.size):
        same(found[k], mixture.gamma_exponential_log(s[k], v[k], v_opt=v_opt, level=level))


def test_a_deep_negative_sum_takes_the_series_as_the_scalar_does() -> None:
    v, s = np.array([5000.0]), np.array([-2500.0])
    found = arrays.gamma_exponential_log(s, v, arrays.rho(10.0, 0.05))
    same(found[0], mixture.gamma_exponential_log(-2500.0, 5000.0, v_opt=10.0, level=0.05))


def test_normal_mixture_of_arrays() -> None:
    draw = np.random.default_rng(2)
    v = np.exp(draw.uniform(-3, 12, 200))
    s = draw.normal(size=200) * 8.0 * np.sqrt(v)
    found = arrays.normal_log(s, v, arrays.rho(50.0, 0.01))
    for k in range(s.size):
        same(found[k], mixture.normal_log(s[k], v[k], v_opt=50.0, level=0.01))


def test_boundaries_of_arrays_from_tiny_to_huge_sums() -> None:
    draw = np.random.default_rng(8)
    v = np.concatenate(([0.0, 1e-9, 1e12], 10.0 ** draw.uniform(-4, 10, 300)))
    v_opt, level = 10.0 ** draw.uniform(0, 8, v.size), 10.0 ** draw.uniform(-8, -0.4, v.size)
    found = arrays.gamma_exponential_bound(v, arrays.rho(v_opt, level), level)
    for k in range(v.size):
        same(found[k], mixture.gamma_exponential_bound(v[k], v_opt=v_opt[k], level=level[k]))


def test_intervals_of_arrays_with_any_degrees_of_freedom() -> None:
    draw = np.random.default_rng(9)
    variance, df = 10.0 ** draw.uniform(-12, 4, 300), 10.0 ** draw.uniform(0.5, 6, 300)
    v_opt, level = 10.0 ** draw.uniform(-2, 8, 300), 10.0 ** draw.uniform(-6, -0.4, 300)
    found = arrays.asymptotic_reach(variance, arrays.rho(v_opt, level), level, df)
    finite = 0
    for k in range(variance.size):
        expected = asymptotic.interval(
            0.0, variance[k], v_opt=v_opt[k], level_low=level[k], level_high=level[k], df=df[k]
        )
        assert not isinstance(expected, NotComputable)
        if math.isfinite(found[k]):
            finite += 1
            assert found[k] == pytest.approx(expected[1], rel=1e-8)
        else:  # so wide that nobody would look at it
            assert found[k] == math.inf
            assert expected[1] > 37.0 * variance[k] ** 0.5
    assert finite > 200


def test_no_boundary_is_made_up_of_what_is_not_finite() -> None:
    with np.errstate(all="ignore"):
        nothing = arrays.gamma_exponential_bound([math.nan, math.inf, 1.0], 5.0, 0.05)
    assert np.isnan(nothing[:2]).all()
    assert math.isfinite(nothing[2])
    variance = np.array([math.nan, 0.0, -1.0, 1e200])
    assert np.isnan(arrays.asymptotic_reach(variance, 5.0, 0.05, 30.0)).all()


def test_products_of_an_epoch_with_itself_are_those_with_its_copy() -> None:
    draw = np.random.default_rng(10)
    one = arrays.deviations(draw.poisson(5.0, (7, 2, 2, 128)))
    copy = arrays.Deviations(one.counts, one.events, one.psi.copy(), one.met)
    assert arrays.products(one, one) == pytest.approx(arrays.products(one, copy), rel=1e-12, abs=1e-18)


def test_asymptotic_tests_of_arrays_with_few_degrees_of_freedom_and_far_tails() -> None:
    draw = np.random.default_rng(3)
    variance = np.exp(draw.uniform(-16, -4, 300))
    estimate = draw.normal(size=300) * 5.0 * np.sqrt(variance)
    df = np.concatenate((draw.uniform(1, 40, 150), np.exp(draw.uniform(4, 12, 150))))
    estimate[:4], df[:4] = 300.0 * np.sqrt(variance[:4]), (200.0, 2e4, 30.0, 1e6)
    found = arrays.asymptotic_log_e(estimate, variance, 0.01, arrays.rho(1e4, 0.01), df)
    for k in range(estimate.size):
        expected = asymptotic.log_e_harm(estimate[k], variance[k], 0.01, v_opt=1e4, level=0.01, df=df[k])
        assert isinstance(expected, float)
        same(found[k], expected)


@pytest.mark.parametrize(
    ("variance", "df"), [(0.0, 30.0), (-1.0, 30.0), (math.nan, 30.0), (1.0, 0.5), (1.0, math.nan)]
)
def test_what_cannot_be_computed_is_nan_and_never_passes(variance: float, df: float) -> None:
    found = arrays.asymptotic_log_e(-1.0, variance, 0.5, arrays.rho(10.0, 0.05), df)
    assert math.isnan(float(found))
    assert not float(found) >= 3.0


def cells(
    draw: np.random.Generator, count: int, epochs: int
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    pi = draw.uniform(0.01, 0.6, epochs)
    load = draw.uniform(0.2, 20.0, (count, epochs, 1))
    n_c = draw.poisson(load * pi[:, None] * np.ones(128)).astype(float)
    n_s = draw.poisson(load * (1 - pi)[:, None] * np.ones(128)).astype(float)
    rate = draw.uniform(0.0, 0.3, (count, 1, 1))
    y_c, y_s = (draw.binomial(n.astype(int), rate).astype(float) for n in (n_c, n_s))
    n_c[0], y_c[0] = 0.0, 0.0  # an arm that is empty throughout
    n_s[1, 0], y_s[1, 0] = 0.0, 0.0  # or in one epoch
    y_c[2], y_s[2] = 0.0, 0.0  # nothing ever happens
    n_c[3, :, 4:], y_c[3, :, 4:] = 0.0, 0.0  # four clusters only
    return pi, n_c, y_c, n_s, y_s


def by_epoch(*columns: Floats) -> list[arrays.Deviations]:
    """Of n and y of both arms, each (C, E, G)."""
    n_c, y_c, n_s, y_s = columns
    both = np.stack([np.stack([n_c, y_c], axis=2), np.stack([n_s, y_s], axis=2)], axis=2)
    return [arrays.deviations(both[:, epoch]) for epoch in range(n_c.shape[1])]


def test_sets_of_cells_have_the_moments_that_each_has_alone() -> None:
    draw = np.random.default_rng(11)
    sets = [cells(draw, count, 3) for count in (4, 5, 6)]
    pi = sets[0][0]
    together = arrays.cluster_moments(pi, [by_epoch(*columns) for _, *columns in sets])
    alone = [arrays.cluster_moments(pi, [by_epoch(*columns)]) for _, *columns in sets]
    for name in ("n_c", "y_c", "n_s", "y_s", "cc", "cs", "ss", "nn", "seen"):
        expected = np.concatenate([getattr(one, name) for one in alone])
        assert np.array_equal(getattr(together, name), expected), name


def test_cluster_estimates_of_many_cells_over_every_tail_of_the_epochs() -> None:
    draw = np.random.default_rng(4)
    pi, n_c, y_c, n_s, y_s = cells(draw, 12, 4)
    ratio = draw.uniform(0.8, 1.6, 12)
    found = arrays.cluster_tails(arrays.cluster_moments(pi, [by_epoch(n_c, y_c, n_s, y_s)]), ratio)
    computed = 0
    for cell in range(12):
        for first in range(4):
            one = cluster_estimate(
                [
                    ClusterEpoch(pi[e], n_c[cell, e], y_c[cell, e], n_s[cell, e], y_s[cell, e])
                    for e in range(first, 4)
                ],
                ratio[cell],
            )
            at = cell, first
            assert found.computable[at] == (not isinstance(one, NotComputable))
            if isinstance(one, NotComputable):
                continue
            computed += 1
            for mine, theirs in (
                (found.estimate[at], one.estimate),
                (found.variance[at], one.variance),
                (found.df[at], one.df),
                (found.expected_c[at], one.expected_c),
                (found.n_c[at], one.n_c),
                (found.n_s[at], one.n_s),
            ):
                assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    assert computed > 20


def test_open_requests_count_against_the_candidate_in_every_cluster() -> None:
    draw = np.random.default_rng(5)
    pi, n_c, y_c, n_s, y_s = (x[4:] if x.ndim > 1 else x for x in cells(draw, 10, 3))
    open_c, open_s = draw.integers(0, 40, (6, 3)), draw.integers(0, 40, (6, 3))
    more_c, more_s = 1.0 + open_c / n_c.sum(axis=2), 1.0 + open_s / n_s.sum(axis=2)
    found = arrays.cluster_tails(
        arrays.cluster_moments(pi, [by_epoch(n_c, y_c, n_s, y_s)]), 1.3, more_c, more_s
    )
    computed = 0
    for cell in range(6):
        epochs = []
        for e in range(3):
            added = n_c[cell, e] * (more_c[cell, e] - 1.0)
            epochs.append(
                ClusterEpoch(
                    pi[e],
                    n_c[cell, e] + added,
                    y_c[cell, e] + added,
                    n_s[cell, e] * more_s[cell, e],
                    y_s[cell, e],
                )
            )
        for first in range(3):
            one = cluster_estimate(epochs[first:], 1.3)
            at = cell, first
            assert found.computable[at] == (not isinstance(one, NotComputable))
            if isinstance(one, NotComputable):
                continue
            computed += 1
            assert found.estimate[at] == pytest.approx(one.estimate, rel=1e-9, abs=1e-12)
            assert found.variance[at] == pytest.approx(one.variance, rel=1e-9)
            assert found.df[at] == pytest.approx(one.df, rel=1e-9)
            assert found.expected_c[at] == pytest.approx(one.expected_c, rel=1e-9)
    assert computed > 10
