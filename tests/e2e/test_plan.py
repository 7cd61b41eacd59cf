"""A plan at measured traffic: what `accede serve` saw of a service in an earlier rollout."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Stage

NAME = "credit"


def planned(stage: Stage, *flags: str) -> dict[str, Any]:
    done = stage.accede("plan", NAME, "-p", stage.policy_file, "-o", "json", *flags)
    assert done.returncode in {0, 4}, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def sources(made: dict[str, Any]) -> dict[str, str]:
    return {fact["name"]: fact["source"] for fact in made["facts"]}


def test_it_rests_on_assumptions_until_a_baseline_was_measured(stage: Stage) -> None:
    stage.model("1")
    stage.model("2")
    stage.serve()
    before = planned(stage)
    assert sources(before)["requests a second"] == "assumed"

    stage.load(150.0)
    stage.start()
    stage.until(lambda view: view["phase"] == "shadow")
    assert stage.accede("abort", NAME).returncode == 0
    made = planned(stage)
    told = sources(made)
    assert told["requests a second"] == "measured"
    assert told["error rate"] == told["sd of the prediction"] == told["latency"] == "measured"
    assert made["rate"] == pytest.approx(150.0, rel=0.35)
    assert not [gate["gate"] for gate in made["gates"] if gate["unplanned"]]
    rates = {fact["name"]: fact["value"] for fact in made["facts"]}
    assert float(rates["share of group=a"].rstrip("%")) == pytest.approx(50.0, abs=8.0)
    assert sources(planned(stage, "--rate", "20"))["requests a second"] == "given"
