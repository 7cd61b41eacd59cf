"""One look at hand-made evidence: what each gate concludes, and that nothing broken or absent ever passes."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accede.controller.analyse import analyse
from accede.policies.policy import RolloutPolicy
from accede.store.evidence import ArmCounts, ArmKey, Evidence, MirrorCounts, Series, SeriesKey, merge
from accede.store.histogram import GAMMA
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import (
    Analysis,
    EpochRecord,
    FrozenConstants,
    Outcome,
    Phase,
    ReplicaReport,
    RolloutRecord,
    Validity,
    Verdict,
)

NOW = 10_000.0

CONSTANTS = FrozenConstants(
    limits=(0.0, 1.0),
    centres={"mean|": 0.5, "errors|": 0.01, "selected|sex=female": 0.3, "selected|sex=male": 0.3},
    deviations={"mean|": 0.2},
    quantiles={"latency.p95": 0.1},
    requests=1000,
    groups={"sex=female": 0.5, "sex=male": 0.5},
)

THRESHOLDS = {"latency.p95": (500, 504, 509)}
STEPS: tuple[dict[str, Any], ...] = ({"shadow": "100%"}, {"canary": "10%"}, {"canary": "50%"})


def policy(*gates: dict[str, Any], **more: Any) -> RolloutPolicy:
    return RolloutPolicy.model_validate(
        {"format": "accede/v1", "kind": "RolloutPolicy", "name": "p", "steps": STEPS, "gates": gates, **more}
    )


@dataclass
class Scene:
    """Evidence of one shadow epoch (1) and canaries at 10% (2) and 50% (3); epoch 0 is the baseline."""

    constants: FrozenConstants | None = CONSTANTS
    evidence: dict[int, Evidence] = field(default_factory=dict)
    reports: tuple[ReplicaReport, ...] = ()
    attempt: int = 0
    step: int = 2

    def epoch(self, number: int) -> Evidence:
        if number not in self.evidence:
            self.evidence[number] = Evidence(
                wire="", service="s", rollout="r", epoch=number, source="*", published=NOW, watermark=NOW
            )
        return self.evidence[number]

    def put(
        self, number: int, arm: ArmKey, metric: str, n: list[float], y: list[float],
        square: list[float] | None = None, group: str = "",
    ) -> Scene:  # fmt: skip
        self.epoch(number).series[SeriesKey(arm, group, metric)] = Series(
            n, y, y if square is None else square
        )
        return self

    def clustered(
        self, number: int, metric: str, candidate: tuple[float, float], stable: tuple[float, float],
        clusters: int = CLUSTERS, group: str = "",
    ) -> Scene:  # fmt: skip
        """Both arms over `clusters` time clusters: requests per cluster and rate, a ripple for a variance."""
        for arm, (n, rate) in (("candidate", candidate), ("stable", stable)):
            ripple = [1.0 + (0.05 if arm == "candidate" else -0.05) * (-1) ** k for k in range(clusters)]
            y = [n * rate * r for r in ripple] + [0.0] * (CLUSTERS - clusters)
            self.put(number, arm, metric, [n] * clusters + [0.0] * (CLUSTERS - clusters), y, group=group)  # type: ignore[arg-type]
        return self

    def means(
        self, number: int, n: float, shift: float, metric: str = "mean", group: str = "", at: float = 0.5
    ) -> Scene:
        """Unclustered y of both arms with sd 0.2: `n` requests of the candidate, stable's by the weight."""
        stable_n = n * 9.0 if number == 2 else n
        for arm, count, mean in (("candidate", n, at + shift), ("stable", stable_n, at)):
            square = count * mean if metric == "selected" else count * (mean**2 + 0.04)
            self.put(number, arm, metric, [count], [count * mean], [square], group)  # type: ignore[arg-type]
        return self

    def paired(
        self, metric: str, pairs: float, shift: float, share: float, clusters: int = 30, group: str = "",
        ripple: float = 0.1,
    ) -> Scene:  # fmt: skip
        """Pairs per batch, their mean difference, and the share that differs."""
        rippled = [shift + ripple * share * (-1) ** k for k in range(clusters)]
        rest = [0.0] * (CLUSTERS - clusters)
        n = [pairs] * clusters + rest
        self.put(
            1,
            "pair",
            metric,
            n,
            [pairs * d for d in rippled] + rest,
            [pairs * share] * clusters + rest,
            group,
        )
        base = [pairs * 0.3] * clusters + rest
        return self.put(1, "paired_stable", metric, n, base, group=group)

    def agreeing(self, pairs: float, disagreeing: float, clusters: int = 30) -> Scene:
        rest = [0.0] * (CLUSTERS - clusters)
        y = [pairs - disagreeing * (1.5 if k % 2 else 0.5) for k in range(clusters)] + rest
        return self.put(1, "pair", "agreement", [pairs] * clusters + rest, y)

    def record(self) -> RolloutRecord:
        epochs = (
            EpochRecord(0, None, "baseline", 0.0, 0.0, NOW - 4000),
            EpochRecord(1, 0, "shadow", 0.0, 1.0, NOW - 3000),
            EpochRecord(2, 1, "canary", 0.1, 0.0, NOW - 2000, thresholds=THRESHOLDS),
            EpochRecord(3, 2, "canary", 0.5, 0.0, NOW - 1000, thresholds=THRESHOLDS),
        )[: self.step + 2]
        return RolloutRecord(
            wire="", id="r", service="s", version=1, stable="1", candidate="2", candidate_digest="",
            policy_name="p", policy="", attempt=self.attempt, salt="", policy_hash="",
            started_by="", started_at=0.0,
            phase=Phase.CANARY, phase_since=0.0, step=self.step, step_since=0.0, epoch=epochs[-1].epoch,
            epochs=epochs, reason="", constants=self.constants,
        )  # fmt: skip

    def analysis(self, given: RolloutPolicy) -> Analysis:
        found = analyse(self.record(), given, self.evidence, self.reports, NOW)
        # Whatever is concluded can be stored: no NaN, no infinity.
        assert msgspec.json.decode(msgspec.json.encode(found), type=Analysis) == found
        return found

    def verdict(self, given: RolloutPolicy, place: str = "canary") -> Verdict:
        (found,) = [v for v in self.analysis(given).verdicts if v.place == place]
        return found

    def check(self, name: str, given: RolloutPolicy | None = None) -> Validity:
        given = given or policy(ERRORS)
        return next(check for check in self.analysis(given).validity if check.check == name)


