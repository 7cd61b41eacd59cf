# ruff: noqa: E501  (a table of names)
"""The table of metrics is whole, consistent, and what files are checked against."""

from __future__ import annotations

import pytest

from accede.policies.load import parse_policy
from accede.policies.metrics import (
    METRICS,
    NAMES,
    Metric,
    decides,
    deciding_places,
    find,
    on_labels,
    places_of,
    with_default_margins,
)
from accede.policies.policy import Gate, Step
from accede.policies.quantities import Margin

LANGUAGE = {
    "errors", "client_disconnects", "latency.p50", "latency.p95", "latency.p99", "stream.first_token.p50",
    "stream.first_token.p95", "stream.truncated", "tokens.output", "prediction.mean", "prediction.rank",
    "prediction.distribution", "prediction.agreement", "prediction.divergence", "prediction.missing", "class_share.NAME",
    "selection_rate", "selection_ratio", "selection_gap", "uncertainty.coverage", "outcome.accuracy", "outcome.brier",
    "outcome.recall", "outcome.false_positive_rate", "outcome.calibration", "metrics.NAME",
    "uncertainty.mean", "explanation.agreement",
}  # fmt: skip


def parsed(gate: str) -> Gate:
    text = "format: accede/v1\nkind: RolloutPolicy\nname: p\nsteps: [{shadow: 10%}, {canary: 10%}]\n"
    return parse_policy(text + f"max_duration: 30d\ngates: [{{{gate}}}]\n").gates[0]


def test_every_metric_of_the_language_is_known_once() -> None:
    assert {metric.name for metric in METRICS} == LANGUAGE
    assert len(METRICS) == len(LANGUAGE)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_the_examples_of_metrics_are_accepted(metric: Metric) -> None:
    for margin in metric.margins:
        by = "by: sex, " if metric.between else ""
        late = ", labels: {mature_after: 7d}" if on_labels(Gate(metric=metric.name)) else ""
        gate = parsed(f"metric: {metric.name}, {by}{margin}{late}")
        assert getattr(gate, margin.key) is not None
        assert places_of(gate) == metric.places
        if metric.sliced:
            parsed(f"metric: {metric.name}, by: sex, {margin}{late}")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_defaults_are_margins_that_the_metric_allows(metric: Metric) -> None:
    for key, value in metric.default:
        allowed = metric.margin(key)
        assert allowed is not None
        unit = value.unit if isinstance(value, Margin) else "plain" if key == "min" else "factor"
        assert unit in allowed.units


def test_families_of_names() -> None:
    family = find("class_share.approve")
    assert family is not None
    assert family.name == "class_share.NAME"
    assert find("class_share.") is None
    assert find("latency") is None
    assert find("latency.p42") is None


def test_places_are_the_metrics_own_narrowed_by_in() -> None:
    assert places_of(Gate(metric="errors")) == ("shadow", "canary")
    assert places_of(Gate(metric="errors", place="canary")) == ("canary",)
    assert places_of(Gate(metric="latency.p99")) == ("canary",)
    assert deciding_places(Gate(metric="errors"), [Step(canary=0.1), Step(canary=0.2)]) == ("canary",)


def test_what_compares_two_answers_needs_copies() -> None:
    shadow, canary, back = Step(shadow=1.0), Step(canary=0.1), Step(canary=0.5, mirror_back=0.2)
    agreement = Gate(metric="prediction.agreement")
    assert deciding_places(agreement, [canary]) == ()
    assert deciding_places(agreement, [shadow, canary]) == ("shadow",)
    assert deciding_places(agreement, [shadow, canary, back]) == ("shadow", "canary")
    assert deciding_places(Gate(metric="prediction.agreement", place="shadow"), [back]) == ()
    assert [decides(agreement, step) for step in (shadow, canary, back)] == [True, False, True]
    assert [decides(Gate(metric="prediction.mean"), step) for step in (canary, back)] == [True, True]


def test_a_gate_with_a_margin_gets_no_other() -> None:
    gate = Gate(metric="errors", max_ratio=2.0)
    assert with_default_margins(gate) is gate
    assert set(NAMES) == LANGUAGE
