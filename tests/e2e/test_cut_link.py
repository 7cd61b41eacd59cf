"""A router in a network of its own, whose link to the store is cut and mended while its clients reach it.

Packets vanish there as between two hosts: nothing answers, nothing refuses. Needs the right to make network
namespaces (root with CAP_NET_ADMIN); skipped elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from accede.cli.processes import free_ports
from accede.errors import AccedeError
from accede.router.parent.admin import admin_call
from accede.store.evidence import merge
from accede.store.open import open_store
from accede.store.protocol import Store
from accede.store.rollouts import RolloutRecord
from tests.e2e.conftest import ACCEDE, HERE, NAME, PREDICT, SERVICE, Process, eventually
from tests.store.servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

PATIENCE = 60.0
SHORT = 6.0  # seconds; longer than a call on a store takes to end, shorter than UNATTENDED
UNATTENDED = 10.0

POLICY = """
format: accede/v1
kind: RolloutPolicy
name: long
baseline: {requests: 50, for: 200ms}
batch: 250ms
steps:
  - {canary: 50%, for: 20m, requests: 10}
gates:
  - {metric: errors, max_increase: 20pp, in: canary}
unattended: {action: rollback, after: 10s}
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Network:
    """A namespace with two links to this one: `store`, which can be cut, and `users`. Ends with `close`."""

    def __init__(self) -> None:
        tag = f"{os.getpid() % 100_000}"
        self.name = f"accede{tag}"
        self._near = {"store": f"acs{tag}", "users": f"acu{tag}"}
        net = 2 * (os.getpid() % 100)
        # TEST-NET-1 and -2 of RFC 5737, which nobody uses.
        self.here = {"store": f"198.51.100.{1 + net}", "users": f"203.0.113.{1 + net}"}
        self.there = {"store": f"198.51.100.{2 + net}", "users": f"203.0.113.{2 + net}"}
        ip("netns", "add", self.name)
        try:
            self._inside("link", "set", "lo", "up")
            for link, near in self._near.items():
                far = f"{near}x"
                ip("link", "add", near, "type", "veth", "peer", "name", far)
                ip("link", "set", far, "netns", self.name)
                ip("addr", "add", self.here[link], "peer", self.there[link], "dev", near)
                self._inside("addr", "add", self.there[link], "peer", self.here[link], "dev", far)
                ip("link", "set", near, "up")
                self._inside("link", "set", far, "up")
        except BaseException:
            self.close()
            raise

    def _inside(self, *arguments: str) -> None:
        ip("-n", self.name, *arguments)

    def command(self, *words: str | Path) -> list[str | Path]:
        return ["ip", "netns", "exec", self.name, *words]

    def cut(self) -> None:
        """Every packet between the router and the store is lost from here on."""
        ip("link", "set", self._near["store"], "down")  # this end: over there everything still looks well

    def mend(self) -> None:
        ip("link", "set", self._near["store"], "up")

    def close(self) -> None:
        for near in self._near.values():
            with suppress(subprocess.CalledProcessError):
                ip("link", "del", near)
        ip("netns", "del", self.name)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2 to make a network namespace")
    try:
        made = Network()
    except (subprocess.CalledProcessError, OSError) as problem:
        told = getattr(problem, "stderr", b"") or str(problem).encode()
        pytest.skip(f"the kernel forbids network namespaces here: {told.decode().strip()}")
    yield made
    made.close()


