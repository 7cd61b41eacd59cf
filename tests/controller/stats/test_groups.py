from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from accede.controller.stats.groups import (
    PairedGroups,
    gap_growth,
    ratio_growth,
    shortfall,
)
from accede.controller.stats.result import NotComputable
from accede.controller.stats.spread import Cell, GapEstimate

rate = Cell.counts


def split(n: float, ones: float, clusters: int = 64) -> Cell:
    """The same sums spread over clusters, a little unevenly."""
    shares = 1.0 + 0.3 * np.sin(np.arange(clusters))
    shares /= shares.sum()
    y = ones * shares * (1.0 + 0.1 * (-1.0) ** np.arange(clusters))
    y *= ones / y.sum()
    return Cell(n * shares, y, y)


def found(got: GapEstimate | NotComputable) -> GapEstimate:
    assert isinstance(got, GapEstimate), got
    return got


def test_a_shortfall_from_four_fifths() -> None:
    got = found(shortfall([(rate(200, 80), rate(100, 50))], 0.8))
    assert got.estimate == pytest.approx(0.0)
    assert got.rates == pytest.approx((0.4, 0.5))
    assert got.variance == pytest.approx(0.24 / 199 + 0.64 * 0.25 / 99, rel=0.01)
    # With one weight for all cells, and epochs of different sizes, it is the weighted mean of shortfalls.
    two = found(shortfall([(rate(200, 80), rate(100, 50)), (rate(400, 200), rate(200, 80))], 0.8))
    assert two.estimate == pytest.approx((0.5 - 0.32) * 600 / 900)


def test_growth_of_a_gap_is_a_weighted_difference_of_differences() -> None:
    one = PairedGroups(0.5, rate(100, 50), rate(100, 40), rate(100, 30), rate(100, 30))
    two = PairedGroups(0.1, rate(100, 60), rate(900, 540), rate(100, 30), rate(900, 270))
    got = found(gap_growth([one, two]))
    weights = (400 * 0.25, 2000 * 0.09)
    assert got.estimate == pytest.approx(weights[0] * 0.1 / sum(weights))
    swapped = found(
        gap_growth([replace(e, pi=1 - e.pi, g_c=e.g_s, g_s=e.g_c, h_c=e.h_s, h_s=e.h_c) for e in (one, two)])
    )
    assert swapped.estimate == pytest.approx(-got.estimate)
    assert swapped.variance == pytest.approx(got.variance)


def test_against_the_reverse_gap_the_two_gaps_are_added() -> None:
    epoch = PairedGroups(0.5, rate(100, 50), rate(100, 20), rate(100, 30), rate(100, 45))
    assert found(gap_growth([epoch])).estimate == pytest.approx(0.2 + 0.25)
    assert found(gap_growth([epoch], against=1)).estimate == pytest.approx(0.2 - 0.25)


def test_a_ratio_is_compared_on_the_log_scale_also_where_an_epoch_has_no_success() -> None:
    one = PairedGroups(0.5, rate(400, 160), rate(400, 200), rate(400, 200), rate(400, 200))
    got = found(ratio_growth([one]))
    assert got.estimate == pytest.approx(math.log(0.8))
    by_hand = sum((1 - y / 400) / y for y in (160, 200, 200, 200))
    assert got.variance == pytest.approx(by_hand, rel=0.01)
    empty = PairedGroups(0.01, rate(4, 0), rate(400, 200), rate(4, 2), rate(400, 200))
    assert math.isfinite(found(ratio_growth([one, empty])).estimate)


def test_clusters_give_the_same_estimate_and_their_own_variance() -> None:
    cells = [(400, 200), (400, 160), (400, 120), (400, 120)]
    plain = found(gap_growth([PairedGroups(0.5, *(rate(*each) for each in cells))]))
    clustered = found(gap_growth([PairedGroups(0.5, *(split(*each) for each in cells))]))
    assert clustered.estimate == pytest.approx(plain.estimate)
    assert clustered.df < 64
    assert clustered.variance != pytest.approx(plain.variance)
    few = gap_growth([PairedGroups(0.5, *(split(*each, clusters=12) for each in cells))])
    assert isinstance(few, NotComputable)
    assert "effective clusters" in few.reason
    assert isinstance(
        gap_growth([PairedGroups(0.5, *(split(*each, clusters=12) for each in cells))], fewest=10),
        GapEstimate,
    )


def test_cells_that_share_observations_get_the_largest_variance_there_can_be() -> None:
    epoch = PairedGroups(0.5, *(rate(400, 200) for _ in range(4)))
    apart, shared = found(gap_growth([epoch])), found(gap_growth([epoch], shared=True))
    assert shared.variance == pytest.approx(2.0 * apart.variance)


@pytest.mark.parametrize(
    "bad",
    [
        rate(20, 10), rate(100, 5), rate(100, 95), rate(math.nan, 1), rate(-40, -20), rate(100, math.inf),
        Cell(np.array([40.0]), np.array([20.0]), np.array([60.0])), rate(0, 0), split(100, 50),
        Cell(np.array([]), np.array([]), np.array([])),
    ],
)  # fmt: skip
def test_small_or_broken_groups_are_not_computable(bad: Cell) -> None:
    good = rate(100, 50)
    assert isinstance(shortfall([(bad, good)], 0.8), NotComputable)
    assert isinstance(shortfall([(good, bad)], 0.8), NotComputable)
    for growth in (gap_growth, ratio_growth):
        assert isinstance(growth([PairedGroups(0.5, bad, good, good, good)]), NotComputable)
        assert isinstance(growth([PairedGroups(0.5, good, good, good, bad)]), NotComputable)


@pytest.mark.parametrize("pi", [math.nan, -0.1, 1.1])
def test_a_share_that_is_none_is_not_computable(pi: float) -> None:
    good = rate(100, 50)
    assert isinstance(gap_growth([PairedGroups(pi, good, good, good, good)]), NotComputable)


def test_no_epochs_are_not_computable() -> None:
    assert isinstance(gap_growth([]), NotComputable)
    assert isinstance(shortfall([], 0.8), NotComputable)
