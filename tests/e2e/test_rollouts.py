"""Whole rollouts over real sockets: proxy, observer, controller and model servers, each a process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from accede.controller.rollout import replay
from accede.store.open import open_store

if TYPE_CHECKING:
    from tests.e2e.conftest import Stage

NAME = "credit"


def play(
    stage: Stage,
    *,
    rate: float = 150.0,
    within: float = 100.0,
    stable: dict[str, Any] | None = None,
    **candidate: Any,
) -> tuple[int, str]:
    """Roll out a candidate that behaves so; exit code and output of the watch."""
    stage.model("1", **(stable or {}))
    stage.model("2", **candidate)
    stage.serve()
    stage.load(rate)
    stage.start()
    return stage.watch(within)


def worst_gate(stage: Stage, metric: str) -> dict[str, Any]:
    """The stored verdict of the gate on a metric."""
    gates = [gate["verdict"] for gate in stage.status()["gates"]]
    (found,) = (verdict for verdict in gates if verdict["gate"].startswith(metric))
    assert isinstance(found, dict)
    return found


class TestPromotion:
    def test_a_good_candidate_is_promoted_and_answers_everybody(self, stage: Stage) -> None:
        code, output = play(stage)
        assert code == 0, output
        status = stage.status()
        assert status["phase"] == "promoted"
        assert status["weight"] == 1.0
        assert all(gate["verdict"]["outcome"] == "pass" for gate in status["gates"])
        assert stage.ask().headers["x-accede-version"] == "2"
        totals = stage.totals(stage.processes[-1])
        assert totals["failed"] == totals["refused"] == 0
        assert totals["versions"]["2"] > 0
        assert "every gate is proven" in stage.explain()
        store = open_store(str(stage.folder / "data"))
        decisions = store.decisions(status["id"])
        store.close()
        assert [decision.act for decision in decisions] == ["advance", "advance", "advance", "promote"]
        assert all(replay.replay(one) == one.analysis for one in decisions)  # by the stored evidence alone


class TestRollback:
    """Each harm ends in a rollback whose reason names it, with stable answering everybody after it."""

    @pytest.mark.parametrize(
        ("candidate", "metric"),
        [
            pytest.param({"errors": 0.1}, "errors", marks=pytest.mark.slow),
            pytest.param({"delay": 0.068}, "latency.p95", marks=pytest.mark.slow),
            pytest.param({"shift": 0.12}, "prediction.mean", marks=pytest.mark.slow),
            ({"group_shift": -0.06}, "selection_rate"),
        ],
        ids=["errors", "slow", "shifted", "harmed slice"],
    )
    def test_harm_is_rolled_back_by_its_name(
        self, stage: Stage, candidate: dict[str, float], metric: str
    ) -> None:
        # Errors are three times stable's, p95 is 70 % longer, scores are 0.12 higher, group b is selected 10
        # points less.
        code, output = play(stage, stable={"errors": 0.03} if metric == "errors" else {}, **candidate)
        assert code == 3, output
        status = stage.status()
        assert status["phase"] == "rolled_back"
        assert metric in status["reason"]
        assert "margin" in stage.explain()
        verdict = worst_gate(stage, metric)
        assert verdict["outcome"] == "fail"
        if metric == "selection_rate":
            assert "group=b" in status["reason"]
            assert "group=a" not in status["reason"]
        assert stage.ask().headers["x-accede-version"] == "1"


QUIET = """
format: accede/v1
kind: RolloutPolicy
name: quiet
baseline: {requests: 100, for: 500ms}
batch: 250ms
steps:
  - {shadow: 100%, for: 500ms, requests: 50, until: gates, deadline: 4s}
  - {canary: 50%, until: gates, for: 1s, deadline: 20s}
gates:
  - {metric: prediction.mean, max_shift: 0.2sd}
on_error: {action: rollback, after: 3s}
"""


class TestWithoutEvidence:
    @pytest.mark.slow
    def test_without_traffic_it_stays_and_pauses_inconclusive_at_the_deadline(self, stage: Stage) -> None:
        stage.model("1")
        stage.model("2")
        stage.serve()
        load = stage.load(200)
        stage.start(policy=QUIET)
        stage.until(lambda status: status["phase"] == "shadow")
        load.end()
        code, output = stage.watch(40)
        assert code == 4, output
        status = stage.status()
        assert (status["phase"], status["hold"]["kind"]) == ("paused", "inconclusive")
        assert "deadline" in status["reason"]
        assert stage.ask().headers["x-accede-version"] == "1"

    @pytest.mark.slow
    def test_an_extractor_that_never_matches_holds_as_an_error_and_rolls_back_at_its_clock(
        self, stage: Stage
    ) -> None:
        stage.model("1")
        stage.model("2")
        stage.serve()
        stage.load(200)
        stage.start(policy=QUIET)
        stage.until(lambda status: status["phase"] == "shadow")
        for version in ("1", "2"):
            stage.change(version, field="renamed")
        held = stage.until(lambda status: status["hold"] is not None)
        assert held["hold"]["kind"] == "error"
        assert held["phase"] == "shadow"
        code, output = stage.watch(40)
        assert code == 3, output
        assert "nobody resolved the hold" in stage.status()["reason"]


class TestAbort:
    def test_it_is_in_force_within_a_second(self, stage: Stage) -> None:
        stage.model("1")
        stage.model("2")
        stage.serve(workers=2)
        load = stage.load(200)
        stage.start()
        stage.until(lambda status: status["phase"] == "canary")
        aborted = stage.accede("abort", NAME, "--reason", "INC-81")
        written = time.monotonic()
        assert aborted.returncode == 0, aborted.stderr
        while time.monotonic() < written + 1.0:
            stage.ask()
        answers = {stage.ask().headers["x-accede-version"] for _ in range(60)}
        assert answers == {"1"}
        assert stage.totals(load)["failed"] == 0
        assert stage.status()["phase"] == "aborted"

    @pytest.mark.slow
    def test_directly_at_the_router_it_needs_no_controller_and_is_reconciled(self, stage: Stage) -> None:
        stage.model("1")
        stage.model("2")
        stage.serve()
        stage.load(200)
        stage.start()
        stage.until(lambda status: status["phase"] == "canary")
        socket = stage.folder / "data" / "router" / "admin.sock"
        aborted = stage.accede(
            "abort", NAME, "--direct", socket, "--reason", "INC-82", "--api", "http://127.0.0.1:1"
        )
        assert aborted.returncode == 0, aborted.stderr
        assert "1 of 1 workers" in aborted.stdout
        assert {stage.ask().headers["x-accede-version"] for _ in range(60)} == {"1"}
        ended = stage.until(lambda status: status["phase"] == "aborted")
        assert "INC-82" in ended["reason"]
