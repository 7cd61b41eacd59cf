"""Seeded campaigns of the gates on divergence, ranks and explanations: false harm and false safety.

A run is looked at several times, and one wrong conclusion is enough. Counts are drawn per batch of time; both
sides of a batch move together, as they do under load.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import lfilter

from accede.controller.analysis.divergence import paired_divergence, too_short_apart
from accede.controller.analysis.methods import (
    Measured,
    paired_agreement,
    paired_differences,
    unit_outcomes,
)
from accede.controller.analysis.sums import CanaryEpoch, PairEpoch, Sums
from accede.controller.stats.result import NotComputable

Floats = NDArray[np.float64]
BATCHES = 128
LOOKS = (24, 32, 48, 64, 96, 128)


def first(column: Floats, batches: int) -> Floats:
    """What is known after so many batches."""
    return np.where(np.arange(column.size) < batches, column, 0.0)


def claims(got: Measured | NotComputable, null: float, level: float, *, harm: bool) -> bool:
    """Whether a look claims harm (or safety) at this null."""
    if isinstance(got, NotComputable):
        return False
    value = (got.harm if harm else got.safe)(null, 0.04, level)
    return not isinstance(value, NotComputable) and value >= -math.log(level)


def share(runs: int, run: Callable[[np.random.Generator], bool], seed: int) -> float:
    rng = np.random.default_rng(seed)
    return sum(run(rng) for _ in range(runs)) / runs


def allowed(level: float, runs: int) -> float:
    return level + 3.0 * math.sqrt(level * (1.0 - level) / runs)


def diverging(rng: np.random.Generator, noise: float, beyond: float, *, pairs: int = 60) -> PairEpoch:
    """One shadow: disagreements in bursts that candidate and floor share, and of their own beside."""
    common = rng.beta(2.0, 2.0 / noise - 2.0, BATCHES) if 0.0 < noise < 1.0 else np.full(BATCHES, noise)
    n = rng.poisson(pairs, BATCHES).astype(float)
    again = rng.poisson(pairs / 5, BATCHES).astype(float)
    ours = rng.binomial(n.astype(int), np.minimum(1.0, common + beyond)).astype(float)
    theirs = rng.binomial(again.astype(int), common).astype(float)
    return PairEpoch(0, 1.0, Sums(n, n - ours, n - ours), Sums(again, again - theirs, again - theirs))


def cut(epoch: PairEpoch, batches: int) -> PairEpoch:
    stable = epoch.stable
    assert stable is not None
    pair, floor = (
        Sums(first(s.n, batches), first(s.y, batches), first(s.square, batches)) for s in (epoch.pair, stable)
    )
    return PairEpoch(epoch.step, epoch.share, pair, floor)


def divergence_campaign(
    runs: int, noise: float, beyond: float, seed: int, *, harm: bool, level: float
) -> float:
    def run(rng: np.random.Generator) -> bool:
        epoch = diverging(rng, noise, beyond)
        return any(
            claims(paired_divergence([cut(epoch, k)], autocorrelation=1.0), beyond, level, harm=harm)
            for k in LOOKS
        )

    return share(runs, run, seed)


CASES = [
    pytest.param(0.2, 0.0, True, id="A/A of a noisy model"),
    pytest.param(0.02, 0.0, True, id="A/A of a quiet model"),
    pytest.param(0.2, 0.04, False, id="at the margin, noisy"),
    pytest.param(0.02, 0.04, False, id="at the margin, quiet"),
    pytest.param(0.0, 0.001, False, id="at a small margin, few events"),
]


@pytest.mark.parametrize(("noise", "beyond", "harm"), CASES)
def test_divergence_is_rarely_wrong(noise: float, beyond: float, harm: bool) -> None:
    runs = 300
    got = divergence_campaign(runs, noise, beyond, 21, harm=harm, level=0.05)
    assert got <= allowed(0.05, runs)


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.05, 0.005])
@pytest.mark.parametrize(("noise", "beyond", "harm"), CASES)
def test_divergence_is_rarely_wrong_in_many_runs(
    noise: float, beyond: float, harm: bool, level: float
) -> None:
    runs = 2000
    got = divergence_campaign(runs, noise, beyond, 22, harm=harm, level=level)
    print(f"divergence, noise {noise:g}, beyond {beyond:g}: {got:.2%} of {runs} runs at {level:g}")
    assert got <= allowed(level, runs)


def test_a_divergence_beyond_the_margin_is_found() -> None:
    rng = np.random.default_rng(23)
    found = 0
    for _ in range(50):
        got = paired_divergence([diverging(rng, 0.2, 0.2)], autocorrelation=1.0)
        found += claims(got, 0.02, 0.05, harm=True)
    assert found >= 48


# --- ranks of a heavy tail: bounded means in the canary, batches of pairs in the shadow ---------------------


def ranked(rng: np.random.Generator, runs_of: int, shift: float) -> CanaryEpoch:
    """Cauchy predictions, whose mean does not exist, as ranks among stable's; weight 20%."""
    assigned = rng.random(runs_of) < 0.2
    uniform = np.clip(rng.random(runs_of) + np.where(assigned, shift, 0.0), 0.0, 1.0)
    tail = np.tan(np.pi * (np.clip(uniform, 1e-9, 1 - 1e-9) - 0.5))
    reference = np.tan(np.pi * (np.linspace(0.0005, 0.9995, 1000) - 0.5))
    rank = np.searchsorted(reference, tail) / 1000.0
    ours, theirs = rank[assigned], rank[~assigned]

    def sums(y: Floats) -> Sums:
        return Sums(np.array([float(y.size)]), np.array([y.sum()]), np.array([np.square(y).sum()]))

    return CanaryEpoch(0, 0.2, 0.5, sums(ours), sums(theirs), 0.0, 0.0)


