"""The examples against the model servers that they are for: MLServer (Open Inference) and MLflow.

Each server has an environment of its own (scripts/model-servers) and two versions of a model trained by the
example's own script. Requests go through `accede serve`; what is then in the store is what its observer saw.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import pytest
from sklearn.datasets import load_diabetes

from accede.store.open import open_store

if TYPE_CHECKING:
    from accede.store.evidence import Evidence
    from tests.e2e.conftest import Stage

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
NAME = "progression"
COLUMNS = ("age", "sex", "bmi", "bp")

# Seconds: the first run installs the servers, half a minute each on an idle machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Serve = Callable[[str, dict[int, int]], None]

POLICY = """
format: accede/v1
kind: RolloutPolicy
name: seen
baseline: {requests: 60, for: 1s}
batch: 250ms
steps:
  - {shadow: 100%, for: 2s, requests: 60}
  - {canary: 50%, until: gates, for: 2s, deadline: 100s}
gates:
  - {metric: errors, max_increase: 5pp, in: canary}
  - {metric: prediction.missing, max_increase: 5pp}
  - {metric: prediction.agreement, min: 60%, in: shadow}
  - {metric: selection_rate, by: sex, max_shift: 30pp, in: shadow}
  - {metric: selection_rate, by: age_band, max_shift: 40pp, in: shadow}
"""


def environment(name: str) -> Path:
    """The environment of a model server, made where it is missing."""
    made = subprocess.run(
        [ROOT / "scripts" / "model-servers", name],
        env={**os.environ, "PYTHON": sys.executable},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return Path(made.stdout.strip())


def wait_for(url: str, process: Any, within: float = 90.0) -> None:
    """Until a server answers 200."""
    until = time.monotonic() + within
    while True:
        assert process.popen.poll() is None, process.output
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < until, f"{url} does not answer within {within} s:\n{process.output}"
        time.sleep(0.1)


class Traffic:
    """Users who ask about two patients at a time; what they were answered is kept."""

    def __init__(self, url: str, body: Callable[[list[list[float]]], dict[str, Any]]) -> None:
        self.answers: list[httpx.Response] = []
        patients: Any = load_diabetes(scaled=False)
        wanted = [patients.feature_names.index(name) for name in COLUMNS]
        self._rows: list[list[float]] = patients.data[:, wanted].tolist()
        self._url, self._body = url, body
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(at,), daemon=True) for at in range(3)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(20)

    def _ask(self, at: int) -> None:
        with httpx.Client(timeout=20, trust_env=False) as client:
            while not self._ending.is_set():
                at = (at + 7) % (len(self._rows) - 1)
                self.answers.append(client.post(self._url, json=self._body(self._rows[at : at + 2])))
                self._ending.wait(0.02)


@pytest.fixture
def serve(stage: Stage) -> Serve:
    """Starts `accede serve` with an example's service on other ports, and with this test's policy."""

    def start(example: str, ports: dict[int, int]) -> None:
        text = (EXAMPLES / example / "service.yaml").read_text()
        for written, port in ports.items():
            assert f":{written}" in text
            text = text.replace(f":{written}", f":{port}")
        folder = stage.folder / "services"
        (folder / "service.yaml").write_text(text)
        (folder / "policy.yaml").write_text(POLICY)
        stage.serving = stage.start_process(
            Path(sys.executable).with_name("accede"), "serve", "--services", folder,
            "--data", stage.folder / "data", "--port", str(stage.port), "--api-port", str(stage.api_port),
        )  # fmt: skip
        stage.serving.wait_for("ready: proxy")

    return start


def total(evidence: tuple[Evidence, ...], arm: str, metric: str, part: str = "") -> float:
    """How many observations a series has, over all sources and epochs."""
    return sum(
        sum(series.n)
        for one in evidence
        for key, series in one.series.items()
        if (key.arm, key.slice, key.metric) == (arm, part, metric)
    )


def seen_in_store(stage: Stage, within: float = 90.0) -> tuple[Evidence, ...]:
    """The rollout's evidence once the candidate has answered clients."""
    until = time.monotonic() + within
    while True:
        store = open_store(str(stage.folder / "data"))
        try:
            record = store.rollout(NAME)
            assert record is not None
            evidence = store.evidence(NAME, record.id)
        finally:
            store.close()
        if total(evidence, "candidate", "mean") > 20:
            return evidence
        assert time.monotonic() < until, (record.phase, record.hold, stage.accede("status", NAME).stdout)
        time.sleep(0.2)


def check_evidence(evidence: tuple[Evidence, ...]) -> None:
    """Predictions of both arms, pairs and slices are there, and none was missing."""
    for arm in ("stable", "candidate", "pair"):
        assert total(evidence, arm, "mean") > 20, arm
    for part in ("sex=1", "sex=2", "age_band=[0,40)", "age_band=[40,60)", "age_band=[60,inf)"):
        assert total(evidence, "pair", "selected", part) > 5, part
    for part in ("sex=other", "age_band=other"):
        assert total(evidence, "pair", "selected", part) == 0, part
    for one in evidence:
        for key, series in one.series.items():
            if key.metric in {"missing", "extraction", "errors"} and key.arm != "pair":
                assert sum(series.sum) == 0, key
    baseline = [one for one in evidence if one.epoch == 0]
    assert sum(sum(one.values.values()) for one in baseline) > 60  # two instances of every request


