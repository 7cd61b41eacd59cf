"""What cannot be started is one clear line and the right exit code, and leaves nothing half-started."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from accede.cli.processes import free_ports
from tests.e2e.conftest import ACCEDE, NAME, POLICY, SERVICE, Stage, eventually

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def refused(found: subprocess.CompletedProcess[str], code: int, lines: int = 1) -> str:
    assert found.returncode == code, found.stderr
    assert found.stdout == ""
    assert found.stderr.count("\n") == lines, found.stderr
    assert "Traceback" not in found.stderr
    return found.stderr


def processes_of(folder: Path) -> list[psutil.Process]:
    """All processes that were started for something in a folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(folder) in argument for argument in process.info["cmdline"] or ())
    ]


def history(stage: Stage) -> list[dict[str, object]]:
    """Everything that was ever decided about the service."""
    answer = httpx.get(f"http://127.0.0.1:{stage.api_port}/api/v1/services/{NAME}/history", trust_env=False)
    entries: list[dict[str, object]] = answer.json()["entries"]
    assert entries
    return entries


@pytest.fixture
def serve(tmp_path: Path) -> Run:
    """`accede serve` on free ports with a service file; whatever it refuses, no process is left."""

    def run(text: str = "", **flags: object) -> subprocess.CompletedProcess[str]:
        services = tmp_path / "services"
        services.mkdir(exist_ok=True)
        (services / "credit.yaml").write_text(text or SERVICE.format(stable=8, candidate=9))
        port, api_port = free_ports(2)
        given = {"services": services, "data": tmp_path / "data", "port": port, "api-port": api_port, **flags}
        found = subprocess.run(
            [ACCEDE, "serve", *(f"--{name}={value}" for name, value in given.items())],
            check=False, capture_output=True, text=True, timeout=40,
        )  # fmt: skip
        assert processes_of(tmp_path) == []
        return found

    return run


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("installation"), lambda: free_ports(1)[0])
    try:
        stage.model("1")
        stage.model("2")
        stage.serve()
        yield stage
    finally:
        stage.close()


class TestServe:
    def test_a_file_that_is_no_yaml(self, serve: Run, tmp_path: Path) -> None:
        assert "credit.yaml:3:1: a list that is not closed" in refused(
            serve("format: accede/v1\nkind: [ModelService\n"), 2
        )
        assert not (tmp_path / "data").exists()

    def test_every_problem_of_a_file_with_its_place(self, serve: Run, tmp_path: Path) -> None:
        text = SERVICE.format(stable=1, candidate=2)
        text = text.replace('stable: "1"', 'stable: "3"').replace("unit: request", "unit: requests")
        said = refused(serve(text), 2, lines=2)
        assert all("credit.yaml:" in line for line in said.splitlines())
        assert "'3'" in said
        assert "requests" in said
        assert not (tmp_path / "data").exists()

    def test_a_read_only_data_directory(self, serve: Run, tmp_path: Path) -> None:
        data = tmp_path / "data"
        data.mkdir()
        if os.geteuid() != 0:
            data.chmod(0o500)
            said = refused(serve(), 1)
        else:
            mount: list[str | Path] = ["mount", "--bind", "-o", "ro", data, data]
            if subprocess.run(mount, check=False, capture_output=True).returncode:
                pytest.skip("this container may not mount")
            try:
                if os.access(data, os.W_OK):  # older kernels need a second step
                    subprocess.run(["mount", "-o", "remount,bind,ro", data], check=True)
                said = refused(serve(), 1)
            finally:
                subprocess.run(["umount", data], check=True)
        assert str(data) in said
        assert list(data.iterdir()) == []

    def test_beside_another_on_the_same_data_which_goes_on(self, serving: Stage) -> None:
        family = processes_of(serving.folder / "data")
        port, api_port = free_ports(2)
        found = subprocess.run(
            [
                ACCEDE, "serve", "--services", serving.folder / "services", "--data", serving.folder / "data",
                "--port", str(port), "--api-port", str(api_port),
            ],
            check=False, capture_output=True, text=True, timeout=40,
        )  # fmt: skip
        assert "another controller runs on this data directory" in refused(found, 1)
        assert processes_of(serving.folder / "data") == family
        assert serving.ask().status_code == 200
        assert serving.accede("list").returncode == 0


class TestStart:
    @pytest.fixture
    def start(self, serving: Stage) -> Iterator[Run]:
        """`accede start`; after what it refuses, the service's history is what it was."""
        before = history(serving)

        def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
            return serving.accede("start", *arguments)

        yield run
        assert history(serving) == before
        assert serving.ask().headers["x-accede-version"] == "1"

    def test_an_unknown_version_is_named_with_those_known(self, serving: Stage, start: Run) -> None:
        said = refused(start(NAME, "--candidate", "9", "-p", serving.policy_file), 1)
        assert "no version '9'" in said
        assert "1, 2" in said

    def test_the_stable_version(self, serving: Stage, start: Run) -> None:
        said = refused(start(NAME, "--candidate", "1", "-p", serving.policy_file), 1)
        assert "already stable" in said

    def test_an_unknown_service(self, serving: Stage, start: Run) -> None:
        said = refused(start("fraud", "--candidate", "2", "-p", serving.policy_file), 1)
        assert "no service 'fraud'" in said
        assert NAME in said

    def test_a_malformed_policy(self, tmp_path: Path, start: Run) -> None:
        policy = tmp_path / "policy.yaml"
        policy.write_text(POLICY.replace("max_increase: 2pp", "max_increase: 2%"))
        assert "policy.yaml:12:36: gates[0]" in refused(start(NAME, "--candidate", "2", "-p", policy), 2)

    def test_a_policy_whose_gate_the_service_cannot_feed(self, tmp_path: Path, start: Run) -> None:
        policy = tmp_path / "policy.yaml"
        policy.write_text(POLICY.replace("by: group", "by: sex"))
        assert "sex" in refused(start(NAME, "--candidate", "2", "-p", policy), 2)

    def test_no_such_policy(self, start: Run) -> None:
        assert "guarded" in refused(start(NAME, "--candidate", "2", "-p", "guardd"), 2)

    def test_a_second_rollout_of_a_service(self, serving: Stage) -> None:
        serving.start()
        before = history(serving)
        said = refused(serving.accede("start", NAME, "--candidate", "2", "-p", serving.policy_file), 1)
        assert "already has the rollout" in said
        assert history(serving) == before
        assert serving.status()["phase"] == "baseline"
        assert serving.accede("abort", NAME).returncode == 0


def test_an_unreachable_upstream_is_502_by_name_and_no_rollout_moves_by_it(stage: Stage) -> None:
    stage.model("1", delay=0.003)
    stage.model("2", delay=0.003)
    stage.serve()
    for model in stage.processes[:2]:
        model.end()
    answer = stage.ask()
    assert answer.status_code == 502
    assert answer.json() == {"error": "version 1 of credit cannot be reached"}
    assert answer.headers["x-accede-version"] == "1"
    assert answer.headers["x-request-id"]
    stage.start()
    stage.load(200)
    view = stage.until(lambda view: view["stable_requests"] > 700 or view["phase"] != "baseline")
    assert view["phase"] == "baseline"
    assert "predictions of stable: none was seen" in view["reason"]
    stage.model("1", delay=0.003)
    stage.model("2", delay=0.003)
    eventually(lambda: stage.ask().status_code == 200, 5, "stable answers as soon as it is there")
