"""Batches of pairs that are short against what they hold decide nothing, and say what to write."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.signal import lfilter

from accede.controller.analysis.batching import LONGEST, chosen_batch, groups_too_short, too_short
from accede.controller.analysis.gaps import Form
from accede.controller.analysis.length import DEFAULT_BATCH, batch_of
from accede.controller.analysis.methods import paired_differences
from accede.controller.analysis.sums import PairEpoch, PairGroupsEpoch, Sums
from accede.controller.stats.result import NotComputable
from accede.policies.policy import RolloutPolicy
from accede.store.evidence import Evidence, Series, SeriesKey
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import Outcome
from tests.controller.test_analysis import CONSTANTS, ERRORS, Scene, policy

MEAN = {"metric": "prediction.mean", "max_shift": "0.1sd", "in": "shadow"}


def pairs(scene: Scene, memory: float, per_batch: int, seed: int = 1, bias: float = 0.0) -> Scene:
    """AR(1) differences of sd 0.1 with coefficient `memory`, `per_batch` to a batch."""
    noise = np.random.default_rng(seed).normal(size=CLUSTERS * per_batch)
    d = lfilter([np.sqrt(1.0 - memory**2)], [1.0, -memory], noise) * 0.1 + bias
    d = np.clip(d, -1.0, 1.0).reshape(CLUSTERS, per_batch)
    n = [float(per_batch)] * CLUSTERS
    scene.put(1, "pair", "mean", n, list(d.sum(axis=1)), list((d**2).sum(axis=1)))
    return scene.put(1, "paired_stable", "mean", n, [0.5 * per_batch] * CLUSTERS)


def test_pairs_correlated_beyond_their_batch_are_inconclusive_and_name_the_batch_to_write() -> None:
    verdict = pairs(Scene(step=0), 0.95, 20).verdict(policy(MEAN), "shadow")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "correlated over about" in verdict.reason
    assert "write `batch: " in verdict.reason
    harmful = pairs(Scene(step=0), 0.95, 20, bias=0.3).verdict(policy(MEAN), "shadow")
    assert harmful.outcome is Outcome.INCONCLUSIVE


def test_batches_that_are_long_enough_decide() -> None:
    assert pairs(Scene(step=0), 0.95, 2000).verdict(policy(MEAN), "shadow").outcome is Outcome.PASS
    assert pairs(Scene(step=0), 0.0, 200).verdict(policy(MEAN), "shadow").outcome is Outcome.PASS
    assert pairs(Scene(step=0), 0.0, 200, bias=0.3).verdict(policy(MEAN), "shadow").outcome is Outcome.FAIL


GAP = {"metric": "selection_gap", "by": "sex", "max_increase": "3pp", "in": "shadow"}
DIVERGENCE = {"metric": "prediction.divergence", "max_increase": "4pp", "in": "shadow"}


def test_a_gap_of_pairs_needs_batches_that_are_long_enough_too() -> None:
    for memory, short in ((0.0, False), (0.97, True)):
        scene = pairs(Scene(step=0), memory, 60)
        n, d = [60.0] * CLUSTERS, scene.evidence[1].series[SeriesKey("pair", "", "mean")]
        for group, sums in (("sex=female", ([0.0] * CLUSTERS,) * 2), ("sex=male", (d.sum, d.square))):
            scene.put(1, "pair", "selected", n, list(sums[0]), list(sums[1]), group)
            scene.put(1, "paired_stable", "selected", n, [30.0] * CLUSTERS, group=group)
        verdict = scene.verdict(policy(GAP), "shadow")
        assert verdict.outcome is (Outcome.INCONCLUSIVE if short else Outcome.PASS), verdict.reason
        assert ("correlated over about" in verdict.reason) is short


@pytest.mark.parametrize(("memory", "refused"), [(0.0, False), (0.9, True)])
def test_divergence_in_bursts_over_several_batches_decides_nothing(memory: float, refused: bool) -> None:
    rng = np.random.default_rng(3)
    hard = 0.05 * lfilter([np.sqrt(1.0 - 0.9**2)], [1.0, -0.9], rng.normal(size=CLUSTERS))
    own = 0.04 * lfilter([np.sqrt(1.0 - memory**2)], [1.0, -memory], rng.normal(size=CLUSTERS))
    scene = Scene(step=0)
    for arm, n, more in (("pair", 3000, 0.09 + own), ("floor", 1000, 0.0)):
        y = rng.binomial(n, np.clip(0.8 - hard - more, 0.0, 1.0)).astype(float)
        scene.put(1, arm, "agreement", [float(n)] * CLUSTERS, list(y))  # type: ignore[arg-type]
    verdict = scene.verdict(policy(DIVERGENCE), "shadow")
    assert verdict.outcome is (Outcome.INCONCLUSIVE if refused else Outcome.FAIL)
    assert ("correlated between batches" in verdict.reason) is refused


def bursts(rate: float, burst: int, per_batch: int, seed: int) -> list[float]:
    """Events per batch, `burst` of them in a row."""
    hit = np.repeat(np.random.default_rng(seed).random(CLUSTERS * per_batch // burst) < rate, burst)
    return [float(y) for y in hit.reshape(CLUSTERS, per_batch).sum(axis=1)]


def two_groups(burst: int, per_batch: int, *, women: float = 0.45, men: float = 0.45) -> Scene:
    """Selected shares of stable 0.5 in both groups; of the candidate 0.05 more or less, in bursts."""
    scene = Scene(step=0)
    n = [float(per_batch)] * CLUSTERS
    for name, rate, seed in (("female", women, 5), ("male", men, 6)):
        lost = bursts(0.5 - rate, burst, per_batch, seed)
        group = f"sex={name}"
        scene.put(1, "pair", "selected", n, [-y for y in lost], lost, group)
        scene.put(1, "paired_stable", "selected", n, [per_batch / 2.0] * CLUSTERS, group=group)
    return scene


RATIO = {"metric": "selection_ratio", "by": "sex", "min": 0.8, "in": "shadow"}
WORSE = {**RATIO, "min": 0.97, "or": "not_worse_than_stable"}


@pytest.mark.parametrize("gate", [GAP, RATIO, WORSE])
def test_groups_on_pairs_in_bursts_beyond_their_batch_wait(gate: dict[str, Any]) -> None:
    short = two_groups(100, 200, women=0.42, men=0.42).verdict(policy(gate), "shadow")
    assert short.outcome is Outcome.INCONCLUSIVE
    assert "write `batch: " in short.reason
    assert two_groups(100, 200, women=0.2).verdict(policy(gate), "shadow").outcome is Outcome.INCONCLUSIVE
    assert two_groups(1, 200).verdict(policy(gate), "shadow").outcome is Outcome.PASS
    assert two_groups(1, 200, women=0.2).verdict(policy(gate), "shadow").outcome is not Outcome.PASS


@pytest.mark.parametrize("form", ["gap", "reverse", "shortfall", "ratio"])
def test_the_memory_of_a_contrast_is_that_of_its_single_requests(form: Form) -> None:
    """Sums per batch of independent requests, of which each is known: no form sees a memory in them."""
    rng = np.random.default_rng(8)
    sides: list[PairEpoch] = []
    for rate in (0.3, 0.5):
        stable = rng.random((CLUSTERS, 80)) < rate
        candidate = np.where(rng.random(stable.shape) < 0.2, ~stable, stable)
        d = candidate.astype(float) - stable
        n = np.full(CLUSTERS, 80.0)
        y = stable.sum(axis=1).astype(float)
        sides.append(PairEpoch(0, 1.0, Sums(n, d.sum(axis=1), (d**2).sum(axis=1)), Sums(n, y, y)))
    alone = [PairGroupsEpoch(0, *sides)]
    assert groups_too_short(alone, 5.0, form=form) is None
    burst = np.repeat(rng.random((CLUSTERS, 2)) < 0.5, 40, axis=1).sum(axis=1).astype(float)
    n = np.full(CLUSTERS, 80.0)
    clumped = PairEpoch(0, 1.0, Sums(n, np.zeros(CLUSTERS) - burst, burst), Sums(n, burst, burst))
    assert groups_too_short([PairGroupsEpoch(0, clumped, sides[1])], 5.0, form="gap") is not None


def baseline(burst: int, per_batch: int, metric: str = "errors") -> Evidence:
    """Errors of stable (or another series) in bursts of `burst` requests: 5% of them."""
    rng = np.random.default_rng(2)
    hit = np.repeat(rng.random(CLUSTERS * per_batch // burst) < 0.05, burst).astype(float)
    y = list(hit.reshape(CLUSTERS, per_batch).sum(axis=1))
    evidence = Evidence("", "s", "r", 0, "*", 0.0, 0.0)
    evidence.series[SeriesKey("stable", "", metric)] = Series([float(per_batch)] * CLUSTERS, y, y)
    return evidence


def unset() -> RolloutPolicy:
    made = policy(ERRORS)
    assert made.batch is None
    return made


def test_an_unset_batch_is_as_long_as_stables_errors_ask_for_within_bounds() -> None:
    assert chosen_batch(unset(), baseline(1, 100)) == DEFAULT_BATCH
    assert DEFAULT_BATCH < chosen_batch(unset(), baseline(25, 100)) <= LONGEST
    assert chosen_batch(unset(), baseline(100, 100)) <= LONGEST
    assert chosen_batch(unset(), Evidence("", "s", "r", 0, "*", 0.0, 0.0)) == DEFAULT_BATCH


@pytest.mark.parametrize("series", ["missing", "client_disconnects", "stream.truncated"])
def test_whatever_depends_on_the_server_asks_for_its_batch(series: str) -> None:
    asked = chosen_batch(unset(), baseline(25, 100, series))
    assert asked == chosen_batch(unset(), baseline(25, 100)) > DEFAULT_BATCH
    both = baseline(1, 100)
    both.series.update(baseline(25, 100, series).series)
    assert chosen_batch(unset(), both) == asked


def test_a_written_batch_stands() -> None:
    written = policy(ERRORS, batch="7s")
    assert chosen_batch(written, baseline(25, 100)) == 7.0
    assert batch_of(written, msgspec.structs.replace(CONSTANTS, batch=30.0)) == 7.0


@pytest.mark.parametrize(("constants", "seconds"), [(None, DEFAULT_BATCH), (CONSTANTS, 5.0)])
def test_the_frozen_batch_is_that_of_every_epoch(constants: None, seconds: float) -> None:
    assert batch_of(unset(), constants) == seconds
    assert batch_of(unset(), msgspec.structs.replace(CONSTANTS, batch=30.0)) == 30.0


def ever_harmful(memory: float, per_batch: int, runs: int, seed: int) -> float:
    """Share of shadows without any shift, of AR(1) differences, in which one of eight looks proved harm."""
    rng, harmed = np.random.default_rng(seed), 0
    n = np.full(CLUSTERS, float(per_batch))
    for _ in range(runs):
        noise = rng.normal(size=CLUSTERS * per_batch) * 0.15 * np.sqrt(1.0 - memory**2)
        d = np.clip(lfilter([1.0], [1.0, -memory], noise), -1.0, 1.0).reshape(CLUSTERS, per_batch)
        columns = n, d.sum(axis=1), (d * d).sum(axis=1)
        for batches in (12, 16, 24, 32, 48, 64, 96, 128):
            known = np.arange(CLUSTERS) < batches
            epochs = [PairEpoch(0, 1.0, Sums(*(column * known for column in columns)), None)]
            if too_short(epochs, 5.0, beside_a_change=True) is not None:
                continue
            got = paired_differences(epochs, counted=False, autocorrelation=1.0)
            assert not isinstance(got, NotComputable)
            value = got.harm(0.0, 0.03, 0.05)
            if not isinstance(value, NotComputable) and value >= -np.log(0.05):
                harmed += 1
                break
    print(f"AR({memory}), {per_batch} to a batch: harm in {harmed / runs:.2%} of {runs} runs at 5%")
    return harmed / runs


@pytest.mark.parametrize("memory", [0.0, 0.99])
def test_differences_that_drift_are_no_harm_however_few_batches_are_known(memory: float) -> None:
    assert ever_harmful(memory, 20, 60, 9) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("per_batch", [20, 200])
@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9, 0.97, 0.99, 0.995])
def test_false_harm_of_pairs_that_remember_stays_at_its_level(memory: float, per_batch: int) -> None:
    assert ever_harmful(memory, per_batch, 1000, 10) <= 0.05 + 3.0 * np.sqrt(0.05 * 0.95 / 1000)