ERRORS = {"metric": "errors", "max_increase": "1pp", "in": "canary"}
RATIO = {"metric": "errors", "max_ratio": 1.5, "in": "canary"}
EITHER = {"metric": "errors", "max_increase": "0.5pp", "max_ratio": 1.5, "in": "canary"}
P95 = {"metric": "latency.p95", "max_ratio": 1.2}
MEAN = {"metric": "prediction.mean", "max_shift": "0.1sd", "in": "canary"}
SEX = {"metric": "selection_rate", "by": "sex", "max_shift": "5pp", "in": "canary"}
SHADOW_MEAN = {**MEAN, "in": "shadow"}
SHADOW_SEX = {**SEX, "in": "shadow"}
AGREEMENT = {"metric": "prediction.agreement", "min": "90%"}
ALL = (
    ERRORS,
    P95,
    MEAN,
    SEX,
    SHADOW_MEAN,
    SHADOW_SEX,
    AGREEMENT,
    {"metric": "prediction.missing", "max_increase": "1pp"},
)


# --- no data -----------------------------------------------------------------------------------------------


def test_no_evidence_is_inconclusive_everywhere() -> None:
    found = Scene().analysis(policy(*ALL))
    assert found.verdicts
    assert {verdict.outcome for verdict in found.verdicts} == {Outcome.INCONCLUSIVE}
    assert not any(verdict.proven_last_weight for verdict in found.verdicts)


def test_nothing_is_judged_before_the_baseline_is_frozen() -> None:
    assert Scene(constants=None).analysis(policy(*ALL)).verdicts == ()


def test_a_group_without_data_holds_the_gate() -> None:
    scene = Scene().means(3, 50_000.0, 0.0, "selected", "sex=female", 0.3)
    verdict = scene.verdict(policy(SEX))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert {f.slice: f.outcome for f in verdict.findings} == {
        "sex=female": Outcome.PASS, "sex=male": Outcome.INCONCLUSIVE,
    }  # fmt: skip


def test_a_slice_without_known_groups_gives_no_verdict() -> None:
    scene = Scene(constants=msgspec.structs.replace(CONSTANTS, groups={}))
    assert scene.means(3, 50_000.0, 0.0, "selected", "sex=female", 0.3).analysis(policy(SEX)).verdicts == ()


def test_a_small_group_is_watched_but_does_not_hold() -> None:
    constants = msgspec.structs.replace(CONSTANTS, groups={"sex=female": 0.985, "sex=male": 0.015})
    gate = {**SEX, "small_slices": "no-harm"}
    scene = Scene(constants=constants).means(3, 50_000.0, 0.0, "selected", "sex=female", 0.3)
    assert scene.verdict(policy(gate)).outcome is Outcome.PASS
    assert scene.verdict(policy(SEX)).outcome is Outcome.INCONCLUSIVE
    scene.means(3, 5_000.0, 0.3, "selected", "sex=male", 0.3)
    assert scene.verdict(policy(gate)).outcome is Outcome.FAIL
    only_small = Scene(constants=constants).means(3, 100.0, 0.0, "selected", "sex=male", 0.3)
    assert only_small.verdict(policy(gate)).outcome is Outcome.INCONCLUSIVE


def test_a_watching_gate_that_sees_nothing_is_an_error_not_harmless() -> None:
    scene = Scene()
    scene.epoch(3).arms = {"candidate": ArmCounts(accounted=600), "stable": ArmCounts(accounted=600)}
    verdict = scene.verdict(policy({**MEAN, "require": "no-harm"}))
    assert verdict.outcome is Outcome.ERROR
    assert "not measured" in verdict.reason


# --- errors ------------------------------------------------------------------------------------------------


def test_a_watching_gate_by_slice_needs_one_group_at_least() -> None:
    gate = {**SEX, "require": "no-harm"}
    scene = Scene()
    scene.epoch(3).arms = {"candidate": ArmCounts(accounted=600), "stable": ArmCounts(accounted=600)}
    verdict = scene.verdict(policy(gate))
    assert verdict.outcome is Outcome.ERROR
    assert "none has it" in verdict.reason
    scene.means(3, 600.0, 0.0, "selected", "sex=female", 0.3)
    assert scene.verdict(policy(gate)).outcome is not Outcome.ERROR


def test_a_small_group_that_is_broken_is_an_error() -> None:
    constants = msgspec.structs.replace(CONSTANTS, groups={"sex=female": 0.985, "sex=male": 0.015})
    scene = Scene(constants=constants).means(3, 50_000.0, 0.0, "selected", "sex=female", 0.3)
    scene.put(3, "candidate", "selected", [10.0], [20.0], group="sex=male")
    assert scene.verdict(policy({**SEX, "small_slices": "no-harm"})).outcome is Outcome.ERROR


def test_equal_error_rates_are_proven() -> None:
    scene = (
        Scene()
        .clustered(2, "errors", (20.0, 0.01), (180.0, 0.01))
        .clustered(3, "errors", (100.0, 0.01), (100.0, 0.01))
    )
    for gate in (ERRORS, RATIO, EITHER):
        verdict = scene.verdict(policy(gate))
        assert verdict.outcome is Outcome.PASS, verdict
        assert verdict.proven_last_weight
        assert verdict.findings[0].method == "P4 time clusters (asymptotic)"


def test_proof_on_the_last_weight_needs_the_last_weight() -> None:
    scene = Scene().clustered(2, "errors", (200.0, 0.01), (1800.0, 0.01))
    verdict = scene.verdict(policy(ERRORS))
    assert verdict.outcome is Outcome.PASS
    assert not verdict.proven_last_weight
    scene.clustered(3, "errors", (10.0, 0.01), (10.0, 0.01))
    assert not scene.verdict(policy(ERRORS)).proven_last_weight


def test_three_times_the_errors_are_harm_and_the_reason_has_the_numbers() -> None:
    scene = Scene().clustered(3, "errors", (100.0, 0.03), (100.0, 0.01))
    verdict = scene.verdict(policy(ERRORS))
    assert verdict.outcome is Outcome.FAIL
    (finding,) = verdict.findings
    assert finding.unit == "pp"
    assert finding.estimate == pytest.approx(2.0)
    assert finding.low is not None
    assert 0.5 < finding.low < 2.0
    assert finding.high is not None
    assert finding.high > 2.0
    assert verdict.reason.startswith("errors: +2pp [+")
    assert verdict.reason.endswith("margin 1pp: harm proven")
    ratio = scene.verdict(policy(RATIO)).findings[0]
    assert (ratio.outcome, ratio.unit) == (Outcome.FAIL, "×")
    assert ratio.estimate == pytest.approx(3.0)


def test_with_two_limits_only_both_exceeded_are_harm() -> None:
    rare = Scene().clustered(3, "errors", (1000.0, 0.003), (1000.0, 0.001))  # three times, but +0.2pp
    assert rare.verdict(policy(RATIO)).outcome is Outcome.FAIL
    assert rare.verdict(policy(EITHER)).outcome is Outcome.PASS
    common = Scene().clustered(3, "errors", (1000.0, 0.11), (1000.0, 0.10))  # +1pp, but 1.1 times
    assert common.verdict(policy({**ERRORS, "max_increase": "0.5pp"})).outcome is Outcome.FAIL
    assert common.verdict(policy(EITHER)).outcome is Outcome.PASS
    both = Scene().clustered(3, "errors", (1000.0, 0.03), (1000.0, 0.01))
    assert both.verdict(policy(EITHER)).outcome is Outcome.FAIL


