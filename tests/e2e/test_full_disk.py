"""A disk that fills up under a whole installation: store, recordings, routes and logs are all on it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from accede.router.parent.admin import admin_call

from .clients import Clients
from .conftest import ACCEDE, PREDICT, SERVICE, Stage, eventually

MIB = 2**20
POLICY = """
format: accede/v1
kind: RolloutPolicy
name: steady
baseline: {requests: 50, for: 200ms}
batch: 250ms
steps:
  - {canary: 50%, for: 10m, requests: 10}
gates:
  - {metric: errors, max_increase: 10pp, in: canary}
unattended: {action: pause, after: 5m}
"""
RECORDED = "recording: {sample: 100%, max_bytes: 1GiB, request: ['instances[0].x']}\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MiB where an installation keeps its data."""
    folder = tmp_path / "data"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> None:
    """Take every byte that is left."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        for size in (MIB, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


class Filled:
    """`accede serve` with a rollout and users, its data and its log on the disk."""

    def __init__(self, stage: Stage, disk: Path) -> None:
        self.stage = stage
        self.disk = disk
        self.log = disk / "log"
        self.log.touch()
        for version in ("1", "2"):
            stage.model(version, delay=0.003)
        (stage.folder / "services" / "credit.yaml").write_text(
            SERVICE.format(stable=stage.models["1"], candidate=stage.models["2"]) + RECORDED
        )
        serve = (
            f"exec {ACCEDE} serve --services {stage.folder / 'services'} --data {disk} "
            f"--port {stage.port} --api-port {stage.api_port} --workers 2 >>{self.log} 2>&1"
        )
        self.serving = stage.start_process("sh", "-c", serve)
        eventually(lambda: "ready: proxy" in self.log.read_text(), 20, "it is ready")
        eventually(lambda: stage.ask().status_code == 200, 10, "stable answers")
        self.clients = Clients(stage.port, PREDICT).start()
        stage.start(policy=POLICY)
        stage.until(lambda view: view["phase"] == "canary" and view["candidate_requests"] > 50)

    def router(self) -> dict[str, Any]:
        return admin_call(self.disk / "router" / "admin.sock", {"do": "status"})

    def counted(self) -> int:
        return int(self.stage.until(lambda _: True)["candidate_requests"])


@pytest.fixture
def filled(stage: Stage, disk: Path) -> Iterator[Filled]:
    made = Filled(stage, disk)
    try:
        yield made
    finally:
        made.clients.stop()


@pytest.mark.slow
def test_a_full_disk_fails_no_client_and_evidence_goes_on_when_there_is_room(filled: Filled) -> None:
    def family() -> list[int]:
        told = filled.router()
        return [child["pid"] for child in (*told["workers"], told["observer"])]

    def full() -> bool:  # what a checkpoint gives back is taken again
        fill(filled.disk)
        return bool(filled.router()["disk"] != "ok")

    before = family()
    eventually(full, 25, "the router cannot write its table")
    said = filled.log.read_text()
    assert said.count("recording to ") == 1
    assert "its disk is nearly full, the rest is kept for evidence; free space on it" in said
    assert filled.stage.until(lambda _: True)["phase"] == "canary"
    (filled.disk / "ballast").unlink()
    counted = filled.counted()
    eventually(lambda: filled.counted() > counted + 50, 20, "evidence goes on")
    eventually(lambda: filled.router()["disk"] == "ok", 15, "the table is written again")
    view = filled.stage.until(lambda _: True)
    assert view["phase"] == "canary"
    assert [check for check in view["validity"] if check["outcome"] != "pass"] == []
    assert family() == before, "a log without room must end nobody"
    assert "ended (" not in filled.log.read_text()
    assert filled.clients.failures() == []