def rank_campaign(runs: int, seed: int, *, harm: bool) -> float:
    """Harm at no effect; safety where the true effect of the clipped shift is the margin."""
    shift = 0.0 if harm else 0.04
    exact = 0.0 if harm else shift * (1.0 - shift / 2.0)  # of uniform + shift, clipped at 1

    def run(rng: np.random.Generator) -> bool:
        epochs: list[CanaryEpoch] = []
        for _ in range(4):
            epochs.append(ranked(rng, 500, shift))
            got = unit_outcomes(epochs, sticky=False, counted=False, variance=1.0 / 12.0)
            if claims(got, exact - (0.0 if harm else 1e-3), 0.05, harm=harm):
                return True
        return False

    return share(runs, run, seed)


@pytest.mark.parametrize("harm", [True, False])
def test_ranks_of_a_heavy_tail_are_rarely_wrong(harm: bool) -> None:
    assert rank_campaign(300, 24, harm=harm) <= allowed(0.05, 300)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [True, False])
def test_ranks_of_a_heavy_tail_are_rarely_wrong_in_many_runs(harm: bool) -> None:
    assert rank_campaign(2000, 25, harm=harm) <= allowed(0.05, 2000)


def paired_campaign(runs: int, seed: int, kind: str, *, harm: bool) -> float:
    """Rank differences and agreement of explanations on pairs whose batches share a level of their own."""

    def run(rng: np.random.Generator) -> bool:
        n = rng.poisson(40, BATCHES).astype(float)
        level = rng.normal(0.0, 0.05, BATCHES)
        mean = (0.04 if not harm else 0.0) if kind == "rank" else 0.9
        noise = rng.normal(0.0, 0.1 / np.sqrt(np.maximum(n, 1.0)))
        y = np.clip(mean + level + noise, -1.0 if kind == "rank" else 0.0, 1.0) * n
        # Clipping at 1 lowers the mean of an agreement: its true mean is the bound.
        spread = np.square(y / np.maximum(n, 1.0)) * n + 0.01 * n
        both = Sums(n, y, np.minimum(spread, n))
        for batches in LOOKS:
            pair = Sums(*(first(column, batches) for column in (both.n, both.y, both.square)))
            epoch = PairEpoch(0, 1.0, pair, None)
            if kind == "rank":
                got = paired_differences([epoch], counted=False, autocorrelation=1.0)
                null = mean
            else:
                got = paired_agreement([epoch], least=TRUTH, autocorrelation=1.0)
                null = 0.0
            if isinstance(got, NotComputable):
                continue
            # A share harms where it falls.
            turned = got.mirrored() if kind == "explanation" else got
            if claims(turned, null, 0.05, harm=harm):
                return True
        return False

    return share(runs, run, seed)


