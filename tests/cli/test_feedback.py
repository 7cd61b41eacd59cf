"""`accede feedback` against a real controller."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ACCEDE = Path(sys.executable).with_name("accede")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """The demo's files, with an outcome declared."""
    services = tmp_path / "services"
    shutil.copytree(ROOT / "examples" / "demo", services)
    for path in services.rglob("*.yaml"):
        if "kind: ModelService" in path.read_text():
            path.write_text(path.read_text() + "\noutcome: {type: binary}\n")
    return services


@pytest.fixture
def api(tmp_path: Path, declared: Path, free_port: Callable[[], int]) -> Iterator[str]:
    address = f"http://127.0.0.1:{(port := free_port())}"
    command: list[str | Path] = [
        ACCEDE, "controller", "--services", declared, "--data", tmp_path / "data", "--api-port", str(port),
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env={**os.environ, "ACCEDE_PARENT": str(os.getpid())})
    try:
        until = time.monotonic() + 30
        while True:
            try:
                if httpx.get(f"{address}/readyz", trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(15)


def test_a_file_is_sent_in_batches_and_sending_it_again_changes_nothing(
    accede: Run, api: str, tmp_path: Path
) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("request_id,value\n" + "".join(f"r{k},{k % 2}\n" for k in range(4500)))
    first = accede("feedback", "progression", file, "-o", "json", ACCEDE_API=api)
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout) == {
        "new": 4500, "duplicates": 0, "conflicts": 0, "unknown": 4500, "expired": 0, "no_room": 0
    }  # fmt: skip
    again = accede("feedback", "progression", file, ACCEDE_API=api)
    assert again.returncode == 0, again.stderr
    assert "4500 labels sent" in again.stdout
    assert "4500 known already" in again.stdout


def test_another_value_is_said_and_ends_with_1(accede: Run, api: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text('{"request_id": "a", "value": 1}\n{"request_id": "a", "value": 0}\n')
    done = accede("feedback", "progression", file, ACCEDE_API=api)
    assert done.returncode == 1, done.stderr
    assert "1 another value is kept" in done.stdout


def test_wrong_values_are_named_by_line_and_end_with_2(accede: Run, api: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("request_id,value\na,1\nb,maybe\nc,2\n")
    done = accede("feedback", "progression", file, ACCEDE_API=api)
    assert done.returncode == 2
    assert f"{file}:3: the value is a text; allowed" in done.stderr
    assert f"{file}:4: the value is a text; allowed" in done.stderr
    assert "maybe" not in done.stderr
    malformed = tmp_path / "malformed.csv"
    malformed.write_text("request_id,value\na\n")
    done = accede("feedback", "progression", malformed, ACCEDE_API="http://127.0.0.1:9")
    assert done.returncode == 2
    assert f"{malformed}:2:1: has 1 fields" in done.stderr
