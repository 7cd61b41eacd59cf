"""What gates on own metrics, uncertainty, explanations, classes, ranks and noise need of the service."""

from __future__ import annotations

import pytest

from accede.policies.load import parse_policy, parse_service
from accede.policies.pair_rules import check_pair
from accede.policies.yaml import load_yaml

SERVICE = """
format: accede/v1
kind: ModelService
name: s
match: {path: /s}
protocol: json
versions: {"1": {url: "http://a"}, "2": {url: "http://b"}}
stable: "1"
side_effects: none
"""
POLICY = "format: accede/v1\nkind: RolloutPolicy\nname: p\nsteps: [{shadow: 100%}, {canary: 10%}]\ngates:\n"
NUMBER = "prediction: {path: y, range: [0, 1], agree_within: 0.1}\n"
LABEL = "prediction: {path: y, type: label}\n"
OWN = "metrics: {refused: {path: no, type: share}, cost: {path: c, type: number, range: [0, 9]}}\n"
BOTH = NUMBER + OWN


def problem(service: str, gate: str) -> str:
    text = f"{POLICY}  - {{metric: {gate}}}\n"
    found = check_pair(parse_service(SERVICE + service), parse_policy(text), load_yaml(text, "p.yaml"))
    return "; ".join(map(str, found))


@pytest.mark.parametrize(
    ("service", "gate"),
    [
        (NUMBER, "prediction.rank"),
        (LABEL, "class_share.approve"),
        (BOTH, "metrics.refused, max_shift: 1pp"),
        (BOTH, "metrics.refused, max_increase: 1pp"),
        (BOTH, "metrics.cost, max_shift: 0.5"),
        (BOTH, "metrics.cost, max_increase: 0.1sd"),
        (NUMBER + "uncertainty: {path: sd}\n", "uncertainty.mean"),
        (NUMBER + "explanation: {path: why}\n", "explanation.agreement, min: 90%"),
        (NUMBER + "mirror: {noise_floor: 10%}\n", "prediction.divergence, max_increase: 1pp"),
        (LABEL + "mirror: {noise_floor: 10%}\n", "prediction.divergence, max_increase: 1pp"),
    ],
)
def test_a_service_that_declares_it_fits(service: str, gate: str) -> None:
    assert not problem(service, gate)


@pytest.mark.parametrize(
    ("service", "gate", "told"),
    [
        (LABEL, "prediction.rank", "prediction.rank needs prediction.type number, found label"),
        (NUMBER, "class_share.approve", "class_share.approve needs prediction.type label, found number"),
        (NUMBER, "metrics.refused, max_shift: 1pp", "no such metric 'refused'; the service declares none"),
        (BOTH, "metrics.refusd, max_shift: 1pp", "'refusd'; did you mean 'refused'? allowed: refused"),
        (BOTH, "metrics.refused, max_shift: 0.1", "metrics.refused is a share and takes"),
        (BOTH, "metrics.cost, max_increase: 1pp", "metrics.cost is a number and takes"),
        (OWN, "metrics.cost, max_shift: 0.1", "metrics.cost needs prediction.path: without"),
        (NUMBER, "uncertainty.mean", 'uncertainty.mean needs uncertainty: {path: "predictions[0].std"}'),
        ("prediction: {path: y}\nuncertainty: {path: sd}\n", "uncertainty.mean", "needs prediction.range"),
        (NUMBER, "explanation.agreement, min: 90%", 'needs explanation: {path: "explanations[0]"}'),
        (NUMBER, "prediction.divergence, max_increase: 1pp", "write mirror: {noise_floor: 10%}"),
        (
            "prediction: {path: y}\nmirror: {noise_floor: 10%}\n",
            "prediction.divergence, max_increase: 1pp",
            "agreement of numbers needs prediction.agree_within",
        ),
        (BOTH + "capture: {response: 0B}\n", "metrics.refused, max_shift: 1pp", "capture.response is"),
    ],
)  # fmt: skip
def test_a_service_that_does_not_is_told_what_to_write(service: str, gate: str, told: str) -> None:
    assert told in problem(service, gate)
