"""Gates on streams and output tokens: what is frozen, what routers are told, what is concluded."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from accede.controller.analysis.cells import cells_of, display_of, limits_of
from accede.controller.analysis.freeze import NotReady, epoch_constants, freeze
from accede.controller.rollout.measuring import extraction_of, measurement_plan
from accede.policies.load import parse_policy, parse_service
from accede.policies.pair_rules import check_pair
from accede.policies.yaml import load_yaml
from accede.store.evidence import Evidence
from accede.store.histogram import bin_of, edge, value_bin
from accede.store.rollouts import EpochRecord, FrozenConstants, Outcome
from tests.controller.test_analysis import CONSTANTS as ANALYSED
from tests.controller.test_analysis import Scene
from tests.controller.test_analysis import policy as gates
from tests.controller.test_freeze import baseline, stable

SERVICE = """
format: accede/v1
kind: ModelService
name: support
match: {path: /v1}
protocol: openai
versions:
  "1": {url: "http://a:8000"}
  "2": {url: "http://b:8000"}
stable: "1"
side_effects: none
"""
POLICY = """
format: accede/v1
kind: RolloutPolicy
name: llm
baseline: {requests: 100, for: 10s}
steps: [{shadow: 100%}, {canary: 10%}, {canary: 50%}]
gates:
  - {metric: stream.first_token.p50, max_ratio: 1.2}
  - {metric: stream.truncated, max_increase: 1pp, in: canary}
  - {metric: tokens.output, max_shift: 20, in: canary}
