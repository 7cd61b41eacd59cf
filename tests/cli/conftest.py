"""The command as a user runs it: the installed script, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

ACCEDE = Path(sys.executable).with_name("accede")
ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def accede() -> Run:
    """Runs the command; keyword arguments are added to the environment."""

    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ACCEDE_")}
        return subprocess.run(
            [ACCEDE, *arguments],
            env={**clean, **environment},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def controller(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[str]:
    """The address of a real controller over examples/demo. No router runs: rollouts stay in the baseline."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command: list[str | Path] = [
        ACCEDE, "controller", "--services", ROOT / "examples" / "demo", "--data", tmp_path / "data",
        "--api-port", str(port),
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
            assert time.monotonic() < until, "the controller is not ready within 30 s"
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait(15)
