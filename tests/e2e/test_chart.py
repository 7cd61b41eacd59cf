"""The chart's containers as processes of this machine: what Helm renders is what runs here, to a promotion.

Mounts become folders, and names and ports of a cluster become addresses of this machine; every command,
argument and variable is the chart's.
"""

from __future__ import annotations

import base64
import os
import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import helm_python as helm
import httpx
import pytest
import yaml

from tests.e2e.conftest import ACCEDE, POLICY, SERVICE, Process, Stage, eventually
from tests.helm.conftest import CHART, Manifest, merged
from tests.store.servers import VALKEY

TRIAL = yaml.safe_load((CHART / "presets" / "trial.yaml").read_text())


class Pod(Process):
    """One container of a pod. `ports`: name -> where it listens here."""

    def __init__(self, cluster: Cluster, name: str, manifest: Manifest) -> None:
        pod = manifest["spec"]["template"]["spec"]
        (self.container,) = pod["containers"]
        self.name = name
        folder = cluster.folder / name
        sources = {volume["name"]: volume for volume in pod["volumes"]}
        replaced: dict[str, str] = {}
        for mount in self.container["volumeMounts"]:
            place = folder / mount["name"]
            place.mkdir(parents=True)
            replaced[mount["mountPath"]] = str(place)
            for file, text in cluster.files(sources.get(mount["name"], {})).items():
                (place / file).write_text(text)
        self.ports = {one["name"]: cluster.free_port() for one in self.container["ports"]}
        listens = {str(one["containerPort"]): str(self.ports[one["name"]]) for one in self.container["ports"]}

        # In one pass: the folders of tests lie below /tmp, which is a mount of every pod.
        mounts = "|".join(sorted(map(re.escape, replaced), key=len, reverse=True))
        beginning = re.compile(rf"(?<![\w/])({mounts})(?=[/ \n]|$)")

        def here(text: str) -> str:
            text = beginning.sub(lambda found: replaced[found[1]], text)
            for host, address in cluster.addresses.items():
                text = text.replace(host, address)
            return re.sub(r"(?<=port[= ])\d+", lambda found: listens[found[0]], text)

        given = {one["name"]: cluster.value(one, name) for one in self.container.get("env", ())}
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ACCEDE_")}
        path = os.pathsep.join((str(ACCEDE.parent), str(VALKEY.parent), os.environ["PATH"]))
        command = [here(word) for word in (*self.container["command"], *self.container.get("args", ()))]
        super().__init__(
            [*command],
            environment={**kept, **{key: here(value) for key, value in given.items()}, "PATH": path},
        )

    def passes(self, probe: str) -> bool:
        """Whether the kubelet's HTTP probe would."""
        asked = self.container[probe]["httpGet"]
        url = f"{asked.get('scheme', 'HTTP').lower()}://127.0.0.1:{self.ports[asked['port']]}{asked['path']}"
        try:
            return httpx.get(url, timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False


class Cluster:
    """The release's objects, and the pods that run."""

    def __init__(self, folder: Path, values: dict[str, Any], free_port: Callable[[], int]) -> None:
        self.folder = folder
        self.free_port = free_port
        self.addresses: dict[str, str] = {}
        self.pods: list[Pod] = []
        with helm.Chart.load(str(CHART)) as chart:
            texts = chart.render(values, name="demo", namespace="ml")
        self.objects = [
            one
            for file, text in texts.items()
            if file.endswith(".yaml")
            for one in yaml.safe_load_all(text)
            if one is not None
        ]

    def one(self, kind: str, name: str) -> Manifest:
        found: Manifest
        (found,) = [one for one in self.objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
        return found

    def files(self, volume: dict[str, Any]) -> dict[str, str]:
        """What a volume holds at first."""
        if "configMap" in volume:
            data: dict[str, str] = self.one("ConfigMap", volume["configMap"]["name"])["data"]
            return data
        if "secret" in volume:
            kept = self.secret(volume["secret"]["secretName"])
            items = volume["secret"].get("items") or [{"key": key, "path": key} for key in kept]
            return {one["path"]: kept[one["key"]] for one in items}
        return {}

    def secret(self, name: str) -> dict[str, str]:
        found = self.one("Secret", name)
        decoded = {key: base64.b64decode(value).decode() for key, value in found.get("data", {}).items()}
        return {**decoded, **found.get("stringData", {})}

    def value(self, variable: dict[str, Any], pod: str) -> str:
        """A variable's value, as the kubelet finds it."""
        if "value" in variable:
            return str(variable["value"])
        source = variable["valueFrom"]
        if "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] == "metadata.name"
            return pod
        reference = source["secretKeyRef"]
        return self.secret(reference["name"])[reference["key"]]

    def run(self, kind: str, part: str) -> list[Pod]:
        """Start a Deployment's or StatefulSet's pods, and wait until they are ready."""
        manifest = self.one(kind, f"demo-accede-{part}")
        begun = [
            Pod(self, f"demo-accede-{part}-{number}", manifest)
            for number in range(manifest["spec"]["replicas"])
        ]
        self.pods += begun
        return begun


@pytest.fixture
def cluster(stage: Stage, free_port: Callable[[], int]) -> Iterator[Cluster]:
    stage.model("1")
    stage.model("2")
    service = SERVICE.format(stable=stage.models["1"], candidate=stage.models["2"])
    values = merged(
        TRIAL,
        {"router": {"replicas": 2}, "controller": {"replicas": 2}},
        {"services": {"credit.yaml": f"{service}policy: quick.yaml\n", "quick.yaml": POLICY}},
    )
    made = Cluster(stage.folder, values, free_port)
    try:
        yield made
    finally:
        for pod in reversed(made.pods):
            pod.end()


def answers(stage: Stage, version: str = "1") -> bool:
    """Whether that version answers at the stage's port."""
    try:
        return bool(stage.ask().headers.get("x-accede-version") == version)
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_helm_renders_runs_a_rollout_to_its_promotion(cluster: Cluster, stage: Stage) -> None:
    (store,) = cluster.run("StatefulSet", "valkey")
    cluster.addresses["demo-accede-valkey:6379"] = f"127.0.0.1:{store.ports['valkey']}"
    controllers = cluster.run("Deployment", "controller")
    routers = cluster.run("Deployment", "router")
    for pod in (*controllers, *routers):
        eventually(partial(pod.passes, "startupProbe"), 60, f"{pod.name} has started")
        eventually(partial(pod.passes, "readinessProbe"), 30, f"{pod.name} is ready:\n{pod.output}")
        assert pod.passes("livenessProbe")
    for router in routers:
        stage.port = router.ports["proxy"]
        eventually(partial(answers, stage), 20, f"stable answers through {router.name}")
        stage.load(rate=90.0)

    token = cluster.secret("demo-accede-tokens")["token"]
    stage.environment = {"ACCEDE_TOKEN": token}
    stage.api_port = controllers[1].ports["api"]
    begun = stage.accede("start", "credit", "--candidate", "2")
    assert begun.returncode == 0, begun.stderr
    stage.api_port = controllers[0].ports["api"]  # any of them answers
    code, output = stage.watch(150)
    assert code == 0, output
    status = stage.status()
    assert (status["phase"], status["weight"]) == ("promoted", 1.0)
    for router in routers:
        stage.port = router.ports["proxy"]
        eventually(partial(answers, stage, "2"), 5, "in force on every router")
    loads = [stage.totals(process) for process in stage.processes[-2:]]
    assert [(one["failed"], one["refused"]) for one in loads] == [(0, 0), (0, 0)]

    for pod in (*routers, *controllers):
        assert pod.end() == 0, pod.output
        assert token not in pod.output
    assert store.end(signal.SIGTERM) == 0
    password = cluster.secret("demo-accede-valkey")["password"]
    assert not [pod.name for pod in cluster.pods if password in pod.output]
