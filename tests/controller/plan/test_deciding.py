"""Plans: what they rest on, what they find unreachable and why, and that they and the analysis agree."""

from __future__ import annotations

from typing import Any

import pytest

from accede.controller.analysis.methods import unit_outcomes
from accede.controller.plan.advice import advise
from accede.controller.plan.assumed import Given
from accede.controller.plan.deciding import Planner, Question
from accede.controller.plan.expected import EXPECTED, effective_clusters
from accede.controller.plan.planned import GatePlan, Plan
from accede.controller.plan.sources import traffic_of
from accede.controller.plan.timeline import plan
from accede.controller.stats.planning import information_needed, requests_for_weight
from accede.controller.stats.tuning import kappa
from accede.errors import UsageError
from accede.policies.load import load_policy, parse_policy, parse_service
from accede.policies.metrics import METRICS, on_labels
from accede.policies.policy import Gate, RolloutPolicy
from accede.policies.service import ModelService

SERVICE = """
format: accede/v1
kind: ModelService
name: fraud
match: {path: /f}
protocol: kserve-v1
versions: {"1": {url: "http://a:1"}}
stable: "1"
side_effects: none
unit: UNIT
prediction: {type: number, path: "predictions[0]", range: [0, 1], agree_within: 0.05, selected: ">= 0.5"}
slices: {sex: {path: "instances[0].sex", values: [female, male]}}
"""
STICKY = "{header: x-user-id, missing: stable}"

# Metrics without a plan, each with its reason. A new metric is planned or stands here.
NOT_PLANNED: frozenset[str] = frozenset(
    {
        "prediction.divergence",  # how often stable differs from itself is not known before it was asked
    }
)


def service(unit: str = "request") -> ModelService:
    return parse_service(SERVICE.replace("UNIT", unit))


def policy(
    *gates: str, steps: str = "[{canary: 50%, until: gates, for: 1m}]", more: str = ""
) -> RolloutPolicy:
    text = f"format: accede/v1\nkind: RolloutPolicy\nname: one\n{more}\nsteps: {steps}\ngates:\n"
    return parse_policy(text + "".join(f"  - {gate}\n" for gate in gates))


def planned(chosen: RolloutPolicy, unit: str = "request", **given: Any) -> Plan:
    return plan("fraud", chosen, traffic_of(chosen, service(unit), Given(**given), None), advise)


def only(made: Plan) -> GatePlan:
    (gate,) = made.gates
    return gate


def seconds(made: Plan, step: int = 0) -> float:
    proof = only(made).steps[step].proof
    assert proof is not None
    assert proof.seconds is not None
    assert proof.seconds_90 is not None
    assert proof.seconds <= proof.seconds_90
    return proof.seconds


class TestEveryGate:
    # Gates on labels: tests/controller/plan/test_labelled.py.
    @pytest.mark.parametrize(
        "metric", [metric.name for metric in METRICS if not on_labels(Gate(metric=metric.name))]
    )
    def test_is_planned_or_known_not_to_be(self, metric: str) -> None:
        given = next(one for one in METRICS if one.name == metric)
        margin = given.margins[0]
        for place in given.places:
            step = (
                "{shadow: 100%, until: gates}"
                if place == "shadow"
                else "{canary: 50%, until: gates, mirror_back: 50%}"
            )
            by = "by: sex, " if given.between else ""
            made = planned(policy(f"{{metric: {metric}, {by}{margin}, in: {place}}}", steps=f"[{step}]"))
            assert bool(only(made).unplanned) == (metric in NOT_PLANNED), (
                f"{metric} in a {place}: {only(made).unplanned}"
            )
            assert bool(only(made).steps) == (metric not in NOT_PLANNED)

    def test_without_a_planner_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(EXPECTED, unit_outcomes)
        made = planned(
            policy("{metric: prediction.mean, max_shift: 0.1sd}", "{metric: errors, max_increase: 1pp}")
        )
        assert made.gates[0].unplanned == "not planned yet: a plan does not know the method 'unit_outcomes'"
        assert made.gates[0].steps == ()
        assert made.gates[1].unplanned == ""

    def test_of_a_group_nobody_names_says_so(self) -> None:
        made = planned(
            policy("{metric: selection_rate, by: age, max_shift: 3pp}", "{metric: errors, max_increase: 1pp}")
        )
        assert "slice 'age' has no known group" in made.gates[0].unplanned

    @pytest.mark.parametrize("name", ["guarded", "fast"])
    def test_of_the_library_is_planned(self, name: str) -> None:
        made = planned(load_policy(name), rate=50.0)
        assert not [gate.gate for gate in made.gates if gate.unplanned]
        assert made.reachable
        assert [step.number for step in made.steps] == list(range(1, len(made.steps) + 1))