def test_servers_without_any_error_are_proven_by_counting() -> None:
    scene = Scene().clustered(3, "errors", (50.0, 0.0), (50.0, 0.0))
    verdict = scene.verdict(policy(ERRORS))
    assert verdict.outcome is Outcome.PASS
    assert "few events" in verdict.findings[0].method
    # A factor of nothing is nothing: no number of requests proves it.
    assert scene.verdict(policy(RATIO)).outcome is Outcome.INCONCLUSIVE


def test_a_few_clusters_decide_nothing() -> None:
    scene = Scene().clustered(3, "errors", (1000.0, 0.0), (1000.0, 0.0), clusters=15)
    verdict = scene.verdict(policy(ERRORS))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "15.0 effective clusters" in verdict.reason


def test_a_hanging_candidate_is_never_proven() -> None:
    scene = Scene().clustered(3, "errors", (50.0, 0.0), (50.0, 0.0))
    scene.clustered(3, "latency.p95.over", (50.0, 0.05), (50.0, 0.05))
    for part in ("mid", "far"):
        scene.clustered(3, f"latency.p95.{part}", (50.0, 0.01), (50.0, 0.01))
    assert scene.verdict(policy(ERRORS)).outcome is Outcome.PASS
    assert scene.verdict(policy(P95)).outcome is Outcome.PASS
    scene.epoch(3).open = {"candidate": 600, "stable": 20}
    assert scene.verdict(policy(ERRORS)).outcome is Outcome.INCONCLUSIVE
    assert scene.verdict(policy(P95)).outcome is Outcome.INCONCLUSIVE
    scene.epoch(3).open = {"candidate": 10, "stable": 10}
    assert scene.verdict(policy(ERRORS)).outcome is Outcome.PASS


def test_requests_accounted_while_still_open_prove_nothing_about_errors() -> None:
    """They ended in no error, have no latency, and were not left by their client."""
    scene = Scene().clustered(3, "errors", (50.0, 0.002), (50.0, 0.002))
    scene.epoch(3).latency = {arm: {100: 6387} for arm in ("candidate", "stable")}  # 13 of 6 400 failed
    for gate in (ERRORS, EITHER):
        assert scene.verdict(policy(gate)).outcome is Outcome.PASS
    scene.epoch(3).latency["candidate"] = {100: 6100}
    for gate in (ERRORS, EITHER):
        assert scene.verdict(policy(gate)).outcome is Outcome.INCONCLUSIVE
    # Where stable's take as long, they are how this service is.
    scene.epoch(3).latency["stable"] = {100: 6100}
    assert scene.verdict(policy(ERRORS)).outcome is Outcome.PASS
    # Not one answer.
    del scene.epoch(3).latency["candidate"]
    assert scene.verdict(policy(ERRORS)).outcome is Outcome.INCONCLUSIVE
    # What the client left is no such request.
    scene.clustered(3, "client_disconnects", (50.0, 1.0 / 1.05 - 0.002), (50.0, 0.0))
    assert scene.verdict(policy(ERRORS)).outcome is Outcome.PASS


def test_a_candidate_that_only_hangs_in_an_epoch_is_not_left_out_of_it() -> None:
    scene = Scene().clustered(2, "errors", (20.0, 0.0), (180.0, 0.0))
    assert scene.verdict(policy(ERRORS)).outcome is Outcome.PASS
    scene.put(3, "stable", "errors", [10.0] * CLUSTERS, [0.0] * CLUSTERS)
    scene.epoch(3).open = {"candidate": 1280}
    assert scene.verdict(policy(ERRORS)).outcome is Outcome.INCONCLUSIVE


def test_an_improvement_is_no_harm_to_a_one_sided_gate() -> None:
    scene = Scene().clustered(3, "errors", (500.0, 0.001), (500.0, 0.02))
    assert scene.verdict(policy(ERRORS)).outcome is Outcome.PASS


def test_harm_that_begins_late_is_found() -> None:
    early = Scene().clustered(2, "errors", (200.0, 0.01), (1800.0, 0.01))
    assert early.verdict(policy(ERRORS)).outcome is Outcome.PASS
    late = early.clustered(3, "errors", (60.0, 0.05), (60.0, 0.01))
    alone = Scene().clustered(3, "errors", (60.0, 0.05), (60.0, 0.01))
    assert alone.verdict(policy(ERRORS)).outcome is Outcome.FAIL
    verdict = late.verdict(policy(ERRORS))
    # Over both steps the margin is kept: what fails is the last one, and the sentence has its numbers.
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reason.startswith("errors: +4pp")
    assert verdict.reason.endswith("harm proven from step 3 on")
    # E is the mean of the one over both steps and the one since the second, so at least half the latter.
    assert verdict.findings[0].log_e_harm is not None
    carried = alone.verdict(policy(ERRORS)).findings[0].log_e_harm
    assert carried is not None
    assert verdict.findings[0].log_e_harm >= carried - math.log(2.0) - 1e-9


def test_an_earlier_attempt_halves_both_levels() -> None:
    scene = Scene().clustered(3, "errors", (100.0, 0.01), (100.0, 0.01))
    first = scene.verdict(policy(ERRORS)).findings[0]
    scene.attempt = 2
    third = scene.verdict(policy(ERRORS)).findings[0]
    for before, after in (
        (first.log_needed_harm, third.log_needed_harm),
        (first.log_needed_safe, third.log_needed_safe),
    ):
        assert before is not None
        assert after is not None
        assert after - before == pytest.approx(math.log(4.0))


def test_a_gate_that_decides_nothing_never_fails() -> None:
    scene = Scene().clustered(3, "errors", (500.0, 0.05), (500.0, 0.01))
    verdict = scene.verdict(policy({**ERRORS, "require": "nothing"}))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.findings[0].log_needed_harm is None


# --- latency -----------------------------------------------------------------------------------------------


def slow(over: float, mid: float, far: float) -> Scene:
    scene = Scene()
    for part, rate in (("over", over), ("mid", mid), ("far", far)):
        scene.clustered(3, f"latency.p95.{part}", (100.0, rate), (100.0, 0.05 if part == "over" else 0.02))
    scene.epoch(3).latency = {"candidate": {545: 1000}, "stable": {520: 1000}}
    return scene


def test_latency_harm_is_over_half_the_margin_and_told_as_a_factor() -> None:
    verdict = slow(over=0.30, mid=0.25, far=0.20).verdict(policy(P95))
    assert verdict.outcome is Outcome.FAIL
    (finding,) = verdict.findings
    assert finding.estimate == pytest.approx(GAMMA**25)
    assert finding.margin == pytest.approx(GAMMA**9)
    assert finding.low == pytest.approx(GAMMA**4)
    assert verdict.reason == "latency.p95: ×1.64 [1.08, ∞], margin ×1.2: harm proven"


