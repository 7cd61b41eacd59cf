"""The verbs of rollouts against a real controller. No router runs, so a rollout waits in its baseline."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Run = Callable[..., "subprocess.CompletedProcess[str]"]
NAME = "progression"


class Shell:
    def __init__(self, run: Run, api: str) -> None:
        self._run = run
        self._api = api

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = self._run(*arguments, ACCEDE_API=self._api, ACCEDE_ACTOR="ada")
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code in {0, 3, 4} else done.stderr

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "-o", "json"))


def test_a_rollout_from_start_to_abort(accede: Run, controller: str) -> None:
    shell = Shell(accede, controller)
    (service,) = shell.json("list")["services"]
    assert (service["name"], service["stable"], service["rollout"]) == (NAME, "1", None)
    assert "has no rollout; start one first" in shell("status", NAME, code=1)
    for verb in ("status", "explain", "history"):
        assert f"no service 'credit'; there are: {NAME}" in shell(verb, "credit", code=1)

    started = shell.json("start", NAME, "--candidate", "2", "--reason", "weekly")
    assert (started["phase"], started["started_by"], started["policy"]) == ("baseline", "ada", "demo")

    assert "abort it first" in shell("start", NAME, "-c", "2", code=1)
    status = shell("status", NAME)
    assert f"{NAME}: version 2 over 1, baseline" in status
    assert "500 more requests of stable" in status
    assert yaml.safe_load(shell("status", NAME, "-o", "yaml"))["candidate"] == "2"
    assert "no outcome after 0.5 s" in shell("status", NAME, "--watch", "--timeout", "0.5", code=5)

    assert "paused" in shell("pause", NAME, "--reason", "lunch")
    watched = shell("status", NAME, "--watch", code=4)
    assert "lunch" in watched
    assert "rollback in" in watched
    assert "already paused" in shell("pause", NAME, code=1)
    assert shell.json("resume", NAME)["phase"] == "baseline"
    assert "baseline" in shell("promote", NAME, code=1)
    assert "--reason" in shell("promote", NAME, "--full", code=2)

    assert shell.json("abort", NAME, "--reason", "INC-81")["phase"] == "aborted"
    assert shell.json("abort", NAME)["phase"] == "aborted"  # aborting twice changes nothing
    assert "INC-81" in shell("status", NAME, "--watch", code=3)
    assert "INC-81" in shell("explain", NAME)
    acts = [entry["act"] for entry in shell.json("history", NAME)["entries"]]
    assert acts == ["introduce", "start", "pause", "resume", "abort"]
    assert [entry["act"] for entry in shell.json("history", NAME, "--limit", "1")["entries"]] == ["abort"]
    assert "ada" in shell("history", NAME)
    assert "aborted" in shell("list")
    assert shell.json("explain", NAME, "--decision", "1")["explanation"]["act"] == "pause"
    assert "there is no number 9" in shell("explain", NAME, "-n", "9", code=1)


def test_an_override_ends_with_the_candidate_as_stable(accede: Run, controller: str) -> None:
    shell = Shell(accede, controller)
    shell("start", NAME, "-c", "2", "-p", "guarded")
    promoted = shell.json("promote", NAME, "--full", "--reason", "the old one is on fire")
    assert promoted["phase"] == "promoted"
    assert "on fire" in promoted["override"]
    assert "promoted" in shell("status", NAME, "--watch")
    (service,) = shell.json("list")["services"]
    assert (service["stable"], service["stable_in_file"]) == ("2", "1")
    assert "2 (file: 1)" in shell("list")


def test_what_cannot_be_started_leaves_nothing_behind(accede: Run, controller: str, tmp_path: Path) -> None:
    shell = Shell(accede, controller)
    assert "its file names: 1, 2" in shell("start", NAME, "-c", "7", code=1)
    assert "already stable" in shell("start", NAME, "-c", "1", code=1)
    assert "there are: progression" in shell("start", "credit", "-c", "2", code=1)
    assert "the library has:" in shell("start", NAME, "-c", "2", "-p", "no-such-policy", code=2)
    missing = str(tmp_path / "policy.yaml")
    assert f"{missing}:1:1: no such file" in shell("start", NAME, "-c", "2", "-p", missing, code=2)
    broken = tmp_path / "broken.yaml"
    broken.write_text("format: accede/v1\nkind: RolloutPolicy\nname: x\nsteps: []\ngates: []\n")
    assert f"{broken}:4:" in shell("start", NAME, "-c", "2", "-p", str(broken), code=2)
    assert shell.json("list")["services"][0]["rollout"] is None


def test_start_waits_for_the_outcome_when_asked(accede: Run, controller: str) -> None:
    shell = Shell(accede, controller)
    late = shell("start", NAME, "-c", "2", "--wait", "--timeout", "1", code=5)
    assert "the rollout goes on" in late
    assert shell.json("status", NAME)["phase"] == "baseline"


def test_json_of_a_watch_is_one_document_a_line(accede: Run, controller: str) -> None:
    shell = Shell(accede, controller)
    shell("start", NAME, "-c", "2")
    shell("abort", NAME)
    lines = shell("status", NAME, "--watch", "-o", "json", code=3).splitlines()
    assert [json.loads(line)["phase"] for line in lines] == ["aborted"]


def test_tables_have_no_colour_in_a_pipe(accede: Run, controller: str) -> None:
    shell = Shell(accede, controller)
    shell("start", NAME, "-c", "2")
    assert "\x1b[" not in shell("status", NAME) + shell("list") + shell("history", NAME)
