# ruff: noqa: E501  (one case per line, so that the table reads as a table)
"""A policy is used only on a service that declares what its steps and gates need."""

from __future__ import annotations

import pytest

from accede.errors import FileError
from accede.policies.load import check_pair, parse_policy, parse_service, policy_document, require_pair
from accede.policies.policy import RolloutPolicy
from accede.policies.service import ModelService


def service(*more: str, protocol: str = "kserve-v1", side_effects: str = "none") -> ModelService:
    lines = [
        "format: accede/v1",
        "kind: ModelService",
        "name: a",
        "match: {path: /a}",
        f"protocol: {protocol}",
    ]
    lines += ['versions: {"1": {url: "http://a:1"}}', 'stable: "1"', f"side_effects: {side_effects}", *more]
    return parse_service("\n".join(lines) + "\n")


def policy(gate: str, steps: str = "[{shadow: 10%}, {canary: 10%}]") -> RolloutPolicy:
    return parse_policy(
        f"format: accede/v1\nkind: RolloutPolicy\nname: p\nsteps: {steps}\ngates: [{{{gate}}}]\n"
    )


@pytest.mark.parametrize(
    ("declared", "gate", "key", "told"),
    [
        ("", "metric: selection_rate", "gates[0].metric", "selection_rate needs prediction.selected"),
        ("prediction: {type: label}", "metric: prediction.mean", "gates[0].metric", "needs prediction.type number, found label"),
        ("", "metric: prediction.agreement, min: 9%", "gates[0].metric", "needs prediction.agree_within"),
        ("", "metric: errors, by: sex", "gates[0].by", "no such slice 'sex'; the service declares none"),
        ("slices: {sexe: {path: a, values: [f, m]}}", "metric: errors, by: sex", "gates[0].by", "did you mean 'sexe'? allowed: sexe"),
        ("capture: {response: 0B}", "metric: prediction.mean", "gates[0].metric", "capture.response is 0B"),
        ("capture: {request: 0B}\nslices: {sex: {path: a, values: [f, m]}}", "metric: errors, by: sex", "gates[0].by", "capture.request is 0B"),
    ],
)  # fmt: skip
def test_what_a_gate_needs(declared: str, gate: str, key: str, told: str) -> None:
    (problem,) = check_pair(service(declared), policy(gate))
    assert problem.key == key
    assert told in problem.message
    assert problem.message.endswith("(with service a)")


@pytest.mark.parametrize(
    ("declared", "gate"),
    [
        ("", "metric: errors"),
        ("", "metric: prediction.mean"),
        ("prediction: {type: label}", "metric: prediction.agreement, min: 9%"),
        ("prediction: {agree_within: 0}", "metric: prediction.agreement, min: 9%"),
        ("slices: {sex: {path: a, values: [f, m]}}", "metric: errors, by: sex"),
    ],
)
def test_what_fits(declared: str, gate: str) -> None:
    assert check_pair(service(declared), policy(gate)) == ()


def test_requests_with_side_effects_are_not_mirrored() -> None:
    (problem,) = check_pair(service(side_effects="writes"), policy("metric: errors"))
    assert problem.key == "steps[0].shadow"
    assert check_pair(service(side_effects="shadow-aware"), policy("metric: errors")) == ()
    assert check_pair(service(side_effects="writes"), policy("metric: errors", "[{canary: 10%}]")) == ()


def test_json_does_not_say_where_the_prediction_is() -> None:
    (problem,) = check_pair(service(protocol="json"), policy("metric: prediction.mean"))
    assert "needs prediction.path: json does not say where it is" in problem.message
    assert (
        check_pair(service("prediction: {path: score}", protocol="json"), policy("metric: prediction.mean"))
        == ()
    )


def test_problems_have_their_place_where_the_document_is_known() -> None:
    guarded, document = policy_document("guarded")
    with pytest.raises(FileError) as raised:
        require_pair(service(side_effects="writes"), guarded, document)
    assert [str(problem).partition(": ")[0] for problem in raised.value.problems] == [
        "library:guarded:11:14",
        "library:guarded:23:14",
    ]
    require_pair(service("prediction: {agree_within: 0.05}"), guarded, document)
