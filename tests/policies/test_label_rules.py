# ruff: noqa: E501  (tables of messages)
"""Gates on labels that come later: when labels count, for how long, and what they need of a service."""

from __future__ import annotations

import pytest

from accede.errors import FileError
from accede.policies.label_rules import check_labels, label_needs, matures_after
from accede.policies.load import parse_policy, parse_service
from accede.policies.policy import Gate, Labels, RolloutPolicy, Step
from accede.policies.policy_rules import check_durations, check_harm_at
from accede.policies.reading import Reading
from accede.policies.service import ModelService
from accede.policies.yaml import load_yaml

DAY = 86400.0


def reading() -> Reading:
    return Reading(load_yaml("a: 1\n", "policy.yaml"))


def gate(metric: str, days: float | None) -> Gate:
    return Gate(metric=metric, labels=None if days is None else Labels(mature_after=days * DAY))


def said(*gates: Gate | None) -> list[str]:
    found = reading()
    check_labels(gates, found)
    return [f"{problem.key}: {problem.message}" for problem in found.problems()]


def service(outcome: str, prediction: str, rest: str = "") -> ModelService:
    return parse_service(
        "format: accede/v1\nkind: ModelService\nname: fraud\nprotocol: json\nmatch: {path: /v1/score}\n"
        'versions: {"1": {url: "http://a:1"}}\nstable: "1"\n'
        f"outcome: {outcome}\nprediction: {prediction}\n{rest}"
    )


def test_gates_on_labels_of_one_age_are_accepted() -> None:
    assert not said(gate("outcome.brier", 7), None, gate("uncertainty.coverage", 7), gate("errors", None))


def test_a_gate_on_labels_says_when_they_count() -> None:
    (line,) = said(gate("outcome.recall", None))
    assert line.startswith("gates[0]: outcome.recall is decided on labels that come later; add labels: {")


def test_one_age_for_all_gates() -> None:
    (line,) = said(gate("outcome.brier", 7), gate("outcome.recall", 2))
    assert line == (
        "gates[1].labels.mature_after: found 2d, and gates[0] has 7d; allowed: one value for all gates on labels"
    )


def test_other_gates_wait_for_no_labels() -> None:
    text = "format: accede/v1\nkind: RolloutPolicy\nname: p\nsteps: [{canary: 10%}]\n"
    with pytest.raises(FileError, match=r"gates\[0\]\.labels: errors does not wait for labels; remove"):
        parse_policy(text + "gates: [{metric: errors, labels: {mature_after: 7d}}]\n")
    with pytest.raises(FileError, match="errors takes no max_decrease"):
        parse_policy(text + "gates: [{metric: errors, max_decrease: 1pp}]\n")


@pytest.mark.parametrize(("days", "fits"), [(7.0, False), (7.014, True)])
def test_a_rollout_lasts_until_its_labels_are_there(days: float, fits: bool) -> None:
    policy = RolloutPolicy(
        format="accede/v1", kind="RolloutPolicy", name="p", max_duration=days * DAY,
        steps=(Step(canary=0.1),), gates=(gate("outcome.brier", 7),),
    )  # fmt: skip
    found = reading()
    check_durations(policy, found)
    assert matures_after(policy) == 7 * DAY
    messages = [problem.message for problem in found.problems()]
    assert messages == (
        []
        if fits
        else [
            "found 7d; the baseline and the steps take 20m, and labels 7d more: write at least 10100m",
        ]
    )


CHANCE = '{path: score, type: number, range: [0, 1], selected: ">= 0.5"}'


@pytest.mark.parametrize(
    ("outcome", "prediction", "metric", "expected"),
    [
        ("{type: binary}", CHANCE, "outcome.recall", None),
        ("{type: binary}", CHANCE, "outcome.calibration", None),
        ("{type: label}", "{path: label, type: label}", "outcome.accuracy", None),
        (
            "{type: label}",
            "{path: label, type: label}",
            "outcome.recall",
            "type label allows outcome.accuracy",
        ),
        ("{type: binary}", "{path: label, type: label}", "outcome.accuracy", "needs prediction.type number"),
        ("{type: binary}", "{path: s, range: [0, 5]}", "outcome.brier", "prediction.range within [0, 1]"),
        ("{type: binary}", "{path: s}", "outcome.brier", "prediction.range within [0, 1]"),
        ("{type: binary}", "{path: s, range: [0, 1]}", "outcome.recall", "needs prediction.selected"),
        ("{type: number}", CHANCE, "uncertainty.coverage", "needs uncertainty: {path"),
        ("{type: binary, keep: 7d}", CHANCE, "outcome.brier", "predictions are kept for 7d"),
    ],
)
def test_what_a_gate_on_labels_needs_of_a_service(
    outcome: str, prediction: str, metric: str, expected: str | None
) -> None:
    needs = label_needs(service(outcome, prediction), gate(metric, 7))
    assert [expected in message for _, message in needs if expected] == [True] * (expected is not None)
    assert bool(needs) == (expected is not None)


def test_a_service_without_an_outcome_is_told_which_to_declare() -> None:
    plain = service("{type: binary}", CHANCE).model_copy(update={"outcome": None})
    ((key, message),) = label_needs(plain, gate("outcome.accuracy", 7))
    assert key == "metric"
    assert message.startswith("outcome.accuracy needs outcome: {type: binary or label}")


@pytest.mark.parametrize(
    ("harm_at", "expected"),
    [("1pp", []), ("3pp", ["found 3pp; allowed: less than the margin 2pp"]), (1.2, ["in its unit (2pp)"])],
)
def test_harm_of_a_decrease_begins_below_its_margin(harm_at: object, expected: list[str]) -> None:
    gate = Gate.model_validate({"metric": "outcome.recall", "max_decrease": "2pp", "harm_at": harm_at})
    found = reading()
    assert gate.harm_at is not None
    check_harm_at(gate, gate.harm_at, ("gates", 0, "harm_at"), found)
    messages = [problem.message for problem in found.problems()]
    assert len(messages) == len(expected)
    assert all(part in message for part, message in zip(expected, messages, strict=True))
