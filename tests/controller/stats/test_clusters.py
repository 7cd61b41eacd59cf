from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.controller.stats.clusters import (
    BatchEstimate,
    ClusterEpoch,
    ClusterEstimate,
    batch_estimate,
    cluster_estimate,
)
from accede.controller.stats.result import NotComputable

seeds = st.integers(0, 2**32 - 1)


def epoch(seed: int, pi: float = 0.25, clusters: int = 40) -> ClusterEpoch:
    rng = np.random.default_rng(seed)
    n_c, n_s = rng.poisson(40 * pi, clusters) + 1, rng.poisson(40 * (1 - pi), clusters) + 1
    arrays = (n_c, rng.binomial(n_c, 0.3), n_s, rng.binomial(n_s, 0.3))
    return ClusterEpoch(pi, *(a.astype(np.float64) for a in arrays))


def computed(result: ClusterEstimate | NotComputable) -> ClusterEstimate:
    assert isinstance(result, ClusterEstimate), result
    return result


def test_one_epoch_is_the_textbook_ratio_estimate() -> None:
    e = epoch(1)
    got = computed(cluster_estimate([e], ratio=1.5))
    r_c, r_s = e.y_c.sum() / e.n_c.sum(), e.y_s.sum() / e.n_s.sum()
    psi = (e.y_c - r_c * e.n_c) / e.n_c.sum() - 1.5 * (e.y_s - r_s * e.n_s) / e.n_s.sum()
    assert got.estimate == pytest.approx(r_c - 1.5 * r_s)
    assert got.variance == pytest.approx(40 / 39 * np.sum(psi**2))
    assert got.effective_clusters == pytest.approx(e.n_c.sum() ** 2 / np.sum(e.n_c**2))
    assert got.df == got.effective_clusters - 1
    assert not got.few_events


@given(a=seeds, b=seeds)
def test_swapping_arms_mirrors_the_result(a: int, b: int) -> None:
    here = [epoch(a, 0.25), epoch(b, 0.5)]
    there = [ClusterEpoch(1 - e.pi, e.n_s, e.y_s, e.n_c, e.y_c) for e in here]
    one, two = computed(cluster_estimate(here)), computed(cluster_estimate(there))
    assert one.estimate == pytest.approx(-two.estimate)
    assert one.variance == pytest.approx(two.variance)


@given(seed=seeds, shuffle=seeds)
def test_the_order_of_clusters_does_not_matter(seed: int, shuffle: int) -> None:
    e = epoch(seed)
    order = np.random.default_rng(shuffle).permutation(40)
    mixed = ClusterEpoch(e.pi, e.n_c[order], e.y_c[order], e.n_s[order], e.y_s[order])
    assert computed(cluster_estimate([mixed])).variance == pytest.approx(
        computed(cluster_estimate([e])).variance
    )


def test_epochs_are_averaged_never_pooled() -> None:
    # Twice the rate in the second epoch, for both arms alike: pooling over a changed share sees a difference.
    n = np.full(40, 1000.0)
    one = ClusterEpoch(0.1, n * 0.1, n * 0.1 * 0.2, n * 0.9, n * 0.9 * 0.2)
    two = ClusterEpoch(0.5, n * 0.5, n * 0.5 * 0.4, n * 0.5, n * 0.5 * 0.4)
    got = computed(cluster_estimate([one, two]))
    assert got.estimate == pytest.approx(0.0, abs=1e-12)
    assert got.omega == pytest.approx((0.09 / 0.34, 0.25 / 0.34))


def test_an_epoch_with_an_empty_arm_has_no_weight() -> None:
    e = epoch(5)
    young = replace(epoch(6), n_c=np.zeros(40), y_c=np.zeros(40))
    both, alone = computed(cluster_estimate([e, young])), computed(cluster_estimate([e]))
    assert both.estimate == alone.estimate
    assert both.omega == (1.0, 0.0)


