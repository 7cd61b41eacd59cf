"""The controller as a process: how it starts, refuses to start, ends, and survives being killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from accede.controller.process import LOCK_NAME
from accede.store.evidence import WIRE, ArmCounts, Evidence
from accede.store.rollouts import Phase, RolloutRecord
from accede.store.sqlite import SqliteStore

SCRIPTED = Path(__file__).with_name("scripted.py")
PATIENCE = 40.0


@pytest.fixture
def services(tmp_path: Path, declared_files: dict[str, str]) -> Path:
    directory = tmp_path / "services"
    directory.mkdir()
    for name, text in declared_files.items():
        # Minima of no time: a scripted rollout then takes one step per look.
        (directory / name).write_text(text.replace("for: 10s", "for: 0s").replace("for: 20s", "for: 0s"))
    return directory


@pytest.fixture
def launch(tmp_path: Path, services: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts controllers; what a test leaves running is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str, port: int) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            str(SCRIPTED),
            str(tmp_path / "data"),
            str(services),
            str(port),
            *arguments,
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            found = what()
            if found:
                return found
        time.sleep(0.02)
    raise AssertionError("waited too long")


def ready(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/readyz").is_success


def post(port: int, path: str, **body: Any) -> httpx.Response:
    return httpx.post(f"http://127.0.0.1:{port}/api/v1/services/{path}", json={"actor": "anna", **body})


def begin(launch: Callable[..., subprocess.Popen[str]], port: int, tmp_path: Path) -> SqliteStore:
    """A controller with a started rollout, killed before traffic came."""
    process = launch(port=port)
    until(lambda: ready(port))
    assert post(port, "fraud/rollouts", candidate="43", policy="careful").status_code == 201
    process.kill()
    process.wait()
    store = SqliteStore(tmp_path / "data" / "accede.db")
    arms = {"stable": ArmCounts(accounted=500)}
    store.publish_evidence(Evidence(WIRE, "fraud", "fraud-1", 0, "r1:a", 0.0, 0.0, arms=arms))
    return store


@pytest.mark.slow
def test_killed_at_every_decision_it_neither_repeats_nor_skips_a_step(
    launch: Callable[..., subprocess.Popen[str]], free_port: Callable[[], int], tmp_path: Path
) -> None:
    """Each life ends at its first decision: before it is written, then right after, then the next one."""
    port = free_port()
    store = begin(launch, port, tmp_path)

    def record() -> RolloutRecord:
        found = store.rollout("fraud")
        assert found is not None
        return found

    stood: list[tuple[str, int | None]] = [("baseline", None)]
    for life in range(8):
        when = ("before", "after")[life % 2]
        decided = len(store.decisions("fraud-1"))
        process = launch(when, port=port)
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert len(store.decisions("fraud-1")) == decided + (when == "after")
        if when == "after":
            stood.append((record().phase.value, record().step))
    assert stood == [("baseline", None), ("shadow", 0), ("canary", 1), ("canary", 2), ("promoted", 2)]
    assert [epoch.epoch for epoch in record().epochs] == [0, 1, 2, 3]
    (route,) = store.routes().routes
    assert (route.stable.version, len(route.arms)) == ("43", 1)
    generations = [entry.act for entry in store.audit("fraud")]
    assert generations == ["introduce", "start", "advance", "advance", "advance", "promote"]
    store.close()


def test_a_killed_controllers_successor_goes_on(
    launch: Callable[..., subprocess.Popen[str]], free_port: Callable[[], int], tmp_path: Path
) -> None:
    port = free_port()
    store = begin(launch, port, tmp_path)
    launch(port=port)
    assert until(lambda: (found := store.rollout("fraud")) and found.phase is Phase.PROMOTED)
    assert [d.act for d in store.decisions("fraud-1")] == ["advance", "advance", "advance", "promote"]
    store.close()


def test_asked_to_end_it_ends_in_order(
    launch: Callable[..., subprocess.Popen[str]], free_port: Callable[[], int]
) -> None:
    port = free_port()
    process = launch(port=port)
    until(lambda: ready(port))
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=PATIENCE)
    lines = [json.loads(line) for line in log.splitlines()]
    assert lines[-1]["event"] == "controller ends"
    assert process.returncode == 0


def test_with_its_own_statistics_it_looks_after_a_baseline(
    tmp_path: Path, services: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "accede.controller", "--data", str(tmp_path / "data")]
    command += ["--services", str(services), "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: ready(port))
            assert post(port, "fraud/rollouts", candidate="43", policy="careful").status_code == 201
            where = f"http://127.0.0.1:{port}/api/v1/services/fraud/rollout"
            view = until(lambda: (found := httpx.get(where).json())["looked_at"] and found)
            assert (view["phase"], view["needs"]) == ("baseline", ["100 more requests of stable"])
            assert post(port, "fraud/rollout/abort", reason="INC-81").json()["phase"] == "aborted"
        finally:
            process.terminate()
        assert process.wait(PATIENCE) == 0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accede.controller", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert not result.stdout
    return lines[0]


class TestItRefusesToStart:
    def test_on_a_port_in_use(self, tmp_path: Path, services: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            result = run("--data", str(tmp_path / "data"), "--services", str(services), "--port", port)
        assert result.returncode == 1
        assert f"127.0.0.1:{port}" in one_line(result)
        assert not (tmp_path / "data").exists(), "nothing is half-started"

    def test_beyond_loopback_without_tokens(self, tmp_path: Path, services: Path) -> None:
        result = run("--data", str(tmp_path / "data"), "--services", str(services), "--host", "0.0.0.0")
        assert result.returncode == 2
        assert "loopback only" in one_line(result)

    def test_where_it_may_not_write(self, tmp_path: Path, services: Path) -> None:
        (tmp_path / "data").write_text("a file, so no directory can be made of it")
        result = run("--data", str(tmp_path / "data"), "--services", str(services), "--port", "0")
        assert result.returncode == 1
        assert str(tmp_path / "data") in one_line(result)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_in_a_read_only_directory(self, tmp_path: Path, services: Path) -> None:
        (tmp_path / "data").mkdir(mode=0o500)
        result = run("--data", str(tmp_path / "data"), "--services", str(services), "--port", "0")
        assert result.returncode == 1
        assert "may write" in one_line(result)

    def test_beside_another_controller(self, tmp_path: Path, services: Path) -> None:
        data = tmp_path / "data"
        data.mkdir()
        with (data / LOCK_NAME).open("w") as lock:
            lock.write("4711")
            lock.flush()
            fcntl.flock(lock, fcntl.LOCK_EX)
            result = run("--data", str(data), "--services", str(services), "--port", "0")
        assert result.returncode == 1
        assert "another controller runs on this data directory" in one_line(result)
        assert "4711" in result.stderr

    def test_without_its_services_directory(self, tmp_path: Path) -> None:
        result = run("--data", str(tmp_path / "d"), "--services", str(tmp_path / "none"), "--port", "0")
        assert result.returncode == 2
        assert "no such directory" in one_line(result)

    def test_with_nothing_but_broken_files(self, tmp_path: Path) -> None:
        services = tmp_path / "services"
        services.mkdir()
        (services / "fraud.yaml").write_text("format: accede/v1\nkind: Modelservice\n")
        result = run("--data", str(tmp_path / "data"), "--services", str(services), "--port", "0")
        assert result.returncode == 2
        assert "fraud.yaml:2:7" in one_line(result)
