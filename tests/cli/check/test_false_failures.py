"""How often a check fails although both versions are the same: A/A, with blocks, the product's own tests.

Both versions answer a row with noise of their own around the row's score, so differences do not vanish; some
runs add a stall that hits one contiguous stretch of one version. Seeds are in the parameters.
"""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest

from accede.cli.check.order import order_of
from accede.cli.check.trial import blocks_of
from accede.controller.analysis.methods import paired_differences
from accede.controller.analysis.sums import PairEpoch, Sums
from accede.controller.stats.result import NotComputable
from accede.store.measurement import CLUSTERS

LEVEL = 0.05


def failures(runs: int, pairs: int, seed: int, *, stalls: bool, margin: float = 0.0) -> tuple[int, int]:
    """(runs in which harm was proven, runs in which safety was) at the null of each question.

    Harm is asked at an effect of 0, which is true; safety at a margin equal to the true effect.
    """
    rng = np.random.default_rng(seed)
    blocks = blocks_of(pairs, 8)
    block = np.arange(pairs) * blocks // pairs
    harmed = proven = 0
    for _ in range(runs):
        if stalls:  # errors: 1% each, and one stall of each version that fails 1% of the rows in a row
            answers = (rng.random((2, pairs)) < 0.01).astype(float)
            for side in answers:
                begin = rng.integers(0, pairs - pairs // 100)
                side[begin : begin + pairs // 100] = 1.0
        else:
            row = rng.beta(2.0, 3.0, pairs)
            answers = np.clip(row + rng.normal(0.0, 0.1, (2, pairs)), 0.0, 1.0)
        stable, candidate = answers
        d = candidate - stable

        def by_block(y: np.ndarray) -> np.ndarray:
            return np.bincount(block, y, CLUSTERS)

        n = by_block(np.ones(pairs))
        epoch = PairEpoch(
            0, 1.0, Sums(n, by_block(d), by_block(d * d)), Sums(n, by_block(stable), by_block(stable**2))
        )
        got = paired_differences([epoch], counted=stalls, autocorrelation=1.0)
        assert not isinstance(got, NotComputable)
        harm, safe = got.harm(0.0, 0.05, LEVEL), got.safe(margin, 0.05, LEVEL)
        harmed += not isinstance(harm, NotComputable) and harm >= -log(LEVEL)
        proven += not isinstance(safe, NotComputable) and safe >= -log(LEVEL)
    return harmed, proven


def allowed(runs: int) -> float:
    return runs * LEVEL + 3 * sqrt(runs * LEVEL * (1 - LEVEL))


@pytest.mark.parametrize(("pairs", "stalls"), [(240, False), (2000, False), (2000, True)])
def test_equal_versions_rarely_fail(pairs: int, stalls: bool) -> None:
    harmed, proven = failures(200, pairs, seed=41, stalls=stalls)
    assert harmed <= allowed(200)
    assert proven <= allowed(200)


@pytest.mark.slow
@pytest.mark.parametrize(("pairs", "stalls"), [(240, False), (800, False), (5000, False), (2000, True)])
def test_equal_versions_rarely_fail_in_many_runs(pairs: int, stalls: bool) -> None:
    harmed, proven = failures(2000, pairs, seed=42, stalls=stalls)
    print(
        f"{pairs} pairs, stalls {stalls}: harm {harmed / 2000:.2%}, safety at the margin {proven / 2000:.2%}"
    )
    assert harmed <= allowed(2000)
    assert proven <= allowed(2000)


class TestOrder:
    def test_every_row_is_once_in_it_and_the_seed_decides(self) -> None:
        units = np.zeros(1000, np.uint64)
        one, same, other = (order_of(units, seed, 1000, 8) for seed in (1, 1, 2))
        rows = np.concatenate((one.baseline, one.pairs))
        assert sorted(rows.tolist()) == list(range(1000))
        assert one.baseline.size == 200
        assert (one.pairs == same.pairs).all()
        assert (one.pairs != other.pairs).any()

    def test_blocks_are_contiguous_and_about_equal(self) -> None:
        order = order_of(np.zeros(1000, np.uint64), 1, 1000, 8)
        assert (np.diff(order.pair_block) >= 0).all()
        sizes = np.bincount(order.pair_block)
        assert sizes.size == order.blocks == 50
        assert sizes.max() - sizes.min() <= 1

    def test_rows_of_one_unit_stay_together(self) -> None:
        units = np.repeat(np.arange(1, 101, dtype=np.uint64), 10)
        order = order_of(np.random.default_rng(1).permutation(units), 3, 1000, 8)
        shuffled = np.random.default_rng(1).permutation(units)
        assert not set(shuffled[order.baseline]) & set(shuffled[order.pairs])
        for unit in set(shuffled[order.pairs]):
            assert len(set(order.pair_block[shuffled[order.pairs] == unit])) == 1

    @pytest.mark.parametrize(("rows", "baseline"), [(1, 0), (2, 1), (60, 30), (300, 100), (9000, 1000)])
    def test_how_many_are_held_out(self, rows: int, baseline: int) -> None:
        assert order_of(np.zeros(rows, np.uint64), 1, 1000, 8).baseline.size == baseline
