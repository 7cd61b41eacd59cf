"""What a policy needs of the service it is used on."""

from __future__ import annotations

from typing import Final

from ..errors import FileError, Problem
from .answer_needs import TOLD, told_needs
from .body_rules import UNSCORED
from .groups import EVERY, groups_of_slice, paths_of
from .label_rules import label_needs, told_by_labels
from .metrics import find, on_labels, places_of
from .policy import Gate, RolloutPolicy
from .protocols import PROTOCOLS
from .quantities import found
from .reading import near
from .service import ModelService
from .text import START
from .yaml import Document, KeyPath, dotted

# Protocols whose answers tell of streams and of output tokens.
TELLING: Final = frozenset({"openai"})
_COMPARED: Final = ("prediction.agreement", "prediction.divergence", "prediction.missing")
_NUMERIC: Final = frozenset({"prediction.mean", "prediction.rank"})
_READ: Final = ("prediction.", "class_share.", "selection_", "outcome.")
MAX_PAIRED: Final = 20  # groups of which every pair is compared; the error probability is split over them


def check_pair(
    service: ModelService, policy: RolloutPolicy, document: Document | None = None
) -> tuple[Problem, ...]:
    """Everything that keeps a policy from being used on a service; empty where it fits.

    With the policy's `document` each problem has its line and column, otherwise the key path alone tells.
    """
    problems: list[Problem] = []
    where = f"(with service {service.name})"
    file = document.file if document is not None else f"policy {policy.name}"

    def add(path: KeyPath, message: str) -> None:
        at = document.position(path) if document is not None else START
        problems.append(Problem(file, at.line, at.column, dotted(path), f"{message} {where}"))

    for index, step in enumerate(policy.steps):
        if step.place == "shadow" and service.side_effects == "writes":
            add(
                ("steps", index, "shadow"),
                "requests with side effects are not mirrored; remove the step, or declare in the service "
                "side_effects: none or shadow-aware",
            )
        if step.mirror_back is not None and service.side_effects == "writes":
            add(
                ("steps", index, "mirror_back"),
                "requests with side effects are not mirrored; remove the key, or declare in the service "
                "side_effects: none or shadow-aware",
            )
    for index, gate in enumerate(policy.gates):
        for key, message in _needs(service, gate):
            add(("gates", index, key), message)
        if gate.by is not None and gate.by not in service.slices:
            declared = (
                f"allowed: {', '.join(service.slices)}" if service.slices else "the service declares none"
            )
            add(
                ("gates", index, "by"),
                f"no such slice {found(gate.by)}; {near(gate.by, service.slices)}{declared}",
            )
    return tuple(problems)


def require_pair(service: ModelService, policy: RolloutPolicy, document: Document | None = None) -> None:
    """Raise FileError with every problem where the policy does not fit the service."""
    problems = check_pair(service, policy, document)
    if problems:
        raise FileError(problems)


def _needs(service: ModelService, gate: Gate) -> list[tuple[str, str]]:
    """Key and message of what a gate needs and the service does not declare."""
    prediction = service.prediction
    needs: list[tuple[str, str]] = []
    reads_prediction = gate.metric.startswith(_READ)
    spoken = PROTOCOLS[service.protocol]
    if reads_prediction and prediction.path is None and not spoken.predicts_at:
        needs.append(
            ("metric", f"{gate.metric} needs prediction.path: {service.protocol} does not say where it is")
        )
    if reads_prediction and prediction.type not in spoken.types:
        allowed = " or ".join(spoken.types)
        needs.append(
            ("metric", f"{gate.metric} needs prediction.type {allowed}: {service.protocol} has no other")
        )
    if prediction.type in UNSCORED and reads_prediction and gate.metric not in _COMPARED:
        allowed = f"{', '.join(_COMPARED[:-1])} and {_COMPARED[-1]}, and metrics that do not read predictions"
        needs.append(
            ("metric", f"found {gate.metric}; predictions of type {prediction.type} allow {allowed}")
        )
    elif gate.metric in _NUMERIC and prediction.type != "number":
        needs.append(("metric", f"{gate.metric} needs prediction.type number, found {prediction.type}"))
    elif gate.metric.startswith("class_share.") and prediction.type != "label":
        needs.append(("metric", f"{gate.metric} needs prediction.type label, found {prediction.type}"))
    elif gate.metric.startswith("selection_") and prediction.selected is None:
        needs.append(("metric", f'{gate.metric} needs prediction.selected, such as ">= 0.5"'))
    if (
        gate.metric in {"prediction.agreement", "prediction.divergence"}
        and prediction.type in {"number", "vector"}
        and prediction.agree_within is None
    ):
        kind = "numbers" if prediction.type == "number" else "vectors (a cosine distance)"
        needs.append(("metric", f"agreement of {kind} needs prediction.agree_within, such as 0.05"))
    needs += told_needs(service, gate) + label_needs(service, gate)
    reads_streams = gate.metric.startswith(("stream.", "tokens."))
    if reads_streams and service.protocol not in TELLING:
        needs.append(
            ("metric", f"{gate.metric} needs protocol {', '.join(sorted(TELLING))}, found {service.protocol}")
        )
    if not service.capture.response and (reads_prediction or reads_streams or gate.metric.startswith(TOLD)):
        needs.append(("metric", f"{gate.metric} reads answers, and capture.response is 0B"))
    if gate.by in service.slices:
        needs += _needs_of_groups(service, gate, gate.by)
    return needs if places_of(gate) else []


def _needs_of_groups(service: ModelService, gate: Gate, name: str) -> list[tuple[str, str]]:
    """What reading, comparing or pooling the groups of a slice needs of it."""
    needs: list[tuple[str, str]] = []
    if name in told_by_labels(service):
        if not on_labels(gate):
            needs.append(("by", f"only labels tell {name}, and {gate.metric} does not wait for them"))
        elif gate.small_slices != "hold":
            message = (
                f"only labels tell {name}, so nobody knows which of its groups are small; remove the key"
            )
            needs.append(("small_slices", message))
    elif not service.capture.request:
        needs.append(("by", "slices are read from requests, and capture.request is 0B"))
    metric = find(gate.metric)
    groups = len(groups_of_slice(name, service.slices))
    if metric is not None and metric.between and groups > MAX_PAIRED and not service.slices[name].reference:
        message = (
            f"{gate.metric} compares all pairs of groups, and {name} has {groups} groups; allowed: at most "
            f"{MAX_PAIRED}, or a slice with a reference, with which alone the others are then compared"
        )
        needs.append(("by", message))
    several = any(EVERY in path for path in paths_of(name, service.slices))
    if gate.small_slices == "pool" and several and not service.unit.sticky:
        message = (
            f"one request may be in several groups of {name}, whose path has {EVERY}, and would count "
            "several times in the pool; allowed: hold or no-harm"
        )
        needs.append(("small_slices", message))
    return needs
