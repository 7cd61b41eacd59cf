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
