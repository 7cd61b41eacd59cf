from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from accede.controller.stats.result import NotComputable
from accede.controller.stats.sample_ratio import (
    RatioEpoch,
    StickyRatioEpoch,
    effective_units,
    log_e,
    p_value,
    sticky_log_e,
)


def value(result: float | NotComputable) -> float:
    assert isinstance(result, float), result
    return result


@pytest.mark.parametrize(("counts", "p"), [((1000, 900), 0.716607), ((50500, 49500), 0.035204)])
def test_reference_values(counts: tuple[float, float], p: float) -> None:
    assert p_value(value(log_e([RatioEpoch(counts, (0.5, 0.5))]))) == pytest.approx(p, rel=2e-5)


def test_a_notebooks_lists_are_as_good_as_tuples() -> None:
    counts: Any = [5000.0, 4800.0]
    shares: Any = [0.5, 0.5]
    assert log_e([RatioEpoch(counts, shares)]) == log_e([RatioEpoch(tuple(counts), tuple(shares))])


def test_epochs_multiply_and_order_of_arms_does_not_matter() -> None:
    one, two = RatioEpoch((900, 120), (0.9, 0.1)), RatioEpoch((70, 30, 10), (0.6, 0.3, 0.1))
    assert value(log_e([one, two])) == pytest.approx(value(log_e([one])) + value(log_e([two])))
    assert value(log_e([RatioEpoch((120, 900), (0.1, 0.9))])) == pytest.approx(value(log_e([one])))


def test_a_request_for_an_arm_without_share_is_a_certain_mismatch() -> None:
    assert log_e([RatioEpoch((100, 1), (1.0, 0.0))]) == math.inf
    assert p_value(math.inf) == 0.0
    assert log_e([RatioEpoch((100, 0), (1.0, 0.0))]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [RatioEpoch((0, 0), (0.5, 0.5))],
        [RatioEpoch((math.nan, 1), (0.5, 0.5))],
        [RatioEpoch((-1, 1), (0.5, 0.5))],
        [RatioEpoch((1, 1), (0.5, 0.6))],
        [RatioEpoch((1, 1, 1), (0.5, 0.5))],
    ],
)
def test_bad_counts_are_not_computable(bad: list[RatioEpoch]) -> None:
    assert isinstance(log_e(bad), NotComputable)


def sticky(seed: int, pi: float, drawn: float) -> StickyRatioEpoch:
    rng = np.random.default_rng(seed)
    users = rng.geometric(0.05, 4000)
    candidate = rng.random(4000) < drawn
    cluster = rng.integers(0, 128, 4000)
    n_c, n_s = (np.bincount(cluster, users * arm, 128).astype(np.float64) for arm in (candidate, ~candidate))
    return StickyRatioEpoch(pi, n_c, n_s)


def test_sticky_heavy_users_alone_are_no_mismatch_but_a_wrong_share_is() -> None:
    assert value(sticky_log_e([sticky(1, 0.25, 0.25)], 0.001)) < 2
    assert value(sticky_log_e([sticky(1, 0.25, 0.32)], 0.001)) > math.log(1000)
    assert value(sticky_log_e([sticky(1, 0.25, 0.18)], 0.001)) > math.log(1000)


def test_swapping_arms_changes_nothing_when_sticky() -> None:
    e = sticky(2, 0.25, 0.3)
    assert value(sticky_log_e([e], 0.001)) == pytest.approx(
        value(sticky_log_e([StickyRatioEpoch(0.75, e.n_s, e.n_c)], 0.001))
    )


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [StickyRatioEpoch(0.5, np.ones(10), np.ones(10))],
        [StickyRatioEpoch(0.5, np.ones(40), np.ones(39))],
        [StickyRatioEpoch(0.5, np.full(40, math.nan), np.ones(40))],
        [StickyRatioEpoch(0.5, -np.ones(40), np.ones(40))],
        [StickyRatioEpoch(0.5, np.zeros(40), np.zeros(40))],
    ],
)
def test_bad_clusters_are_not_computable(bad: list[StickyRatioEpoch]) -> None:
    assert isinstance(sticky_log_e(bad, 0.001), NotComputable)


def test_sticky_epochs_that_share_users_are_weighed_and_not_multiplied() -> None:
    n_c = np.asarray(11.0 + np.arange(128) % 3, np.float64)
    one = StickyRatioEpoch(0.5, n_c, np.full(128, 10.5))
    alone = sticky_log_e([one], 0.05)
    assert isinstance(alone, float)
    assert alone > 3.0
    thrice = sticky_log_e([one] * 3, 0.05)
    assert isinstance(thrice, float)
    assert alone < thrice < alone + math.log(1.5)


def split_of(totals: NDArray[np.float64], pi: float) -> StickyRatioEpoch:
    return StickyRatioEpoch(
        pi, np.asarray(pi * totals, np.float64), np.asarray(totals - pi * totals, np.float64)
    )


def test_few_units_due_to_the_smaller_arm_do_not_count() -> None:
    """Totals as even as 100 equal users make them: at 10% ten are the candidate's, at 50% fifty."""
    totals = np.random.default_rng(1).multinomial(100, np.full(128, 1 / 128)).astype(np.float64) * 100.0
    totals = np.asarray(totals, np.float64)
    assert 60.0 < effective_units(totals) < 160.0
    assert isinstance(sticky_log_e([split_of(totals, 0.1)], 0.05), NotComputable)
    nothing = sticky_log_e([StickyRatioEpoch(0.5, np.zeros(128), totals)], 0.05)
    assert isinstance(nothing, float)
    assert nothing > 3.0
