"""A whole installation on free ports: model servers, `accede serve` and load, each a process of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

HERE = Path(__file__).parent
ACCEDE = Path(sys.executable).with_name("accede")
NAME = "credit"
PREDICT = f"/v1/models/{NAME}:predict"

SERVICE = """
format: accede/v1
kind: ModelService
name: credit
match: {{path: /v1/models/credit}}
protocol: kserve-v1
versions:
  "1": {{url: "http://127.0.0.1:{stable}"}}
  "2": {{url: "http://127.0.0.1:{candidate}"}}
stable: "1"
unit: request
side_effects: none
prediction:
  path: predictions[0].score
  type: number
  range: [0, 1]
  selected: ">= 0.5"
  agree_within: 0.1
slices:
  group: {{path: "instances[0].group", values: [a, b], reference: a}}
limits: {{deadline: 5s}}
"""

# Batches of a quarter of a second give the 20 clusters that a judgement needs in five.
POLICY = """
format: accede/v1
kind: RolloutPolicy
name: quick
baseline: {requests: 450, for: 1s}
batch: 250ms
steps:
  - {shadow: 100%, until: gates, for: 1s, requests: 100, deadline: 25s}
  - {canary: 20%, for: 1s, requests: 20}
  - {canary: 50%, until: gates, for: 2s, requests: 100, deadline: 40s}
gates:
  - {metric: errors, max_increase: 2pp, in: canary}
  - {metric: latency.p95, max_ratio: 1.5, in: canary}
  - {metric: prediction.mean, max_shift: 0.5sd, in: shadow}
  - {metric: prediction.agreement, min: 80%, in: shadow}
  - {metric: selection_rate, by: group, max_shift: 6pp, in: shadow}
