"""Batches of pairs that are short against what they hold decide nothing, and say what to write."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy.signal import lfilter

from accede.controller.batching import LONGEST, chosen_batch
from accede.controller.length import DEFAULT_BATCH, batch_of
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


def baseline(burst: int, per_batch: int) -> Evidence:
    """Errors of stable in bursts of `burst` requests: 5% of them."""
    rng = np.random.default_rng(2)
    hit = np.repeat(rng.random(CLUSTERS * per_batch // burst) < 0.05, burst).astype(float)
    y = list(hit.reshape(CLUSTERS, per_batch).sum(axis=1))
    evidence = Evidence("", "s", "r", 0, "*", 0.0, 0.0)
    evidence.series[SeriesKey("stable", "", "errors")] = Series([float(per_batch)] * CLUSTERS, y, y)
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


def test_a_written_batch_stands() -> None:
    written = policy(ERRORS, batch="7s")
    assert chosen_batch(written, baseline(25, 100)) == 7.0
    assert batch_of(written, msgspec.structs.replace(CONSTANTS, batch=30.0)) == 7.0


@pytest.mark.parametrize(("constants", "seconds"), [(None, DEFAULT_BATCH), (CONSTANTS, 5.0)])
def test_the_frozen_batch_is_that_of_every_epoch(constants: None, seconds: float) -> None:
    assert batch_of(unset(), constants) == seconds
    assert batch_of(unset(), msgspec.structs.replace(CONSTANTS, batch=30.0)) == 30.0