def test_equal_latency_is_proven_and_between_the_thresholds_nothing_is() -> None:
    assert slow(over=0.05, mid=0.03, far=0.02).verdict(policy(P95)).outcome is Outcome.PASS
    assert slow(over=0.08, mid=0.05, far=0.05).verdict(policy(P95)).outcome is Outcome.INCONCLUSIVE


# --- predictions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_shifted_mean_is_harm_in_its_direction(sign: float) -> None:
    verdict = Scene().means(3, 5000.0, sign * 0.06).verdict(policy(MEAN))  # 0.3 sd
    assert verdict.outcome is Outcome.FAIL
    by = {finding.cell: finding for finding in verdict.findings}
    up, down = by["prediction.mean up"], by["prediction.mean down"]
    harmful, harmless = (up, down) if sign > 0 else (down, up)
    assert (harmful.outcome, harmless.outcome) == (Outcome.FAIL, Outcome.PASS)
    assert harmful.estimate == pytest.approx(sign * 0.3)
    assert up.low is not None
    assert up.high is not None
    assert up.low < sign * 0.3 < up.high
    assert (up.margin, down.margin) == pytest.approx((0.1, -0.1))


def test_an_equal_mean_is_proven_in_both_directions() -> None:
    verdict = Scene().means(2, 8000.0, 0.0).means(3, 20_000.0, 0.001).verdict(policy(MEAN))
    assert verdict.outcome is Outcome.PASS
    assert verdict.proven_last_weight
    assert verdict.findings[0].method == "P1 bounded mean"
    assert Scene().means(3, 300.0, 0.0).verdict(policy(MEAN)).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("arm", ["candidate", "stable"])
def test_missing_values_of_one_arm_prove_nothing(arm: ArmKey) -> None:
    scene = Scene().means(3, 10_000.0, 0.0)
    assert scene.verdict(policy(MEAN)).outcome is Outcome.PASS
    scene.put(3, arm, "mean", [9000.0], [4500.0], [9000.0 * 0.29])
    verdict = scene.verdict(policy(MEAN))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "10% of one side are missing" in verdict.reason
    scene.put(3, arm, "mean", [9900.0], [4950.0], [9900.0 * 0.29])
    assert scene.verdict(policy(MEAN)).outcome is Outcome.PASS


def test_swapping_the_arms_mirrors_the_result() -> None:
    ours, theirs = Scene().means(3, 3000.0, 0.03), Scene()
    series = ours.epoch(3).series
    turned: dict[str, ArmKey] = {"candidate": "stable", "stable": "candidate"}
    theirs.epoch(3).series = {SeriesKey(turned[k.arm], k.slice, k.metric): s for k, s in series.items()}
    up, down = ours.verdict(policy(MEAN)).findings
    mirrored_up, mirrored_down = theirs.verdict(policy(MEAN)).findings
    for one, other in ((up, mirrored_down), (down, mirrored_up)):
        assert one.estimate == pytest.approx(-(other.estimate or 0.0))
        assert one.log_e_harm == pytest.approx(other.log_e_harm)
        assert one.log_e_safe == pytest.approx(other.log_e_safe)
        assert (one.low, one.high) == pytest.approx((-(other.high or 0.0), -(other.low or 0.0)))
        assert one.outcome is other.outcome


def test_a_harmed_slice_is_named_with_its_numbers() -> None:
    scene = Scene().means(3, 8000.0, -0.091, "selected", "sex=female", 0.3)
    verdict = scene.means(3, 8000.0, 0.0, "selected", "sex=male", 0.3).verdict(policy(SEX))
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reason.startswith("selection_rate of sex=female: −9.1pp [")
    assert "], margin 5pp: harm proven (a shift either way" in verdict.reason


def test_sticky_units_are_never_analysed_as_requests() -> None:
    sticky = msgspec.structs.replace(CONSTANTS, sticky=True)
    lone = Scene(constants=sticky).means(3, 20_000.0, 0.0).verdict(policy(MEAN))
    assert lone.outcome is Outcome.INCONCLUSIVE
    scene = Scene(constants=sticky)
    for arm in ("candidate", "stable"):
        y = [100.0 * (0.5 + 0.01 * (-1) ** k) for k in range(CLUSTERS)]
        scene.put(3, arm, "mean", [100.0] * CLUSTERS, y, [one * one / 100 + 4.0 for one in y])
    got = scene.verdict(policy(MEAN))
    assert got.outcome is Outcome.PASS or got.findings[0].method.startswith("P1")
    scene.put(
        3, "candidate", "mean", [100.0] * CLUSTERS, [56.0 + k % 3 for k in range(CLUSTERS)], [40.0] * CLUSTERS
    )
    harmed = scene.verdict(policy(MEAN))
    assert harmed.outcome is Outcome.FAIL
    assert harmed.findings[0].method == "P4 clusters of units (asymptotic)"


@pytest.mark.parametrize("intervals", [True, False])
def test_sticky_values_of_which_one_arm_lacks_most_prove_nothing(intervals: bool) -> None:
    """Of one group, so that the sample ratio of all requests does not show it."""
    scene = Scene(constants=msgspec.structs.replace(CONSTANTS, sticky=True))
    for arm, group in itertools.product(("candidate", "stable"), ("sex=female", "sex=male")):
        share = 0.3 if (arm, group) == ("candidate", "sex=female") else 1.0
        n = [300.0 * share] * CLUSTERS
        y = [each * (0.4 + 0.02 * (-1) ** k) for k, each in enumerate(n)]
        scene.put(3, arm, "selected", n, y, group=group)  # type: ignore[arg-type]
    given = policy(SEX)
    found = analyse(scene.record(), given, scene.evidence, (), NOW, intervals=intervals, told=intervals)
    (verdict,) = found.verdicts
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "of one side are missing" in verdict.reason


def test_few_users_without_events_prove_little_however_many_their_requests() -> None:
    sticky = msgspec.structs.replace(CONSTANTS, sticky=True)

    def scene(requests: list[float]) -> Scene:
        made = Scene(constants=sticky)
        for arm, group in itertools.product(("candidate", "stable"), ("sex=female", "sex=male")):
            made.put(3, arm, "selected", requests, [0.0] * CLUSTERS, group=group)  # type: ignore[arg-type]
        return made

    thirty = scene([400.0 if k % 4 == 0 else 0.0 for k in range(CLUSTERS)])
    assert thirty.verdict(policy(SEX)).outcome is Outcome.INCONCLUSIVE
    # Users of one request each fill the clusters as evenly as chance allows.
    many = scene([90.0 + 19.0 * (k % 2) for k in range(CLUSTERS)]).verdict(policy(SEX))
    assert many.outcome is Outcome.PASS
    assert many.findings[0].method.startswith("P1")


