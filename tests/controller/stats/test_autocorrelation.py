from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from accede.controller.stats.autocorrelation import Memory, memory
from accede.controller.stats.result import NotComputable


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
