"""Whatever is killed while a rollout runs, users of stable notice nothing, and decisions stay decided.

Each test starts a rollout of its own on one installation, except where a test kills so much of it that it
needs one for itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from accede.cli.client import Client
from accede.cli.processes import free_ports
from accede.router.parent.admin import admin_call
from tests.e2e.clients import Asked, Clients
from tests.e2e.conftest import NAME, PREDICT, SERVICE, Stage, eventually

# The candidate answers half of the users until somebody or something ends it.
CANARY = """
format: accede/v1
kind: RolloutPolicy
name: steady
baseline: {{requests: 50, for: 200ms}}
batch: 250ms
steps:
  - {{canary: 50%, for: 10m, requests: 10}}
gates:
  - {{metric: errors, max_increase: 10pp, in: canary}}
breaker: {{errors: 50%, over: {over}, min_requests: 20}}
unattended: {{action: rollback, after: {unattended}}}
"""

SHADOW = """
format: accede/v1
kind: RolloutPolicy
name: shadowed
baseline: {requests: 50, for: 200ms}
batch: 250ms
steps:
  - {shadow: 100%, for: 10m, requests: 10}
gates:
  - {metric: prediction.agreement, min: 90%, in: shadow}
"""

# Decided in seconds, so that a killed controller is missed at every one of its decisions.
SHORT = """
format: accede/v1
kind: RolloutPolicy
name: short
baseline: {requests: 50, for: 1s}
batch: 250ms
steps:
  - {shadow: 100%, for: 1s, requests: 50}
  - {canary: 20%, for: 1s, requests: 10}
  - {canary: 50%, until: gates, for: 1s, requests: 50, deadline: 60s}
gates:
  - {metric: errors, max_increase: 15pp, in: canary}
"""


class Installation:
    """One stage with users on it, and what is asked of it while parts of it are dead."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.clients = Clients(stage.port, PREDICT)

    def process(self, name: str) -> psutil.Process:
        """The process of a plane."""
        assert self.stage.serving is not None
        children = psutil.Process(self.stage.serving.popen.pid).children()
        (found,) = (child for child in children if name in child.cmdline())
        return found

    def router(self) -> dict[str, Any]:
        """What the router says of itself; nothing while nobody answers."""
        with contextlib.suppress(Exception):
            return admin_call(self.socket, {"do": "status"})
        return {}

    @property
    def socket(self) -> Path:
        return self.stage.folder / "data" / "router" / "admin.sock"

    def view(self) -> dict[str, Any]:
        """The rollout as the API shows it; nothing while nobody answers."""
        path = f"http://127.0.0.1:{self.stage.api_port}/api/v1/services/{NAME}/rollout"
        try:
            view: dict[str, Any] = httpx.get(path, trust_env=False, timeout=2).json()
        except (httpx.TransportError, ValueError):
            return {}
        return {} if "error" in view else view

    def until_phase(self, *phases: str, within: float = 25.0) -> dict[str, Any]:
        view: dict[str, Any] = eventually(
            lambda: (found := self.view()).get("phase") in phases and found,
            within,
            f"the rollout is {' or '.join(phases)}; it is {self.view()}",
        )
        return view

    def until_answers_of(self, *arms: str, since: float, within: float = 10.0) -> None:
        """Wait until users have got answers of all these arms to what they sent after a moment."""
        eventually(
            lambda: set(arms) <= {one.arm for one in self.clients.since(since) if not one.failed},
            within,
            f"answers of {arms}",
        )

    def begin(self, policy: str, phase: str) -> dict[str, Any]:
        """Start a rollout with healthy models and new users; returns when it is where the test needs it."""
        for version in ("1", "2"):
            port = self.stage.models[version]
            if not any(f'"port": {port},' in line for line in self._running()):
                self.stage.model(version, delay=0.003)
            self.stage.change(version, errors=0.0)
        self.clients = Clients(self.stage.port, PREDICT).start()
        with self.api() as client:
            client.start(NAME, "2", "the test", policy_text=policy, policy_file="policy.yaml")
        return self.until_phase(phase)

    def api(self) -> Client:
        return Client(f"http://127.0.0.1:{self.stage.api_port}", 10)

    def _running(self) -> list[str]:
        running = [process.popen for process in self.stage.processes if process.popen.poll() is None]
        return [str(process.args) for process in running]

    def kill_model(self, version: str) -> None:
        port = self.stage.models[version]
        for process in self.stage.processes:
            if f'"port": {port},' in str(process.popen.args):
                process.popen.kill()
                process.popen.wait()

    def rest(self) -> None:
        """No rollout and no users."""
        self.clients.stop()
        eventually(self.view, 15, "the controller answers")
        if self.view()["ended_at"] is None:
            with self.api() as client:
                client.act(NAME, "abort", "the test", "it is over")
        eventually(
            lambda: self.router().get("generations", {}).get(NAME) == self.view().get("generation", -1),
            10,
            "every worker serves stable alone",
        )


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[Installation]:
    stage = Stage(folder, lambda: free_ports(1)[0])
    try:
        stage.model("1", delay=0.003)
        stage.model("2", delay=0.003)
        # Without fallback users see the candidate's failures themselves, and so does a test of who saw them.
        stage.serve(workers=2, service=SERVICE + "fallback: false\n")
        yield Installation(stage)
    finally:
        stage.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("installation")) as one:
        yield one


