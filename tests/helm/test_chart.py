"""The chart, rendered and linted by the real Helm, against the real schemas of Kubernetes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from accede import __version__
from accede.cli.main import app
from accede.policies.tokens import parse_tokens
from accede.router.parent.disk import ADMIN

from .conftest import CHART, PRESETS, TRIAL, Chart, Manifest, merged

OLDEST, NEWEST = "1.25", "1.37"
OWN: dict[str, Any] = {
    "store": {"url": "rediss://accede@redis.example:6380/0", "passwordSecret": {"name": "redis"}},
    "controller": {"tokens": {"secretName": "tokens", "key": "file"}},
}
COMBINATIONS: dict[str, dict[str, Any]] = {
    "bundled": TRIAL,
    "bundled without a volume": merged(TRIAL, {"store": {"bundled": {"persistence": {"enabled": False}}}}),
    "bundled with a class and a secret": merged(
        TRIAL, {"store": {"bundled": {"persistence": {"storageClass": "fast"}, "passwordSecret": "own"}}}
    ),
    "own store by address": OWN,
    "own store by secret": merged(OWN, {"store": {"url": "", "urlSecret": {"name": "s", "key": "k"}}}),
    "tls both ways": merged(
        OWN,
        {
            "router": {"tls": {"secretName": "cert", "clientCaKey": "ca.crt"}, "service": {"port": 443}},
            "controller": {"tls": {"secretName": "cert"}},
        },
    ),
    "autoscaled and isolated": merged(
        TRIAL, {"router": {"autoscaling": {"enabled": True}}, "networkPolicy": {"enabled": True}}
    ),
    "a digest, a registry and names": merged(
        OWN,
        {
            "image": {"digest": "sha256:" + "a" * 64, "pullSecrets": ["registry", "other"]},
            "nameOverride": "rollouts",
            "commonLabels": {"team": "ml"},
        },
    ),
    "placed": merged(
        OWN,
        {
            part: {
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "affinity": {"podAntiAffinity": {}},
                "priorityClassName": "high",
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
                ],
                "podAnnotations": {"a/b": "1"},
                "podLabels": {"c": "d"},
            }
            for part in ("router", "controller")
        },
    ),
    "volumes and variables": merged(
        OWN,
        {
            part: {
                "extraEnv": [{"name": "OVERRIDE", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}],
                "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
                "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
            }
            for part in ("router", "controller")
        },
    ),
    "one of each, nothing extra": merged(
        OWN,
        {
            "router": {"replicas": 1, "preStopDelay": 0, "drain": 0},
            "controller": {"replicas": 1, "maxUnavailable": ""},
            "serviceAccount": {"create": False},
        },
    ),
    "files of somebody else": merged(OWN, {"servicesConfigMap": "from-git", "fullnameOverride": "x" * 60}),
    "load balancers": merged(
        OWN,
        {
            "router": {"service": {"type": "LoadBalancer", "annotations": {"a": "b"}}, "workers": 8},
            "controller": {"service": {"type": "NodePort"}},
        },
    ),
}
SETS = {
    **{f"preset {path.stem}": yaml.safe_load(path.read_text()) for path in PRESETS},
    **COMBINATIONS,
}


@pytest.mark.parametrize("values", SETS.values(), ids=SETS.keys())
def test_every_object_is_what_kubernetes_takes(chart: Chart, values: dict[str, Any]) -> None:
    linted = helm.lint(str(CHART), values)
    assert linted["errors"] == []
    found = chart.manifests(values)
    assert {one["kind"] for one in found} >= {"Deployment", "Service"}
    for one in found:
        for version in (OLDEST, NEWEST):
            kubernetes_validate.validate(one, version, strict=True)
        assert len(one["metadata"]["name"]) <= 63
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "demo"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("values", SETS.values(), ids=SETS.keys())
def test_what_is_named_is_there_and_selected(chart: Chart, values: dict[str, Any]) -> None:
    found = chart.manifests(values)
    pods = {
        one["metadata"]["name"]: one["spec"]["template"] for one in found if "template" in one.get("spec", {})
    }
    for one in found:
        spec = one.get("spec", {})
        chosen = spec.get("podSelector", spec.get("selector", {}))
        chosen = chosen.get("matchLabels", chosen)
        if chosen and one["kind"] != "ConfigMap":
            assert [p for p in pods.values() if chosen.items() <= p["metadata"]["labels"].items()], one[
                "kind"
            ]
    for pod in pods.values():
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())} | {"data"}
        ports: set[str] = set()
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            ports |= {port["name"] for port in container["ports"]}
            paths = [mount["mountPath"] for mount in container["volumeMounts"]]
            assert len(set(paths)) == len(paths)
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                asked = container[probe].get("httpGet", container[probe].get("tcpSocket", {"port": "valkey"}))
                assert asked["port"] in ports


@pytest.mark.parametrize("values", SETS.values(), ids=SETS.keys())
def test_nothing_runs_as_root_or_writes_where_it_need_not(chart: Chart, values: dict[str, Any]) -> None:
    for one in chart.manifests(values):
        if "template" not in one.get("spec", {}):
            continue
        pod = one["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10_000
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            said = json.dumps(container)
            assert "acd_" not in said, "no token stands in a manifest of a pod"


def keys(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield f"{path}{key}", value
        if isinstance(value, dict):
            yield from keys(value, f"{path}{key}.")


def test_every_value_has_a_comment() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        key = re.match(r" *[A-Za-z]+: *(.*)", line)
        inside = line.lstrip().startswith(("requests:", "limits:"))  # of resources, which has one
        if key is not None and key[1] and not inside:
            assert before.lstrip().startswith("#"), line


def test_the_schema_knows_every_value_and_nothing_else() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    definitions = schema["$defs"]

    def known(part: dict[str, Any], path: str = "") -> Iterator[str]:
        while "$ref" in part:
            part = definitions[part["$ref"].rpartition("/")[2]]
        for key, below in part.get("properties", {}).items():
            yield f"{path}{key}"
            yield from known(below, f"{path}{key}.")

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    given = {path for path, _ in keys(values)}
    free = r"(.*\.)?(requests|limits|claims)(\..*)?|global"  # Kubernetes' own, or Helm's
    assert {path for path in set(known(schema)) - given if not re.fullmatch(free, path)} == set()
    assert {path for path in given - set(known(schema)) if not re.fullmatch(free, path)} == set()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"store": {"bundled": {"enabled": False}}}, "store: set exactly one of"),
        ({"store": {"url": "redis://a:6379"}}, "set now: store.url, store.bundled.enabled"),
        (
            {"store": {"bundled": {"enabled": False}, "url": "redis://u:secret@a:6379"}},
            "store.url: has a password",
        ),
        ({"store": {"url": "http://a"}}, "url"),
        ({"store": {"passwordSecret": {"name": "x"}}}, "store.passwordSecret.name"),
        ({"controller": {"tokens": {"generate": False}}}, "controller.tokens: name a Secret"),
        ({"controller": {"tokens": {"secretName": "a"}}}, "not both"),
        ({"controller": {"replicas": -1}}, "replicas"),
        ({"router": {"replicaCount": 3}}, "replicaCount"),
        ({"router": {"workers": "two"}}, "workers"),
        ({"router": {"workers": 0}}, "workers"),
        ({"router": {"drain": -1}}, "drain"),
        ({"router": {"service": {"type": "Loadbalancer"}}}, "type"),
        ({"router": {"service": {"port": 70000}}}, "port"),
        ({"router": {"tls": {"clientCaKey": "ca.crt"}}}, "router.tls.clientCaKey"),
        (
            {"router": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}},
            "minReplicas is above",
        ),
        ({"router": {"resources": {"limits": {"memory": "512mb"}}}}, "memory"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"services": {"fraud": "x"}}, 'services: "fraud" is no file name'),
        ({"services": {"a.yaml": "x"}, "servicesConfigMap": "b"}, "not both"),
        ({"services": {"a.yaml": {"name": "fraud"}}}, "a.yaml"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_wrong_value_is_refused_by_name(chart: Chart, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        chart.texts(merged(TRIAL, wrong))
    assert said in str(refused.value)
    assert "secret@" not in str(refused.value)


class TestValues:
    def test_the_versions_are_those_of_the_package(self, chart: Chart) -> None:
        about = yaml.safe_load((CHART / "Chart.yaml").read_text())
        assert about["appVersion"] == __version__
        image = chart.one(TRIAL, "Deployment", "-router")["spec"]["template"]["spec"]["containers"][0][
            "image"
        ]
        assert image == f"accede/accede-router:{__version__}"

    def test_a_generated_token_is_one_that_the_controller_takes(self, chart: Chart) -> None:
        secret = chart.one(TRIAL, "Secret", "-tokens")["stringData"]
        from accede.controller.api.access import digest

        (entry,) = parse_tokens(secret["tokens.yaml"], "t.yaml").tokens
        assert (entry.role, entry.sha256) == ("approver", digest(secret["token"]))
        assert len(secret["token"]) > 40

    def test_an_autoscaler_owns_the_number_of_replicas(self, chart: Chart) -> None:
        scaled = merged(TRIAL, {"router": {"autoscaling": {"enabled": True}}})
        assert "replicas" not in chart.one(scaled, "Deployment", "-router")["spec"]
        assert chart.one(TRIAL, "Deployment", "-router")["spec"]["replicas"] == 2

    def test_the_grace_covers_the_delay_and_the_drain(self, chart: Chart) -> None:
        values = merged(TRIAL, {"router": {"drain": 120, "preStopDelay": 15}})
        pod = chart.one(values, "Deployment", "-router")["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] >= 120 + 15 + 10
        (container,) = pod["containers"]
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "15"]
        assert "--drain=120" in container["args"]

    def test_a_large_number_stays_a_number(self, chart: Chart) -> None:
        """Helm reads numbers of JSON as floats: a million is 1e+06 unless one takes care."""
        values = merged(TRIAL, {"router": {"maxConnections": 1_000_000}})
        (container,) = chart.one(values, "Deployment", "-router")["spec"]["template"]["spec"]["containers"]
        assert "--max-connections=1000000" in container["args"]

    def test_services_are_files(self, chart: Chart) -> None:
        text = "format: accede/v1\n# a comment, and a {{ brace }}\nname: fraud\n"
        values = merged(TRIAL, {"services": {"fraud.yaml": text}})
        assert chart.one(values, "ConfigMap", "-services")["data"] == {"fraud.yaml": text}

    def test_disruption_budgets_are_for_more_than_one(self, chart: Chart) -> None:
        def budgets(values: dict[str, Any]) -> list[Manifest]:
            return [one for one in chart.manifests(values) if one["kind"] == "PodDisruptionBudget"]

        assert len(budgets(TRIAL)) == 2
        assert budgets(merged(TRIAL, {"router": {"replicas": 1}, "controller": {"replicas": 1}})) == []

    @pytest.mark.parametrize("values", SETS.values(), ids=SETS.keys())
    def test_what_notes_tell_to_type_is_there(self, chart: Chart, values: dict[str, Any]) -> None:
        (notes,) = [text for file, text in chart.texts(values).items() if file.endswith("NOTES.txt")]
        found = chart.manifests(values)
        named = {(one["kind"], one["metadata"]["name"]): one for one in found}
        forwarded, here, there = re.findall(r"port-forward svc/(\S+) (\d+):(\d+)", notes)[0]
        service = named["Service", forwarded]
        assert [port["port"] for port in service["spec"]["ports"]] == [int(there)]
        assert re.findall(r"ACCEDE_API=(\S+)", notes) in (
            [f"http://localhost:{here}"],
            [f"https://localhost:{here}"],
        )
        users, port = re.findall(r"requests to (\S+):(\d+) instead", notes)[0]
        assert [one["port"] for one in named["Service", users]["spec"]["ports"]] == [int(port)]
        secrets = re.findall(r"get secret (\S+) -o jsonpath='{\.data\.(\w+)}'", notes)
        assert bool(secrets) == bool(values.get("controller", {}).get("tokens", {}).get("generate"))
        for name, key in secrets:
            told = named["Secret", name]
            assert key in {**told.get("data", {}), **told.get("stringData", {})}
        (selector,) = re.findall(r" -l (\S+)\)", notes)
        wanted = dict(one.split("=") for one in selector.split(","))
        pods = {
            one["metadata"]["name"]: one["spec"]["template"]
            for one in found
            if "template" in one.get("spec", {})
        }
        chosen = [name for name, pod in pods.items() if wanted.items() <= pod["metadata"]["labels"].items()]
        assert len(chosen) == 1
        (router,) = pods[chosen[0]]["spec"]["containers"]
        assert router["command"][:2] == ["accede", "router"]
        (data,) = [word.partition("=")[2] for word in router["args"] if word.startswith("--data=")]
        assert re.findall(r"--direct (\S+)", notes) == [f"{data}/router/{ADMIN}"]
        assert set(re.findall(r"-n (\S+)", notes)) == {"ml"}
        verbs = {
            command.name or command.callback.__name__
            for command in app.registered_commands
            if command.callback
        }
        assert set(re.findall(r"^  accede (\w+)", notes, re.MULTILINE)) <= verbs

    def test_notes_say_what_comes_next(self, chart: Chart) -> None:
        (notes,) = [text for file, text in chart.texts(TRIAL).items() if file.endswith("NOTES.txt")]
        for word in ("ACCEDE_TOKEN", "port-forward", "accede start", "--direct", "demo-accede-router:80"):
            assert word in notes
