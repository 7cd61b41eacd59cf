"""Plans of gates on outcomes: requests that are labelled and mature, and the time both take."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from accede.controller.analysis.methods import unit_outcomes
from accede.controller.analysis.sums import CanaryEpoch, Sums
from accede.controller.plan.advice import advise
from accede.controller.plan.assumed import Given
from accede.controller.plan.deciding import LATE, MEDIAN, Planner, Question
from accede.controller.plan.forecast import Span, luck_of, matured
from accede.controller.plan.planned import GateStep, Plan
from accede.controller.plan.sources import traffic_of
from accede.controller.plan.timeline import plan
from accede.controller.stats.result import NotComputable
from accede.policies.load import parse_service
from accede.policies.policy import RolloutPolicy
from accede.policies.service import ModelService
from tests.controller.plan.test_deciding import SERVICE, STICKY

HOUR = 3600.0
RATE = 10.0
STEPS: tuple[dict[str, Any], ...] = ({"canary": "50%", "until": "gates", "for": "1m"},)
ACCURACY = {"metric": "outcome.accuracy", "max_decrease": "2pp"}


def service(unit: str = "request", outcome: str = "binary", sample: str = "100%") -> ModelService:
    more = f"outcome: {{type: {outcome}, sample: {sample}}}\nuncertainty: {{path: std}}\n"
    return parse_service(SERVICE.replace("UNIT", unit) + more)


def policy(*gates: dict[str, Any], mature: str = "1h", steps: Any = STEPS, **more: Any) -> RolloutPolicy:
    def late(gate: dict[str, Any]) -> dict[str, Any]:
        on_labels = gate["metric"].startswith(("outcome.", "uncertainty.coverage"))
        return gate | ({"labels": {"mature_after": mature}} if on_labels else {})

    return RolloutPolicy.model_validate(
        {
            "format": "accede/v1", "kind": "RolloutPolicy", "name": "p", "max_duration": "300d",
            "steps": steps,
            "gates": tuple(map(late, gates)),
        } | more
    )  # fmt: skip


def planned(chosen: RolloutPolicy, of: ModelService | None = None, **given: Any) -> Plan:
    traffic = traffic_of(chosen, of or service(), Given(rate=RATE, **given), None)
    return plan("fraud", chosen, traffic, advise)


def proof(made: Plan, step: int = 0) -> tuple[float, GateStep]:
    found = made.gates[0].steps[step]
    assert found.proof is not None
    return found.proof.seconds or math.inf, found


@pytest.mark.parametrize(
    ("gate", "outcome"),
    [
        (ACCURACY, "binary"),
        ({"metric": "outcome.recall", "max_decrease": "3pp"}, "binary"),
        ({"metric": "outcome.false_positive_rate", "max_increase": "2pp"}, "binary"),
        ({"metric": "outcome.brier", "max_increase": 0.01}, "binary"),
        ({"metric": "outcome.calibration", "max_shift": 0.02}, "binary"),
        ({"metric": "uncertainty.coverage", "min": "90%"}, "number"),
        ({"metric": "outcome.accuracy", "by": "sex", "max_decrease": "3pp"}, "binary"),
    ],
)
@pytest.mark.parametrize("place", ["canary", "shadow"])
@pytest.mark.parametrize("unit", ["request", STICKY])
def test_every_gate_on_labels_is_planned_and_takes_longer_than_its_labels(
    gate: dict[str, Any], outcome: str, place: str, unit: str
) -> None:
    steps = (*({"shadow": "100%", "until": "gates"} for _ in range(place == "shadow")), *STEPS)
    chosen = policy({**gate, "in": place}, {"metric": "errors"}, steps=steps)
    made = planned(chosen, service(unit, outcome))
    assert made.gates[0].unplanned == ""
    seconds, found = proof(made)
    assert HOUR < seconds < 300 * 86400.0
    assert found.proof is not None
    assert found.proof.requests == pytest.approx(seconds * RATE)
    harm = made.gates[0].harm
    assert harm is not None
    assert harm.seconds is not None
    assert harm.seconds > HOUR


def test_what_is_young_is_no_evidence() -> None:
    spans = (Span(0, "canary", 0.1, 0.0, 0.0, 100.0, 10.0), Span(1, "canary", 0.5, 0.0, 0.0, 200.0, 10.0))
    assert [(one.seconds, one.requests) for one in matured(spans, 15.0)] == [(5.0, 50.0), (0.0, 0.0)]
    assert matured(spans, 0.0) == spans
    assert [one.requests for one in matured(spans, 1e9)] == [0.0, 0.0]


def test_fewer_labels_take_longer_and_later_ones_by_as_much() -> None:
    half, all_of = (proof(planned(policy(ACCURACY), labelled=share))[0] for share in (0.5, 1.0))
    assert half - HOUR == pytest.approx(2.0 * (all_of - HOUR), rel=0.05)
    sampled, _ = proof(planned(policy(ACCURACY), service(sample="50%"), labelled=1.0))
    assert sampled == pytest.approx(half)
    late, _ = proof(planned(policy(ACCURACY, mature="5h"), labelled=1.0))
    assert late - all_of == pytest.approx(4.0 * HOUR, rel=0.03)  # found to 2% of the whole


def test_rare_cases_take_longer() -> None:
    recall = {"metric": "outcome.recall", "max_decrease": "3pp"}
    rare, often = (proof(planned(policy(recall), true_cases=share))[0] for share in (0.02, 0.2))
    assert rare - HOUR == pytest.approx(10.0 * (often - HOUR), rel=0.05)


def test_labels_that_do_not_mature_in_time_are_said_so() -> None:
    deadline = ({**STEPS[0], "deadline": "30m"},)
    made = planned(policy(ACCURACY, steps=deadline))
    _, found = proof(made)
    assert not made.reachable
    assert found.problem.endswith("labels count after 1h")
    assert any("allow it" in way for way in found.advice)
    assert not any("times this traffic" in way for way in found.advice)


def test_a_gate_that_only_watches_makes_promotion_wait_for_its_labels() -> None:
    watching = {**ACCURACY, "require": "no-harm"}
    steps = ({"canary": "5%", "for": "20m"}, *STEPS)
    made = planned(policy(watching, {"metric": "errors", "max_increase": "5pp"}, steps=steps))
    assert made.steps[1].held_by == "outcome.accuracy"
    assert made.steps[1].seconds == pytest.approx(40.0 * 60.0)


def test_what_it_rests_on_is_named() -> None:
    recall = {"metric": "outcome.recall", "max_decrease": "3pp"}
    facts = {fact.name: fact for fact in planned(policy(ACCURACY, recall), labelled=0.8).facts}
    assert (facts["labels count after"].value, facts["labels count after"].source) == ("1h", "given")
    assert facts["predictions that get a label"].source == "given"
    assert (facts["true cases"].value, facts["true cases"].source) == ("0.1", "assumed")
    assert (facts["predictions kept"].value, facts["predictions kept"].source) == (
        "2.59e+07, room for 5000000: write outcome.sample: 19.3%", "given",
    )  # fmt: skip
    assert facts["outcome.accuracy, of stable"].source == "assumed"
    few = {fact.name: fact.value for fact in planned(policy(ACCURACY), service(sample="19%")).facts}
    assert few["predictions kept"] == "4.92e+06"
    plain = planned(policy({"metric": "errors", "max_increase": "5pp"})).facts
    assert not any("label" in fact.name for fact in plain)


def test_times_are_those_of_a_simulation() -> None:
    """Evidence is drawn look by look and read by the product's own method."""
    rng = np.random.default_rng(51)
    chosen = policy(ACCURACY, steps=({"canary": "50%", "until": "gates", "for": "1s", "requests": 1},))
    one = Planner(chosen, traffic_of(chosen, service(), Given(rate=RATE, labelled=0.8), None))
    asked = Question(one.cells[0], (), chosen.steps[0], 0, MEDIAN)
    median, late = (one.proven(asked, luck_of(quantile), 1e9).seconds for quantile in (MEDIAN, LATE))
    runs, looks = 300, 60
    times = HOUR + np.geomspace((median - HOUR) / 12.0, (median - HOUR) * 6.0, looks)
    more = np.diff(times, prepend=HOUR) * RATE * 0.8 * 0.5
    n = rng.poisson(more, (2, runs, looks))
    y = rng.binomial(n, 0.9)
    found = np.full(runs, math.inf)
    for run in range(runs):
        totals = np.cumsum(np.stack([n[:, run], y[:, run]]), axis=2).astype(float)
        for at in range(looks):
            arms = [Sums(*(np.array([v]) for v in (totals[0, a, at], totals[1, a, at], totals[1, a, at])))
                    for a in (0, 1)]  # fmt: skip
            got = unit_outcomes(
                [CanaryEpoch(0, 0.5, 0.9, arms[0], arms[1], 0.0, 0.0)], sticky=False, counted=True,
                variance=0.09,
            )  # fmt: skip
            if isinstance(got, NotComputable):
                continue
            value = got.mirrored().safe(0.02, 0.02, 0.05)
            if not isinstance(value, NotComputable) and value >= -math.log(0.05):
                found[run] = times[at]
                break
    seen, seen_late = (float(np.quantile(found, q, method="lower")) for q in (0.5, 0.9))
    assert median - HOUR == pytest.approx(seen - HOUR, rel=0.2), (median, seen)
    assert late - HOUR == pytest.approx(seen_late - HOUR, rel=0.25), (late, seen_late)