@pytest.fixture
def begin(shared: Installation) -> Iterator[Callable[..., Installation]]:
    """Starts a rollout on the shared installation, which rests again after the test."""

    def start(
        policy: str = "", phase: str = "canary", over: str = "5s", unattended: str = "5m"
    ) -> Installation:
        shared.begin(policy or CANARY.format(over=over, unattended=unattended), phase)
        return shared

    yield start
    shared.rest()


def of_candidate(one: Asked) -> bool:
    return one.arm == "candidate"


class TestKilled:
    def test_the_observer_costs_no_request_and_evidence_goes_on(
        self, begin: Callable[..., Installation]
    ) -> None:
        here = begin()
        before = here.router()["observer"]
        os.kill(before["pid"], signal.SIGKILL)
        eventually(lambda: here.router()["observer"]["pid"] not in (0, before["pid"]), 10, "a new observer")
        seen = here.view()
        eventually(
            lambda: here.view()["candidate_requests"] > seen["candidate_requests"] + 20, 15, "new evidence"
        )
        assert here.clients.failures() == []
        assert here.view()["phase"] == "canary"

    def test_a_worker_costs_what_was_in_flight_on_it(self, begin: Callable[..., Installation]) -> None:
        here = begin()
        before = [worker["pid"] for worker in here.router()["workers"]]
        killed = time.monotonic()
        os.kill(before[0], signal.SIGKILL)
        eventually(
            lambda: (
                here.router()["ready"]
                and not {0, before[0]} & {worker["pid"] for worker in here.router()["workers"]}
            ),
            10,
            "a new worker",
        )
        here.until_answers_of("stable", "candidate", since=time.monotonic())
        # A connection to the dead worker fails once, with what was on its way or about to be sent.
        failed = here.clients.failures()
        assert [one for one in failed if one.fresh and one.sent > killed] == []
        assert len(failed) <= 6
        assert all(one.done < killed + 2 for one in failed), failed
        assert here.view()["phase"] == "canary"

    def test_the_parent_is_started_again_and_serves_what_it_knew(
        self, begin: Callable[..., Installation]
    ) -> None:
        here = begin()
        before = here.view()
        router = here.process("router")
        family = router.children(recursive=True)
        router.kill()
        eventually(lambda: here.router().get("ready"), 20, "a new router with its routes")
        back = time.monotonic()
        here.until_answers_of("stable", "candidate", since=back)
        assert [one for one in here.clients.since(back) if one.failed] == []
        eventually(lambda: not any(one.is_running() for one in family), 15, "the old workers are gone")
        after = here.view()
        assert {key: after[key] for key in ("id", "phase", "step", "generation", "weight")} == {
            key: before[key] for key in ("id", "phase", "step", "generation", "weight")
        }
        eventually(
            lambda: here.view()["candidate_requests"] > after["candidate_requests"] + 20, 15, "new evidence"
        )

    def test_the_shadow_costs_no_request_and_promotes_nothing(
        self, begin: Callable[..., Installation]
    ) -> None:
        here = begin(SHADOW, "shadow")
        eventually(lambda: here.view()["candidate_requests"] > 100, 10, "pairs")
        here.kill_model("2")
        # Copies without an answer are disagreements, not silence.
        ended = here.until_phase("rolled_back", within=20.0)
        assert "prediction.agreement" in ended["reason"]
        here.until_answers_of("stable", since=time.monotonic())
        assert here.clients.failures() == []
        assert {one.arm for one in here.clients.asked} == {"stable"}


class TestBreaker:
    @pytest.mark.parametrize("killed", [False, True], ids=["answers 500", "is dead"])
    def test_a_candidate_that_always_fails_is_cut_off_within_its_seconds(
        self, begin: Callable[..., Installation], killed: bool
    ) -> None:
        here = begin(over="5s")
        broken = time.monotonic()
        if killed:
            here.kill_model("2")
        else:
            here.stage.change("2", errors=1.0)
        ended = here.until_phase("rolled_back")
        assert "breaker" in ended["reason"]
        here.until_answers_of("stable", since=time.monotonic())
        failed = here.clients.failures()
        assert here.clients.failures(besides=of_candidate) == []
        assert failed
        assert max(one.sent for one in failed) < broken + 5
        assert here.stage.serving is not None
        assert f"breaker of {NAME}: " in here.stage.serving.output
        assert "breaker" in here.stage.explain()


