from __future__ import annotations

import math

import numpy as np
import pytest

from accede.controller.stats.events import EventEpoch, log_e_harm
from accede.controller.stats.mixture import gamma_exponential_log, normal_bound
from accede.controller.stats.planning import (
    event_information,
    events_needed,
    information_needed,
    kappa,
    mean_v_opt,
    mean_weight,
    paired_pairs,
    requests_for_weight,
    rho,
)


def test_kappa_reference_values() -> None:
    levels = (0.05, 0.025, 0.01, 0.005, 0.001)
    for level, value in zip(levels, (7.64, 9.21, 11.24, 12.76, 16.22), strict=True):
        assert kappa(level) == pytest.approx(value, abs=0.006)


def test_rho_is_tightest_near_v_opt() -> None:
    at = {v_opt: normal_bound(500.0, v_opt=v_opt, level=0.01) for v_opt in (50.0, 500.0, 5000.0)}
    assert at[500.0] < min(at[50.0], at[5000.0])
    assert rho(100, 0.05) == pytest.approx(100 / (2 * math.log(10) + math.log1p(2 * math.log(10))))


def test_doubled_errors_at_one_percent_need_about_4600_requests() -> None:
    assert events_needed(0.5, 0.01, 2.0, 1.0, 0.05) == pytest.approx(4600, rel=0.09)


def test_a_tenth_of_a_standard_deviation_needs_about_3100_requests() -> None:
    # The first guess, and that the solved weight stays near it for a score of realistic spread.
    assert requests_for_weight(information_needed(0.1, 0.05), 0.5) == pytest.approx(3100, rel=0.02)
    solved = requests_for_weight(mean_weight(0.025, 0.25**2, 0.05), 0.5)
    assert 3056 < solved < 1.3 * 3056


def test_mean_weight_is_where_the_statistic_decides() -> None:
    for gap, variance, level in ((0.03, 0.25, 0.05), (0.005, 0.0099, 0.001), (0.05, 0.0, 0.05)):
        weight = mean_weight(gap, variance, level)
        log_e = gamma_exponential_log(
            weight * gap, weight * variance, v_opt=mean_v_opt(variance, gap, level), level=level
        )
        assert log_e == pytest.approx(-math.log(level), rel=1e-6)


def test_pairing_saves_by_the_correlation() -> None:
    unpaired = paired_pairs(0.01, 0.05, 0.0, 0.05)
    assert paired_pairs(0.01, 0.05, 0.95, 0.05) < unpaired / 8


def test_no_effect_is_never_decided() -> None:
    assert events_needed(0.5, 0.01, 1.5, 1.5, 0.05) == math.inf
    assert event_information(0.05, 0.01, 0.0, 1.5) > 0


@pytest.mark.parametrize("gap", [0.0, math.nan, math.inf])
def test_a_gap_of_nothing_is_refused(gap: float) -> None:
    with pytest.raises(ValueError, match="effect_gap"):
        mean_weight(gap, 0.1, 0.05)


def test_planned_events_agree_with_simulation() -> None:
    rng = np.random.default_rng(20)
    rate, ratio, events = 0.015, 2.0, 240
    crossed: list[float] = []
    for _ in range(300):
        n = 0
        x = np.cumsum(rng.random(events) < ratio / (1 + ratio))
        for n in range(5, events + 1, 5):
            value = log_e_harm([EventEpoch(0.5, float(x[n - 1]), float(n))], 1.0)
            assert isinstance(value, float)
            if value >= math.log(20):
                break
        crossed.append(n / rate)
    assert np.median(crossed) == pytest.approx(events_needed(0.5, 0.01, 2.0, 1.0, 0.05), rel=0.15)
