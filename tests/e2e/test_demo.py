"""`accede demo` as a newcomer runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from accede.cli.demo.models import CANDIDATES, STABLE, load_data
from accede.cli.demo.truth import require_good, truth_of
from accede.errors import AccedeError
from accede.policies.load import load_policy

ACCEDE = Path(sys.executable).with_name("accede")
POLICY = Path(__file__).resolve().parents[2] / "examples" / "demo" / "policy.yaml"


def gone(family: list[psutil.Process], within: float = 20.0) -> bool:
    _, alive = psutil.wait_procs(family, within)
    return not alive


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.Popen(
        [ACCEDE, "demo", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_the_biased_candidate_is_rolled_back_for_the_slice_it_harms(tmp_path: Path) -> None:
    process = start("--scenario", "biased", "-o", "json", folder=tmp_path)
    try:
        output, story = process.communicate(timeout=110)
    finally:
        process.kill()
    assert process.returncode == 0, story
    (end,) = json.loads(output)
    assert (end["scenario"], end["phase"]) == ("biased", "rolled_back")
    for shown in ("selection_rate", "sex=2", "margin 5", "$ accede explain progression"):
        assert shown in story
    assert "sex=1" not in end["reason"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_stopped_half_way_it_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    process = start("--scenario", "good", folder=tmp_path)
    try:
        assert process.stdout is not None
        while "accede serve" not in process.stdout.readline():
            assert process.poll() is None
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert gone(family)
        assert list(tmp_path.iterdir()) == []
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_killed_it_leaves_no_process_behind(tmp_path: Path) -> None:
    process = start("--scenario", "good", folder=tmp_path)
    try:
        assert process.stdout is not None
        while "capacity here" not in process.stdout.readline():
            assert process.poll() is None
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        assert gone(family)
    finally:
        process.communicate()


def test_without_scikit_learn_one_line_says_how_to_install_it() -> None:
    program = """
import sys
from accede.cli.main import main
sys.modules["sklearn"] = None
sys.argv[1:] = ["demo"]
main()
"""
    found = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.count("\n") == 1
    assert "pip install '.[demo]'" in found.stderr


def truth(scenario: str) -> Any:
    return truth_of(STABLE, CANDIDATES[scenario], 0.2, load_data())


def test_the_good_candidate_is_good_by_the_data_and_the_biased_one_is_not() -> None:
    policy = load_policy(POLICY)
    assert "below 25%" in require_good(truth("good"), policy)
    with pytest.raises(AccedeError, match="more than a quarter of the margin"):
        require_good(truth("biased"), policy)


def test_the_biased_candidate_passes_every_gate_on_the_whole() -> None:
    # Otherwise the demo would not show what slices are for.
    biased = truth("biased")
    assert abs(biased.mean_shift) < 0.15
    assert biased.agreement > 0.95
    assert abs(biased.selection_shift["1"]) < 0.0125
    assert biased.selection_shift["2"] < -0.1
