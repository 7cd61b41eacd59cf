"""What Linux says about processes and about this machine: CPU, memory, descriptors. Never a host's name."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
_NANO = 1e-9


class Cpu(NamedTuple):
    """CPU seconds so far: all of it, and the kernel's and user's parts in whole ticks (1/100 s)."""

    total: float
    user: float
    system: float


def cpu(pids: list[int]) -> Cpu:
    """CPU of all threads of `pids`; a process that is gone counts nothing.

    The total comes from schedstat (nanoseconds) where the kernel keeps it, else from stat.
    """
    total = user = system = 0.0
    for pid in pids:
        folder = Path(f"/proc/{pid}")
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            spent = (int(fields[11]) + int(fields[12])) / TICKS
            user += int(fields[11]) / TICKS
            system += int(fields[12]) / TICKS
            precise = 0.0
            for thread in (folder / "task").iterdir():
                precise += int((thread / "schedstat").read_text().split()[0]) * _NANO
            # Threads that have ended are in stat alone; ticks are coarse, so only a clear excess counts.
            total += precise if precise > spent - 0.1 else spent
        except (OSError, IndexError):
            continue
    return Cpu(total, user, system)


class Memory(NamedTuple):
    """Bytes. `pss`: shared pages divided among those who share them."""

    pss: int
    rss: int


def memory(pids: list[int]) -> Memory:
    """Summed over `pids`; a process that is gone counts nothing."""
    found = {"Pss": 0, "Rss": 0}
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        for name in found:
            line = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
            found[name] += int(line.group(1)) * 1024 if line else 0
    return Memory(found["Pss"], found["Rss"])


def descriptors(pid: int) -> int:
    """Open file descriptors, or -1 where the process is gone."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return -1


def children(pid: int) -> list[int]:
    """Child processes of `pid`."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


# Asked of the interpreter that runs the router: how it was built, whether our data path is compiled there.
_ASK = """
import importlib.util, json, pathlib, platform, sysconfig
built = "with" if "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "") else "without"
folder = pathlib.Path(importlib.util.find_spec("accede.router.proxy").origin).parent
print(json.dumps({
    "python": f"{platform.python_version()}, built {built} profile-guided optimisation",
    "data path": "compiled" if list(folder.glob("*.so")) else "pure Python",
}))
"""


def described(python: str, folder: Path) -> dict[str, str]:
    """CPU model, cores, kernel, and the router's interpreter: all that a report may say about the machine.

    `folder`: where the router is started, since a checkout there is imported before what is installed.
    """
    asked = subprocess.run([python, "-c", _ASK], check=True, capture_output=True, text=True, cwd=folder)
    interpreter: dict[str, str] = json.loads(asked.stdout)
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": ".".join(re.findall(r"\d+", platform.release())[:2]),
        **interpreter,
    }


class Places(NamedTuple):
    """Which cores the proxies have, and which everything else (load, upstreams, observer, parent)."""

    proxy: set[int]
    rest: set[int]


def places(*, pinned: bool) -> Places:
    """One core for the proxy and the others for the rest, as far as there are enough."""
    cores = sorted(os.sched_getaffinity(0))
    if not pinned or len(cores) < 2:
        return Places(set(cores), set(cores))
    return Places({cores[0]}, set(cores[1:]))


def put_ahead(pid: int) -> None:
    """Weigh the session of `pid` 86 times what others weigh; root only, where Linux weighs them (autogroups).

    All of a scene are equal again. Niceness would order only the processes of one session.
    """
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text("-20")


def pin(pids: list[int], cores: set[int]) -> None:
    """Keep every thread of `pids` on `cores`."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)