@pytest.mark.parametrize("constant", [0.0, 0.3, 1.0])
def test_constant_outcomes_have_exactly_no_variance(constant: float) -> None:
    e = epoch(7)
    got = computed(cluster_estimate([replace(e, y_c=e.n_c * constant, y_s=e.n_s * constant)]))
    assert got.variance == 0.0
    assert got.few_events


def test_few_events_are_named() -> None:
    y = np.zeros(40)
    y[:4] = 1.0
    assert computed(cluster_estimate([replace(epoch(8), y_c=y, y_s=y)])).few_events


def test_tests_refuse_few_events_and_non_inferiority_also_few_expected_ones() -> None:
    y = np.zeros(40)
    few = computed(cluster_estimate([replace(epoch(8), y_c=y, y_s=y)]))
    for result in (
        few.log_e_harm(0.0, 100, 0.05),
        few.log_e_safe(0.1, 100, 0.05),
        few.interval(100, 0.05, 0.05),
    ):
        assert isinstance(result, NotComputable)
    # twenty stable errors, none of the candidate's: nothing can be said for it before more were due
    e = epoch(8)
    y_s = y.copy()
    y_s[::2] = 1.0
    lucky = computed(cluster_estimate([replace(e, y_c=y, y_s=y_s)]))
    assert isinstance(lucky.log_e_harm(0.0, 100, 0.05), float)
    assert isinstance(lucky.log_e_safe(0.001, 100, 0.05), NotComputable)
    assert isinstance(lucky.log_e_safe(0.2, 100, 0.05), float)


E8 = epoch(8)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ([], "no epochs"),
        ([replace(E8, n_c=np.zeros(40), y_c=np.zeros(40))], "0 candidate"),
        ([replace(E8, n_s=np.zeros(40), y_s=np.zeros(40))], "0 stable"),
        ([replace(E8, y_c=np.full(40, math.nan))], "not finite"),
        ([replace(E8, y_c=E8.n_c * 2)], "cannot come from"),
        ([replace(E8, n_s=-E8.n_s)], "negative count"),
        ([replace(E8, n_s=np.ones(39))], "shapes"),
        ([E8, epoch(9, clusters=30)], "shapes"),
        ([replace(E8, pi=math.nan)], "candidate share"),
        ([epoch(8, clusters=15)], "effective clusters"),
        ([replace(E8, pi=0.0)], "0 candidate"),
    ],
)
def test_bad_sums_are_not_computable(broken: list[ClusterEpoch], reason: str) -> None:
    result = cluster_estimate(broken)
    assert isinstance(result, NotComputable)
    assert reason in result.reason


def test_a_ratio_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="ratio"):
        cluster_estimate([E8], ratio=math.nan)


def test_batches() -> None:
    rng = np.random.default_rng(2)
    n = rng.integers(80, 120, 30).astype(np.float64)
    d = rng.normal(3, 2, 30)
    got = batch_estimate(n, d)
    assert isinstance(got, BatchEstimate)
    mean = d.sum() / n.sum()
    assert got.estimate == pytest.approx(mean)
    assert got.variance == pytest.approx(30 / 29 * np.sum(((d - mean * n) / n.sum()) ** 2))
    assert got == batch_estimate(np.append(n, 0), np.append(d, 0))


@pytest.mark.parametrize(
    ("n", "d"),
    [
        (np.ones(9), np.zeros(9)),
        (np.append(np.ones(9), 1e6), np.zeros(10)),
        (np.ones(12), np.full(12, 1.5)),
        (np.ones(12), np.full(12, math.nan)),
        (np.ones(12), np.zeros(11)),
        (-np.ones(12), np.zeros(12)),
        (np.zeros(0), np.zeros(0)),
        (np.full(12, 8.0), np.arange(12.0) / 4.0),  # 96 pairs
    ],
)
def test_bad_batches_are_not_computable(n: np.ndarray, d: np.ndarray) -> None:
    assert isinstance(batch_estimate(n, d), NotComputable)