"""
service = parse_service(SERVICE, "s.yaml")
policy = parse_policy(POLICY, "p.yaml")
PLACE = bin_of(0.4)


def seen(**changes: Any) -> Evidence:
    settings: dict[str, Any] = {
        "first_token": {"stable": {PLACE: 1000}},
        "tokens": {value_bin(100): 500, value_bin(200): 500},
        "series": stable("stream.truncated", 1000.0, 20.0),
    }
    return baseline(**{**settings, **changes})


def frozen() -> FrozenConstants:
    found = freeze(policy, service, seen())
    assert isinstance(found, FrozenConstants), found
    return found


def test_stable_alone_fixes_thresholds_limit_centre_and_sd() -> None:
    constants = frozen()
    assert constants.quantiles == {"stream.first_token.p50": edge(PLACE + 1)}
    assert constants.tokens == pytest.approx(300, rel=0.03)
    assert constants.centres["tokens.output|"] == pytest.approx(0.5, rel=0.03)
    assert constants.deviations["tokens.output|"] == pytest.approx(50 / 300, rel=0.05)
    assert constants.centres["stream.truncated|"] == 0.02


def test_without_streams_or_tokens_the_baseline_is_not_ready() -> None:
    for name, said in (("first_token", "stream.first_token.p50"), ("tokens", "output tokens")):
        found = freeze(policy, service, seen(**{name: {}}))
        assert isinstance(found, NotReady)
        assert said in found.reason


def test_an_epochs_thresholds_are_those_of_the_first_token() -> None:
    _, thresholds = epoch_constants(policy, frozen(), None)
    assert thresholds == {"stream.first_token.p50": (PLACE + 1, PLACE + 5, PLACE + 10)}
    later = seen(first_token={"stable": {PLACE + 30: 5000}}, latency={"stable": {PLACE + 90: 5000}})
    _, thresholds = epoch_constants(policy, frozen(), later)
    assert thresholds["stream.first_token.p50"][0] == PLACE + 31


def test_routers_are_told_to_keep_streams_and_tokens() -> None:
    epoch = EpochRecord(2, 1, "canary", 0.1, 0.0, 0.0, thresholds={"stream.first_token.p50": (1, 2, 3)})
    plan = measurement_plan(None, policy, service, epoch, frozen())
    assert plan.streams
    assert plan.tokens == frozen().tokens
    assert [one.metric for one in plan.thresholds] == ["stream.first_token.p50"]
    # A file that declares no prediction still has its streams read.
    extraction = extraction_of(service)
    assert extraction is not None
    assert (extraction.path, extraction.type) == ("", "text")


def test_tokens_are_shown_in_tokens() -> None:
    constants = frozen()
    (cell,) = [
        cell
        for cell in cells_of(policy, constants)
        if cell.series == "tokens.output" and cell.direction == "up"
    ]
    (limit,) = limits_of(cell, constants)
    assert limit.margin * display_of(cell, constants).factor == pytest.approx(20)


CONSTANTS = msgspec.structs.replace(
    ANALYSED,
    tokens=300.0,
    centres={"tokens.output|": 0.5, "stream.truncated|": 0.02},
    deviations={"tokens.output|": 0.2},
    quantiles={"stream.first_token.p50": 0.4},
)
TOKENS = {"metric": "tokens.output", "max_shift": 20, "in": "canary"}
TRUNCATED = {"metric": "stream.truncated", "max_increase": "1pp", "in": "canary"}
FIRST = {"metric": "stream.first_token.p50", "max_ratio": 1.2}


@pytest.mark.parametrize(("more", "outcome"), [(0, Outcome.PASS), (60, Outcome.FAIL), (-60, Outcome.FAIL)])
def test_longer_and_shorter_answers_are_found(more: float, outcome: Outcome) -> None:
    scene = Scene(constants=CONSTANTS).means(3, 50_000.0, more / 300, "tokens.output")
    verdict = scene.verdict(gates(TOKENS))
    assert verdict.outcome is outcome
    assert verdict.findings[0].margin == pytest.approx(20)
    assert verdict.findings[0].estimate == pytest.approx(more, abs=0.5)


@pytest.mark.parametrize(("rate", "outcome"), [(0.02, Outcome.PASS), (0.08, Outcome.FAIL)])
def test_streams_that_end_early_are_found(rate: float, outcome: Outcome) -> None:
    scene = Scene(constants=CONSTANTS).clustered(3, "stream.truncated", (200.0, rate), (200.0, 0.02))
    verdict = scene.verdict(gates(TRUNCATED))
    assert verdict.outcome is outcome
    assert verdict.findings[0].method == "P4 time clusters (asymptotic)"


def test_cut_streams_are_compared_on_pairs_too() -> None:
    scene = Scene(constants=CONSTANTS).paired("stream.truncated", 200.0, 0.06, 0.06)
    assert scene.verdict(gates({**TRUNCATED, "in": "shadow"}), "shadow").outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("mid", "far", "outcome"), [(0.42, 0.3, Outcome.PASS), (0.75, 0.6, Outcome.FAIL), (0.5, 0.5, None)]
)
def test_a_later_first_token_is_found(mid: float, far: float, outcome: Outcome | None) -> None:
    scene = Scene(constants=CONSTANTS)
    for part, share in (("over", 0.5), ("mid", mid), ("far", far)):
        scene.clustered(3, f"stream.first_token.p50.{part}", (200.0, share), (200.0, 0.5))
    verdict = scene.verdict(gates(FIRST))
    if outcome is None:
        assert verdict.outcome not in {Outcome.PASS, Outcome.FAIL}
    else:
        assert verdict.outcome is outcome


@pytest.mark.parametrize(("rate", "outcome"), [(0.02, Outcome.INCONCLUSIVE), (0.08, Outcome.FAIL)])
def test_streams_of_which_one_arm_tells_less_prove_nothing(rate: float, outcome: Outcome) -> None:
    # Longer ones than are captured tell nothing: perhaps just those that break off.
    scene = Scene(constants=CONSTANTS).clustered(3, "stream.truncated", (180.0, rate), (200.0, 0.02))
    verdict = scene.verdict(gates(TRUNCATED))
    assert verdict.outcome is outcome
    if outcome is Outcome.INCONCLUSIVE:
        assert "10% of one side are missing" in verdict.reason
        more = Scene(constants=CONSTANTS).clustered(3, "stream.truncated", (200.0, rate), (180.0, 0.02))
        assert more.verdict(gates(TRUNCATED)).outcome is Outcome.PASS  # as of a faster candidate
        sticky = msgspec.structs.replace(CONSTANTS, sticky=True)  # heavy users
        some = Scene(constants=sticky).clustered(3, "stream.truncated", (180.0, rate), (200.0, 0.02))
        assert some.verdict(gates(TRUNCATED)).outcome is Outcome.PASS


def test_first_tokens_of_which_one_arm_tells_less_prove_nothing() -> None:
    scene = Scene(constants=CONSTANTS)
    for part in ("over", "mid", "far"):
        scene.clustered(3, f"stream.first_token.p50.{part}", (180.0, 0.3), (200.0, 0.5))
    verdict = scene.verdict(gates(FIRST))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "are missing" in verdict.reason


def test_streams_have_the_time_to_end() -> None:
    epoch = EpochRecord(2, 1, "canary", 0.1, 0.0, 0.0)
    patient = service.model_copy(update={"limits": service.limits.model_copy(update={"deadline": 300.0})})
    plain = patient.model_copy(update={"protocol": "json"})
    times = [
        measurement_plan(None, policy, one, epoch, None).account_after for one in (patient, service, plain)
    ]
    assert times == [120.0, service.limits.deadline, 10.0]


def test_gates_on_streams_take_their_part_of_the_level() -> None:
    constants = frozen()
    cells = cells_of(policy, constants)
    weights = {cell.gate.metric: 0.0 for cell in cells}
    for cell in cells:
        weights[cell.gate.metric] += cell.weight
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights["stream.first_token.p50"] == pytest.approx(0.5)  # latencies are half of it


def test_without_evidence_of_streams_nothing_passes() -> None:
    for gate in (TOKENS, TRUNCATED, FIRST):
        assert Scene(constants=CONSTANTS).verdict(gates(gate)).outcome is Outcome.INCONCLUSIVE


ONLY = (
    "predictions of type {} allow prediction.agreement, prediction.divergence and prediction.missing, and "
    "metrics that do not"
)
MEAN = "prediction.mean, max_shift: 0.1sd"
SHARES = "prediction.distribution, max_shift: 5pp"
SELECTED = "selection_rate, max_shift: 5pp"
AGREEMENT = "prediction.agreement, min: 90%"
LENGTH = "tokens.output, max_shift: 0.1sd"
CUT = "stream.truncated, max_increase: 1pp"


@pytest.mark.parametrize(
    ("prediction", "protocol", "gate", "told"),
    [
        ("{type: text}", "openai", MEAN, f"found prediction.mean; {ONLY.format('text')}"),
        ("{type: vector}", "openai", SHARES, f"found prediction.distribution; {ONLY.format('vector')}"),
        ("{type: labels, path: a}", "json", SELECTED, f"found selection_rate; {ONLY.format('labels')}"),
        ("{type: vector}", "openai", AGREEMENT, "agreement of vectors (a cosine distance) needs prediction."),
        ("{path: a}", "json", LENGTH, "tokens.output needs protocol openai, found json"),
        ("{path: a}", "json", CUT, "stream.truncated needs protocol openai, found json"),
        ("{type: text}", "openai", AGREEMENT, ""),
        ("{type: vector, agree_within: 0.1}", "openai", AGREEMENT, ""),
        ("{type: labels, path: a}", "json", AGREEMENT, ""),
        ("{type: text}", "openai", CUT, ""),
        ("{type: text}", "openai", LENGTH, ""),
    ],
)
def test_a_type_has_the_metrics_it_can_have(prediction: str, protocol: str, gate: str, told: str) -> None:
    head, _, _ = POLICY.lstrip().partition("  - {metric")
    text = head + f"  - {{metric: {gate}}}\n"
    written = SERVICE.replace("protocol: openai", f"protocol: {protocol}")
    one = parse_service(written + f"prediction: {prediction}\n", "s.yaml")
    problems = check_pair(one, parse_policy(text, "p.yaml"), load_yaml(text, "p.yaml"))
    if told:
        (problem,) = problems
        assert f"p.yaml:7:14: gates[0].metric: {told}" in str(problem)
    else:
        assert problems == ()
