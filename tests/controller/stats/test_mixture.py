from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammainc

from accede.controller.stats.mixture import (
    gamma_exponential_bound,
    gamma_exponential_log,
    normal_bound,
    normal_log,
    normal_two_sided_bound,
    normal_two_sided_log,
)
from accede.controller.stats.tuning import rho


def test_normal_mixture_reference_values() -> None:
    tuned = {"v_opt": 100.0, "level": 0.05}
    assert normal_two_sided_bound(100, **tuned) == pytest.approx(30.35209, rel=1e-5)
    assert normal_two_sided_log(10, 100, **tuned) == pytest.approx(-0.6510052, rel=1e-5)
    assert normal_bound(100, **tuned) == pytest.approx(27.66071, rel=1e-5)
    assert normal_log(10, 100, **tuned) == pytest.approx(-0.06502391, rel=1e-5)


def test_gamma_exponential_reference_values() -> None:
    assert gamma_exponential_log(10, 100, v_opt=100, level=0.05, c=2) == pytest.approx(-0.2490165, rel=1e-5)
    assert gamma_exponential_bound(100, v_opt=100, level=0.05, c=2) == pytest.approx(33.02017, rel=1e-5)
    assert gamma_exponential_bound(1, v_opt=10, level=0.05) == pytest.approx(5.806373, rel=1e-5)
    assert gamma_exponential_bound(0, v_opt=10, level=0.05) == pytest.approx(4.675143, rel=1e-5)


@given(
    v=st.floats(0, 1e4),
    z=st.floats(-3, 8),
    v_opt=st.floats(0.5, 1e4),
    c=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_gamma_exponential_equals_the_published_form(v: float, z: float, v_opt: float, c: float) -> None:
    s = z * math.sqrt(v + 1.0)
    r = rho(v_opt, 0.05) / c**2
    alpha, x = v / c**2 + r, s / c + v / c**2 + r
    if x <= 0 or gammainc(alpha, x) < 1e-280:
        return
    published = (
        r * math.log(r)
        - math.lgamma(r)
        - math.log(gammainc(r, r))
        + math.lgamma(alpha)
        + math.log(gammainc(alpha, x))
        - alpha * math.log(x)
        + (c * s + v) / c**2
    )
    ours = gamma_exponential_log(s, v, v_opt=v_opt, level=0.05, c=c)
    assert ours == pytest.approx(published, rel=1e-8, abs=1e-7)


def test_gamma_exponential_approaches_the_normal_mixture_where_published_terms_cancel() -> None:
    for v in (1e8, 1e12):
        s = 3 * math.sqrt(v)
        gamma = gamma_exponential_log(s, v, v_opt=v, level=0.05)
        assert gamma == pytest.approx(normal_log(s, v, v_opt=v, level=0.05), abs=1e-3)


def test_far_below_zero_the_value_falls_on_continuously_and_ends_at_minus_infinity() -> None:
    v, v_opt = 1000.0, 1000.0
    total = v + rho(v_opt, 0.05)
    logs = [
        gamma_exponential_log(s, v, v_opt=v_opt, level=0.05) for s in np.linspace(-0.999 * total, 200, 3000)
    ]
    assert np.all(np.diff(logs) > 0)
    assert np.max(np.diff(logs)[:2000]) < 0.2
    assert gamma_exponential_log(-total, v, v_opt=v_opt, level=0.05) == -math.inf


@given(v=st.floats(0, 1e7), v_opt=st.floats(0.5, 1e6), level=st.sampled_from([1e-6, 0.001, 0.05]))
def test_bounds_invert_the_logs(v: float, v_opt: float, level: float) -> None:
    tuned = {"v_opt": v_opt, "level": level}
    for bound, log in (
        (gamma_exponential_bound, gamma_exponential_log),
        (normal_bound, normal_log),
        (normal_two_sided_bound, normal_two_sided_log),
    ):
        assert log(bound(v, **tuned), v, **tuned) == pytest.approx(-math.log(level), rel=1e-7)


def test_one_sided_normal_log_is_finite_far_in_both_tails() -> None:
    assert normal_log(-1e6, 1.0, v_opt=1, level=0.05) == pytest.approx(-14, abs=3)
    assert math.isfinite(normal_log(1e6, 1.0, v_opt=1, level=0.05))


@pytest.mark.parametrize(("s", "v"), [(math.nan, 1), (1, math.nan), (math.inf, 1), (1, -1)])
def test_a_mixture_refuses_what_is_no_sum(s: float, v: float) -> None:
    for log in (gamma_exponential_log, normal_log, normal_two_sided_log):
        with pytest.raises(ValueError, match="finite"):
            log(s, v, v_opt=1, level=0.05)


@pytest.mark.parametrize(("v_opt", "level"), [(0, 0.05), (math.nan, 0.05), (1, 0), (1, 0.5), (1, math.nan)])
def test_a_mixture_refuses_parameters_outside_their_domain(v_opt: float, level: float) -> None:
    with pytest.raises(ValueError, match="must"):
        gamma_exponential_bound(1, v_opt=v_opt, level=level)