def test_a_margin_in_sd_of_a_constant_prediction_cannot_be_decided() -> None:
    constants = msgspec.structs.replace(CONSTANTS, deviations={"mean|": 0.0})
    verdict = Scene(constants=constants).means(3, 5000.0, 0.0).verdict(policy(MEAN))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "do not vary" in verdict.reason


def test_a_collapse_to_the_mean_shows_in_the_distribution() -> None:
    constants = msgspec.structs.replace(
        CONSTANTS, edges=(0.4, 0.6), centres={"bin.0|": 0.3, "bin.1|": 0.4, "bin.2|": 0.3}
    )
    scene = Scene(constants=constants)
    for k, (candidate, stable) in enumerate(((0.0, 0.3), (1.0, 0.4), (0.0, 0.3))):
        scene.put(3, "candidate", f"bin.{k}", [5000.0], [5000.0 * candidate])
        scene.put(3, "stable", f"bin.{k}", [5000.0], [5000.0 * stable])
    verdict = scene.verdict(policy({"metric": "prediction.distribution", "max_shift": "5pp", "in": "canary"}))
    assert verdict.outcome is Outcome.FAIL
    assert "bin 2 of 3" in verdict.reason


# --- pairs -------------------------------------------------------------------------------------------------


def test_labels_that_stable_never_gives_are_a_class_of_their_own() -> None:
    names = tuple("abcdefgh")
    constants = msgspec.structs.replace(CONSTANTS, classes=names)
    scene = Scene(constants=constants)
    gate = {"metric": "prediction.distribution", "max_shift": "5pp", "in": "canary"}
    # Each of eight classes lost 1.25pp, within the margin; together they went to unknown labels.
    n = 40_000.0
    for k in [*range(len(names)), "other"]:
        stable, candidate = (0.0, 0.1) if k == "other" else (0.125, 0.1125)
        for arm, share in (("stable", stable), ("candidate", candidate)):
            scene.put(3, arm, f"bin.{k}", [n], [n * share])  # type: ignore[arg-type]
    verdict = scene.verdict(policy(gate))
    assert verdict.outcome is Outcome.FAIL
    assert "any other class" in verdict.reason


def test_identical_deterministic_answers_are_proven_in_the_shadow() -> None:
    scene = Scene().paired("mean", 100.0, 0.0, 0.0).paired("selected", 60.0, 0.0, 0.0, group="sex=female")
    scene.paired("selected", 60.0, 0.0, 0.0, group="sex=male").agreeing(100.0, 0.0)
    for gate in (SHADOW_MEAN, SHADOW_SEX, AGREEMENT):
        verdict = scene.verdict(policy(gate), "shadow")
        assert verdict.outcome is Outcome.PASS, verdict
        assert "few events" in verdict.findings[0].method


def test_nine_batches_are_not_enough_and_ten_are() -> None:
    for clusters, outcome in ((9, Outcome.INCONCLUSIVE), (11, Outcome.PASS)):
        scene = Scene().paired("mean", 500.0, 0.0, 0.0, clusters=clusters)
        assert scene.verdict(policy(SHADOW_MEAN), "shadow").outcome is outcome


def test_a_biased_shadow_is_found_in_a_dozen_batches() -> None:
    scene = Scene().paired("selected", 300.0, -0.15, 0.17, clusters=12, group="sex=female")
    scene.paired("selected", 300.0, 0.0, 0.02, clusters=12, group="sex=male")
    verdict = scene.verdict(policy(SHADOW_SEX), "shadow")
    assert verdict.outcome is Outcome.FAIL
    assert "sex=female: −15pp" in verdict.reason
    assert verdict.findings[0].method == "P4 batches of pairs (asymptotic)"


def test_little_noise_between_pairs_is_proven() -> None:
    scene = Scene().paired("selected", 300.0, 0.0, 0.04, group="sex=female")
    verdict = scene.paired("selected", 300.0, 0.0, 0.04, group="sex=male").verdict(
        policy(SHADOW_SEX), "shadow"
    )
    assert verdict.outcome is Outcome.PASS


def test_agreement_has_one_bound() -> None:
    assert Scene().agreeing(300.0, 6.0).verdict(policy(AGREEMENT), "shadow").outcome is Outcome.PASS
    bad = Scene().agreeing(300.0, 60.0).verdict(policy(AGREEMENT), "shadow")
    assert bad.outcome is Outcome.FAIL
    assert bad.findings[0].estimate == pytest.approx(80.0)
    assert "at least 90%" in bad.reason
    assert Scene().agreeing(300.0, 30.0).verdict(policy(AGREEMENT), "shadow").outcome is Outcome.INCONCLUSIVE


def test_errors_of_pairs_by_factor_and_by_increase() -> None:
    gate = {"metric": "errors", "max_increase": "1pp", "max_ratio": 1.5, "in": "shadow"}
    scene = Scene().paired("errors", 300.0, 0.30, 0.35)
    assert scene.verdict(policy(gate), "shadow").outcome is Outcome.FAIL
    ratio = scene.verdict(policy({**RATIO, "in": "shadow"}), "shadow").findings[0]
    assert ratio.estimate == pytest.approx(2.0)  # stable fails in 30% of these pairs


# --- broken evidence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "breaking"),
    [
        ("not finite", lambda s: Series([math.nan, *s.n[1:]], s.sum, s.square)),
        ("not finite", lambda s: Series(s.n, [math.inf, *s.sum[1:]], s.square)),
        ("negative count", lambda s: Series([-1.0, *s.n[1:]], s.sum, s.square)),
        ("unequal lengths", lambda s: Series(s.n[:-1], s.sum, s.square)),
        ("unequal lengths", lambda s: Series([], [], [])),
        ("cannot come from", lambda s: Series(s.n, [x + 1e6 for x in s.sum], s.square)),
        ("cannot come from", lambda s: Series(s.n, [-x - 1e6 for x in s.sum], s.square)),
        ("contradict", lambda s: Series(s.n, s.sum, [0.0] * len(s.n))),
    ],
)
def test_broken_sums_are_an_error_and_never_a_pass(name: str, breaking: Callable[[Series], Series]) -> None:
    key = SeriesKey("candidate", "", "errors")
    scene = Scene().clustered(3, "errors", (100.0, 0.01), (100.0, 0.01))
    scene.epoch(3).series[key] = breaking(scene.epoch(3).series[key])
    verdict = scene.verdict(policy(ERRORS))
    assert verdict.outcome is Outcome.ERROR
    assert name in verdict.reason


def test_mixed_numbers_of_clusters_are_an_error() -> None:
    scene = (
        Scene()
        .clustered(3, "errors", (100.0, 0.01), (100.0, 0.01))
        .put(2, "stable", "errors", [100.0], [1.0])
    )
    assert scene.verdict(policy(ERRORS)).outcome is Outcome.ERROR


