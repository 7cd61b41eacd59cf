"""`validate` and `schema`: no controller needed, all problems at once, three formats."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import yaml

Run = Callable[..., "subprocess.CompletedProcess[str]"]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
BAD = """format: accede/v1
kind: RolloutPolicy
name: bad
steps:
  - {canary: 500%}
gates:
  - {metric: erors, max_increase: 1pp}
"""


def test_good_files_are_named(accede: Run) -> None:
    checked = accede("validate", EXAMPLES / "demo" / "service.yaml", EXAMPLES / "demo" / "policy.yaml")
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("service progression: fine\npolicy demo: fine\n")
    assert "  consider steps[1].requests: 200 requests of the candidate show little" in checked.stdout


def test_a_directory_is_checked_whole(accede: Run) -> None:
    checked = accede("validate", EXAMPLES / "json", "-o", "json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout) == {
        "valid": True,
        "files": [
            {"kind": "service", "name": "churn"},
            {"kind": "policy", "name": "churn-weekly", "advice": []},
        ],
        "problems": [],
    }


def test_every_problem_is_told_with_its_place(accede: Run, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    checked = accede("validate", file, "-o", "yaml")
    assert checked.returncode == 2
    assert f"{file}:5:" in checked.stderr
    assert f"{file}:7:" in checked.stderr
    value = yaml.safe_load(checked.stdout)
    assert not value["valid"]
    assert {problem["line"] for problem in value["problems"]} == {5, 7}


def test_one_bad_file_does_not_hide_another(accede: Run, tmp_path: Path) -> None:
    bad, worse = tmp_path / "bad.yaml", tmp_path / "missing.yaml"
    bad.write_text(BAD)
    checked = accede("validate", bad, worse, EXAMPLES / "demo" / "policy.yaml")
    assert checked.returncode == 2
    assert checked.stdout.startswith("policy demo: fine\n")
    assert "missing.yaml:1:1: no such file" in checked.stderr
    assert f"{bad}:7:" in checked.stderr


def test_a_service_is_checked_with_the_policy_it_names(accede: Run, tmp_path: Path) -> None:
    service = (EXAMPLES / "demo" / "service.yaml").read_text()
    (tmp_path / "service.yaml").write_text(service.replace("sex:", "gender:"))
    (tmp_path / "policy.yaml").write_text((EXAMPLES / "demo" / "policy.yaml").read_text())
    checked = accede("validate", tmp_path / "service.yaml")
    assert checked.returncode == 2
    assert "no such slice" in checked.stderr


def test_schemas_are_json_schemas(accede: Run) -> None:
    shown = accede("schema", "service")
    assert shown.returncode == 0, shown.stderr
    assert "versions" in json.loads(shown.stdout)["properties"]
    policy = json.loads(accede("schema", "policy").stdout)
    assert "gates" in policy["properties"]
    assert yaml.safe_load(accede("schema", "policy", "-o", "yaml").stdout) == policy


def test_a_directory_without_files_is_told(accede: Run, tmp_path: Path) -> None:
    checked = accede("validate", tmp_path)
    assert checked.returncode == 2
    assert f"{tmp_path}:1:1: no service or policy file" in checked.stderr


def test_a_policy_that_serve_would_not_read_is_told(accede: Run, tmp_path: Path) -> None:
    services = tmp_path / "services"
    services.mkdir()
    service = (EXAMPLES / "demo" / "service.yaml").read_text()
    (services / "service.yaml").write_text(service.replace("policy: policy.yaml", "policy: ../policy.yaml"))
    (tmp_path / "policy.yaml").write_text((EXAMPLES / "demo" / "policy.yaml").read_text())
    for verb in (["validate", services], ["serve", "--services", services]):
        checked = accede(*verb)
        assert checked.returncode == 2
        assert "policy: '../policy.yaml' is not among the files read here" in checked.stderr
