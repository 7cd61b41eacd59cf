from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.controller.stats.mean import (
    MeanEpoch,
    MeanStatistic,
    at_least_statistic,
    mean_statistic,
    paired_statistic,
)
from accede.controller.stats.result import NotComputable

values = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30)
shares = st.sampled_from([0.01, 0.05, 0.25, 0.5, 0.9])
centres = st.floats(0, 1)


def epoch(pi: float, centre: float, c: list[float], s: list[float]) -> MeanEpoch:
    return MeanEpoch(pi, centre, len(c), sum(c), sum(y * y for y in c), len(s), sum(s), sum(y * y for y in s))


def computed(result: MeanStatistic | NotComputable) -> MeanStatistic:
    assert isinstance(result, MeanStatistic), result
    return result


@given(pi=shares, centre=centres, c=values, s=values)
def test_sums_give_the_same_as_the_stream(pi: float, centre: float, c: list[float], s: list[float]) -> None:
    statistic = computed(mean_statistic([epoch(pi, centre, c, s)]))
    largest = max(abs((a - pi) * (y - centre)) for a in (0, 1) for y in (0, 1))
    z = [(1 - pi) * (y - centre) / largest for y in c] + [-pi * (y - centre) / largest for y in s]
    assert max(map(abs, z)) <= 1 + 1e-12  # what the proof needs
    assert pytest.approx(sum(z), abs=1e-9) == statistic.S
    assert pytest.approx(sum(x * x for x in z), abs=1e-9) == statistic.Q
    assert pytest.approx((len(c) + len(s)) * pi * (1 - pi) / largest) == statistic.W


@given(pi=shares, centre=centres, c=values, s=values, delta=st.floats(-0.2, 0.2))
def test_swapping_arms_mirrors_the_result(
    pi: float, centre: float, c: list[float], s: list[float], delta: float
) -> None:
    here = computed(mean_statistic([epoch(pi, centre, c, s)]))
    there = computed(mean_statistic([epoch(1 - pi, centre, s, c)]))
    assert here.log_e_harm(delta, 10, 0.05) == pytest.approx(
        there.log_e_safe(-delta, 10, 0.05), rel=1e-6, abs=1e-6
    )
    low, high = here.interval(10, 0.05, 0.01)
    mirrored_low, mirrored_high = there.interval(10, 0.01, 0.05)
    assert (low, high) == pytest.approx((-mirrored_high, -mirrored_low), rel=1e-6, abs=1e-6)


def test_the_interval_inverts_both_tests() -> None:
    rng = np.random.default_rng(3)
    statistic = computed(
        mean_statistic([epoch(0.3, 0.4, list(rng.beta(2, 3, 900)), list(rng.beta(2, 3, 2100)))])
    )
    low, high = statistic.interval(40, 0.01, 0.05)
    assert low < statistic.estimate < high
    assert statistic.log_e_harm(low, 40, 0.01) == pytest.approx(math.log(100), rel=1e-6)
    assert statistic.log_e_safe(high, 40, 0.05) == pytest.approx(math.log(20), rel=1e-6)


def test_deterministic_outputs_decide_by_weight_alone() -> None:
    statistic = computed(mean_statistic([epoch(0.5, 0.5, [0.5] * 400, [0.5] * 400)]))
    assert statistic.Q == 0.0
    low, high = statistic.interval(10, 0.05, 0.05)
    assert (low, high) == pytest.approx((-4.675143 / 800, 4.675143 / 800), rel=1e-5)
    assert statistic.log_e_safe(0.03, 10, 0.05) > math.log(20)


def test_an_improvement_is_no_harm_and_a_harm_is_not_safe() -> None:
    rng = np.random.default_rng(4)
    worse = computed(
        mean_statistic([epoch(0.5, 0.1, list(rng.random(4000) * 0.3), list(rng.random(4000) * 0.2))])
    )
    assert worse.log_e_harm(0.0, 30, 0.05) > math.log(20)
    assert worse.log_e_safe(0.01, 30, 0.05) < 0
    assert worse.log_e_harm(0.2, 30, 0.05) < 0


@pytest.mark.parametrize("pi", [0.0, 1.0])
def test_an_epoch_without_randomisation_adds_nothing(pi: float) -> None:
    base = epoch(0.5, 0.5, [0.2, 0.7], [0.1, 0.4])
    alone = epoch(pi, 0.5, [], [0.3] * 50) if pi == 0.0 else epoch(pi, 0.5, [0.3] * 50, [])
    assert mean_statistic([base, alone]) == mean_statistic([base])


GOOD = epoch(0.5, 0.5, [0.2, 0.7], [0.1, 0.4])


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (replace(GOOD, n_c=0.0, sum_c=0.0, sq_c=0.0), "candidate has no observations"),
        (replace(GOOD, n_s=0.0, sum_s=0.0, sq_s=0.0), "stable has no observations"),
        (replace(GOOD, sum_c=math.nan), "not finite"),
        (replace(GOOD, sq_s=math.inf), "not finite"),
        (replace(GOOD, n_s=-2.0), "negative count"),
        (replace(GOOD, sum_c=5.0, sq_c=20.0), "values in"),
        (replace(GOOD, sq_c=0.0), "values in"),
        (replace(GOOD, pi=1.5), "candidate share"),
        (replace(GOOD, pi=math.nan), "candidate share"),
        (replace(GOOD, pi=0.0), "gets no traffic"),
        (replace(GOOD, centre=-0.1), "centre"),
    ],
)
def test_bad_sums_are_not_computable(broken: MeanEpoch, reason: str) -> None:
    result = mean_statistic([broken])
    assert isinstance(result, NotComputable)
    assert reason in result.reason


def test_no_epochs_are_not_computable() -> None:
    assert isinstance(mean_statistic([]), NotComputable)


def test_paired_differences() -> None:
    d = [0.2, -0.1, 0.0, 0.4]
    statistic = computed(paired_statistic(4, sum(d), sum(x * x for x in d)))
    assert pytest.approx((0.5, 0.21, 4)) == (statistic.S, statistic.Q, statistic.W)
    halved = computed(paired_statistic(4, sum(d), sum(x * x for x in d), weight=2))
    assert halved.estimate == pytest.approx(statistic.estimate)
    assert pytest.approx(0.105) == halved.Q
    for bad in (paired_statistic(0, 0, 0), paired_statistic(3, 4, 5), paired_statistic(3, math.nan, 1)):
        assert isinstance(bad, NotComputable)
    assert isinstance(paired_statistic(4, 0, 1, weight=9), NotComputable)


def test_at_least() -> None:
    statistic = computed(at_least_statistic(1000, 990, 990, 0.95))
    assert statistic.estimate == pytest.approx(0.04)
    assert pytest.approx(990 * 0.05**2 + 10 * 0.95**2) == statistic.Q
    # a mean that must not lie below b: its shortfall is the harm
    assert statistic.log_e_harm(0.0, 10, 0.05) > math.log(20)
    for bad in (
        at_least_statistic(0, 0, 0, 0.5),
        at_least_statistic(5, 6, 6, 0.5),
        at_least_statistic(5, 1, 1, 2),
    ):
        assert isinstance(bad, NotComputable)