class TestGroups:
    RATIO = "{metric: selection_ratio, by: sex, min: 0.8}"
    GAP = "{metric: selection_gap, by: sex, max_increase: 3pp}"

    @pytest.mark.parametrize("gate", [RATIO, GAP], ids=["ratio", "gap"])
    def test_compared_with_each_other_are_decided_in_a_time_that_falls_with_traffic(self, gate: str) -> None:
        for steps in ("[{shadow: 100%, until: gates}]", "[{canary: 50%, until: gates, for: 1m}]"):
            slow, quick = (seconds(planned(policy(gate, steps=steps), rate=rate)) for rate in (20.0, 200.0))
            assert quick < slow < 86400.0

    @pytest.mark.parametrize("gate", [RATIO, GAP], ids=["ratio", "gap"])
    def test_of_users_who_return_take_longer(self, gate: str) -> None:
        users = seconds(planned(policy(gate), STICKY, rate=50.0, units=30_000))
        assert users > seconds(planned(policy(gate), rate=50.0))

    def test_a_gap_of_two_even_groups_takes_what_its_variance_says(self) -> None:
        # D has variance 4 p(1-p)/n with n = N/4 observations a cell, and is judged at half the evidence.
        took = seconds(planned(policy(self.GAP), rate=100.0)) * 100.0
        alone = 4.0 * 0.25 * kappa(0.05) / 0.03**2 * 4.0
        assert 0.5 * alone < took < 2.0 * alone


