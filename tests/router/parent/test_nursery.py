"""The nursery: what it forks shares memory with the parent, holds what it was given, and is forked anew."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.router.parent.test_parent import RouterProcess, commit, poll, route

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux only")


@pytest.fixture
def served(tmp_path: Path, stable: Any, candidate: Any) -> Iterator[RouterProcess]:
    (tmp_path / "store").mkdir()
    commit(tmp_path, route(stable.url, candidate.url))
    router = RouterProcess(tmp_path)
    yield router.ready()
    router.end()


def pids(router: RouterProcess) -> dict[str, int]:
    told = router.status()
    found = {f"worker {index}": worker["pid"] for index, worker in enumerate(told["workers"])}
    return {**found, "observer": told["observer"]["pid"], "nursery": told["nursery"]}


def links(pid: int) -> list[str]:
    """What its descriptors lead to."""
    found: list[str] = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it may be closed while we look
            found.append(str(path.readlink()))
    return found


def inode(link: str) -> str:
    return re.sub(r"\D", "", link)


def listening(pid: int) -> set[str]:
    """Inodes of the TCP sockets that it holds and that listen."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listen = {line.split()[9] for line in lines if line.split()[3] == "0A"}
    return {inode(link) for link in links(pid) if link.startswith("socket:")} & listen


def test_children_share_most_of_what_the_parent_has_loaded(served: RouterProcess) -> None:
    for name, pid in pids(served).items():
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        shared = int(re.search(r"Shared_Dirty:\s+(\d+)", text).group(1))  # type: ignore[union-attr]
        # Pages that a process has written are shared only with those it was forked from or with.
        assert shared > 6 * 1024, f"{name} shares {shared} KiB"


def test_they_are_named_and_the_parents_own(served: RouterProcess) -> None:
    found = pids(served)
    named = {name: psutil.Process(pid).name() for name, pid in found.items()}
    assert named == {
        "worker 0": "accede-worker", "worker 1": "accede-worker",
        "observer": "accede-observer", "nursery": "accede-nursery",
    }  # fmt: skip
    assert {psutil.Process(pid).ppid() for pid in found.values()} == {served.process.pid}
    assert all(os.getsid(pid) == pid for pid in found.values()), "a terminal's interrupt is the parent's"


def test_no_descriptor_leaks_into_a_child(served: RouterProcess) -> None:
    found = pids(served)
    mine = listening(found["worker 0"]), listening(found["worker 1"])
    assert [len(one) for one in mine] == [1, 1]
    assert mine[0] != mine[1], "each worker has a socket of its own"
    assert listening(found["observer"]) == set()
    nursery = links(found["nursery"])
    assert len([link for link in nursery if link.startswith("socket:")]) == 1, nursery
    lock = str(served.folder / "router" / "lock")
    assert all(lock not in links(pid) for pid in found.values()), "or a router's lock would outlive it"


def test_a_killed_child_is_forked_anew(served: RouterProcess) -> None:
    before = pids(served)
    os.kill(before["worker 0"], signal.SIGKILL)
    poll(lambda: served.status()["workers"][0]["restarts"] == 1 and served.status()["ready"])
    after = pids(served)
    assert after["worker 0"] not in before.values()
    assert psutil.Process(after["worker 0"]).name() == "accede-worker"
    assert after["nursery"] == before["nursery"]
    assert any("worker 0 was killed by signal SIGKILL" in line for line in served.said)
    assert not psutil.pid_exists(before["worker 0"]), "it was waited for"


def test_a_nursery_that_dies_takes_nobody_along_and_children_start_without_it(served: RouterProcess) -> None:
    before = pids(served)
    os.kill(before["nursery"], signal.SIGKILL)
    assert served.arms() == {"stable", "candidate"}
    assert {name: pid for name, pid in pids(served).items() if name != "nursery"} == {
        name: pid for name, pid in before.items() if name != "nursery"
    }
    for name in ("worker 0", "observer"):
        os.kill(before[name], signal.SIGKILL)

    def back() -> bool:
        told = served.status()
        restarts = told["workers"][0]["restarts"], told["observer"]["restarts"]
        return bool(told["ready"] and told["observer"]["table"] and restarts == (1, 1))

    poll(back)
    after = pids(served)
    assert after["worker 0"] != before["worker 0"]
    assert "accede.router.proxy.worker" in psutil.Process(after["worker 0"]).cmdline()
    assert any("the nursery is gone" in line for line in served.said)
    assert served.arms() == {"stable", "candidate"}
    os.kill(before["worker 1"], signal.SIGKILL)  # one that it had forked: the parent still hears of its end
    poll(lambda: served.status()["workers"][1]["restarts"] == 1 and served.status()["ready"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_at_once_drains_and_ends_all(served: RouterProcess, number: signal.Signals) -> None:
    family = [psutil.Process(served.process.pid), *psutil.Process(served.process.pid).children()]
    for process in family:  # as an init system does that ends a whole group
        with contextlib.suppress(psutil.NoSuchProcess):  # the first may have ended the others
            process.send_signal(number)
    assert served.process.wait(30) == 0
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []


def test_a_killed_parent_leaves_no_nursery(served: RouterProcess) -> None:
    family = psutil.Process(served.process.pid).children()
    served.process.kill()
    served.process.wait()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []


def test_a_router_loads_no_library_that_it_does_not_need() -> None:
    asked = "import sys, accede.router.parent.process; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    # Every process of the router would carry them: pydantic alone takes 7 MiB.
    assert (
        set(found.stdout.split()) & {"pydantic", "yaml", "numpy", "scipy", "typer", "httpx", "redis"} == set()
    )
