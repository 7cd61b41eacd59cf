"""A canary without a shadow: what the candidate answers is mirrored back to stable, and that decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import SERVICE

if TYPE_CHECKING:
    from tests.e2e.conftest import Stage

TOKEN = "a-token-of-some-length"

COPIED = (
    SERVICE
    + """mirror: {{noise_floor: 50%, warm_up: 20, strip: [authorization]}}
override: {{token: "env:E2E_OVERRIDE_TOKEN"}}
"""
)

POLICY = """
format: accede/v1
kind: RolloutPolicy
name: back
baseline: {requests: 150, for: 500ms}
batch: 250ms
steps:
  - {canary: 50%, until: gates, for: 1s, requests: 50, mirror_back: 100%, deadline: 40s}
gates:
  - {metric: prediction.agreement, min: 80%}
"""


def play(stage: Stage, monkeypatch: pytest.MonkeyPatch, **candidate: float) -> tuple[int, str]:
    monkeypatch.setenv("E2E_OVERRIDE_TOKEN", TOKEN)
    stage.model("1")
    stage.model("2", **candidate)
    stage.serve(service=COPIED)
    stage.load(150)
    stage.start(policy=POLICY)
    return stage.watch(60)


@pytest.mark.slow
def test_pairs_of_the_canary_promote_a_candidate_that_agrees(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output = play(stage, monkeypatch)
    assert code == 0, output
    (gate,) = stage.status()["gates"]
    verdict = gate["verdict"]
    assert (verdict["place"], verdict["outcome"]) == ("canary", "pass")
    explained = stage.explain()
    assert "agreement" in explained
    assert "back coverage" in explained
    assert stage.counts("1")["shadowed"] > 50  # mirrored back, and asked twice
    assert 20 <= stage.counts("2")["shadowed"] <= 40  # what warmed it up, of one worker


@pytest.mark.slow
def test_a_candidate_that_disagrees_is_rolled_back_and_testers_reach_it_meanwhile(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E2E_OVERRIDE_TOKEN", TOKEN)
    stage.model("1")
    stage.model("2", shift=0.3)
    stage.serve(service=COPIED)
    stage.load(150)
    stage.start(policy=POLICY)
    view = stage.until(lambda view: view["back"] is not None and view["back"][2] > 0)
    assert (view["mirrored_back"], view["mirrored"]) == (1.0, 0.0)
    chosen: dict[str, Any] = {"x-accede-arm": "candidate", "x-accede-token": TOKEN}
    assert stage.ask(**chosen).headers["x-accede-version"] in {"1", "2"}  # 1 once it is rolled back
    code, output = stage.watch(60)
    assert code == 3, output
    assert "prediction.agreement" in stage.status()["reason"]
    assert stage.ask().headers["x-accede-version"] == "1"
    data = b"".join(path.read_bytes() for path in (stage.folder / "data").rglob("*") if path.is_file())
    assert TOKEN.encode() not in data
    assert stage.serving is not None
    assert TOKEN not in stage.serving.output