class TestHowMuch:
    def test_a_tenth_of_a_standard_deviation_needs_about_3100_requests(self) -> None:
        chosen = policy("{metric: prediction.mean, max_shift: 0.1sd}")
        planner = Planner(chosen, traffic_of(chosen, service(), Given(rate=10.0), None))
        alone = planner.proven(Question(planner.cells[0], (), chosen.steps[0], 0, 0.5), -0.26, 1e9)
        assert alone.seconds * 10.0 == pytest.approx(3100, rel=0.2)

    def test_a_slice_of_two_percent_at_three_points_needs_357_000_requests(self) -> None:
        least = requests_for_weight(information_needed(0.03, 0.05) * 0.3 * 0.7, 0.5) / 0.02
        assert least == pytest.approx(357_000, rel=0.005)
        made = planned(
            policy("{metric: selection_rate, by: sex, max_shift: 3pp}"),
            rate=10.0, slices={"sex=female": 0.02, "sex=male": 0.98},
        )  # fmt: skip
        (step,) = only(made).steps
        assert "sex=female" in step.cell  # the plan is the maximum over cells
        assert step.proof is not None
        assert step.proof.requests is not None
        assert least < step.proof.requests < 1.6 * least  # both directions, at once

    def test_twice_the_traffic_takes_half_the_time(self) -> None:
        chosen = policy("{metric: prediction.mean, max_shift: 0.05sd}")
        assert seconds(planned(chosen, rate=10.0)) == pytest.approx(
            2 * seconds(planned(chosen, rate=20.0)), rel=0.05
        )

    def test_a_second_attempt_takes_longer(self) -> None:
        chosen = policy("{metric: prediction.mean, max_shift: 0.1sd}")
        times = [seconds(planned(chosen, rate=10.0, attempt=attempt)) for attempt in (0, 1, 4)]
        assert times[0] < times[1] < times[2]

    def test_bursts_of_errors_take_longer(self) -> None:
        chosen = policy("{metric: errors, max_increase: 0.5pp}")
        assert seconds(planned(chosen, rate=10.0, burstiness=4.0)) > 2 * seconds(planned(chosen, rate=10.0))

    def test_pairs_need_a_tenth(self) -> None:
        gate = "{metric: prediction.mean, max_shift: 0.02sd}"
        shadow = seconds(
            planned(policy(gate, steps="[{shadow: 100%, until: gates}]"), rate=10.0, correlation=0.95)
        )
        assert shadow < 0.1 * seconds(planned(policy(gate), rate=10.0))

    def test_minima_of_a_step_hold(self) -> None:
        gate = "{metric: prediction.mean, max_shift: 0.5sd}"
        made = planned(
            policy(gate, steps="[{canary: 1%, for: 2h}, {canary: 50%, until: gates, for: 1m}]"), rate=10.0
        )
        assert (made.steps[0].seconds, made.steps[0].held_by) == (7200.0, "for")
        slow = planned(policy(gate, steps="[{canary: 1%, for: 1m, requests: 500}, {canary: 50%}]"), rate=10.0)
        assert (slow.steps[0].seconds, slow.steps[0].held_by) == (5000.0, "requests")
        assert made.seconds == pytest.approx(
            made.baseline_seconds + sum(step.seconds or 0.0 for step in made.steps)
        )

    def test_time_clusters_cannot_decide_before_there_are_twenty(self) -> None:
        chosen = policy("{metric: errors, max_increase: 20pp}")
        assert seconds(planned(chosen, rate=1000.0)) >= 20 * (chosen.batch or 5.0)
        assert effective_clusters(5.0, [(0.0, 100.0, 1e9)]) == pytest.approx(20.0)
        assert effective_clusters(5.0, [(0.0, 640.0, 1e9)]) == pytest.approx(128.0)
        assert effective_clusters(5.0, [(0.0, 64_000.0, 1e9)]) == pytest.approx(128.0)
        assert effective_clusters(5.0, [(0.0, 640.0, 128.0)]) == pytest.approx(64.0)  # one each in the mean


class TestUnreachable:
    def test_500_users_at_one_percent_never_decide(self) -> None:
        chosen = policy(
            "{metric: prediction.mean, max_shift: 10sd}", steps="[{canary: 1%, until: gates, for: 1m}]"
        )
        made = planned(chosen, STICKY, rate=100.0, units=500.0)
        (step,) = only(made).steps
        assert not made.reachable
        assert made.seconds is None
        assert step.proof is not None
        assert step.proof.seconds is None
        assert "effective clusters" in step.problem
        assert "500 users" in step.problem
        assert planned(chosen, STICKY, rate=100.0, units=50_000.0).reachable

    def test_forty_users_a_day_are_told_to_pair_or_to_widen(self) -> None:
        chosen = policy(
            "{metric: selection_rate, max_shift: 1pp}", more="max_duration: 14d",
            steps="[{canary: 10%, for: 10m, requests: 20}, {canary: 50%, until: gates}]",
        )  # fmt: skip
        made = planned(chosen, rate=0.02)
        last = only(made).steps[-1]
        assert not made.reachable
        assert last.required
        assert "paired shadow" in last.advice[0]
        assert last.advice[1].startswith("widen it to max_shift: ")

    def test_what_is_advised_is_enough(self) -> None:
        gate = "{metric: selection_rate, max_shift: %s}"
        more = "max_duration: 2d"
        made = planned(policy(gate % "0.5pp", more=more), rate=0.5)
        (step,) = only(made).steps
        widened = next(way for way in step.advice if way.startswith("widen")).rpartition(" ")[2]
        assert not made.reachable
        assert planned(policy(gate % widened, more=more), rate=0.5).reachable
        traffic = float(next(way for way in step.advice if "times this traffic" in way).split()[3])
        assert planned(policy(gate % "0.5pp", more=more), rate=0.5 * traffic * 1.06).reachable

    def test_a_deadline_of_a_step_counts(self) -> None:
        gate = "{metric: selection_rate, max_shift: 1pp}"
        made = planned(policy(gate, steps="[{canary: 50%, until: gates, deadline: 20m}]"), rate=1.0)
        (step,) = only(made).steps
        assert (made.reachable, step.limit) == (False, 1200.0)
        assert any(way.startswith("allow it") for way in step.advice)

    def test_small_groups_may_be_watched_instead(self) -> None:
        gate = "{metric: selection_rate, by: sex, max_shift: 1pp%s}"
        share = {"sex=female": 0.01, "sex=male": 0.99}
        made = planned(policy(gate % "", more="max_duration: 1d"), rate=5.0, slices=share)
        (step,) = only(made).steps
        assert any("small_slices: no-harm (sex=female)" in way for way in step.advice)
        watched = planned(
            policy(gate % ", small_slices: no-harm", more="max_duration: 1d"), rate=5.0, slices=share
        )
        assert "sex=male" in only(watched).steps[0].cell

    def test_a_share_of_no_group_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"no group 'sex=other'.*sex=female, sex=male"):
            planned(policy("{metric: selection_rate, by: sex, max_shift: 3pp}"), slices={"sex=other": 0.1})