"""


def people(file: Path, **groups: tuple[str, ...]) -> dict[str, str]:
    """A file of tokens of approvers, each with its groups; name -> token, as `accede token` makes them."""
    tokens: dict[str, str] = {}
    entries: list[dict[str, Any]] = []
    for name, named in groups.items():
        flags = [flag for group in named for flag in ("--group", group)]
        command: list[str | Path] = [ACCEDE, "token", name, "--role", "approver", *flags, "-o", "json"]
        made = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        tokens[name] = made["token"]
        entries.append(made["entry"])
    file.write_text(json.dumps({"format": "accede/v1", "kind": "ApiTokens", "tokens": entries}))
    return tokens


def eventually(condition: Callable[[], Any], within: float, what: str) -> Any:
    """The first truthy value of `condition`, asked again and again. Fails the test after `within` seconds."""
    until = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            pytest.fail(f"within {within} s: {what}")
        time.sleep(0.05)


class Process:
    """A child with its output, line by line."""

    def __init__(
        self,
        command: list[str | Path],
        *,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        environment = {
            **(os.environ if environment is None else environment),
            "ACCEDE_PARENT": str(os.getpid()),
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
        }
        self.popen = subprocess.Popen(
            command, env=environment, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        self.lines.extend(iter(self.popen.stdout.readline, ""))

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str, within: float = 20.0) -> None:
        def seen() -> bool:
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}:\n{self.output}"
            return text in self.output

        eventually(seen, within, f"{text!r} in the output")

    def end(self, number: int = signal.SIGTERM, patience: float = 15.0) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        try:
            self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise
        finally:
            self._reader.join(5)
            assert self.popen.stdout is not None
            self.popen.stdout.close()
        return self.popen.returncode


class Stage:
    """What a story plays on. Everything it starts is ended by `close`."""

    def __init__(self, folder: Path, free_port: Callable[[], int]) -> None:
        self.folder = folder
        self._free_port = free_port
        self.processes: list[Process] = []
        self.models: dict[str, int] = {}
        self.port, self.api_port = free_port(), free_port()
        self.serving: Process | None = None
        self.environment: dict[str, str] = {}  # of the command, beside ours
        (folder / "services").mkdir()
        self.policy_file = folder / "policy.yaml"
        self.policy_file.write_text(POLICY)
        self._bodies = folder / "bodies"
        chance = random.Random(11)
        # Scores of the middle, so that a shift is not clipped away, and a step at 0.5 for both groups.
        rows = [{"x": round(chance.uniform(0.2, 0.8), 4), "group": chance.choice("ab")} for _ in range(2000)]
        self._bodies.write_text("\n".join(json.dumps({"instances": [row]}) for row in rows))

    def start_process(self, *command: str | Path) -> Process:
        process = Process(list(command))
        self.processes.append(process)
        return process

    def model(self, version: str, **behaviour: Any) -> Process:
        """Start the server of one version."""
        port = self.models.setdefault(version, self._free_port())
        process = self.start_process(
            sys.executable, HERE / "model_server.py", json.dumps({"port": port, **behaviour})
        )
        process.wait_for("ready")
        return process

    def change(self, version: str, **behaviour: Any) -> None:
        """Change how a running version behaves."""
        httpx.put(f"http://127.0.0.1:{self.models[version]}/behaviour", json=behaviour).raise_for_status()

    def counts(self, version: str) -> dict[str, int]:
        """How often a version was asked, and how often as a shadow."""
        counts: dict[str, int] = httpx.get(f"http://127.0.0.1:{self.models[version]}/counts").json()
        return counts

    def serve(self, *more: str | Path, workers: int = 1, service: str = SERVICE) -> Process:
        """Start `accede serve` over the models, with more flags; returns when both planes are ready."""
        for version in ("1", "2"):
            self.models.setdefault(version, self._free_port())
        text = service.format(stable=self.models["1"], candidate=self.models["2"])
        (self.folder / "services" / "credit.yaml").write_text(text)
        self.serving = self.start_process(
            ACCEDE, "serve", "--services", self.folder / "services", "--data", self.folder / "data",
            "--port", str(self.port), "--api-port", str(self.api_port), "--workers", str(workers), *more,
        )  # fmt: skip
        self.serving.wait_for("ready: proxy")
        eventually(lambda: self.ask().status_code == 200, 10, "stable answers through the proxy")
        return self.serving

    def ask(self, x: float = 0.4, group: str = "a", **headers: str) -> httpx.Response:
        """One prediction through the proxy."""
        return httpx.post(
            f"http://127.0.0.1:{self.port}{PREDICT}",
            json={"instances": [{"x": x, "group": group}]},
            headers=headers,
            timeout=10,
        )

    def load(self, rate: float = 150.0, **more: Any) -> Process:
        """Start open-loop load on the proxy, until the test ends it."""
        configuration = {
            "port": self.port,
            "path": PREDICT,
            "bodies": str(self._bodies),
            "rate": rate,
            **more,
        }
        return self.start_process(sys.executable, "-m", "accede.cli.demo.load", json.dumps(configuration))

    @staticmethod
    def totals(load: Process) -> dict[str, Any]:
        """End a load and return its totals."""
        load.end()
        totals: dict[str, Any] = json.loads(load.lines[-1])
        assert totals["ended"]
        return totals

    def accede(
        self, *arguments: str | Path, within: float = 30.0, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command against this installation; `more` is added to its environment."""
        api = {"ACCEDE_API": f"http://127.0.0.1:{self.api_port}"}
        environment = {**os.environ, **api, "NO_COLOR": "1", **self.environment, **more}
        return subprocess.run(
            [ACCEDE, *arguments], env=environment, check=False, capture_output=True, text=True, timeout=within
        )

    def start(self, *more: str, policy: str | None = None) -> None:
        """Start the rollout of version 2."""
        if policy is not None:
            self.policy_file.write_text(policy)
        begun = self.accede("start", NAME, "--candidate", "2", "-p", self.policy_file, *more)
        assert begun.returncode == 0, begun.stderr

    def status(self) -> dict[str, Any]:
        """`accede status -o json` of the service."""
        shown = self.accede("status", NAME, "-o", "json")
        assert shown.returncode == 0, shown.stderr
        value: dict[str, Any] = json.loads(shown.stdout)
        return value

    def until(self, condition: Callable[[dict[str, Any]], bool], within: float = 30.0) -> dict[str, Any]:
        """The first view of the rollout, as the API shows it, that meets the condition."""
        path = f"http://127.0.0.1:{self.api_port}/api/v1/services/{NAME}/rollout"
        token = self.environment.get("ACCEDE_TOKEN")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}

        def met() -> dict[str, Any] | None:
            view: dict[str, Any] = httpx.get(path, trust_env=False, headers=headers).json()
            assert "error" not in view, view
            return view if condition(view) else None

        view: dict[str, Any] = eventually(met, within, "the rollout is where the test waits for it")
        return view

    def watch(self, within: float) -> tuple[int, str]:
        """Wait for the outcome: exit code and output of `accede status --watch`."""
        watched = self.accede("status", NAME, "--watch", "--timeout", str(within), within=within + 10)
        return watched.returncode, watched.stdout + watched.stderr

    def explain(self) -> str:
        """What `accede explain` prints."""
        explained = self.accede("explain", NAME)
        assert explained.returncode == 0, explained.stderr
        return explained.stdout

    def close(self) -> None:
        """End everything, the last started first."""
        for process in reversed(self.processes):
            process.end()


@pytest.fixture
def stage(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Stage]:
    made = Stage(tmp_path, free_port)
    try:
        yield made
    finally:
        made.close()
