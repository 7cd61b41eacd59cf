"""`accede plan` as a user runs it: from files alone, and against a controller."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SERVICE = """
format: accede/v1
kind: ModelService
name: recs
match: {path: /recs}
protocol: kserve-v1
versions: {"1": {url: "http://127.0.0.1:9"}}
stable: "1"
side_effects: none
unit: {header: x-user-id, missing: stable}
prediction: {type: number, path: "predictions[0]", range: [0, 1], selected: ">= 0.5"}
slices: {plan: {path: "instances[0].plan", values: [free, paid]}}
policy: recs-policy.yaml
"""
POLICY = """
format: accede/v1
kind: RolloutPolicy
name: recs
max_duration: 14d
steps:
  - {canary: 10%, for: 1h, requests: 50}
  - {canary: 50%, until: gates}
gates:
  - {metric: selection_rate, by: plan, max_shift: 3pp}
  - {metric: errors, max_increase: 1pp}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "recs.yaml").write_text(SERVICE)
    (tmp_path / "recs-policy.yaml").write_text(POLICY)
    return tmp_path


def test_forty_users_are_told_what_to_change(accede: Run, files: Path) -> None:
    done = accede("plan", files / "recs.yaml", "--rate", "0.005", "--units", "40")
    assert done.returncode == 4, done.stderr
    text = " ".join(done.stdout.split())
    assert "recs by policy recs: cannot be decided" in text
    assert "selection_rate by plan unreachable in" in text
    assert "effective clusters" in text
    assert "use a paired shadow step" in text
    assert "given requests a second 0.005" in text
    assert "assumed error rate 1.000%" in text


def test_a_busy_service_is_told_when(accede: Run, files: Path) -> None:
    plot = files / "plan.svg"
    flags = ["--rate", "200", "--units", "100000", "--share", "plan=paid=0.1", "--share", "plan=free=0.9"]
    done = accede("plan", files / "recs.yaml", *flags, "--plot", plot)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recs by policy recs: takes " in done.stdout
    drawn = ET.fromstring(plot.read_text())
    texts = "".join(drawn.itertext())
    assert "selection_rate by plan" in texts
    assert "canary 50%, until gates" in texts


def test_people_take_as_long_as_they_take_and_steps_keep_their_numbers(accede: Run, files: Path) -> None:
    flags = ["plan", str(files / "recs.yaml"), "-p", str(files / "recs-policy.yaml"), "--rate", "200"]
    without = json.loads(accede(*flags, "-o", "json").stdout)
    text = POLICY.replace("  - {canary: 50%", "  - {approve: {group: risk, count: 2}}\n  - {canary: 50%")
    text = text.replace("until: gates}", "until: gates}\n  - {approve: {}}")
    (files / "recs-policy.yaml").write_text(text)
    found = json.loads(accede(*flags, "-o", "json").stdout)
    assert [(one["number"], one["people"]) for one in found["steps"]] == [
        (1, False), (2, True), (3, False), (4, True),
    ]  # fmt: skip
    assert found["steps"][1]["text"] == "approve by 2 of risk, not the starter, valid for 1d"
    assert [one["seconds"] for one in found["steps"] if not one["people"]] == [
        one["seconds"] for one in without["steps"]
    ]
    assert {one["step"] for gate in found["gates"] for one in gate["steps"]} == {1, 3}
    assert (found["reachable"], found["seconds"]) == (without["reachable"], without["seconds"])
    shown = " ".join(accede(*flags).stdout.split())
    assert "and as long as people take" in shown
    assert "2 approve by 2 of risk, not the starter, valid for 1d ? ? people" in shown


def test_json_and_yaml_say_the_same(accede: Run, files: Path) -> None:
    flags = ["plan", str(files / "recs.yaml"), "-p", str(files / "recs-policy.yaml"), "--rate", "200"]
    as_json = json.loads(accede(*flags, "-o", "json").stdout)
    assert as_json == yaml.safe_load(accede(*flags, "-o", "yaml").stdout)
    assert as_json["rate"] == 200.0
    assert {gate["gate"] for gate in as_json["gates"]} == {"selection_rate by plan", "errors"}
    assert as_json["reachable"]


def test_numbers_come_from_a_file_and_a_flag_goes_before_it(accede: Run, files: Path) -> None:
    (files / "traffic.yaml").write_text("rate: 20\nerror_rate: 0.02\nslices: {plan=paid: 0.05}\n")
    flags = [
        "plan",
        str(files / "recs.yaml"),
        "--assume",
        str(files / "traffic.yaml"),
        "--rate",
        "30",
        "-o",
        "json",
    ]
    facts = {one["name"]: (one["value"], one["source"]) for one in json.loads(accede(*flags).stdout)["facts"]}
    assert facts["requests a second"] == ("30", "given")
    assert facts["error rate"] == ("2.000%", "given")
    assert facts["share of plan=paid"] == ("5.00%", "given")
    assert facts["share of plan=free"] == ("95.00%", "assumed")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rate", "-1"], "rate: Input should be greater than 0"),
        (["--rate", "nan"], "rate: Input should be"),
        (["--rate", "1e300"], "rate: Input should be less than or equal to 1000000000"),
        (["--share", "plan=paid"], "write sex=female=0.02"),
        (["--share", "plan=none=0.1"], "no group 'plan=none' in service 'recs'"),
        (
            ["--share", "plan=paid=0.9", "--share", "plan=free=0.2"],
            "are given 110.000% of the traffic together",
        ),
        (["--plot", "/nowhere/plan.svg", "--rate", "500"], "cannot be written"),
        (["-p", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_is_wrong_is_one_line(accede: Run, files: Path, flags: list[str], message: str) -> None:
    done = accede("plan", files / "recs.yaml", *flags)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rate: 20\nrate: 30\n", "given.yaml:2:1: rate: "),
        ("", "given.yaml:1:1: the file is empty; it holds numbers, such as rate: 20"),
        ("[1]\n", "given.yaml:1:1: the file must be a mapping that holds numbers"),
    ],
)
def test_a_file_of_numbers_is_read_as_strictly_as_others(
    accede: Run, files: Path, text: str, told: str
) -> None:
    (files / "given.yaml").write_text(text)
    done = accede("plan", files / "recs.yaml", "--assume", files / "given.yaml")
    assert done.returncode == 2, done.stdout
    assert told in done.stderr


def test_a_controller_plans_for_what_it_knows(accede: Run, controller: str) -> None:
    done = accede("plan", "progression", "--rate", "50", "-o", "json", ACCEDE_API=controller)
    assert done.returncode in {0, 4}, done.stderr
    made = json.loads(done.stdout)
    assert (made["service"], made["policy"], made["rate"]) == ("progression", "demo", 50.0)
    assert not [gate["gate"] for gate in made["gates"] if gate["unplanned"]]
    lost = accede("plan", "credit", ACCEDE_API=controller)
    assert lost.returncode == 1
    assert "no service 'credit'" in lost.stderr
