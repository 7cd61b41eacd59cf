"""The pipelines of examples/ci are well formed, call the command as it is, and the example runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from accede.cli.main import app
from accede.policies.load import check_pair, load_service, policy_document

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "examples" / "ci"
ACCEDE = Path(sys.executable).with_name("accede")


def scripts() -> dict[str, list[str]]:
    """Pipeline -> the shell scripts of its steps."""
    github: dict[str, Any] = yaml.safe_load((CI / "github-actions.yml").read_text())
    steps = github["jobs"]["check"]["steps"]
    gitlab: dict[str, Any] = yaml.safe_load((CI / "gitlab-ci.yml").read_text())
    return {
        "github": [step["run"] for step in steps if "run" in step],
        "gitlab": ["\n".join(gitlab["model check"]["script"])],
    }


def test_the_workflow_has_what_github_asks_for() -> None:
    workflow: dict[Any, Any] = yaml.safe_load((CI / "github-actions.yml").read_text())
    assert "pull_request" in workflow[True]  # `on`, which YAML 1.1 reads as a boolean
    for step in workflow["jobs"]["check"]["steps"]:
        assert ("run" in step) != ("uses" in step)
        assert set(step) <= {"name", "run", "uses", "with", "if", "env"}


def test_the_job_has_what_gitlab_asks_for() -> None:
    job = yaml.safe_load((CI / "gitlab-ci.yml").read_text())["model check"]
    assert set(job) == {"image", "stage", "timeout", "rules", "script", "artifacts"}
    assert all(isinstance(line, str) for line in job["script"])
    assert job["artifacts"]["reports"] == {"junit": "check.xml"}


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_its_scripts_are_shell_and_call_the_command_as_it_is(name: str) -> None:
    command: Any = typer.main.get_command(app)
    flags = {flag for parameter in command.commands["check"].params for flag in parameter.opts}
    calls = 0
    for script in scripts()[name]:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        for call in re.findall(r"accede check[^\n]*", script.replace("\\\n", " ")):
            calls += 1
            used = {word for word in shlex.split(call) if word.startswith("-")}
            assert used <= flags
    assert calls == 1


def test_the_example_runs(tmp_path: Path, free_port: Callable[[], int]) -> None:
    for file in CI.iterdir():
        shutil.copy(file, tmp_path)
    ports = free_port(), free_port()
    service = (tmp_path / "service.yaml").read_text()
    (tmp_path / "service.yaml").write_text(
        service.replace("9101", str(ports[0])).replace("9102", str(ports[1]))
    )
    servers: list[subprocess.Popen[str]] = []
    for port in ports:
        given = json.dumps({"port": port, "delay": 0.001})
        server = subprocess.Popen(
            [sys.executable, ROOT / "tests" / "e2e" / "model_server.py", given],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "ACCEDE_PARENT": str(os.getpid())},
        )  # fmt: skip
        servers.append(server)
        assert server.stdout is not None
        assert server.stdout.readline().strip() == "ready"
    shown = re.search(r"^\$ (accede check .+)$", (tmp_path / "README.md").read_text(), re.MULTILINE)
    assert shown is not None
    words = shlex.split(shown[1])
    found = subprocess.run(
        [ACCEDE, *words[1:]], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60
    )
    for server in servers:
        server.terminate()
        server.wait()
        assert server.stdout is not None
        server.stdout.close()
    assert found.returncode == 0, found.stdout + found.stderr
    assert (tmp_path / "check.md").read_text().startswith("### credit: version 8 against 7, passed")


def test_its_policy_fits_its_service() -> None:
    policy, document = policy_document(CI / "policy.yaml")
    assert check_pair(load_service(CI / "service.yaml"), policy, document) == ()
