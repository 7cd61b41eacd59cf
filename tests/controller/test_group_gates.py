"""Gates that compare groups with each other: one look at evidence made by a seeded draw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest

from accede.controller.analysis.cells import cells_of
from accede.controller.analysis.groups import SMALL_GROUP, compared, groups_of
from accede.controller.analysis.wording import gate_text
from accede.policies.policy import Gate
from accede.store.evidence import ArmKey, Series, SeriesKey
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import FrozenConstants, Outcome, Verdict
from tests.controller.test_analysis import CONSTANTS, Scene, policy

RATIO: dict[str, Any] = {"metric": "selection_ratio", "by": "sex", "min": 0.8}
GAP: dict[str, Any] = {"metric": "selection_gap", "by": "sex", "max_increase": "3pp"}
OR = {**RATIO, "or": "not_worse_than_stable"}


@dataclass
class Drawn:
    """Rates of stable and of the candidate by group, and evidence of them in both places."""

    stable: dict[str, float]
    candidate: dict[str, float]
    requests: int = 40_000
    share: dict[str, float] = field(default_factory=dict)
    seed: int = 1
    sticky: bool = False
    users: int = 4000

    def constants(self, **more: Any) -> FrozenConstants:
        groups = {f"sex={name}": self.share.get(name, 0.4) for name in self.stable}
        return msgspec.structs.replace(
            CONSTANTS,
            groups=groups,
            centres={**CONSTANTS.centres, **{f"selected|sex={g}": r for g, r in self.stable.items()}},
            sticky=self.sticky,
            **more,
        )

    def scene(self, **more: Any) -> Scene:
        rng = np.random.default_rng(self.seed)
        scene = Scene(constants=self.constants(**more))
        for number, weight in ((2, 0.1), (3, 0.5)):
            for name in self.stable:
                n = self.requests * self.share.get(name, 0.4)
                for arm, share, rates in (
                    ("candidate", weight, self.candidate), ("stable", 1.0 - weight, self.stable)
                ):  # fmt: skip
                    self._arm(rng, scene, number, arm, name, round(n * share), rates[name])  # type: ignore[arg-type]
        return scene

    def _arm(
        self, rng: np.random.Generator, scene: Scene, number: int, arm: ArmKey, name: str, n: int, rate: float
    ) -> None:
        group = f"sex={name}"
        if not self.sticky:
            y = float(rng.binomial(n, rate))
            scene.put(number, arm, "selected", [float(n)], [y], group=group)
            return
        users = max(1, self.users * n // self.requests)
        own = rng.multinomial(n, rng.dirichlet(np.full(users, 0.8)))
        likes = rng.binomial(own, np.minimum(1.0, rng.uniform(0.0, 2.0, users) * rate))
        cluster = rng.integers(0, CLUSTERS, users)
        sums = [np.bincount(cluster, each, CLUSTERS).astype(float).tolist() for each in (own, likes)]
        scene.put(number, arm, "selected", sums[0], sums[1], group=group)

    def pairs(self, batches: int = 40) -> Scene:
        """Pairs of the shadow; answers are the same where the rates are."""
        rng = np.random.default_rng(self.seed)
        scene = Scene(constants=self.constants())
        rest = [0.0] * (CLUSTERS - batches)
        for name, rate in self.stable.items():
            n = self.requests // batches
            stable = rng.binomial(n, rate, batches)
            change = self.candidate[name] - rate
            if change < 0:
                d = -rng.binomial(stable, -change / rate)
            else:
                d = rng.binomial(n - stable, change / (1.0 - rate))
            group = f"sex={name}"
            many = [float(n)] * batches + rest
            square = [float(abs(each)) for each in d] + rest
            scene.put(1, "pair", "selected", many, [float(each) for each in d] + rest, square, group)
            scene.put(
                1, "paired_stable", "selected", list(many), [float(y) for y in stable] + rest, group=group
            )
        return scene


def one(scene: Scene, gate: dict[str, Any], place: str = "canary") -> Verdict:
    return scene.verdict(policy({**gate, "in": place}), place)


EVEN = {"female": 0.4, "male": 0.42}
UNFAIR = {"female": 0.25, "male": 0.42}
WORSE = {"female": 0.2, "male": 0.42}


# --- the ratio -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("gate", [RATIO, OR, GAP], ids=["ratio", "or", "gap"])
def test_groups_treated_alike_are_proven(gate: dict[str, Any], sticky: bool) -> None:
    found = one(Drawn(EVEN, EVEN, requests=200_000, sticky=sticky, users=60_000).scene(), gate)
    assert found.outcome is Outcome.PASS, found.reason
    assert found.proven_last_weight
    method = "P4 groups, clusters of units (asymptotic)" if sticky else "P4 groups (asymptotic)"
    assert {finding.method for finding in found.findings} == {method}


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("gate", [RATIO, OR, GAP], ids=["ratio", "or", "gap"])
def test_a_candidate_that_makes_groups_unequal_is_rolled_back(gate: dict[str, Any], sticky: bool) -> None:
    found = one(Drawn(EVEN, UNFAIR, requests=200_000, sticky=sticky, users=60_000).scene(), gate)
    assert found.outcome is Outcome.FAIL
    failed = [finding for finding in found.findings if finding.outcome is Outcome.FAIL]
    assert len(failed) == 1


def test_a_ratio_is_told_as_such_with_both_groups() -> None:
    found = one(Drawn(EVEN, UNFAIR).scene(), RATIO)
    assert found.gate == "selection_ratio by sex min 0.8"
    told = next(finding for finding in found.findings if finding.outcome is Outcome.FAIL)
    assert told.cell == "selection_ratio{sex=female against male}"
    assert told.estimate == pytest.approx(0.25 / 0.42, abs=0.03)
    assert told.low is not None
    assert told.high is not None
    assert told.low < 0.25 / 0.42 < told.high < 0.8
    assert told.reason.startswith("selection_ratio of sex=female against male: 0.")
    assert told.reason.endswith("at least 0.8: harm proven")


def test_what_stable_does_not_keep_itself_is_held_and_not_rolled_back() -> None:
    held = one(Drawn(UNFAIR, WORSE).scene(), RATIO)
    assert held.outcome is Outcome.INCONCLUSIVE
    assert "stable itself is not proven above: held, not rolled back" in held.reason
    # Proven worse than stable it is the candidate's doing.
    assert one(Drawn(UNFAIR, WORSE, requests=400_000).scene(), OR).outcome is Outcome.FAIL


def test_not_worse_than_stable_is_enough_where_the_policy_says_so() -> None:
    same = Drawn(UNFAIR, UNFAIR, requests=400_000)
    assert one(same.scene(), RATIO).outcome is Outcome.INCONCLUSIVE
    found = one(same.scene(), OR)
    assert found.outcome is Outcome.PASS, found.reason
    assert found.gate == "selection_ratio by sex min 0.8 or not worse than stable"
    assert "proven not worse than stable" in found.reason


NOBODY = {"female": 0.0, "male": 0.42}
EVERYBODY = {"female": 0.4, "male": 1.0}


@pytest.mark.parametrize("rates", [NOBODY, EVERYBODY], ids=["nobody", "everybody"])
@pytest.mark.parametrize("gate", [RATIO, OR, GAP], ids=["ratio", "or", "gap"])
def test_a_candidate_that_selects_nobody_of_a_group_or_all_of_one_is_rolled_back(
    gate: dict[str, Any], rates: dict[str, float]
) -> None:
    for sticky in (False, True):
        found = one(Drawn(EVEN, rates, requests=200_000, sticky=sticky, users=60_000).scene(), gate)
        assert found.outcome is Outcome.FAIL, found.reason
        (failed,) = (finding for finding in found.findings if finding.outcome is Outcome.FAIL)
        scarce = not (sticky and rates is EVERYBODY)  # users who like nothing are drawn there too
        assert failed.method.endswith("(few events, asymptotic)") is scarce
    assert one(Drawn(EVEN, rates).pairs(), gate, "shadow").outcome is Outcome.FAIL


def test_nobody_selected_is_told_as_a_ratio_of_nothing() -> None:
    (failed,) = (f for f in one(Drawn(EVEN, NOBODY).scene(), RATIO).findings if f.outcome is Outcome.FAIL)
    assert (failed.cell, failed.estimate) == ("selection_ratio{sex=female against male}", 0.0)
    assert failed.reason.startswith("selection_ratio of sex=female against male: 0 ")


def test_nobody_selected_where_hardly_any_were_due_holds() -> None:
    found = one(Drawn(EVEN, NOBODY, requests=400, share={"female": 0.1}).scene(), RATIO)
    assert found.outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("sticky", [False, True])
def test_few_observations_of_a_group_hold(sticky: bool) -> None:
    few = Drawn(EVEN, EVEN, requests=400, share={"female": 0.02}, sticky=sticky, users=300).scene()
    for gate in (RATIO, OR, GAP):
        found = one(few, gate)
        assert found.outcome is Outcome.INCONCLUSIVE
        assert found.findings[0].log_e_safe is None or found.findings[0].log_e_safe < 3


# --- the gap ---------------------------------------------------------------------------------------------


def test_a_gap_that_closes_or_turns_around_a_little_is_no_growth() -> None:
    closing = one(Drawn(UNFAIR, EVEN, requests=200_000).scene(), GAP)
    assert closing.outcome is Outcome.PASS, closing.reason
    turned = one(Drawn({"female": 0.4, "male": 0.5}, {"female": 0.45, "male": 0.4}, 400_000).scene(), GAP)
    assert turned.outcome is Outcome.PASS, turned.reason


def test_a_gap_that_turns_around_and_grows_is_harm() -> None:
    found = one(Drawn({"female": 0.4, "male": 0.45}, {"female": 0.6, "male": 0.45}, 200_000).scene(), GAP)
    assert found.outcome is Outcome.FAIL
    assert next(f for f in found.findings if f.outcome is Outcome.FAIL).slice == "sex=female"


def test_missing_values_of_one_group_prove_nothing() -> None:
    scene = Drawn(EVEN, EVEN, requests=200_000).scene()
    key = SeriesKey("candidate", "sex=female", "selected")
    got = scene.epoch(3).series[key]
    scene.epoch(3).series[key] = Series(
        *([each * 0.5 for each in column] for column in (got.n, got.sum, got.square))
    )
    for gate in (RATIO, GAP):
        found = one(scene, gate)
        assert found.outcome is Outcome.INCONCLUSIVE
        assert "are missing, so the two cannot be compared" in found.reason


def test_sticky_sums_that_were_not_kept_by_unit_are_not_analysed() -> None:
    drawn = Drawn(EVEN, UNFAIR, requests=200_000)
    scene = drawn.scene()
    scene.constants = msgspec.structs.replace(drawn.constants(), sticky=True)
    found = one(scene, GAP)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "not kept by unit" in found.reason


def test_broken_sums_of_one_group_are_an_error() -> None:
    scene = Drawn(EVEN, EVEN).scene()
    scene.put(3, "candidate", "selected", [100.0], [float("nan")], group="sex=male")
    for gate in (RATIO, OR, GAP):
        assert one(scene, gate).outcome is Outcome.ERROR


def test_requests_with_instances_of_several_groups_need_more() -> None:
    drawn = Drawn(EVEN, EVEN, requests=60_000)
    apart, shared = (one(drawn.scene(shared=names), GAP).findings[0] for names in ((), ("sex",)))
    assert apart.low is not None
    assert shared.low is not None
    assert shared.low < apart.low
    assert shared.estimate == apart.estimate


# --- pairs -----------------------------------------------------------------------------------------------


def test_identical_answers_are_proven_and_unequal_changes_are_found_on_pairs() -> None:
    for gate in (RATIO, OR, GAP):
        same = one(Drawn(EVEN, EVEN).pairs(), gate, "shadow")
        assert same.outcome is Outcome.PASS, same.reason
        assert one(Drawn(EVEN, UNFAIR).pairs(), gate, "shadow").outcome is Outcome.FAIL
    method = "P1 bounded mean of each group at half the margin (few events)"
    assert {f.method for f in one(Drawn(EVEN, EVEN).pairs(), GAP, "shadow").findings} == {method}


def test_pairs_without_stables_side_or_of_other_requests_prove_nothing() -> None:
    scene = Drawn(EVEN, EVEN).pairs()
    del scene.epoch(1).series[SeriesKey("paired_stable", "sex=female", "selected")]
    found = one(scene, RATIO, "shadow")
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "stable's side of the pairs" in found.reason
    scene = Drawn(EVEN, EVEN).pairs()
    sums = scene.epoch(1).series[SeriesKey("paired_stable", "sex=female", "selected")]
    sums.n[3] += 5.0
    assert "do not hold the same requests" in one(scene, RATIO, "shadow").reason


# --- which pairs, and their levels --------------------------------------------------------------------------


THREE = msgspec.structs.replace(CONSTANTS, groups={"sex=a": 0.5, "sex=b": 0.3, "sex=c": 0.2})


def gate(**keys: Any) -> Gate:
    return Gate.model_validate({"metric": "selection_gap", "by": "sex", **keys})


def test_all_ordered_pairs_or_each_group_with_the_reference() -> None:
    assert len(compared(gate(), THREE)) == 6
    named = msgspec.structs.replace(THREE, references={"sex": "sex=b"})
    assert set(compared(gate(), named)) == {
        ("sex=a", "sex=b"), ("sex=b", "sex=a"), ("sex=c", "sex=b"), ("sex=b", "sex=c")
    }  # fmt: skip


def test_the_pairs_of_a_gate_share_what_one_group_would_get() -> None:
    cells = cells_of(
        policy({**GAP, "in": "canary"}, {"metric": "prediction.mean", "max_shift": "0.1sd", "in": "canary"}),
        THREE,
    )
    pairs = [cell.weight for cell in cells if cell.against]
    assert len(pairs) == 6
    assert sum(pairs) == pytest.approx(0.5)
    assert sum(cell.weight for cell in cells) == pytest.approx(1.0)


# --- small groups -------------------------------------------------------------------------------------------


SMALL = {"a": 0.5, "b": 0.46, "c": 0.015, "d": 0.015, "e": 0.01}


def test_small_groups_are_judged_together_where_the_policy_says_so() -> None:
    rates = dict.fromkeys(SMALL, 0.4)
    drawn = Drawn(rates, rates, requests=900_000, share=SMALL)
    constants = drawn.constants()
    assert groups_of(gate(small_slices="pool"), constants) == ("sex=a", "sex=b", "sex=(pooled)")
    assert len(groups_of(gate(), constants)) == 5
    assert all(share < SMALL_GROUP for name, share in SMALL.items() if name in "cde")
    pooled = one(drawn.scene(), {**GAP, "small_slices": "pool"})
    assert pooled.outcome is Outcome.PASS, pooled.reason
    assert {f.slice for f in pooled.findings} == {"sex=a", "sex=b", "sex=(pooled)"}
    assert one(drawn.scene(), GAP).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("metric", ["selection_rate", "selection_gap"])
def test_harm_in_the_pool_is_found(metric: str) -> None:
    rates = dict.fromkeys(SMALL, 0.4)
    harmed = {**rates, "c": 0.2, "d": 0.2, "e": 0.2}
    key = "max_shift" if metric == "selection_rate" else "max_increase"
    found = one(
        Drawn(rates, harmed, requests=300_000, share=SMALL).scene(),
        {"metric": metric, "by": "sex", key: "3pp", "small_slices": "pool"},
    )
    assert found.outcome is Outcome.FAIL
    assert "(pooled)" in found.reason


def test_the_reference_is_never_pooled() -> None:
    constants = msgspec.structs.replace(
        CONSTANTS, groups={f"sex={k}": v for k, v in SMALL.items()}, references={"sex": "sex=c"}
    )
    assert "sex=c" in groups_of(gate(small_slices="pool"), constants)


def test_small_groups_that_are_only_watched_do_not_hold_a_pair() -> None:
    rates = dict.fromkeys(SMALL, 0.4)
    drawn = Drawn(rates, rates, requests=300_000, share=SMALL)
    watched = one(drawn.scene(), {**GAP, "small_slices": "no-harm"})
    assert watched.outcome is Outcome.PASS, watched.reason


def test_a_gate_is_written_as_in_the_file() -> None:
    assert gate_text(gate(max_increase="3pp")) == "selection_gap by sex max_increase 3pp"