def test_one_broken_gate_leaves_the_others_alone() -> None:
    scene = Scene().clustered(3, "errors", (100.0, 0.01), (100.0, 0.01)).means(3, 20_000.0, 0.0)
    scene.put(3, "candidate", "errors", [math.nan], [0.0])
    outcomes = [verdict.outcome for verdict in scene.analysis(policy(ERRORS, MEAN)).verdicts]
    assert outcomes == [Outcome.ERROR, Outcome.PASS]


# --- validity ----------------------------------------------------------------------------------------------


def test_an_extractor_that_misses_is_an_error_of_every_prediction_gate() -> None:
    scene = Scene().means(3, 20_000.0, 0.0).clustered(3, "errors", (100.0, 0.01), (100.0, 0.01))
    scene.put(3, "stable", "extraction", [500.0], [20.0])
    found = scene.analysis(policy(ERRORS, MEAN))
    assert [verdict.outcome for verdict in found.verdicts] == [Outcome.PASS, Outcome.ERROR]
    check = scene.check("extractor", policy(ERRORS, MEAN))
    assert check.outcome is Outcome.ERROR
    assert "4.0% of stable's 500 answers" in check.reason
    scene.put(3, "stable", "extraction", [500.0], [5.0])
    assert scene.check("extractor", policy(MEAN)).outcome is Outcome.PASS
    scene.put(3, "stable", "extraction", [99.0], [99.0])
    assert not [c for c in scene.analysis(policy(MEAN)).validity if c.check == "extractor"]


@pytest.mark.parametrize("arm", ["stable", "candidate"])
def test_answers_in_a_coding_nobody_can_read_are_an_error_and_no_missing_predictions(arm: ArmKey) -> None:
    scene = Scene().means(3, 20_000.0, 0.0).clustered(3, "errors", (100.0, 0.01), (100.0, 0.01))
    scene.put(3, "stable", "extraction", [500.0], [500.0])
    scene.epoch(3).arms = {arm: ArmCounts(accounted=500, uncaptured=100, undecodable=40)}
    found = scene.analysis(policy(ERRORS, MEAN))
    assert [verdict.outcome for verdict in found.verdicts] == [Outcome.PASS, Outcome.ERROR]
    reason = found.verdicts[1].reason
    assert f"10.0% of {arm}'s 400 answers are in a content coding" in reason
    assert "send gzip, deflate, br or no coding" in reason
    scene.put(3, "stable", "extraction", [500.0], [5.0])
    scene.epoch(3).arms = {arm: ArmCounts(accounted=500, uncaptured=100, undecodable=4)}
    assert scene.verdict(policy(MEAN)).outcome is Outcome.PASS


BODIES = (
    pytest.param(
        (20_000, 0, 900), (20_000, 0, 300), "lost for want of room more often of candidate", Outcome.ERROR
    ),
    pytest.param(
        (20_000, 0, 300), (20_000, 0, 900), "lost for want of room more often of stable", Outcome.ERROR
    ),
    pytest.param(
        (20_000, 1_000, 0), (20_000, 100, 0), "not read more often of candidate", Outcome.INCONCLUSIVE
    ),
    pytest.param((20_000, 0, 2_000), (20_000, 0, 2_000), "10.0% of the bodies", Outcome.INCONCLUSIVE),
)


@pytest.mark.parametrize(("candidate", "stable", "says", "outcome"), BODIES)
def test_bodies_that_one_arm_lost_more_often_decide_nothing_that_is_read_from_them(
    candidate: tuple[int, int, int], stable: tuple[int, int, int], says: str, outcome: Outcome
) -> None:
    scene = Scene().means(3, 20_000.0, 0.0).clustered(3, "errors", (100.0, 0.01), (100.0, 0.01))
    for group in ("female", "male"):
        scene.means(3, 10_000.0, 0.0, "selected", f"sex={group}", 0.3)
    scene.epoch(3).arms = {"candidate": ArmCounts(20_000), "stable": ArmCounts(20_000)}
    gates = policy(ERRORS, MEAN, SEX)
    assert [verdict.outcome for verdict in scene.analysis(gates).verdicts] == [Outcome.PASS] * 3
    scene.epoch(3).arms = {"candidate": ArmCounts(*candidate), "stable": ArmCounts(*stable)}
    found = scene.analysis(gates)
    assert [verdict.outcome for verdict in found.verdicts] == [Outcome.PASS, outcome, outcome]
    assert all(says in verdict.reason for verdict in found.verdicts[1:])
    assert scene.check("bodies", gates).outcome is outcome
    assert not any(check.check == "bodies" for check in scene.analysis(policy(ERRORS)).validity)


def test_loss_that_comes_with_a_weight_is_no_difference_between_the_arms() -> None:
    scene = Scene()
    scene.epoch(2).arms = {"candidate": ArmCounts(10_000), "stable": ArmCounts(90_000)}
    counts = ArmCounts(50_000, 25_000, 700, 10_000)
    scene.epoch(3).arms = {"candidate": counts, "stable": counts}
    assert scene.check("bodies", policy(MEAN)).outcome is Outcome.PASS


def test_chance_alone_is_no_unequal_loss_of_bodies() -> None:
    chance = random.Random(7)
    for _ in range(200):
        scene = Scene()
        lost = [sum(chance.random() < 0.04 for _ in range(2_000)) for _ in range(2)]
        scene.epoch(3).arms = {
            "candidate": ArmCounts(2_000, 0, lost[0]),
            "stable": ArmCounts(2_000, 0, lost[1]),
        }
        assert scene.check("bodies", policy(MEAN)).outcome is Outcome.PASS


def test_copies_in_a_coding_nobody_can_read_are_an_error() -> None:
    scene = Scene().paired("mean", 100.0, 0.0, 0.0)
    scene.epoch(1).mirror = MirrorCounts(chosen=4000, sent=4000, paired=4000)
    scene.epoch(1).arms = {"candidate": ArmCounts(undecodable=4000)}
    verdict = scene.verdict(policy(SHADOW_MEAN), "shadow")
    assert verdict.outcome is Outcome.ERROR
    assert "of candidate's 4000 answers are in a content coding" in verdict.reason


def test_the_extractor_is_checked_in_the_baseline_too() -> None:
    scene = Scene(constants=None)
    scene.put(0, "stable", "extraction", [500.0], [500.0])
    record = msgspec.structs.replace(
        scene.record(), epochs=Scene().record().epochs[:1], epoch=0, step=None, phase=Phase.BASELINE
    )
    (check,) = analyse(record, policy(MEAN), scene.evidence, (), NOW).validity
    assert (check.check, check.outcome) == ("extractor", Outcome.ERROR)


