"""The chart through the real Helm, and its manifests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "accede"
PRESETS = sorted((CHART / "presets").glob("*.yaml"))
TRIAL: dict[str, Any] = {
    "store": {"bundled": {"enabled": True}},
    "controller": {"tokens": {"generate": True}},
}

Manifest = dict[str, Any]


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """As Helm lays values files over each other."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below: Any = result.get(key)
            if isinstance(below, dict) and isinstance(value, Mapping):
                result[key] = merged(below, value)
            else:
                result[key] = value
    return result


class Chart:
    """Renders the chart."""

    def __init__(self, chart: helm.Chart) -> None:
        self._chart = chart

    def texts(self, values: Mapping[str, Any], name: str = "demo") -> dict[str, str]:
        """File of the chart -> what Helm makes of it."""
        return self._chart.render(dict(values), name=name, namespace="ml")

    def manifests(self, values: Mapping[str, Any], name: str = "demo") -> list[Manifest]:
        """All objects, in the order of their files."""
        found: list[Manifest] = []
        for file, text in sorted(self.texts(values, name).items()):
            if file.endswith(".yaml"):
                found += [one for one in yaml.safe_load_all(text) if one is not None]
        return found

    def one(self, values: Mapping[str, Any], kind: str, part: str) -> Manifest:
        """The object of that kind whose name ends with `part`."""
        (found,) = [
            one
            for one in self.manifests(values)
            if one["kind"] == kind and one["metadata"]["name"].endswith(part)
        ]
        return found


@pytest.fixture(scope="session")
def chart() -> Iterator[Chart]:
    """The chart as it lies in the repository."""
    with helm.Chart.load(str(CHART)) as loaded:
        yield Chart(loaded)