class Hosts:
    """Store and controller here; router and model servers there."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder, self.network = folder, network
        options = ("--bind", "127.0.0.1", network.here["store"], "--protected-mode", "no")
        self.server = Server(folder / "store", options=options)
        self.processes: list[Process] = []
        self.store: Store | None = None
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        models = free_ports(2)
        (port, self.api) = free_ports(2)
        self.url = f"http://{self.network.there['users']}:{port}{PREDICT}"
        (self.folder / "services").mkdir()
        text = SERVICE.format(stable=models[0], candidate=models[1])
        (self.folder / "services" / "credit.yaml").write_text(text)
        (self.folder / "policy.yaml").write_text(POLICY)
        for model in models:
            self._start(
                *self.network.command(sys.executable, HERE / "model_server.py", json.dumps({"port": model}))
            )
        here = f"redis://127.0.0.1:{self.server.port}"
        self._start(
            ACCEDE, "controller", "--store", here, "--data", self.folder / "controller",
            "--services", self.folder / "services", "--api-port", str(self.api),
        )  # fmt: skip
        self.router = self._start(*self.network.command(
            ACCEDE, "router", "--store", f"redis://{self.network.here['store']}:{self.server.port}",
            "--data", self.folder / "host", "--host", "0.0.0.0", "--port", str(port),
            "--replica", "router-1",
        ))  # fmt: skip
        self.store = open_store(here)
        eventually(lambda: ask(self.url) == 200, PATIENCE, "stable answers")

    def _start(self, *command: str | Path) -> Process:
        process = Process(list(command))
        self.processes.append(process)
        return process

    def record(self) -> RolloutRecord:
        assert self.store is not None
        with suppress(AccedeError):
            record = self.store.rollout(NAME)
            if record is not None:
                return record
        pytest.fail("no rollout")

    def counts(self) -> tuple[int, int]:
        """Requests that evidence has accounted, and that the router's report has assigned, of the rollout."""
        assert self.store is not None
        rollout = self.record().id
        parts = self.store.evidence(NAME, rollout)
        epochs = {part.epoch for part in parts}
        accounted = 0
        for epoch in epochs:
            total = merge([part for part in parts if part.epoch == epoch])
            assert total is not None
            accounted += sum(arm.accounted for arm in total.arms.values())
        (report,) = self.store.reports()
        assigned = sum(n for key, n in report.assigned.items() if key.startswith(f"{NAME}|{rollout}|"))
        return accounted, assigned

    def status(self) -> dict[str, Any]:
        return admin_call(self.folder / "host" / "router" / "admin.sock", {"do": "status"}, 2.0)

    def close(self) -> None:
        for process in reversed(self.processes):
            process.end(signal.SIGTERM, 60)
        if self.store is not None:
            self.store.close()
        self.server.end()


def ask(url: str, client: Any = httpx) -> int:
    try:
        status: int = client.post(url, json={"instances": [{"x": 0.4, "group": "a"}]}).status_code
    except httpx.HTTPError:
        return 0
    return status


class Users:
    """Ask all the time from here; every answer's status is kept."""

    def __init__(self, url: str) -> None:
        self.statuses: list[int] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(url,))
        self._thread.start()

    def _ask(self, url: str) -> None:
        with httpx.Client(timeout=10.0) as client:
            while not self._done.is_set():
                self.statuses.append(ask(url, client))
                time.sleep(0.01)

    def end(self) -> None:
        self._done.set()
        self._thread.join()


@pytest.fixture
def hosts(tmp_path: Path, network: Network) -> Iterator[Hosts]:
    made = Hosts(tmp_path, network)
    yield made
    made.close()


def within(seconds: float, condition: Callable[[], object], what: str) -> None:
    eventually(condition, seconds, what)


def test_a_link_that_is_cut_for_a_while_loses_nothing_and_one_cut_for_long_ends_the_canary(
    hosts: Hosts, network: Network
) -> None:
    users = Users(hosts.url)
    try:
        started = httpx.post(
            f"http://127.0.0.1:{hosts.api}/api/v1/services/{NAME}/rollouts",
            json={"candidate": "2", "actor": "ada", "policy_text": POLICY},
        )
        started.raise_for_status()
        within(PATIENCE, lambda: hosts.record().phase.value == "canary", "the canary begins")
        within(PATIENCE, lambda: hosts.counts()[0] > 200, "evidence comes in")

        # For a while: the canary goes on as it is, and what was seen meanwhile counts when it is over.
        before = hosts.counts()[0]
        network.cut()
        time.sleep(SHORT)
        assert hosts.status()["store"] != "ok"
        assert hosts.status()["held"] == {}
        stood = hosts.counts()[0]
        network.mend()
        within(PATIENCE, lambda: hosts.status()["store"] == "ok", "the router reaches the store again")
        within(PATIENCE, lambda: hosts.counts()[0] > stood + (stood - before) + 200, "evidence goes on")
        assert hosts.record().phase.value == "canary"

        # For longer than a lease: the router returns to stable by itself; the controller ends the rollout.
        network.cut()
        within(UNATTENDED + 15.0, lambda: "lease" in str(hosts.status()["held"]), "the router gives up")
        assert hosts.record().phase.value == "canary"  # of which the controller can know nothing yet
        network.mend()
        within(PATIENCE, lambda: hosts.record().phase.ended, "the rollout ends")
        record = hosts.record()
        assert record.phase.value == "rolled_back"
        assert "router-1 was unattended and returned to stable by itself" in record.reason
        users.end()
        within(PATIENCE, lambda: len(set(hosts.counts())) == 1, "every assigned request is accounted")
    finally:
        users.end()
    assert len(users.statuses) > 500
    assert set(users.statuses) == {200}, {one: users.statuses.count(one) for one in set(users.statuses)}
