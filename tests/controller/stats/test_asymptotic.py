from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from accede.controller.stats.asymptotic import interval, log_e_harm, log_e_safe, t_scaled
from accede.controller.stats.mixture import normal_log
from accede.controller.stats.result import NotComputable


def value(result: float | NotComputable) -> float:
    assert isinstance(result, float), result
    return result


@given(z=st.floats(-8, 8), df=st.floats(9, 500))
def test_t_scaling_maps_t_quantiles_to_normal_ones(z: float, df: float) -> None:
    expected = -math.copysign(1.0, z) * stats.norm.ppf(stats.t.sf(abs(z), df))
    assert t_scaled(z, df) == pytest.approx(expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("df", [9.0, 127.0, 5000.0])
def test_t_scaling_is_smooth_odd_and_shrinking_far_in_the_tails(df: float) -> None:
    points = [0.0, 1.0, 8.0, 30.0, 36.0, 37.0, 38.0, 40.0, 100.0, 1e6, 1e40, 1e200]
    scaled = [t_scaled(z, df) for z in points]
    assert all(math.isfinite(z) for z in scaled)
    assert scaled == sorted(scaled)
    assert all(s <= z for s, z in zip(scaled, points, strict=True))
    assert [t_scaled(-z, df) for z in points] == [-s for s in scaled]
    steps = [t_scaled(z / 100, df) for z in range(3500, 4000)]
    second = [a - 2 * b + c for a, b, c in zip(steps, steps[1:], steps[2:], strict=False)]
    assert max(map(abs, second)) < 1e-4


def test_t_scaling_hardly_changes_where_the_expansion_takes_over() -> None:
    assert t_scaled(40, 10_000) == pytest.approx(t_scaled(40, 10_001), rel=1e-5)


def test_without_degrees_of_freedom_the_plain_mixture_is_used() -> None:
    assert value(log_e_harm(0.3, 0.01, 0.1, v_opt=100, level=0.05)) == pytest.approx(
        normal_log(2.0 * 10, 100, v_opt=100, level=0.05)
    )


@given(estimate=st.floats(-1, 1), null=st.floats(-1, 1), se=st.floats(1e-3, 1), df=st.floats(9, 200))
def test_safe_mirrors_harm(estimate: float, null: float, se: float, df: float) -> None:
    harm = value(log_e_harm(estimate, se**2, null, v_opt=100, level=0.01, df=df))
    assert value(log_e_safe(-estimate, se**2, -null, v_opt=100, level=0.01, df=df)) == harm
    assert value(log_e_harm(estimate, se**2, null, v_opt=100, level=0.01)) >= harm or estimate < null


@pytest.mark.parametrize("df", [None, 9.0, 19.0, 127.0])
def test_the_interval_inverts_both_tests(df: float | None) -> None:
    for variance in (1e-2, 1e-4, 1e-6):
        ends = interval(0.02, variance, v_opt=1e5, level_low=0.001, level_high=0.05, df=df)
        assert not isinstance(ends, NotComputable)
        low = log_e_harm(0.02, variance, ends[0], v_opt=1e5, level=0.001, df=df)
        high = log_e_safe(0.02, variance, ends[1], v_opt=1e5, level=0.05, df=df)
        assert value(low) == pytest.approx(math.log(1000), rel=1e-5)
        assert value(high) == pytest.approx(math.log(20), rel=1e-5)


def test_an_interval_from_next_to_no_information_is_unbounded_not_nan() -> None:
    ends = interval(0.0, 1e6, v_opt=1e5, level_low=0.05, level_high=0.05, df=9)
    assert ends == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("estimate", "variance", "df"),
    [
        (0.1, 0.0, None),
        (0.1, -1.0, None),
        (0.1, math.nan, None),
        (math.nan, 1.0, None),
        (math.inf, 1.0, None),
        (0.1, 1.0, 0.0),
        (0.1, 1.0, math.nan),
    ],
)
def test_without_a_variance_nothing_is_computed(estimate: float, variance: float, df: float | None) -> None:
    for result in (
        log_e_harm(estimate, variance, 0, v_opt=1, level=0.05, df=df),
        log_e_safe(estimate, variance, 0, v_opt=1, level=0.05, df=df),
        interval(estimate, variance, v_opt=1, level_low=0.05, level_high=0.05, df=df),
    ):
        assert isinstance(result, NotComputable)
