"""Labels that come later decide a rollout, sent by file and by API, over controllers that are killed."""

from __future__ import annotations

import json
import queue
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from accede.store.open import open_store
from tests.e2e.conftest import NAME, PREDICT, SERVICE, eventually

if TYPE_CHECKING:
    from tests.e2e.conftest import Stage

pytestmark = pytest.mark.slow

OUTCOME = SERVICE + "outcome: {{type: binary, keep: 1d}}\n"

# A label is there a second after its request, so it counts at two.
POLICY = """
format: accede/v1
kind: RolloutPolicy
name: outcomes
baseline: {requests: 200, for: 1s}
batch: 250ms
steps:
  - {shadow: 100%, until: gates, for: 1s, requests: 100, deadline: 60s}
  - {canary: 50%, until: gates, for: 2s, requests: 100, deadline: 60s}
gates:
  - {metric: errors, max_increase: 5pp, in: canary}
  - {metric: prediction.mean, max_shift: 0.5sd}
  - {metric: outcome.accuracy, max_decrease: 10pp, labels: {mature_after: 2s}IN}
"""


class Clients:
    """Threads that ask without pause, and one that sends what turned out to be true, by file and by API.

    A request with x >= 0.5 turns out to be true, but for one in twenty.
    """

    def __init__(self, stage: Stage, folder: Path, count: int = 6) -> None:
        self._stage = stage
        self._folder = folder
        self._known: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self._ending = threading.Event()
        self.asked = self.failed = self.unreachable = 0
        self.sent: dict[str, int] = {"accede feedback": 0, "api": 0}
        self.problems: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(seed,)) for seed in range(count)]
        self._threads.append(threading.Thread(target=self._tell))
        for thread in self._threads:
            thread.start()

    def _ask(self, seed: int) -> None:
        chance = random.Random(seed)
        url = f"http://127.0.0.1:{self._stage.port}{PREDICT}"
        with httpx.Client(timeout=20, trust_env=False) as client:
            while not self._ending.is_set():
                x = round(chance.uniform(0.2, 0.8), 4)
                row = {"x": x, "group": chance.choice("ab")}
                try:
                    answer = client.post(url, json={"instances": [row]})
                except httpx.HTTPError as problem:
                    self.problems.append(repr(problem))
                    return
                self.asked += 1
                self.failed += answer.status_code != 200
                self._known.put((answer.headers["x-request-id"], int((x >= 0.5) != (chance.random() < 0.05))))

    def _tell(self) -> None:
        while not self._ending.wait(0.7):
            labels = [self._known.get_nowait() for _ in range(self._known.qsize())]
            random.Random(len(labels)).shuffle(labels)
            half = len(labels) // 2
            for how, part in ((self._by_file, labels[:half]), (self._by_api, labels[half:])):
                while part and not how(part) and not self._ending.wait(0.3):
                    self.unreachable += 1  # the controller is away: the same again, until it is there

    def _by_file(self, labels: list[tuple[str, int]]) -> bool:
        file = self._folder / "labels.csv"
        file.write_text("request_id,value\n" + "".join(f"{one},{true}\n" for one, true in labels))
        done = self._stage.accede("feedback", NAME, file)
        if done.returncode == 0:
            self.sent["accede feedback"] += len(labels)
        elif not any(word in done.stderr for word in ("no controller", "reach", "broke off")):
            self.problems.append(done.stderr)
        return done.returncode == 0

    def _by_api(self, labels: list[tuple[str, int]]) -> bool:
        body = {"labels": [{"request_id": one, "value": true} for one, true in labels]}
        url = f"http://127.0.0.1:{self._stage.api_port}/api/v1/services/{NAME}/feedback"
        try:
            answer = httpx.post(url, json=body, timeout=10, trust_env=False)
        except httpx.HTTPError:
            return False
        if answer.status_code != 200:
            self.problems.append(answer.text)
        self.sent["api"] += len(labels)
        return True

    def end(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture
def clients(stage: Stage, tmp_path: Path) -> Iterator[list[Clients]]:
    started: list[Clients] = []
    yield started
    for one in started:
        one.end()


def begin(stage: Stage, clients: list[Clients], place: str | None, **candidate: Any) -> Clients:
    for version, more in (("1", {}), ("2", candidate)):
        stage.model(version, delay=0.004, **more)
    stage.serve(service=OUTCOME)
    clients.append(Clients(stage, stage.folder))
    stage.start(policy=POLICY.replace("IN", f", in: {place}" if place else ""))
    return clients[0]


def kill_controller(stage: Stage) -> None:
    """SIGKILL to the controller's process, and wait until another one answers."""
    assert stage.serving is not None
    family = psutil.Process(stage.serving.popen.pid).children()
    (controller,) = [one for one in family if "controller" in one.cmdline()]
    controller.kill()
    url = f"http://127.0.0.1:{stage.api_port}/api/v1/services"

    def answers() -> bool:
        try:
            return httpx.get(url, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    eventually(lambda: not psutil.pid_exists(controller.pid) and answers(), 60, "another controller answers")


def held(stage: Stage, rollout: str) -> tuple[int, int, int]:
    """Stored predictions, labels that were new, and predictions lost on the way."""
    store = open_store(str(stage.folder / "data"))
    try:
        told = store.labels.held(NAME)
        arms = [arm for one in store.evidence(NAME, rollout) for arm in one.arms.values()]
        return told.predictions, told.labels.new, sum(arm.unremembered for arm in arms)
    finally:
        store.close()


@pytest.mark.parametrize("place", ["shadow", "canary"])
def test_a_candidate_that_is_wrong_more_often_is_rolled_back_by_its_outcomes(
    stage: Stage, clients: list[Clients], place: str
) -> None:
    asking = begin(stage, clients, place, upside_down=0.3)
    stage.until(lambda view: view["phase"] == place, 60)
    kill_controller(stage)
    code, output = stage.watch(90)
    assert code == 3, output
    status = stage.status()
    assert status["phase"] == "rolled_back"
    assert "outcome.accuracy" in status["reason"]
    assert "max_decrease" in json.dumps(status) or "10pp" in stage.explain()
    predictions, labels, lost = held(stage, status["id"])
    assert predictions > 100
    assert labels > 100
    assert lost == 0
    assert asking.problems == []
    assert asking.failed == 0
    assert min(asking.sent.values()) > 50
    assert stage.ask().headers["x-accede-version"] == "1"


def test_an_equal_candidate_is_promoted_by_its_outcomes_over_two_killed_controllers(
    stage: Stage, clients: list[Clients]
) -> None:
    asking = begin(stage, clients, None)
    for phase in ("shadow", "canary"):
        stage.until(lambda view, phase=phase: view["phase"] == phase, 90)  # type: ignore[misc]
        time.sleep(1.0)
        kill_controller(stage)
    code, output = stage.watch(120)
    assert code == 0, output
    status = stage.status()
    assert status["phase"] == "promoted"
    found = [one["verdict"] for one in status["gates"] if one["verdict"]["gate"].startswith("outcome.")]
    assert {verdict["outcome"] for verdict in found} == {"pass"}
    _, _, lost = held(stage, status["id"])
    assert lost == 0
    assert asking.problems == []
    assert asking.failed == 0
