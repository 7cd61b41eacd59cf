"""Estimates between groups against fairlearn, and against design values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fairlearn.metrics import (
    demographic_parity_difference,
    demographic_parity_ratio,
    equal_opportunity_difference,
    equalized_odds_difference,
)

from accede.controller.stats.groups import (
    PairedGroups,
    gap_growth,
    ratio_growth,
    shortfall,
)
from accede.controller.stats.result import NotComputable
from accede.controller.stats.spread import Cell, GapEstimate


def cell(chosen: np.ndarray) -> Cell:
    return Cell.counts(float(chosen.size), float(chosen.sum()))


def value(got: object) -> float:
    assert isinstance(got, GapEstimate), got
    return got.estimate


def gap(predicted: np.ndarray, group: np.ndarray, names: list[str]) -> float:
    """The largest shortfall at a ratio of 1: the demographic parity difference."""
    cells = {name: cell(predicted[group == name]) for name in names}
    return max(value(shortfall([(cells[g], cells[h])], 1.0)) for g in names for h in names if g != h)


@pytest.mark.parametrize("seed", range(8))
def test_gaps_and_ratios_agree_with_fairlearn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c"]
    group = rng.choice(names, 3000, p=[0.5, 0.3, 0.2])
    truth = rng.binomial(1, 0.4, 3000)
    bias = np.select([group == "a", group == "b"], [0.1, -0.05], 0.0)
    stable = rng.binomial(1, 0.25 + 0.3 * truth)
    ours = rng.binomial(1, np.clip(0.25 + 0.3 * truth + bias, 0, 1))
    known = demographic_parity_difference(truth, ours, sensitive_features=group)
    assert gap(ours, group, names) == pytest.approx(known, rel=1e-9)
    ratios = [
        value(shortfall([(cell(ours[group == g]), cell(ours[group == h]))], 0.5)) / ours[group == h].mean()
        + 0.5
        for g in names
        for h in names
        if g != h
    ]
    assert min(ratios) == pytest.approx(
        demographic_parity_ratio(truth, ours, sensitive_features=group), rel=1e-9
    )
    cells = {name: [cell(each[group == name]) for each in (ours, stable)] for name in names}
    epoch = {g: {h: PairedGroups(0.5, *cells[g], *cells[h]) for h in names} for g in names}
    rate = {g: (ours[group == g].mean(), stable[group == g].mean()) for g in names}
    for g in names:
        for h in names:
            if g != h:
                grown = (rate[g][0] - rate[h][0]) - (rate[g][1] - rate[h][1])
                assert value(gap_growth([epoch[g][h]])) == pytest.approx(grown, abs=1e-12)
                assert value(ratio_growth([epoch[g][h]])) == pytest.approx(
                    math.log(rate[g][0] / rate[h][0] / (rate[g][1] / rate[h][1])), abs=1e-12
                )


@pytest.mark.parametrize("seed", range(4))
def test_cells_of_one_true_label_give_equalized_odds_and_equal_opportunity(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    names = ["a", "b"]
    group, truth = rng.choice(names, 2000), rng.binomial(1, 0.5, 2000)
    ours = rng.binomial(1, 0.3 + 0.2 * truth + 0.1 * (group == "a"))
    by_label = [gap(ours[truth == label], group[truth == label], names) for label in (0, 1)]
    assert max(by_label) == pytest.approx(
        equalized_odds_difference(truth, ours, sensitive_features=group), rel=1e-9
    )
    assert by_label[1] == pytest.approx(
        equal_opportunity_difference(truth, ours, sensitive_features=group), rel=1e-9
    )


def test_the_small_example_of_the_design() -> None:
    predicted = np.array([int(c) for c in "101001101001"])
    truth = np.array([int(c) for c in "101101001010"])
    group = np.repeat(["a", "b"], 6)
    assert demographic_parity_difference(truth, predicted, sensitive_features=group) == pytest.approx(0.0)
    assert equalized_odds_difference(truth, predicted, sensitive_features=group) == pytest.approx(0.5)
    # The same shares, thirty times as often, are enough for an estimate; of a rate of 0 there never is one.
    often = [np.tile(each, 30) for each in (predicted, truth, group)]
    assert gap(often[0], often[2], ["a", "b"]) == pytest.approx(0.0)
    false_cases = [cell(often[0][(often[1] == 0) & (often[2] == name)]) for name in ("a", "b")]
    assert isinstance(shortfall([(false_cases[0], false_cases[1])], 1.0), NotComputable)