def test_too_few_pairs_of_the_copies_leave_paired_gates_open() -> None:
    scene = Scene().paired("mean", 100.0, 0.0, 0.0)
    scene.epoch(1).mirror = MirrorCounts(chosen=4000, sent=3000, paired=3000)
    assert scene.check("coverage").outcome is Outcome.INCONCLUSIVE
    verdict = scene.verdict(policy(SHADOW_MEAN), "shadow")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "75.0% of the mirrored copies" in verdict.reason
    scene.epoch(1).mirror = MirrorCounts(chosen=4000, sent=3950, paired=3900)
    assert scene.check("coverage").outcome is Outcome.PASS
    assert scene.verdict(policy(SHADOW_MEAN), "shadow").outcome is Outcome.PASS


def report(candidate: int, stable: int, at: float = NOW, **more: Any) -> ReplicaReport:
    assigned = {
        "s|r|3|candidate": candidate,
        "s|r|3|stable": stable,
        "other|r|3|stable": 9999,
        "s|x|3|stable": 9999,
    }
    return ReplicaReport(source="a/1", replica="a", at=at, assigned=assigned, **more)


def counted(candidate: int, stable: int, still_open: dict[str, int] | None = None) -> Scene:
    scene = Scene()
    scene.epoch(3).arms = {"candidate": ArmCounts(accounted=candidate), "stable": ArmCounts(accounted=stable)}
    scene.epoch(3).open = still_open or {}
    return scene


def test_the_split_is_checked_at_assignment_and_at_completion() -> None:
    scene = counted(5000, 5050)
    scene.reports = (report(5000, 5050),)
    checks = [check for check in scene.analysis(policy(ERRORS)).validity if check.check == "sample_ratio"]
    assert [check.outcome for check in checks] == [Outcome.PASS, Outcome.PASS]
    # What a candidate swallows shows at completion only.
    scene = counted(4400, 5050)
    scene.reports = (report(5000, 5050),)
    checks = [check for check in scene.analysis(policy(ERRORS)).validity if check.check == "sample_ratio"]
    assert [check.outcome for check in checks] == [Outcome.PASS, Outcome.ERROR]
    # Slow requests under way are no mismatch.
    assert counted(4400, 5050, {"candidate": 600}).check("sample_ratio").outcome is Outcome.PASS


def test_reports_of_all_replicas_add_up() -> None:
    scene = counted(5000, 5000)
    scene.reports = (report(5000, 2000), msgspec.structs.replace(report(0, 3000), source="b/1"))
    assert scene.check("sample_ratio").outcome is Outcome.PASS
    assert scene.check("loss").outcome is Outcome.PASS


def test_lost_requests_are_an_error_beyond_what_is_under_way() -> None:
    scene = counted(9000, 9000)
    scene.reports = (report(10_000, 10_000),)
    check = scene.check("loss")
    assert check.outcome is Outcome.ERROR
    assert check.numbers["lost_candidate"] == pytest.approx(980.0)  # 2 of 1000 s are under way
    still = counted(9000, 9000, {"candidate": 1000, "stable": 1000})
    still.reports = scene.reports
    assert still.check("loss").outcome is Outcome.PASS
    # The evidence was published 100 s before the report: a tenth of the epoch may be missing from it.
    older = counted(9000, 9000)
    older.epoch(3).published = NOW - 100.0
    older.reports = scene.reports
    assert older.check("loss").outcome is Outcome.PASS


def test_a_loss_in_one_arm_only_is_an_error_though_small() -> None:
    scene = counted(99_000, 100_000)
    scene.reports = (report(100_000, 100_000),)
    assert "unequally" in scene.check("loss").reason


def test_requests_lost_with_a_weight_are_no_difference_between_the_arms() -> None:
    scene = counted(49_300, 49_300)
    scene.epoch(2).arms = {"candidate": ArmCounts(accounted=10_000), "stable": ArmCounts(accounted=90_000)}
    sent = {"s|r|2|candidate": 10_000, "s|r|2|stable": 90_000}
    both = report(50_000, 50_000)
    scene.reports = (msgspec.structs.replace(both, assigned={**both.assigned, **sent}),)
    assert scene.check("loss").outcome is Outcome.PASS
    scene.epoch(3).arms = {"candidate": ArmCounts(accounted=48_800), "stable": ArmCounts(accounted=49_800)}
    assert "unequally" in scene.check("loss").reason


def test_old_evidence_while_requests_come_in_is_an_error() -> None:
    scene = counted(5000, 5000)
    scene.epoch(3).published = NOW - 31.0
    scene.reports = (report(5000, 5000),)
    assert scene.check("evidence_age").outcome is Outcome.PASS  # nobody asks, nothing is late
    scene.reports = (report(5010, 5000),)
    assert scene.check("evidence_age").outcome is Outcome.ERROR
    silent = Scene()
    silent.reports = (report(5, 5),)
    assert silent.check("evidence_age").outcome is Outcome.ERROR


def test_routers_that_nobody_hears_are_an_error_not_a_calm_service() -> None:
    scene = counted(5000, 5000)
    scene.epoch(3).published = NOW - 31.0
    scene.reports = (report(5000, 5000, at=NOW - 31.0),)
    check = scene.check("evidence_age")
    assert check.outcome is Outcome.ERROR
    assert "no router has been heard" in check.reason
    scene.reports += (msgspec.structs.replace(report(0, 0), source="b/1"),)
    assert scene.check("evidence_age").outcome is Outcome.PASS


def test_an_observer_that_keeps_restarting_is_an_error() -> None:
    scene = counted(10, 10)
    scene.reports = (report(10, 10, observer_restarts=(NOW - 300, NOW - 40, NOW - 30, NOW - 20)),)
    assert not [check for check in scene.analysis(policy(ERRORS)).validity if check.check == "observer"]
    scene.reports = (report(10, 10, observer_restarts=(NOW - 50, NOW - 40, NOW - 30, NOW - 20)),)
    assert scene.check("observer").outcome is Outcome.ERROR


def test_exposure_counts_the_current_step() -> None:
    scene = counted(40, 60)
    scene.epoch(2).arms = {"candidate": ArmCounts(accounted=7), "stable": ArmCounts(accounted=70)}
    found = scene.analysis(policy(ERRORS))
    assert (found.candidate_requests, found.stable_requests) == (40, 60)
    scene.step = 0
    scene.epoch(1).mirror = MirrorCounts(chosen=90, sent=90, paired=80)
    assert scene.analysis(policy(ERRORS)).candidate_requests == 80


def test_the_same_look_gives_the_same_analysis() -> None:
    scene = Scene().means(3, 3000.0, 0.03).clustered(3, "errors", (100.0, 0.01), (100.0, 0.01))
    assert scene.analysis(policy(*ALL)) == scene.analysis(policy(*ALL))