def test_open_inference_with_both_versions_in_one_mlserver(
    stage: Stage, serve: Serve, free_port: Callable[[], int]
) -> None:
    mlserver = environment("mlserver") / "bin"
    models = stage.folder / "models"
    subprocess.run([mlserver / "python", EXAMPLES / "open-inference" / "train.py", models], check=True)
    ports = {name: free_port() for name in ("http_port", "grpc_port", "metrics_port")}
    settings = json.loads((models / "settings.json").read_text())
    (models / "settings.json").write_text(json.dumps({**settings, **ports, "host": "127.0.0.1"}))
    server = stage.start_process(mlserver / "mlserver", "start", models)
    base = f"http://127.0.0.1:{ports['http_port']}/v2/models/{NAME}"
    wait_for(f"{base}/versions/1/ready", server)
    wait_for(f"{base}/versions/2/ready", server)
    serve("open-inference", {8081: ports["http_port"]})
    proxied = f"http://127.0.0.1:{stage.port}/v2/models/{NAME}"

    def body(rows: list[list[float]]) -> dict[str, Any]:
        tensors = [
            {"name": name, "shape": [len(rows), 1], "datatype": "FP64", "data": [row[at] for row in rows]}
            for at, name in enumerate(COLUMNS)
        ]
        return {"parameters": {"content_type": "pd"}, "inputs": tensors}

    with Traffic(f"{proxied}/infer", body) as traffic:
        begun = stage.accede("start", NAME, "--candidate", "2")
        assert begun.returncode == 0, begun.stderr
        check_evidence(seen_in_store(stage))
        # Pinned and metadata calls: to the version they name, in an open rollout, and never a prediction.
        for version, arm in (("1", "stable"), ("2", "candidate")):
            pinned = httpx.post(f"{proxied}/versions/{version}/infer", json=body([[59, 2, 32.1, 101]]))
            assert pinned.json()["model_version"] == version
            assert pinned.headers["x-accede-arm"] == arm
            probe = httpx.get(f"{proxied}/versions/{version}/ready")
            assert (probe.status_code, probe.headers["x-accede-version"]) == (200, version)
        assert httpx.get(f"{proxied}/ready").headers["x-accede-version"] == "1"
    assert {answer.status_code for answer in traffic.answers} == {200}
    versions = {
        (answer.headers["x-accede-version"], answer.json()["model_version"]) for answer in traffic.answers
    }
    assert versions == {("1", "1"), ("2", "2")}  # the server says itself which version answered


def test_mlflow_with_a_server_for_each_version(
    stage: Stage, serve: Serve, free_port: Callable[[], int]
) -> None:
    mlflow = environment("mlflow") / "bin"
    models = stage.folder / "models"
    subprocess.run([mlflow / "python", EXAMPLES / "mlflow" / "train.py", models], check=True)
    ports = {version: free_port() for version in ("v1", "v2")}
    servers = {
        version: stage.start_process(
            # `mlflow models serve` asks PATH for its uvicorn.
            "env", f"PATH={mlflow}:{os.environ['PATH']}", mlflow / "mlflow", "models", "serve",
            "-m", models / version, "-h", "127.0.0.1", "-p", str(port), "--workers", "1",
            "--env-manager", "local",
        )
        for version, port in ports.items()
    }  # fmt: skip
    for version, port in ports.items():
        wait_for(f"http://127.0.0.1:{port}/ping", servers[version])
    serve("mlflow", {5001: ports["v1"], 5002: ports["v2"]})
    proxied = f"http://127.0.0.1:{stage.port}/invocations"
    shapes = iter(range(10**9))

    def body(rows: list[list[float]]) -> dict[str, Any]:
        columns = list(COLUMNS)
        records = [dict(zip(columns, row, strict=True)) for row in rows]
        columnar = {name: [row[at] for row in rows] for at, name in enumerate(columns)}
        return (
            {"dataframe_split": {"columns": columns, "data": rows}},
            {"dataframe_records": records},
            {"inputs": columnar},
        )[next(shapes) % 3]

    with Traffic(proxied, body) as traffic:
        begun = stage.accede("start", NAME, "--candidate", "v2")
        assert begun.returncode == 0, begun.stderr
        check_evidence(seen_in_store(stage))
        csv = httpx.post(
            proxied, content="age,sex,bmi,bp\n59,2,32.1,101\n", headers={"content-type": "text/csv"}
        )
        assert len(csv.json()["predictions"]) == 1
    assert {answer.status_code for answer in traffic.answers} == {200}
    assert {answer.headers["x-accede-version"] for answer in traffic.answers} == {"v1", "v2"}
    # What is no prediction lies outside of this service's path: /ping and /version are the servers' own.
    assert httpx.get(f"http://127.0.0.1:{stage.port}/version").status_code == 404


@pytest.mark.parametrize("example", ["open-inference", "mlflow"])
def test_the_versions_that_an_example_names_are_those_that_are_tested(example: str) -> None:
    page = (EXAMPLES / example / "README.md").read_text()
    pins = (
        ROOT / "tests" / "e2e" / "servers" / f"{'mlserver' if example == 'open-inference' else 'mlflow'}.txt"
    ).read_text()
    for name, version in re.findall(r"([a-z-]+)==([0-9.]+)", page):
        assert f"{name}=={version}\n" in pins
