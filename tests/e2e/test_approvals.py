"""Two people approve a rollout over real processes, and the controller is killed between them."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from accede.controller.rollout import replay
from accede.store.open import open_store
from tests.e2e.conftest import NAME, eventually, people

if TYPE_CHECKING:
    from tests.e2e.conftest import Stage

POLICY = """
format: accede/v1
kind: RolloutPolicy
name: approved
baseline: {requests: 100, for: 500ms}
batch: 250ms
steps:
  - {canary: 20%, for: 1s, requests: 20}
  - {approve: {group: model-risk, count: 2}}
  - {canary: 50%, for: 30m, requests: 20}
gates:
  - {metric: errors, max_increase: 20pp, in: canary}
"""


@pytest.mark.slow
def test_an_approval_outlives_the_controller_that_took_it(stage: Stage) -> None:
    file = stage.folder / "tokens.yaml"
    tokens = people(file, olga=(), ben=("model-risk",), carl=("model-risk",))

    def approve(who: str) -> tuple[int, str]:
        done = stage.accede(
            "approve", NAME, "--step", "2", "--reason", "RISK-7", "--as", "somebody", ACCEDE_TOKEN=tokens[who]
        )
        return done.returncode, done.stdout + done.stderr

    stage.environment["ACCEDE_TOKEN"] = tokens["olga"]
    stage.model("1")
    stage.model("2")
    serving = stage.serve("--tokens", file)
    stage.load(100)
    stage.start(policy=POLICY)
    waiting = stage.until(lambda view: view["wanted"] is not None)
    assert (waiting["phase"], waiting["weight"], waiting["wanted"]["missing"]) == ("canary", 0.2, 2)
    code, said = approve("olga")
    assert (code, "needs somebody of the group model-risk; olga has the groups: none" in said) == (1, True), (
        said
    )
    code, said = approve("ben")
    assert (code, "approved by ben for model-risk: RISK-7" in said) == (0, True), said

    (controller,) = [
        child for child in psutil.Process(serving.popen.pid).children() if "controller" in child.cmdline()
    ]
    os.kill(controller.pid, signal.SIGKILL)
    eventually(lambda: stage.accede("status", NAME).returncode == 0, 30, "a new controller answers")
    view = stage.status()
    assert [(one["by"], one["counts"]) for one in view["approvals"]] == [("ben", True)]
    assert (view["step"], view["wanted"]["missing"]) == (2, 1)
    assert approve("ben")[0] == 0, "which changes nothing"

    code, said = approve("carl")
    assert code == 0, said
    view = stage.until(lambda one: one["step"] == 3)
    assert view["weight"] == 0.5
    trail = json.loads(stage.accede("history", NAME, "-o", "json").stdout)["entries"]
    assert [one["actor"] for one in trail if one["act"] == "approve"] == ["ben", "carl"]
    explained = stage.accede("explain", NAME).stdout
    assert "carl (model-risk)" in explained
    store = open_store(str(stage.folder / "data"))
    decisions = store.decisions(view["id"])
    store.close()
    assert [one.act for one in decisions] == ["advance", "advance", "approve", "approve", "advance"]
    assert all(replay.same(one) for one in decisions)
