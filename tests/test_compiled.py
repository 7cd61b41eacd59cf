"""The compiled wheel is the same router: it builds, and the router's own tests pass against it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the compiled package, to be put on PYTHONPATH."""
    folder = tmp_path_factory.mktemp("compiled")
    built = subprocess.run(
        [ROOT / "scripts" / "wheel", "--compiled", folder], check=False, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("accede-*.whl")
    assert "linux" in wheel.name or "macosx" in wheel.name, "a compiled wheel names its platform"
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def environment(site: Path) -> dict[str, str]:
    # Safe path: `python -m` must not find the sources in the working folder first.
    return {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_routers_tests_pass_against_the_compiled_data_path(compiled: Path) -> None:
    where = subprocess.run(
        [sys.executable, "-c", "import accede.router.proxy.exchange as module; print(module.__file__)"],
        cwd=ROOT, env=environment(compiled), check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert where.strip().endswith(".so"), where
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow and not interpreted",
         "-n", "3", "--dist", "loadfile",  # they wait most of the time
         "-p", "no:cacheprovider", "tests/router/proxy", "tests/router/test_faults.py"],
        cwd=ROOT, env=environment(compiled), check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-8000:]