def test_right_after_a_step_the_last_requests_of_the_epoch_before_are_not_lost() -> None:
    scene = counted(0, 0)
    scene.epoch(2).arms = {"candidate": ArmCounts(accounted=90), "stable": ArmCounts(accounted=800)}
    late = NOW - 1000.0 + 0.5  # half a second into the second canary, whose evidence has not come yet
    for number in (2, 3):
        scene.epoch(number).published = late - 0.5
    assigned = {"s|r|2|candidate": 100, "s|r|2|stable": 900, "s|r|3|candidate": 60, "s|r|3|stable": 60}
    scene.reports = (ReplicaReport(source="a", replica="a", at=late, assigned=assigned),)
    record = scene.record()
    short = msgspec.structs.replace(record.epochs[2], opened_at=late - 5.0)
    record = msgspec.structs.replace(record, epochs=(*record.epochs[:2], short, record.epochs[3]))
    checks = {
        check.check: check
        for check in analyse(record, policy(ERRORS), scene.evidence, scene.reports, late).validity
    }
    assert checks["loss"].outcome is Outcome.PASS


def test_copies_under_way_do_not_lower_the_coverage() -> None:
    scene = Scene()
    scene.epoch(1).published = NOW - 3000.0 + 4.0
    scene.epoch(1).mirror = MirrorCounts(chosen=2000, sent=2000, paired=1400)
    assert scene.check("coverage").outcome is Outcome.PASS
    scene.epoch(1).published = NOW - 2000.0
    assert scene.check("coverage").outcome is Outcome.INCONCLUSIVE


# --- invariants ---------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=CLUSTERS, max_size=CLUSTERS), st.permutations(range(4)))
def test_however_evidence_is_sharded_the_analysis_is_the_same(owner: list[int], order: list[int]) -> None:
    """Sources hold whole clusters here; what each holds does not matter, nor in which order they are read."""
    whole = Scene().clustered(3, "errors", (100.0, 0.02), (100.0, 0.02))
    shards: list[Evidence] = []
    for source in order:
        shard = Scene().epoch(3)
        for key, sums in whole.epoch(3).series.items():
            columns = [
                [value if owner[k] == source else 0.0 for k, value in enumerate(column)]
                for column in (sums.n, sums.sum, sums.square)
            ]
            shard.series[key] = Series(*columns)
        shards.append(shard)
    total = merge(shards)
    assert total is not None
    assert Scene(evidence={3: total}).analysis(policy(ERRORS)) == whole.analysis(policy(ERRORS))


@settings(max_examples=40, deadline=None)
@given(st.floats(-0.05, 0.05), st.floats(0.02, 0.2), st.sampled_from(["canary", "shadow"]))
def test_turning_all_differences_mirrors_the_verdict(shift: float, share: float, place: str) -> None:
    if place == "canary":
        ours = Scene().means(3, 3000.0, shift, at=0.5 - shift / 2.0)
        turned = Scene().means(3, 3000.0, -shift, at=0.5 + shift / 2.0)
    else:
        share = max(share, abs(shift) * 1.5)
        ours, turned = (Scene().paired("mean", 100.0, sign * shift, share) for sign in (1.0, -1.0))
    gate = policy({**MEAN, "in": place})
    up, down = ours.verdict(gate, place).findings
    mirrored_up, mirrored_down = turned.verdict(gate, place).findings
    for one, other in ((up, mirrored_down), (down, mirrored_up)):
        assert one.outcome is other.outcome
        assert one.log_e_harm == pytest.approx(other.log_e_harm, abs=1e-6)
        assert one.log_e_safe == pytest.approx(other.log_e_safe, abs=1e-6)


_NASTY = (0.0, -1.0, -1e-9, 1e-300, 1.0, 50.0, 1e6, 1e12, 1e15, 1e100, 1e154, 1e300, math.nan, math.inf)
_SERIES = (
    "errors", "missing", "mean", "selected", "agreement", "extraction", "client_disconnects",
    "latency.p95.over", "latency.p95.mid", "latency.p95.far", "bin.0", "bin.1",
)  # fmt: skip
_EVERY_GATE = (
    EITHER, P95, SEX, AGREEMENT, {**MEAN, "in": "shadow"}, {**MEAN, "in": "canary"},
    {"metric": "prediction.missing", "max_increase": "1pp", "require": "no-harm"},
    {"metric": "prediction.distribution", "max_shift": "5pp"},
)  # fmt: skip


def _hostile(rng: random.Random, length: int) -> tuple[list[float], list[float], list[float]]:
    """Sums as no router writes them: each column of a series may be anything."""
    count = rng.choice([1.0, 20.0, 300.0, 1e5])
    n, y = [count] * length, [count * rng.choice([0.0, 0.01, 0.3, 1.0])] * length
    square = list(y)
    for column in (n, y, square):
        kind = rng.random()
        if kind < 0.2:
            column[:] = [rng.choice(_NASTY)] * length
        elif kind < 0.3:
            column[0] = rng.choice(_NASTY)
        elif kind < 0.35:
            del column[rng.randrange(length) :]
    return n, y, square


def test_hostile_evidence_never_raises() -> None:
    for seed in range(100):
        rng = random.Random(seed)
        sticky = rng.random() < 0.3
        scene = Scene(constants=msgspec.structs.replace(CONSTANTS, sticky=sticky, edges=(0.3,)))
        places = itertools.product((1, 2, 3, 77), ("candidate", "stable", "pair", "paired_stable"), _SERIES)
        for number, arm, metric in places:
            for group in ("", "sex=female", "sex=male"):
                if rng.random() < 0.3:
                    continue
                alone = metric in {"mean", "selected", "bin.0", "bin.1"} and not sticky and "pair" not in arm
                scene.put(number, arm, metric, *_hostile(rng, 1 if alone else CLUSTERS), group)  # type: ignore[arg-type]
        for number in (1, 2, 3, 77):
            found = scene.epoch(number)
            found.open = {"candidate": rng.choice([0, 5, 2**63])}
            found.latency = {"stable": {rng.choice([-5, 0, 100, 10**7]): 2**63}, "candidate": {100: 500}}
            found.published = rng.choice([NOW, 1e300, -1e300])
            found.mirror = MirrorCounts(chosen=rng.choice([0, 2**63]), paired=rng.choice([0, 2**63]))
        scene.reports = (report(rng.choice([0, 1000, 2**63]), 1000, at=rng.choice([NOW, -1e300, 1e300])),)
        assert scene.analysis(policy(*_EVERY_GATE)).verdicts


@pytest.mark.parametrize("arm", ["candidate", "stable"])
@pytest.mark.parametrize("value", [-1.0, 1e15, 1e154, 1e300, math.nan, math.inf, -math.inf])
def test_one_hostile_number_never_passes(arm: ArmKey, value: float) -> None:
    for column in range(3):
        scene = Scene().clustered(3, "errors", (100.0, 0.01), (100.0, 0.01))
        series = scene.epoch(3).series[SeriesKey(arm, "", "errors")]
        (series.n, series.sum, series.square)[column][0] = value
        assert scene.verdict(policy(ERRORS)).outcome in {Outcome.ERROR, Outcome.INCONCLUSIVE}
