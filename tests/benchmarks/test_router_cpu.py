"""The router's cost per request, beside nginx on the same machine in the same minute."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"  # where Debian keeps nginx


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_request_costs_at_most_three_times_what_it_costs_nginx() -> None:
    missing = [program for program in ("nginx", "wrk") if shutil.which(program, path=PATH) is None]
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"{' and '.join(missing)} is not installed")
    assert not missing, f"install {' and '.join(missing)}: this judgement is not to be skipped here"
    program = str(ROOT / "benchmarks" / "router_cpu.py")
    given = ["--rounds", "5", "--seconds", "3", "--connections", "64", "--max-ratio", "3"]
    found = subprocess.run(
        [sys.executable, program, *given],
        env={**os.environ, "PATH": PATH}, check=False, capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    print(found.stdout)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "ratio " in found.stdout
