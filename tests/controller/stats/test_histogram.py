from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.controller.stats.histogram import (
    BINS,
    LatencyThresholds,
    SnappedMargin,
    bin_of,
    edge,
    latency_thresholds,
    over,
    quantile,
    snapped_margin,
)
from accede.controller.stats.result import NotComputable


@given(st.floats(2e-5, 3600))
def test_a_latency_lies_within_its_bin(seconds: float) -> None:
    index = bin_of(seconds)
    assert isinstance(index, int)
    assert edge(index) * (1 - 1e-9) <= seconds < edge(index + 1) * (1 + 1e-9)


def test_an_edge_belongs_to_the_bin_above_it() -> None:
    assert [bin_of(edge(i)) for i in range(BINS)] == list(range(BINS))


def test_the_ends_take_everything_beyond() -> None:
    assert bin_of(0.0) == 0
    assert bin_of(1e-9) == 0
    assert bin_of(1e9) == BINS - 1
    assert bin_of(math.inf) == BINS - 1
    assert edge(BINS - 1) > 3600
    assert isinstance(bin_of(math.nan), NotComputable)
    assert isinstance(bin_of(-1.0), NotComputable)


@pytest.mark.parametrize(("delta", "effective"), [(0.10, 0.082), (0.20, 0.195)])
def test_margins_are_snapped_down(delta: float, effective: float) -> None:
    got = snapped_margin(delta)
    assert isinstance(got, SnappedMargin)
    assert got.effective == pytest.approx(effective, abs=6e-4)


@given(st.integers(1, 60))
def test_a_margin_of_whole_bins_stays(bins: int) -> None:
    got = snapped_margin(1.02**bins - 1.0)
    assert isinstance(got, SnappedMargin)
    assert got.bins == bins


@given(st.lists(st.integers(0, 50), min_size=4, max_size=40), st.floats(0.05, 0.99))
def test_a_quantile_is_the_lowest_edge_with_enough_below(counts: list[int], q: float) -> None:
    index = quantile(counts, q)
    if isinstance(index, NotComputable):
        assert sum(counts) == 0 or sum(counts[:-1]) < q * sum(counts)
        return
    assert sum(counts[:index]) >= q * sum(counts) * (1 - 1e-9)
    assert index == 1 or sum(counts[: index - 1]) < q * sum(counts)
    assert over(counts, index) == sum(counts[index:])


def test_three_thresholds_on_edges() -> None:
    counts = np.zeros(BINS)
    counts[400:500] = 10
    got = latency_thresholds(counts, 0.95, 0.20)
    assert isinstance(got, LatencyThresholds)
    assert (got.stable, got.harm, got.margin) == (495, 499, 504)
    assert got.effective_margin == pytest.approx(0.195, abs=1e-3)


@pytest.mark.parametrize(
    "counts",
    [np.zeros(BINS), np.full(BINS, math.nan), -np.ones(BINS), np.ones((2, 2)), np.eye(1, BINS, BINS - 1)[0]],
)
def test_bad_histograms_are_not_computable(counts: np.ndarray) -> None:
    assert isinstance(quantile(counts, 0.5), NotComputable)
    assert isinstance(latency_thresholds(counts, 0.5, 0.2), NotComputable)


def test_a_margin_finer_than_the_bins_is_not_computable() -> None:
    assert isinstance(snapped_margin(0.01), NotComputable)
    for bad in (0.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="margin"):
            snapped_margin(bad)