class TestUnattended:
    def test_routers_return_to_stable_alone_and_the_controller_decides_when_it_is_back(
        self, begin: Callable[..., Installation]
    ) -> None:
        here = begin(unattended="2s")
        controller = here.process("controller")
        controller.suspend()
        try:
            held = eventually(lambda: here.router()["held"].get(NAME), 10, "the router holds the service")
            alone = time.monotonic()
            assert "no controller has renewed it for 2 s" in held
            assert here.stage.serving is not None
            here.until_answers_of("stable", since=alone + 1)
            assert not [one for one in here.clients.since(alone + 1) if of_candidate(one)]
        finally:
            controller.resume()
        ended = here.until_phase("rolled_back")
        assert "unattended" in ended["reason"]
        here.until_answers_of("stable", since=time.monotonic())
        assert not [one for one in here.clients.since(alone + 1) if of_candidate(one)]
        assert here.clients.failures() == []
        eventually(lambda: not here.router()["held"], 5, "the decision has released the service")


class TestAbort:
    def test_no_user_gets_the_candidate_a_second_later(self, begin: Callable[..., Installation]) -> None:
        here = begin()
        here.until_answers_of("candidate", since=0)
        assert here.stage.accede("abort", NAME, "--reason", "INC-7").returncode == 0
        returned = time.monotonic()
        here.until_answers_of("stable", since=returned + 1.5)
        assert [one for one in here.clients.since(returned + 1.0) if of_candidate(one)] == []
        assert here.clients.failures() == []

    def test_no_copy_reaches_the_shadow_a_second_later(self, begin: Callable[..., Installation]) -> None:
        here = begin(SHADOW, "shadow")
        before = here.stage.counts("2")["shadowed"]
        eventually(lambda: here.stage.counts("2")["shadowed"] > before + 20, 5, "copies")
        assert here.stage.accede("abort", NAME, "--reason", "INC-8").returncode == 0
        returned = time.monotonic()
        eventually(lambda: time.monotonic() >= returned + 1.0, 2, "a second")
        copied = here.stage.counts("2")
        here.until_answers_of("stable", since=time.monotonic() + 1.0)
        assert here.stage.counts("2") == copied
        assert here.clients.failures() == []

    def test_directly_it_needs_no_controller_which_learns_of_it_when_it_is_back(
        self, begin: Callable[..., Installation]
    ) -> None:
        here = begin()
        here.until_answers_of("candidate", since=0)
        controller = here.process("controller")
        controller.suspend()
        try:
            aborted = here.stage.accede("abort", NAME, "--direct", here.socket, "--reason", "INC-9")
            returned = time.monotonic()
            assert aborted.returncode == 0, aborted.stderr
            assert "2 of 2 workers" in aborted.stdout
            here.until_answers_of("stable", since=returned + 1.5)
        finally:
            controller.resume()
        ended = here.until_phase("aborted")
        assert "INC-9" in ended["reason"]
        here.until_answers_of("stable", since=time.monotonic() + 1.0)
        assert [one for one in here.clients.since(returned + 1.0) if of_candidate(one)] == []
        assert here.clients.failures() == []


def test_a_controller_killed_at_every_step_repeats_and_skips_none(tmp_path: Path) -> None:
    with installed(tmp_path) as here:
        begun = here.begin(SHORT, "baseline")
        for phase in ("baseline", "shadow", "canary"):
            here.until_phase(phase)
            here.process("controller").kill()
        ended = here.until_phase("promoted", within=60)
        back = time.monotonic()
        eventually(
            lambda: "2" in {one.version for one in here.clients.since(back)}, 5, "answers of version 2"
        )
        assert here.clients.stop()
        assert here.clients.failures() == []
        assert ended["id"] == begun["id"]
        assert here.stage.serving is not None
        assert here.stage.serving.output.count("controller ended (signal 9)") == 3
        history = httpx.get(f"http://127.0.0.1:{here.stage.api_port}/api/v1/services/{NAME}/history").json()
        moved = [(one["act"], one["detail"].get("step")) for one in history["entries"] if one["rollout"]]
        assert [one for one in moved if one[0] in {"start", "advance", "promote"}] == [
            ("start", None),
            ("advance", "1"),
            ("advance", "2"),
            ("advance", "3"),
            ("promote", "3"),
        ]
        assert not {"rollback", "abort", "pause"} & {act for act, _ in moved}
