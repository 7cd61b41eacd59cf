"""The Dockerfile's own commands, run here in folders of the test instead of in layers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

Stage = list[tuple[str, str]]


def stages() -> dict[str, Stage]:
    """Name of a stage -> its instructions with their arguments, the first being FROM."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    found: dict[str, Stage] = {}
    stage: Stage = []
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = found[name] = [("FROM", base)]
        elif word and not word.startswith("#"):
            stage.append((word, rest))
    return found


def lineage(name: str) -> Stage:
    """The instructions of a stage with those of the stages it is built from."""
    own = stages()[name]
    base = own[0][1]
    return [*(lineage(base) if base in stages() else []), *own]


def test_images_end_as_a_user_that_is_not_root_and_start_the_command() -> None:
    for name in ("router", "controller"):
        words = dict(lineage(name))
        assert words["USER"] == "10001:10001"
        assert words["ENTRYPOINT"] == '["accede"]'
        assert f'"{name}"' in words["CMD"]
        copied = [rest for word, rest in lineage(name) if word == "COPY"]
        assert copied == [f"--from=build-{name} /opt/accede /opt/accede"], "no source and no compiler"
    assert list(stages())[-1] == "controller", "the default"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_image_of_routers_runs_without_numpy_and_scipy(tmp_path: Path) -> None:
    source = tmp_path / "src"
    ignored = {
        line.strip("*/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"
    }
    shutil.copytree(ROOT, source, symlinks=True, ignore=lambda _, names: [n for n in names if n in ignored])
    places = {"/opt/accede": tmp_path / "opt", "/wheels": tmp_path / "wheels", "/build": tmp_path / "build"}
    for word, command in lineage("build-router"):
        if word != "RUN" or "apt-get" in command:  # a compiler is here
            continue
        for named, place in places.items():
            command = re.sub(rf"(?<![\w.]){named}(?=[/ ]|$)", str(place), command)  # noqa: PLW2901
        environment = {**os.environ, "PATH": f"{Path(sys.executable).resolve().parent}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "-ec", command], cwd=source, env=environment, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    python = places["/opt/accede"] / "bin" / "python"
    for missing in ("numpy", "scipy", "starlette"):
        assert subprocess.run(
            [python, "-c", f"import {missing}"], check=False, capture_output=True
        ).returncode
    said = subprocess.run(
        [python, "-c", "import accede.router.proxy.heads as h, redis; print(h.__file__)"],
        check=True, capture_output=True, text=True, cwd=tmp_path,
    ).stdout  # fmt: skip
    assert said.strip().endswith(".so"), "the data path is compiled"
    accede = places["/opt/accede"] / "bin" / "accede"
    helped = subprocess.run([accede, "router", "--help"], check=True, capture_output=True, text=True)
    assert "--probe-port" in helped.stdout
    direct = subprocess.run(
        [accede, "abort", "s", "--direct", str(tmp_path / "none.sock")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (direct.returncode, "none.sock" in direct.stderr) == (1, True), direct.stderr
