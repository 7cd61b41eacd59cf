"""A candidate whose answers kill the observer, over a whole installation: nobody waits, nothing is promoted.

No body is known that kills Python's parsers, so the observer's reader is one that a certain word kills.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.e2e.clients import Clients
from tests.e2e.conftest import POLICY, PREDICT, Stage, eventually
from tests.router.parent.test_poison import FATAL

PATIENT = POLICY.replace("deadline: 25s", "deadline: 5m")


@pytest.mark.slow
def test_bodies_that_kill_the_observer_hold_the_rollout_and_cost_no_request(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = stage.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(FATAL)
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep + inherited if inherited else ''}")
    stage.model("1", delay=0.003)
    stage.model("2", delay=0.003)
    stage.serve()
    clients = Clients(stage.port, PREDICT).start()
    stage.start(policy=PATIENT)
    stage.until(lambda view: view["phase"] == "shadow")
    stage.change("2", field="POISON")
    view = stage.until(lambda view: "observer restarted" in (view["reason"] or ""), within=40)
    assert view["phase"] == "shadow"
    assert {check["check"]: check["outcome"] for check in view["validity"]}["observer"] == "error"
    kept = stage.folder / "data" / "router" / "poison"
    reports = eventually(lambda: list(kept.glob("poison-*.json")), 10, "a report on a body")
    shapes = [json.loads(Path(report).read_bytes()) for report in reports]
    assert {shape["kind"] for shape in shapes} <= {"pair", "exchange"}
    assert "POISON" not in json.dumps(shapes)
    before = len(clients.asked)
    eventually(lambda: len(clients.asked) > before + 200, 20, "users go on")
    assert stage.status()["phase"] == "shadow", "what cannot be measured does not go on"
    clients.stop()
    assert clients.failures() == []