def _truth() -> float:
    rng = np.random.default_rng(26)
    drawn = 0.9 + rng.normal(0.0, 0.05, 400_000) + rng.normal(0.0, 0.1 / np.sqrt(40.0), 400_000)
    return float(np.clip(drawn, 0.0, 1.0).mean())


TRUTH = _truth()


@pytest.mark.parametrize("harm", [True, False])
@pytest.mark.parametrize("kind", ["rank", "explanation"])
def test_pairs_of_ranks_and_explanations_are_rarely_wrong(kind: str, harm: bool) -> None:
    assert paired_campaign(300, 27, kind, harm=harm) <= allowed(0.05, 300)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [True, False])
@pytest.mark.parametrize("kind", ["rank", "explanation"])
def test_pairs_of_ranks_and_explanations_are_rarely_wrong_in_many_runs(kind: str, harm: bool) -> None:
    assert paired_campaign(2000, 28, kind, harm=harm) <= allowed(0.05, 2000)


# --- disagreements that remember from batch to batch --------------------------------------------------------


def remembering(rng: np.random.Generator, memory: float, beyond: float) -> PairEpoch:
    """Batches in which the candidate's own divergence is an AR(1) of sd 5pp, beside what both share."""
    own = 0.05 * lfilter([math.sqrt(1.0 - memory**2)], [1.0, -memory], rng.normal(size=BATCHES + 300))[300:]
    hard = 0.15 + 0.05 * rng.normal(size=BATCHES)
    n, again = rng.poisson(300, BATCHES).astype(float), rng.poisson(60, BATCHES).astype(float)
    ours = rng.binomial(n.astype(int), np.clip(hard + beyond + own, 0.0, 1.0)).astype(float)
    theirs = rng.binomial(again.astype(int), np.clip(hard, 0.0, 1.0)).astype(float)
    return PairEpoch(0, 1.0, Sums(n, n - ours, n - ours), Sums(again, again - theirs, again - theirs))


def remembering_campaign(runs: int, memory: float, seed: int, *, harm: bool) -> float:
    """At 4pp for safety, at 2pp for harm, as a gate of 4pp asks."""
    beyond = 0.02 if harm else 0.04

    def run(rng: np.random.Generator) -> bool:
        epoch = remembering(rng, memory, beyond)
        return any(
            too_short_apart([known], 5.0) is None
            and claims(paired_divergence([known], autocorrelation=1.0), beyond, 0.05, harm=harm)
            for known in (cut(epoch, k) for k in LOOKS)
        )

    got = share(runs, run, seed)
    print(f"divergence, memory {memory:g} between batches, {'harm' if harm else 'safe'}: {got:.2%} of {runs}")
    return got


@pytest.mark.parametrize("harm", [True, False])
def test_divergence_that_remembers_for_a_few_batches_is_rarely_wrong(harm: bool) -> None:
    assert remembering_campaign(150, 0.7, 31, harm=harm) <= allowed(0.05, 150)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [True, False])
@pytest.mark.parametrize("memory", [0.0, 0.2, 0.3, 0.5, 0.7])
def test_false_alarms_of_divergence_that_remembers_stay_at_their_level(memory: float, harm: bool) -> None:
    assert remembering_campaign(2000, memory, 32, harm=harm) <= allowed(0.05, 2000)
