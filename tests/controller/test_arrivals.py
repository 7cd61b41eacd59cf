"""Sample ratio of sticky services and the inputs of the arms: what must hold before evidence is believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import pytest

from accede.controller.stats.distribution import ClassEpoch, equality_log_e
from accede.controller.stats.sample_ratio import StickyRatioEpoch, sticky_log_e
from accede.controller.validity.arrivals import INPUTS_LEVEL
from accede.controller.validity.ratios import RATIO_LEVEL
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import Outcome, Validity
from tests.controller.test_analysis import CONSTANTS, ERRORS, Scene, policy

Floats = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

STICKY = msgspec.structs.replace(CONSTANTS, sticky=True)


def checks(scene: Scene, name: str) -> tuple[Validity, ...]:
    return tuple(check for check in scene.analysis(policy(ERRORS)).validity if check.check == name)


def counted(candidate: Mapping[str, int], stable: Mapping[str, int], *, sticky: bool = False) -> Scene:
    scene = Scene(constants=STICKY if sticky else CONSTANTS)
    scene.epoch(3).inputs |= {"candidate|amount": dict(candidate), "stable|amount": dict(stable)}
    return scene


def test_inputs_that_look_alike_pass_and_say_how_likely_that_is() -> None:
    (check,) = checks(counted({"0": 500, "1": 480}, {"0": 490, "1": 510}), "inputs")
    assert check.outcome is Outcome.PASS
    assert check.numbers["inputs"] == 1


def test_an_input_of_one_arm_is_an_error_that_holds() -> None:
    (check,) = checks(counted({"0": 500, "1": 500}, {"0": 700, "1": 300}), "inputs")
    assert check.outcome is Outcome.ERROR
    assert "input amount differs between the arms" in check.reason
    assert "not assigned at random" in check.reason


def test_inputs_that_come_to_stable_alone_are_no_missing_input_but_an_error() -> None:
    (check,) = checks(counted({}, {"0": 700}), "inputs")
    assert check.outcome is Outcome.ERROR


def test_no_inputs_and_those_of_sticky_units_are_not_compared() -> None:
    assert checks(Scene(), "inputs") == ()
    assert checks(counted({}, {}), "inputs") == ()
    assert checks(counted({"0": 500}, {"0": 900}, sticky=True), "inputs") == ()


def by_unit(
    scene: Scene, candidate: Sequence[float], stable: Sequence[float], series: str = "requests"
) -> Scene:
    nothing = [0.0] * CLUSTERS
    scene.put(3, "candidate", series, list(candidate), nothing)
    return scene.put(3, "stable", series, list(stable), nothing)


def test_a_sticky_service_without_numbers_has_a_sample_ratio_of_its_requests() -> None:
    rng = np.random.default_rng(7)
    alike = rng.poisson(50.0, (2, CLUSTERS)).astype(float)
    (check,) = checks(by_unit(Scene(constants=STICKY), list(alike[0]), list(alike[1])), "sample_ratio")
    assert check.outcome is Outcome.PASS
    assert "at assignment" in check.reason
    (check,) = checks(by_unit(Scene(constants=STICKY), list(alike[0]), list(1.5 * alike[1])), "sample_ratio")
    assert check.outcome is Outcome.ERROR
    (check,) = checks(by_unit(Scene(constants=STICKY), [0.0] * CLUSTERS, list(alike[1])), "sample_ratio")
    assert check.outcome is Outcome.ERROR


def test_predictions_that_a_sticky_candidate_lacks_are_a_mismatch_at_completion() -> None:
    rng = np.random.default_rng(8)
    alike = rng.poisson(50.0, (2, CLUSTERS)).astype(float)
    scene = by_unit(Scene(constants=STICKY), list(alike[0]), list(alike[1]))
    by_unit(scene, list(0.5 * alike[0]), list(alike[1]), "mean")
    at_assignment, at_completion = checks(scene, "sample_ratio")
    assert at_assignment.outcome is Outcome.PASS
    assert at_completion.outcome is Outcome.ERROR


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_broken_counts_by_unit_are_an_error(bad: float) -> None:
    (check,) = checks(by_unit(Scene(constants=STICKY), [bad] * CLUSTERS, [9.0] * CLUSTERS), "sample_ratio")
    assert check.outcome is Outcome.ERROR


@pytest.mark.parametrize("weight", [0.01, 0.25, 0.5])
def test_equal_inputs_under_drifting_traffic_are_rarely_called_different(weight: float) -> None:
    """2 000 A/A runs of 20 looks; the mix of the inputs turns over completely meanwhile."""
    rng = np.random.default_rng(21)
    runs, looks, level = 2000, 20, 0.05
    mix = np.linspace([0.7, 0.2, 0.1], [0.1, 0.2, 0.7], looks)
    n = np.cumsum(np.stack([rng.multinomial(300, share, runs) for share in mix], axis=1), axis=1)
    steps = np.diff(n, axis=1, prepend=0)
    x = np.cumsum(rng.binomial(steps, weight), axis=1)
    alarms = 0
    for got, whole in zip(x, n, strict=True):
        alarms += any(
            _log_e(weight, a, b - a) >= -math.log(level) for a, b in zip(got[4::5], whole[4::5], strict=True)
        )
    assert alarms / runs <= level + 3.0 * math.sqrt(level * (1.0 - level) / runs)


def test_an_assignment_that_looks_at_the_input_is_found() -> None:
    """Heavier amounts go to stable a tenth more often than they should: seen in 20 000 requests."""
    rng = np.random.default_rng(22)
    found = 0
    for _ in range(50):
        low, high = rng.binomial(10_000, 0.5), rng.binomial(10_000, 0.45)
        value = _log_e(0.5, np.array([low, high]), np.array([10_000 - low, 10_000 - high]))
        found += value >= -math.log(INPUTS_LEVEL)
    assert found >= 49


def _log_e(weight: float, ours: Floats, theirs: Floats) -> float:
    value = equality_log_e([ClassEpoch(weight, tuple(map(float, ours)), tuple(map(float, theirs)))])
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize(
    ("weight", "runs"),
    [
        (0.05, 200),
        pytest.param(0.05, 2000, marks=pytest.mark.slow),
        pytest.param(0.5, 2000, marks=pytest.mark.slow),
    ],
)
def test_heavy_users_are_rarely_a_mismatch_of_the_sample_ratio(weight: float, runs: int) -> None:
    """A/A runs of 5 looks over 3 000 users, of whom the heaviest come hundreds of times."""
    rng = np.random.default_rng(23)
    users, level = 3000, 0.05
    visits = np.minimum(rng.pareto(1.5, (users, 5)) * 2.0 + 1.0, 300.0).round().cumsum(axis=1)
    cluster = rng.integers(0, CLUSTERS, users)
    of_cluster = np.zeros((CLUSTERS, users))
    of_cluster[cluster, np.arange(users)] = 1.0
    alarms = 0
    for _ in range(runs):
        ours = (rng.random(users) < weight).astype(float)
        n_c, n_s = of_cluster @ (visits * ours[:, None]), of_cluster @ (visits * (1.0 - ours)[:, None])
        looks = [sticky_log_e([StickyRatioEpoch(weight, n_c[:, k], n_s[:, k])], level) for k in range(5)]
        alarms += any(isinstance(value, float) and value >= -math.log(level) for value in looks)
    assert alarms / runs <= level + 3.0 * math.sqrt(level * (1.0 - level) / runs)
    assert level >= RATIO_LEVEL
