"""Two routers and two controllers over one Valkey, each a process of its own with a directory of its own.

The leader is killed, stopped and woken late; the store is restarted, and gone for a minute. Meanwhile nobody
who asks stable fails, nothing is decided twice, and what an operator or an approver was told is done stays
done.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from accede.cli.processes import free_ports
from accede.errors import StoreError
from accede.router.parent.admin import admin_call
from accede.store.open import open_store
from accede.store.protocol import Store
from tests.e2e.conftest import ACCEDE, HERE, NAME, PREDICT, SERVICE, Process, eventually, people
from tests.store.servers import Server

LEAD = 6.0  # seconds: controller.leading.LEAD
PATIENCE = 120.0  # seconds for processes to start beside everything else that a machine may do
GONE = 60.0  # seconds for which the store is away

LONG = """
format: accede/v1
kind: RolloutPolicy
name: long
baseline: {requests: 50, for: 200ms}
batch: 250ms
steps:
  - {canary: 20%, for: 1s, requests: 10}
  - {canary: 50%, for: 20m, requests: 10}
gates:
  - {metric: errors, max_increase: 20pp, in: canary}
unattended: {action: rollback, after: 10m}
"""
APPROVED = LONG.replace(
    "  - {canary: 50%", "  - {approve: {group: model-risk, count: 2}}\n  - {canary: 50%"
).replace("name: long", "name: approved")


class Machines:
    """Two hosts, each with a router and a controller, and a store. Everything ends with `close`.

    `shared` False: both on one machine with an embedded store, where one controller is all there can be.
    `groups`: who has a token, name -> groups; None: nobody is asked for one.
    """

    def __init__(
        self, folder: Path, *, shared: bool = True, groups: dict[str, tuple[str, ...]] | None = None
    ) -> None:
        self.folder = folder
        self.tokens = {} if groups is None else people(folder / "tokens.yaml", **groups)
        self.processes: list[Process] = []
        try:
            self._begin(folder, shared=shared)
        except BaseException:
            self.close()
            raise

    def _begin(self, folder: Path, *, shared: bool) -> None:
        self.server = Server(folder / "store", options=("--appendonly", "yes", "--appendfsync", "always"))
        self.address = f"redis://127.0.0.1:{self.server.port}" if shared else str(folder / "embedded")
        self.models = dict(zip("12", free_ports(2), strict=True))
        self.ports, self.apis = free_ports(2), free_ports(2)
        (folder / "services").mkdir()
        text = SERVICE.format(stable=self.models["1"], candidate=self.models["2"])
        (folder / "services" / "credit.yaml").write_text(text)
        (folder / "policy.yaml").write_text(LONG)
        for port in self.models.values():
            self._start(sys.executable, HERE / "model_server.py", json.dumps({"port": port, "delay": 0.002}))
        self.controllers = [self.controller(index) for index in range(2 if shared else 1)]
        self.routers = [self._router(index) for index in range(2)]
        self.store: Store = open_store(self.address)
        for index in range(2):
            eventually(lambda index=index: self.ask(index) == 200, PATIENCE, "stable answers")  # type: ignore[misc]

    def _start(self, *command: str | Path) -> Process:
        process = Process(list(command))
        self.processes.append(process)
        return process

    def controller(self, index: int) -> Process:
        """Start (again) the controller of a host."""
        return self._start(
            ACCEDE, "controller", "--store", self.address, "--data", self.folder / "controller",
            "--services", self.folder / "services",
            "--api-port", str(self.apis[index]),
            *(("--tokens", self.folder / "tokens.yaml") if self.tokens else ()),
        )  # fmt: skip

    def _router(self, index: int) -> Process:
        return self._start(
            ACCEDE, "router", "--store", self.address, "--data", self.folder / f"host{index}", "--port",
            str(self.ports[index]), "--replica", f"router-{index}", "--drain", "1",
        )  # fmt: skip

    def ask(self, router: int) -> int:
        """The status of one prediction through a router; 0 where it is not there."""
        try:
            body = {"instances": [{"x": 0.4, "group": "a"}]}
            return httpx.post(f"http://127.0.0.1:{self.ports[router]}{PREDICT}", json=body).status_code
        except httpx.HTTPError:
            return 0

    def act(self, index: int, *arguments: str, who: str = "") -> subprocess.CompletedProcess[str]:
        """A verb against a host's controller. `who`: whose token it shows."""
        environment = {**os.environ, "ACCEDE_API": f"http://127.0.0.1:{self.apis[index]}", "NO_COLOR": "1"}
        environment |= {"ACCEDE_TOKEN": self.tokens[who]} if who else {}
        command = [str(ACCEDE), *arguments]
        return subprocess.run(
            command, env=environment, check=False, capture_output=True, text=True, timeout=120
        )

    def begin(self, index: int = 0, policy: str = LONG, who: str = "") -> None:
        """Start a rollout through a host's controller."""
        file = self.folder / "policy.yaml"
        file.write_text(policy)
        begun = self.act(index, "start", NAME, "--candidate", "2", "-p", str(file), who=who)
        assert begun.returncode == 0, begun.stderr

    def leader(self, among: tuple[int, ...] = (0, 1), within: float = PATIENCE) -> int:
        """The host whose controller leads."""

        def leads() -> list[int]:
            with self.server.client() as client:
                leader = client.hgetall("accede:{accede}:leader")
            if int(leader.get(b"until", 0)) < time.time() * 1000:
                return []
            pid = int(leader[b"holder"].split(b":")[-2])
            return [index for index in among if self.controllers[index].popen.pid == pid]

        found: list[int] = eventually(leads, within, "a controller leads")
        return found[0]

    def in_force(self, router: int) -> dict[str, Any]:
        """What a router's admin socket says."""
        return admin_call(self.folder / f"host{router}" / "router" / "admin.sock", {"do": "status"}, 2.0)

    def check(self) -> None:
        """Decisions follow each other, each with one audit entry; every weight served has its record."""
        for record in self.store.rollouts(NAME):
            decisions = self.store.decisions(record.id)
            numbers = [decision.number for decision in decisions]
            assert numbers == sorted(set(numbers))
            acts = [decision.act for decision in decisions]
            entries = [e.act for e in self.store.audit(NAME, 10**6) if e.rollout == record.id]
            assert [act for act in entries if act in set(acts)] == acts
            assert acts.count("start") <= 1
            assert len([act for act in acts if act in {"promote", "abort", "rollback"}]) <= 1, acts
        (route,) = self.store.routes().routes
        newest = self.store.rollout(NAME)
        assert newest is not None
        weight = 0 if route.candidate is None else route.candidate.weight
        assert weight == (0 if newest.phase.ended or not newest.epochs else newest.epochs[-1].weight * 10_000)
        for router in range(2):
            eventually(
                lambda router=router: self.in_force(router)["generations"] == {NAME: route.generation},  # type: ignore[misc]
                20, "every router serves what the record says",
            )  # fmt: skip

    def close(self) -> None:
        for process in reversed(self.processes):
            process.popen.send_signal(signal.SIGCONT)
            process.end(signal.SIGTERM, 60)
        self.server.end()


