from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.controller.stats.evalues import alpha_weights, closed_e_values, e_bh, log_mean_exp


def test_reference_values() -> None:
    assert closed_e_values([100, 40, 3, 0.5, 0]) == pytest.approx(
        [25.875, 10.875, 1.166667, 0.25, 0], rel=1e-5
    )
    assert e_bh([200, 120, 70, 10, 5, 1, 0.5, 0, 0, 0], 0.05) == [0, 1, 2]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=7))
def test_closed_values_equal_the_closure_over_all_subsets(e: list[float]) -> None:
    for i, adjusted in enumerate(closed_e_values(e)):
        others = [x for j, x in enumerate(e) if j != i]
        means = [
            (e[i] + sum(subset)) / (k + 1)
            for k in range(len(e))
            for subset in itertools.combinations(others, k)
        ]
        assert adjusted == pytest.approx(min(means), rel=1e-9, abs=1e-12)


def test_the_mean_is_taken_in_log_space() -> None:
    assert log_mean_exp([1000.0, -math.inf]) == pytest.approx(1000 - math.log(2))
    assert log_mean_exp([-math.inf, -math.inf]) == -math.inf
    assert log_mean_exp([math.log(3), math.log(5)]) == pytest.approx(math.log(4))
    for bad in ([], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="mean of E-values"):
            log_mean_exp(bad)


def test_half_the_level_is_for_what_hurts_first() -> None:
    weights = alpha_weights({"errors": "primary", "p99": "primary", "p50": "secondary", "psi": "advisory"})
    assert weights == {"errors": 0.25, "p99": 0.25, "p50": 0.5, "psi": 0.0}
    assert alpha_weights({"a": "secondary", "b": "secondary"}) == {"a": 0.5, "b": 0.5}
    assert alpha_weights({"a": "advisory"}) == {"a": 0.0}


def test_nothing_is_rejected_without_evidence() -> None:
    assert e_bh([1.0, 1.0], 0.05) == []
    assert e_bh([], 0.05) == []
    with pytest.raises(ValueError, match="negative or NaN"):
        closed_e_values([1.0, math.nan])