class TestHarm:
    def test_a_larger_harm_is_found_sooner_and_exposes_fewer(self) -> None:
        chosen = policy(
            "{metric: errors, max_ratio: 1.5}",
            steps="[{canary: 5%, for: 4h}, {canary: 50%, until: gates, for: 4h}]",
        )
        harms = [only(planned(chosen, rate=20.0, harm=size)).harm for size in (2.0, 8.0)]
        small, large = harms
        assert small is not None
        assert large is not None
        assert (small.size, large.size) == ("×2", "×5")
        assert large.seconds is not None
        assert small.seconds is not None
        assert large.seconds < small.seconds
        assert large.exposed == pytest.approx(0.05 * 20.0 * large.seconds)
        assert large.step == 1

    def test_a_shadow_finds_it_before_any_user_does(self) -> None:
        steps = "[{shadow: 100%, until: gates, for: 1h}, {canary: 50%, until: gates}]"
        harm = only(
            planned(policy("{metric: prediction.mean, max_shift: 0.1sd}", steps=steps), rate=20.0)
        ).harm
        assert harm is not None
        assert (harm.exposed, harm.step) == (0.0, 1)

    def test_a_gate_that_decides_nothing_has_none(self) -> None:
        made = planned(
            policy(
                "{metric: errors, max_increase: 1pp, require: nothing}",
                "{metric: prediction.mean, max_shift: 0.1sd}",
            )
        )
        assert made.gates[0].harm is None
        assert "decides nothing" in made.gates[0].unplanned


class TestFacts:
    def test_every_assumption_is_named(self) -> None:
        made = planned(load_policy("guarded"))
        assumed = {fact.name for fact in made.facts if fact.source == "assumed"}
        assert {"requests a second", "error rate", "agreement of pairs", "correlation of pairs"} <= assumed
        given = planned(load_policy("guarded"), rate=7.0, error_rate=0.02, agreement=0.97)
        told = {fact.name: (fact.value, fact.source) for fact in given.facts}
        assert told["requests a second"] == ("7", "given")
        assert told["error rate"] == ("2.000%", "given")
        assert told["agreement of pairs"] == ("0.97", "given")

    def test_a_number_that_is_none_is_refused(self) -> None:
        with pytest.raises(ValueError, match="rate"):
            Given(rate=-1.0)
        with pytest.raises(ValueError, match="unknown"):
            Given.model_validate({"unknown": 1})
