"""What gates on more than predictions need of a service: own metrics, uncertainty, explanations, noise."""

from __future__ import annotations

from typing import Final

from .policy import Gate
from .protocols import PROTOCOLS
from .quantities import Margin, found
from .reading import near
from .service import ModelService

TOLD: Final = ("metrics.", "uncertainty.", "explanation.")
"""Beginnings of metrics that are read from answers beside predictions."""


def told_needs(service: ModelService, gate: Gate) -> list[tuple[str, str]]:
    """Key and message of what such a gate needs and the service does not declare."""
    family, _, name = gate.metric.partition(".")
    needs: list[tuple[str, str]] = []
    if gate.metric.startswith(TOLD):
        needs += _readable(service, gate)
    if family == "metrics":
        needs += _own(service, gate, name)
    elif gate.metric == "uncertainty.mean":
        if service.uncertainty is None:
            needs.append(("metric", 'uncertainty.mean needs uncertainty: {path: "predictions[0].std"}'))
        elif service.prediction.range is None:
            needs.append(("metric", "uncertainty.mean needs prediction.range, which it is scaled by"))
    elif gate.metric == "explanation.agreement" and service.explanation is None:
        needs.append(("metric", 'explanation.agreement needs explanation: {path: "explanations[0]"}'))
    elif gate.metric == "prediction.divergence" and not service.mirror.noise_floor:
        message = (
            "prediction.divergence compares with stable's own noise, and mirror.noise_floor is 0; write "
            "mirror: {noise_floor: 10%}"
        )
        needs.append(("metric", message))
    return needs


def _readable(service: ModelService, gate: Gate) -> list[tuple[str, str]]:
    if service.prediction.path is not None or PROTOCOLS[service.protocol].predicts_at:
        return []
    message = (
        f"{gate.metric} needs prediction.path: without predictions answers of {service.protocol} are not read"
    )
    return [("metric", message)]


def _own(service: ModelService, gate: Gate, name: str) -> list[tuple[str, str]]:
    own = service.metrics.get(name)
    if own is None:
        declared = (
            f"allowed: {', '.join(service.metrics)}" if service.metrics else "the service declares none"
        )
        return [("metric", f"no such metric {found(name)}; {near(name, service.metrics)}{declared}")]
    needs: list[tuple[str, str]] = []
    written: tuple[tuple[str, Margin | None], ...] = (
        ("max_shift", gate.max_shift),
        ("max_increase", gate.max_increase),
    )
    for key, margin in written:
        if margin is not None and (margin.unit == "pp") != (own.type == "share"):
            allowed = "pp, such as 1pp" if own.type == "share" else "its own unit or sd, such as 0.1sd"
            needs.append((key, f"found {margin}; {gate.metric} is a {own.type} and takes {key} in {allowed}"))
    return needs