class Clients:
    """Ask both routers all the time; every answer is kept."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._done = threading.Event()
        self.answers: list[tuple[float, int]] = []
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in (0, 1) * 2]
        for thread in self._threads:
            thread.start()

    def _ask(self, index: int) -> None:
        url = f"http://127.0.0.1:{self._machines.ports[index]}{PREDICT}"
        with httpx.Client(timeout=10.0) as client:
            while not self._done.is_set():
                try:
                    status = client.post(url, json={"instances": [{"x": 0.4, "group": "b"}]}).status_code
                except httpx.HTTPError:
                    status = 0
                self.answers.append((time.monotonic(), status))
                time.sleep(0.005)

    def end(self) -> list[int]:
        self._done.set()
        for thread in self._threads:
            thread.join()
        return [status for _, status in self.answers]


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    try:
        yield made
    finally:
        made.close()


pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(600)]


def phase(machines: Machines, wanted: Callable[[str, int | None], bool], within: float = PATIENCE) -> None:
    def there() -> bool:
        try:
            record = machines.store.rollout(NAME)
        except StoreError:  # it has been started a moment ago
            return False
        return record is not None and wanted(record.phase.value, record.step)

    eventually(there, within, "the rollout gets there")


def test_leader_killed_stopped_and_woken_late_and_the_store_restarted_and_gone(machines: Machines) -> None:
    clients = Clients(machines)
    machines.begin()
    first = machines.leader()

    # The leader is killed: the other one goes on within the lead's time.
    machines.controllers[first].popen.kill()
    other = machines.leader((1 - first,))
    phase(machines, lambda name, step: (name, step) == ("canary", 1))
    machines.controllers[first] = machines.controller(first)
    eventually(
        lambda: "stands by" in machines.controllers[first].output, PATIENCE, "the restarted one stands by"
    )

    # Whoever is asked names the leader and who stands by.
    for index in range(2):
        told = json.loads(machines.act(index, "status", NAME, "-o", "json").stdout)["controllers"]
        leads = [one["name"].split(":")[1] for one in told["controllers"] if one["leads"]]
        stands = [one["name"].split(":")[1] for one in told["controllers"] if not one["leads"]]
        assert leads == [str(machines.controllers[other].popen.pid)]
        assert stands[-1] == str(machines.controllers[first].popen.pid)
        ready = httpx.get(f"http://127.0.0.1:{machines.apis[index]}/readyz").json()
        assert (ready["ok"], ready["role"]) == (True, "leads" if index == other else "stands by")

    # The leader is stopped, an act goes through the one that stood by, and the leader wakes up late.
    stopped = machines.controllers[other]
    stopped.popen.send_signal(signal.SIGSTOP)
    assert machines.leader((first,)) == first
    paused = machines.act(first, "pause", NAME, "--reason", "INC-1")
    assert paused.returncode == 0, paused.stderr
    before = stopped.output.count("stands by")
    stopped.popen.send_signal(signal.SIGCONT)
    eventually(lambda: stopped.output.count("stands by") > before, PATIENCE, "the one that woke up stands by")
    record = machines.store.rollout(NAME)
    assert record is not None
    assert record.phase.value == "paused"
    machines.check()

    # The store is restarted.
    resumed = machines.act(other, "resume", NAME)  # through the one that stands by
    assert resumed.returncode == 0, resumed.stderr
    machines.server.kill()
    machines.server.start()
    phase(machines, lambda name, step: (name, step) == ("canary", 1))

    # The store is gone for a minute: what is in force stays, and acts are refused, not lost.
    generation = machines.in_force(0)["generations"][NAME]
    machines.server.kill()
    gone = time.monotonic()
    refused = machines.act(0, "abort", NAME, "--reason", "INC-2")
    assert refused.returncode != 0
    assert "cannot be reached" in refused.stderr
    eventually(lambda: "cannot be reached" in machines.in_force(0)["store"], 20, "the router says so")
    while time.monotonic() < gone + GONE:
        assert machines.in_force(1)["generations"][NAME] == generation
        time.sleep(1.0)
    machines.server.start()
    phase(machines, lambda name, step: (name, step) == ("canary", 1))
    aborted = eventually(
        lambda: (ended := machines.act(1, "abort", NAME, "--reason", "INC-2")).returncode == 0 and ended,
        20, "an abort is taken again",
    )  # fmt: skip
    assert aborted
    machines.check()
    answers = clients.end()
    assert len(answers) > 1000
    assert set(answers) == {200}, {status: answers.count(status) for status in set(answers)}
    record = machines.store.rollout(NAME)
    assert record is not None
    assert record.phase.value == "aborted"


def test_approvals_are_taken_or_refused_never_lost_and_never_counted_twice(tmp_path: Path) -> None:
    groups = ("model-risk",)
    machines = Machines(tmp_path, groups={"olga": (), "ben": groups, "carl": groups})

    def stand() -> list[str]:
        record = machines.store.rollout(NAME)
        assert record is not None
        return [one.by for one in record.approvals]

    def approve(index: int, who: str) -> subprocess.CompletedProcess[str]:
        return machines.act(index, "approve", NAME, who=who)

    try:
        clients = Clients(machines)
        machines.begin(policy=APPROVED, who="olga")
        first = machines.leader()
        phase(machines, lambda name, step: (name, step) == ("canary", 1))

        # The leader is killed, and the other one asked before it leads; twice at one moment by one person.
        machines.controllers[first].popen.kill()
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda _: approve(1 - first, "ben"), range(2)))
        assert [one.returncode for one in answers] == [0, 0], [one.stderr for one in answers]
        assert stand() == ["ben"]
        machines.leader((1 - first,))
        machines.controllers[first] = machines.controller(first)

        # The store is gone: whoever approves hears that it does not count.
        machines.server.kill()
        refused = approve(1 - first, "carl")
        assert refused.returncode != 0
        assert "cannot be reached" in refused.stderr
        machines.server.start()
        eventually(lambda: approve(1 - first, "ben").returncode == 0, 20, "the store takes acts again")
        assert stand() == ["ben"], "what was taken is there, what was refused is not"
        record = machines.store.rollout(NAME)
        assert record is not None
        assert (record.phase.value, record.step) == ("canary", 1)

        # The leader is stopped: through the one that stands by it counts as well, which then leads and goes
        # on by it. Whoever wakes up late approves nothing again and moves nothing back.
        leads = machines.leader()
        stopped = machines.controllers[leads]
        stopped.popen.send_signal(signal.SIGSTOP)
        eventually(lambda: approve(1 - leads, "carl").returncode == 0, PATIENCE, "the other one takes it")
        phase(machines, lambda name, step: (name, step) == ("canary", 2))
        before = stopped.output.count("stands by")
        stopped.popen.send_signal(signal.SIGCONT)
        eventually(lambda: stopped.output.count("stands by") > before, PATIENCE, "the late one stands by")
        assert stand() == ["ben", "carl"]
        entries = [(one.act, one.actor) for one in machines.store.audit(NAME, 1000)]
        assert [actor for act, actor in entries if act == "approve"] == ["ben", "carl"]
        assert ("void", "controller") not in entries
        machines.check()
        assert set(clients.end()) == {200}
    finally:
        machines.close()


def test_a_store_that_comes_back_empty_changes_nothing_for_clients_and_is_said(machines: Machines) -> None:
    clients = Clients(machines)
    machines.begin()
    phase(machines, lambda name, step: (name, step) == ("canary", 1))
    (route,) = machines.store.routes().routes
    generation = route.generation
    everywhere(machines, generation)
    machines.server.kill()
    machines.server.forget()
    machines.server.start()
    eventually(
        lambda: all("emptied or replaced" in one.output for one in machines.controllers), PATIENCE,
        "both controllers say so",
    )  # fmt: skip
    time.sleep(2.0)
    for router in range(2):
        assert machines.in_force(router)["generations"] == {NAME: generation}
    # Begun anew, a controller knows only files; routers stay with what they serve, and it says why.
    for one in machines.controllers:
        one.end()
    machines.controllers = [machines.controller(index) for index in range(2)]
    eventually(
        lambda: any("gone back in time" in one.output for one in machines.controllers), PATIENCE,
        "the leader says so",
    )  # fmt: skip
    for router in range(2):
        status = machines.in_force(router)
        assert status["generations"] == {NAME: generation}
        assert "gone back" in status["broken"][NAME]
    assert set(clients.end()) == {200}


@pytest.mark.parametrize("shared", [True, False], ids=["valkey", "sqlite"])
def test_an_abort_is_in_force_on_every_router_within_a_second(tmp_path: Path, shared: bool) -> None:
    machines = Machines(tmp_path, shared=shared)
    try:
        index = machines.leader() if shared else 0
        url = f"http://127.0.0.1:{machines.apis[index]}/api/v1/services/{NAME}"
        policy = (tmp_path / "policy.yaml").read_text()
        delays: list[float] = []
        for _ in range(60):
            body = {"candidate": "2", "actor": "ada", "policy_text": policy}
            httpx.post(f"{url}/rollouts", json=body).raise_for_status()
            (route,) = machines.store.routes().routes
            everywhere(machines, route.generation)
            began = time.monotonic()
            httpx.post(f"{url}/rollout/abort", json={"actor": "ada", "reason": "INC-3"}).raise_for_status()
            everywhere(machines, route.generation + 1)
            delays.append(time.monotonic() - began)
    finally:
        machines.close()
    delays.sort()
    median, worst = delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
    print(f"\nabort in force on 2 routers, 60 times: median {median * 1e3:.0f} ms, p99 {worst * 1e3:.0f} ms")
    assert worst < 1.0


def everywhere(machines: Machines, generation: int) -> None:
    """Wait until every worker of every router serves at least that generation."""
    deadline = time.monotonic() + 10.0
    for router in range(2):
        while machines.in_force(router)["generations"].get(NAME, 0) < generation:
            assert time.monotonic() < deadline
            time.sleep(0.005)
