"""What must fit together where a service file says what answers tell beside their predictions."""

from __future__ import annotations

import re
from typing import Final

from .body_rules import check_accessor
from .quantities import found
from .reading import Reading, piece
from .service import Importances, OwnMetric, Prediction, Uncertainty
from .yaml import Data, KeyPath

MAX_METRICS: Final = 16  # each is kept for every arm, and costs time for every answer

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def check_told(data: dict[str, Data], reading: Reading) -> None:
    """Report what the keys uncertainty, explanation and metrics cannot say."""
    uncertainty = piece(Uncertainty, data.get("uncertainty"))
    if uncertainty is not None:
        check_accessor(uncertainty.path, ("uncertainty", "path"), reading)
        _check_number(data.get("prediction"), reading)
    explanation = piece(Importances, data.get("explanation"))
    if explanation is not None:
        check_accessor(explanation.path, ("explanation", "path"), reading)
    _check_metrics(data.get("metrics"), reading)


def _check_number(data: Data, reading: Reading) -> None:
    prediction = piece(Prediction, data)
    if prediction is not None and prediction.type != "number":
        reading.add(
            ("uncertainty",),
            f"found predictions of type {prediction.type}; only a number has an uncertainty in its own unit: "
            "remove the key, or write prediction: {type: number}",
        )


def _check_metrics(data: Data, reading: Reading) -> None:
    if not isinstance(data, dict):
        return
    if len(data) > MAX_METRICS:
        reading.add(("metrics",), f"found {len(data)} metrics; allowed: at most {MAX_METRICS}")
    for name, value in data.items():
        path: KeyPath = ("metrics", name)
        if not _NAME.fullmatch(name):
            allowed = "1 to 63 lower-case letters, digits, '-' and '_'"
            reading.add(path, f"found the metric name {found(name)}; allowed: {allowed}", key=True)
        one = None if reading.touches(path) else piece(OwnMetric, value)
        if one is not None:
            _check_metric(one, path, reading)


def _check_metric(one: OwnMetric, path: KeyPath, reading: Reading) -> None:
    check_accessor(one.path, (*path, "path"), reading)
    if one.type == "share":
        if one.range is not None:
            reading.add((*path, "range"), "a share is 0 to 1; remove it, or write type: number")
    elif one.range is None:
        reading.add(path, "a number needs its limits; add range: [0, 100]")
    elif one.range[0] >= one.range[1]:
        reading.add(
            (*path, "range"),
            f"found {one.range[0]:g} and {one.range[1]:g}; the first must be less than the second",
        )
