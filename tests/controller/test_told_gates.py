"""Gates on ranks, classes, own metrics, uncertainty, explanations and divergence, from sums to verdicts."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from accede.controller.analysis.freeze import NotReady, freeze
from accede.controller.analysis.reference import Values, rank_moments, rank_table
from accede.controller.rollout.measuring import extraction_of, measurement_plan
from accede.policies.service import ModelService
from accede.router.observer.ranks import ranker
from accede.store.histogram import value_bin
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import FrozenConstants, Outcome
from tests.controller.test_analysis import CONSTANTS, Scene, policy
from tests.controller.test_freeze import baseline, frozen, service, stable
from tests.controller.test_freeze import policy as plain_policy

DIVERGENCE = {"metric": "prediction.divergence", "max_increase": "4pp", "in": "shadow"}
REFUSED = {"metric": "metrics.refused", "max_shift": "2pp", "in": "canary"}
COST = {"metric": "metrics.cost", "max_shift": 0.5, "in": "canary"}
RANK = {"metric": "prediction.rank", "max_shift": "0.1sd", "in": "canary"}
EXPLAINED = {"metric": "explanation.agreement", "min": "90%", "in": "shadow"}


def known(**changes: Any) -> FrozenConstants:
    return msgspec.structs.replace(CONSTANTS, **changes)


# --- ranks -------------------------------------------------------------------------------------------------


def test_the_frozen_rank_is_the_mann_whitney_statistic_against_stable() -> None:
    rng = np.random.default_rng(5)
    # Powers of two tie, and no two of them are in one bin.
    ours = 2.0 ** rng.normal(16, 4, 400).clip(0, 30).round()
    theirs = 2.0 ** rng.normal(15, 4, 900).clip(0, 30).round()
    counts: dict[int, int] = {}
    for value in theirs:
        counts[value_bin(value)] = counts.get(value_bin(value), 0) + 1
    rank = ranker(rank_table(Values.of_histogram(counts)))
    assert rank is not None
    mean = float(np.mean([rank(value) for value in ours]))
    assert mean == pytest.approx(mannwhitneyu(ours, theirs).statistic / (len(ours) * len(theirs)))
    assert (rank(-1e300), rank(1e300)) == (0.0, 1.0)


def test_stables_own_ranks_have_mean_one_half() -> None:
    rng = np.random.default_rng(6)
    values = rng.standard_t(1.5, 5000) * 100
    counts: dict[int, int] = {}
    for value in [*values, 0.0, 0.0, 1e308, -1e308]:
        counts[value_bin(value)] = counts.get(value_bin(value), 0) + 1
    seen = Values.of_histogram(counts)
    table = rank_table(seen)
    assert list(table.cuts) == sorted(table.cuts)
    assert list(table.ranks) == sorted(table.ranks)
    assert len(table.ranks) == len(table.cuts) + 1
    assert np.isfinite(table.cuts).all()
    mean, deviation = rank_moments(seen)
    assert mean == pytest.approx(0.5, abs=1e-3)
    assert deviation == pytest.approx(12**-0.5, rel=0.01)  # of a uniform distribution
    again = msgspec.json.decode(msgspec.json.encode(table), type=type(table))
    assert again == table


def test_a_rollout_freezes_the_distribution_and_plans_it() -> None:
    values = {value_bin(10.0**k): 100 for k in range(10)}
    found = frozen(freeze(plain_policy({"metric": "prediction.rank"}), service(), baseline(values=values)))
    assert found.ranks is not None
    assert found.centres["rank|"] == pytest.approx(0.5)
    assert freeze(plain_policy({"metric": "prediction.rank"}), service(), baseline()) == NotReady(
        "predictions of stable: none was seen in the baseline"
    )


@pytest.mark.parametrize(
    ("shift", "outcome"), [(0.0, Outcome.PASS), (0.1, Outcome.FAIL), (-0.1, Outcome.FAIL)]
)
def test_a_rank_shift_is_judged_in_stables_sd(shift: float, outcome: Outcome) -> None:
    scene = Scene(constants=known(centres={"rank|": 0.5}, deviations={"rank|": 0.2}))
    verdict = scene.means(3, 60_000.0, shift, "rank").verdict(policy(RANK))
    assert verdict.outcome is outcome
    assert verdict.findings[0].unit == "sd"
    assert verdict.findings[0].estimate == pytest.approx(shift / 0.2, abs=1e-9)


# --- classes -----------------------------------------------------------------------------------------------

SHARE = {"metric": "class_share.rare", "max_shift": "2pp"}


def test_a_named_class_has_a_bin_however_rare_it_is() -> None:
    labels = {**{f"c{k:02}": 100 for k in range(30)}, "rare": 2}
    found = frozen(freeze(plain_policy(SHARE), service(type="label", selected=None), baseline(labels=labels)))
    assert "rare" in found.classes
    assert len(found.classes) == 20
    assert found.centres[f"bin.{found.classes.index('rare')}|"] == pytest.approx(2 / 3002)


def test_a_class_that_stable_never_answered_is_named() -> None:
    got = freeze(
        plain_policy(SHARE), service(type="label", selected=None), baseline(labels={"yes": 9, "no": 5})
    )
    assert isinstance(got, NotReady)
    assert got.reason.startswith(
        "class_share.rare: stable did not answer this class in the baseline; it answered yes, no"
    )


@pytest.mark.parametrize(("shift", "outcome"), [(0.0, Outcome.PASS), (0.06, Outcome.FAIL)])
def test_only_the_named_class_is_judged(shift: float, outcome: Outcome) -> None:
    scene = Scene(constants=known(classes=("yes", "rare"), centres={"bin.1|": 0.3}))
    scene.means(3, 60_000.0, shift, "bin.1", at=0.3).means(3, 60_000.0, 0.3, "bin.0", at=0.3)
    for found in scene.epoch(3).series.values():
        found.square = list(found.sum)
    assert scene.verdict(policy({**SHARE, "in": "canary"})).outcome is outcome


# --- own metrics -------------------------------------------------------------------------------------------


def lacking(scene: Scene, arm: Any, share: float, metric: str = "metrics.refused", epoch: int = 3) -> Scene:
    return scene.put(epoch, arm, f"{metric}.missing", [60_000.0], [60_000.0 * share])


@pytest.mark.parametrize(("shift", "outcome"), [(0.0, Outcome.PASS), (0.05, Outcome.FAIL)])
def test_a_share_is_judged_in_points(shift: float, outcome: Outcome) -> None:
    scene = Scene(constants=known(centres={"metrics.refused|": 0.3}, deviations={"metrics.refused|": 0.46}))
    scene.means(3, 60_000.0, shift, "metrics.refused", at=0.3)
    for found in scene.epoch(3).series.values():
        found.square = list(found.sum)
    verdict = scene.verdict(policy(REFUSED))
    assert verdict.outcome is outcome
    assert verdict.findings[0].unit == "pp"


@pytest.mark.parametrize(("shift", "outcome"), [(0.0, Outcome.PASS), (0.1, Outcome.FAIL)])
def test_a_number_is_judged_in_its_own_unit(shift: float, outcome: Outcome) -> None:
    constants = known(
        centres={"metrics.cost|": 0.5}, deviations={"metrics.cost|": 0.2}, spans={"metrics.cost": 10.0}
    )
    verdict = Scene(constants=constants).means(3, 60_000.0, shift, "metrics.cost").verdict(policy(COST))
    assert verdict.outcome is outcome
    assert verdict.findings[0].estimate == pytest.approx(shift * 10.0, abs=1e-9)
    assert verdict.findings[0].margin == pytest.approx(0.5)


def test_values_that_stable_lacks_are_an_error_and_the_candidates_prove_nothing() -> None:
    def scene() -> Scene:
        return Scene(constants=known(centres={"metrics.refused|": 0.3})).means(
            3, 60_000.0, 0.0, "metrics.refused"
        )

    assert lacking(scene(), "stable", 0.009).verdict(policy(REFUSED)).outcome is not Outcome.ERROR
    error = lacking(scene(), "stable", 0.02).verdict(policy(REFUSED))
    assert error.outcome is Outcome.ERROR
    assert "2.0% of stable's answers have none" in error.reason
    fewer = lacking(lacking(scene(), "stable", 0.0), "candidate", 0.03).verdict(policy(REFUSED))
    assert fewer.outcome is Outcome.INCONCLUSIVE
    assert "3.0% of the candidate's answers have none" in fewer.reason
    shadow = Scene().paired("metrics.refused", 300.0, 0.0, 0.0)
    gone = lacking(shadow, "pair", 0.05, epoch=1).verdict(policy({**REFUSED, "in": "shadow"}), "shadow")
    assert gone.outcome is Outcome.INCONCLUSIVE
    assert "5.0% of the candidate's" in gone.reason


def test_a_baseline_without_the_values_is_not_frozen() -> None:
    gate = {"metric": "metrics.refused", "max_shift": "2pp"}
    got = freeze(plain_policy(gate), service(), baseline(values={value_bin(0.5): 1000}))
    assert got == NotReady("metrics.refused of stable: all of its answers have none at the declared path")
    series = {**stable("metrics.refused", 950.0, 95.0), **stable("metrics.refused.missing", 1000.0, 50.0)}
    got = freeze(plain_policy(gate), service(), baseline(series=series))
    assert got == NotReady("metrics.refused of stable: 5.0% of its answers have none at the declared path")
    series |= stable("metrics.refused.missing", 1000.0, 5.0)
    assert (
        frozen(freeze(plain_policy(gate), service(), baseline(series=series))).centres["metrics.refused|"]
        == 0.1
    )


def test_the_file_is_in_the_plan() -> None:
    told = ModelService.model_validate(
        {
            "format": "accede/v1", "kind": "ModelService", "name": "s", "match": {"path": "/s"},
            "protocol": "json", "versions": {"1": {"url": "http://a"}}, "stable": "1",
            "prediction": {"path": "score"}, "uncertainty": {"path": "sd"}, "explanation": {"path": "why"},
            "metrics": {
                "cost": {"path": "c", "type": "number", "range": (0.0, 9.0)},
                "no": {"path": "n", "type": "share"},
            },
        }
    )  # fmt: skip
    extraction = extraction_of(told)
    assert extraction is not None
    assert [(v.name, v.path, v.type, v.range) for v in extraction.values] == [
        ("cost", "c", "number", (0.0, 9.0)), ("no", "n", "share", (0.0, 1.0)),
    ]  # fmt: skip
    assert (extraction.uncertainty, extraction.explanation) == ("sd", "why")
    table = rank_table(Values.of_histogram({value_bin(1.0): 5}))
    scene = Scene(constants=known(ranks=table))
    plan = measurement_plan(scene.record(), policy(RANK), told, scene.record().epochs[-1], scene.constants)
    assert plan.ranks == table


# --- explanations and divergence ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("apart", "outcome"), [(6.0, Outcome.PASS), (60.0, Outcome.FAIL), (30.0, Outcome.INCONCLUSIVE)]
)
def test_explanations_have_one_bound(apart: float, outcome: Outcome) -> None:
    scene = Scene().agreeing(300.0, apart)
    series = scene.epoch(1).series
    moved = {msgspec.structs.replace(key, metric="explanation"): found for key, found in series.items()}
    series.clear()
    series.update(moved)
    assert scene.verdict(policy(EXPLAINED), "shadow").outcome is outcome


def noisy(candidate: float, itself: float, *, clusters: int = 40, pairs: float = 3000.0) -> Scene:
    rest = [0.0] * (CLUSTERS - clusters)
    scene = Scene()
    for arm, n, share, turn in (("pair", pairs, candidate, 2), ("floor", pairs / 3, itself, 4)):
        y = [n * (1.0 - share * (1.1 if k % turn < turn / 2 else 0.9)) for k in range(clusters)] + rest
        scene.put(1, arm, "agreement", [n] * clusters + rest, y)  # type: ignore[arg-type]
    return scene


@pytest.mark.parametrize(
    ("candidate", "itself", "outcome"),
    [
        (0.20, 0.20, Outcome.PASS),  # a model that never answers twice the same
        (0.30, 0.20, Outcome.FAIL),
        (0.10, 0.20, Outcome.PASS),
        (0.0, 0.0, Outcome.PASS),  # few events
        (0.24, 0.20, Outcome.FAIL),  # harm begins at half the margin
    ],
)
def test_divergence_is_disagreement_beyond_stables_own(
    candidate: float, itself: float, outcome: Outcome
) -> None:
    verdict = noisy(candidate, itself).verdict(policy(DIVERGENCE), "shadow")
    assert verdict.outcome is outcome
    assert verdict.findings[0].estimate == pytest.approx(100 * (candidate - itself), abs=0.2)


def test_failing_as_often_as_stable_itself_is_no_harm_and_no_proof_either() -> None:
    """Versions that are equal, each failing 5% of its requests: the copies to both fail as often."""
    scene = noisy(0.2 * 0.95 + 0.05, 0.2)
    failed = [1000.0 * 0.05] * 40 + [0.0] * 88
    scene.put(1, "floor", "missing", failed, failed)
    assert scene.verdict(policy(DIVERGENCE), "shadow").outcome is Outcome.INCONCLUSIVE
    worse = noisy(0.3, 0.2).put(1, "floor", "missing", failed, failed)
    assert worse.verdict(policy(DIVERGENCE), "shadow").outcome is Outcome.FAIL
    # Copies that fail for reasons of their own excuse nothing: without them it diverges by 5 points.
    most = [1000.0] * 40 + [0.0] * 88
    assert (
        noisy(0.25, 0.2).put(1, "floor", "missing", most, most).verdict(policy(DIVERGENCE), "shadow").outcome
        is Outcome.INCONCLUSIVE
    )


def test_divergence_needs_stables_own_noise() -> None:
    without = Scene().agreeing(300.0, 6.0, 40).verdict(policy(DIVERGENCE), "shadow")
    assert without.outcome is Outcome.INCONCLUSIVE
    assert "stable has not been asked twice yet" in without.reason
    short = noisy(0.2, 0.2, clusters=15).verdict(policy(DIVERGENCE), "shadow")
    assert short.outcome is Outcome.INCONCLUSIVE
    assert "effective" in short.reason


def test_few_disagreements_prove_safety_and_never_harm() -> None:
    scene = Scene().put(
        1,
        "pair",
        "agreement",
        [10.0] * 40 + [0.0] * 88,
        [9.0 if k % 6 == 1 else 10.0 for k in range(40)] + [0.0] * 88,
    )
    scene.put(1, "floor", "agreement", [10.0] * 40 + [0.0] * 88, [10.0] * 40 + [0.0] * 88)
    verdict = scene.verdict(policy({**DIVERGENCE, "max_increase": "0.1pp"}), "shadow")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.findings[0].log_e_harm == 0.0
