from __future__ import annotations

import math
from dataclasses import replace

import pytest

from accede.controller.stats.groups import GapEpoch, GapEstimate, GroupSums, gap, gap_growth
from accede.controller.stats.result import NotComputable


def rate(n: float, ones: float) -> GroupSums:
    return GroupSums(n, ones, ones)


def test_a_gap_and_four_fifths() -> None:
    got = gap(rate(200, 80), rate(100, 50), ratio=0.8)
    assert isinstance(got, GapEstimate)
    assert got.estimate == pytest.approx(0.0)
    assert got.variance == pytest.approx(0.24 / 199 + 0.64 * 0.25 / 99)


def test_growth_of_a_gap_is_a_weighted_difference_of_differences() -> None:
    one = GapEpoch(0.5, rate(100, 50), rate(100, 40), rate(100, 30), rate(100, 30))
    two = GapEpoch(0.1, rate(100, 60), rate(900, 540), rate(100, 30), rate(900, 270))
    got = gap_growth([one, two])
    assert isinstance(got, GapEstimate)
    weights = (400 * 0.25, 2000 * 0.09)
    assert got.estimate == pytest.approx(weights[0] * 0.1 / sum(weights))
    swapped = gap_growth(
        [replace(e, pi=1 - e.pi, g_c=e.g_s, g_s=e.g_c, h_c=e.h_s, h_s=e.h_c) for e in (one, two)]
    )
    assert isinstance(swapped, GapEstimate)
    assert swapped.estimate == pytest.approx(-got.estimate)
    assert swapped.variance == pytest.approx(got.variance)


@pytest.mark.parametrize(
    "bad",
    [rate(20, 10), rate(100, 5), rate(100, 95), rate(math.nan, 1), rate(-40, -20), GroupSums(40, 20, 60)],
)
def test_small_or_broken_groups_are_not_computable(bad: GroupSums) -> None:
    good = rate(100, 50)
    assert isinstance(gap(bad, good), NotComputable)
    assert isinstance(gap(good, bad), NotComputable)
    assert isinstance(gap_growth([GapEpoch(0.5, bad, good, good, good)]), NotComputable)


def test_no_epochs_are_not_computable() -> None:
    assert isinstance(gap_growth([]), NotComputable)
