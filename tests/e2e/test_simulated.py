"""What a real router records can be simulated: recorded by `accede serve`, played by `accede simulate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import SERVICE, eventually

if TYPE_CHECKING:
    from tests.e2e.conftest import Stage

RECORDING = 'recording: {{sample: 100%, request: ["instances[0].group"]}}\n'
POLICY = """\
format: accede/v1
kind: RolloutPolicy
name: recorded
baseline: {requests: 200, for: 1s}
steps:
  - {shadow: 100%, for: 1h}
gates:
  - {metric: prediction.mean, max_shift: 0.5sd}
"""
PLAYED = """\
format: accede/v1
kind: RolloutPolicy
name: played
baseline: {requests: 200, for: 1s}
batch: 500ms
steps:
  - {shadow: 100%, until: gates, for: 1s, requests: 100}
gates:
  - {metric: prediction.mean, max_shift: 0.5sd}
  - {metric: selection_rate, by: group, max_shift: 15pp}
"""


@pytest.mark.slow
def test_a_recorded_shadow_is_played_through_another_policy(stage: Stage) -> None:
    stage.model("1", delay=0.005)
    stage.model("2", delay=0.005, shift=0.25)
    stage.serve(service=SERVICE + RECORDING)
    stage.load(150.0)
    stage.start(policy=POLICY)
    folder = stage.folder / "data" / "router" / "recordings" / "credit"

    def pairs() -> bool:
        lines = [line for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
        return sum('"kind":"pair"' in line for line in lines) >= 1800

    eventually(pairs, 60, "1800 recorded pairs")
    policy = stage.folder / "played.yaml"
    policy.write_text(PLAYED)
    service = stage.folder / "services" / "credit.yaml"
    asked = ("simulate", service, "-r", folder, "-p", policy, "--runs", "2", "-o", "json")
    harmful = stage.accede(*asked, "--pairs")
    assert harmful.returncode == 0, harmful.stderr
    first = json.loads(harmful.stdout)["first"]
    assert [step["act"] for step in first] == ["advance", "rollback"]
    assert "harm proven" in first[-1]["reason"]
    equal = stage.accede(*asked)
    assert equal.returncode == 0, equal.stderr
    assert json.loads(equal.stdout)["rolled_back"]["count"] == 0
