from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from accede.controller.stats.autocorrelation import Memory, memory
from accede.controller.stats.result import NotComputable

Floats = NDArray[np.float64]


def batched(values: np.ndarray[tuple[int], np.dtype[np.float64]], length: int) -> Memory:
    rows = values[: values.size // length * length].reshape(-1, length)
    got = memory(np.full(len(rows), float(length)), rows.sum(axis=1), (rows**2).sum(axis=1))
    assert isinstance(got, Memory), got
    return got


def ar(phi: float, size: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    noise = np.random.default_rng(seed).normal(size=size)
    return np.asarray(lfilter([1.0], [1.0, -phi], noise), dtype=np.float64)


@pytest.mark.parametrize("phi", [0.3, 0.6, 0.9, 0.95])
def test_the_time_of_an_autoregression_is_found(phi: float) -> None:
    """AR(1) has tau = (1 + phi)/(1 - phi); batches of 500 make the estimate's own error about an eighth."""
    seen = [batched(ar(phi, 64_000, seed), 500).tau for seed in range(20)]
    assert np.mean(seen) == pytest.approx((1.0 + phi) / (1.0 - phi), rel=0.15)


def test_batches_shorter_than_the_memory_still_see_most_of_it_and_are_called_too_short() -> None:
    seen = [batched(ar(0.95, 128 * 20, seed), 20) for seed in range(20)]
    assert np.mean([one.tau for one in seen]) > 20.0
    assert all(one.batches_needed > 3.0 for one in seen)


def test_independent_outcomes_have_none_however_few_are_in_a_batch() -> None:
    rng = np.random.default_rng(3)
    for length in (1, 5, 200):
        values = (rng.random((400, 128 * length)) < 0.3).astype(float)
        late = [batched(row, length).batches_needed > 1.0 for row in values]
        assert np.mean(late) < (0.06 if length < 200 else 0.001)


def test_bursts_are_seen() -> None:
    rng = np.random.default_rng(4)
    bursts = np.repeat(rng.random(6400) < 0.1, 20).astype(float)
    assert batched(bursts, 1000).tau == pytest.approx(20.0, rel=0.3)


@pytest.mark.parametrize(
    ("n", "y", "square"),
    [
        ([1.0] * 9, [1.0] * 9, [1.0] * 9),
        ([1.0] * 20, [1.0] * 20, [1.0] * 20),
        ([1.0] * 20, [0.0] * 20, [0.0] * 20),
        ([math.nan] * 20, [0.0] * 20, [0.0] * 20),
        ([-1.0] * 20, [0.0] * 20, [0.0] * 20),
        ([math.inf] * 20, [0.0] * 20, [0.0] * 20),
        ([1.0] * 20, [0.0] * 19, [0.0] * 20),
        ([0.0] * 20, [0.0] * 20, [0.0] * 20),
    ],
)
def test_what_cannot_be_measured_is_said(n: list[float], y: list[float], square: list[float]) -> None:
    assert isinstance(memory(np.array(n), np.array(y), np.array(square)), NotComputable)


def broken_half_way(seed: int, *, wrapped: bool) -> tuple[Floats, Floats, Floats]:
    """Agreement of pairs of a candidate that dies: nearly always, then never; perhaps twice round."""
    rng = np.random.default_rng(seed)
    n = rng.poisson(60, 256 if wrapped else 128).astype(float)
    alive = np.arange(n.size) < 50
    y = np.where(alive, rng.binomial(n.astype(int), 0.97), 0.0)
    y[50] = n[50] // 4  # it dies within a batch
    if wrapped:
        n, y = n.reshape(2, 128).sum(axis=0), y.reshape(2, 128).sum(axis=0)
    return n, y, y


@pytest.mark.parametrize("wrapped", [False, True])
def test_one_change_of_level_is_no_memory_where_it_is_taken_out(wrapped: bool) -> None:
    for seed in range(20):
        sums = broken_half_way(seed, wrapped=wrapped)
        whole, beside = memory(*sums), memory(*sums, beside_a_change=True)
        assert isinstance(whole, Memory)
        assert isinstance(beside, Memory)
        assert whole.batches_needed > 10.0
        assert beside.batches_needed <= 1.0


def test_memory_beside_a_change_is_still_seen() -> None:
    rng = np.random.default_rng(7)
    seen = 0
    for _ in range(200):
        noise = lfilter([1.0], [1.0, -0.9], rng.normal(size=128 * 10) * math.sqrt(0.19))
        d = np.clip(0.2 * noise, -1.0, 1.0).reshape(128, 10)
        got = memory(np.full(128, 10.0), d.sum(axis=1), (d * d).sum(axis=1), beside_a_change=True)
        assert isinstance(got, Memory)
        seen += got.batches_needed > 1.0
    assert seen >= 198


@pytest.mark.parametrize("alive", [12, 13, 30, 100])
@pytest.mark.parametrize("agree", [1.0, 0.97])
def test_a_version_that_dies_within_a_batch_shows_no_memory_at_any_look(alive: int, agree: float) -> None:
    """The batch in which it died belongs to neither level, and may not move either."""
    rng = np.random.default_rng(alive)
    n = rng.poisson(12.5, 128).astype(float)
    y = np.where(np.arange(128) < alive, rng.binomial(n.astype(int), agree), 0.0)
    y[alive] = n[alive] // 3
    for known in range(alive + 10, 129):
        seen = np.arange(128) < known
        got = memory(n * seen, y * seen, y * seen, beside_a_change=True)
        assert isinstance(got, NotComputable) or got.batches_needed <= 1.0, known
