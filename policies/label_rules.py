"""What gates on labels that come later need: one time at which labels count, and a service's outcome."""

from __future__ import annotations

from collections.abc import Sequence

from .metrics import on_labels
from .policy import Gate, RolloutPolicy
from .quantities import written_duration
from .reading import Reading
from .service import ModelService

_OF_TYPE = {
    "binary": (
        "outcome.accuracy",
        "outcome.recall",
        "outcome.false_positive_rate",
        "outcome.brier",
        "outcome.calibration",
    ),
    "label": ("outcome.accuracy",),
    "number": ("uncertainty.coverage",),
}
_DECIDED = ("outcome.accuracy", "outcome.recall", "outcome.false_positive_rate")


def check_labels(gates: Sequence[Gate | None], reading: Reading) -> None:
    """Report gates on outcomes that do not say when labels count, or differ in it, and others that do."""
    first: tuple[int, float] | None = None
    for index, gate in enumerate(gates):
        if gate is None:
            continue
        if not on_labels(gate):
            if gate.labels is not None:
                message = f"{gate.metric} does not wait for labels; remove the key"
                reading.add(("gates", index, "labels"), message, key=True)
        elif gate.labels is None:
            message = (
                f"{gate.metric} is decided on labels that come later; add labels: {{mature_after: 7d}}, the "
                "time after which a request's label is there"
            )
            reading.add(("gates", index), message)
        elif first is None:
            first = index, gate.labels.mature_after
        elif gate.labels.mature_after != first[1]:
            message = (
                f"found {written_duration(gate.labels.mature_after)}, and gates[{first[0]}] has "
                f"{written_duration(first[1])}; allowed: one value for all gates on labels"
            )
            reading.add(("gates", index, "labels", "mature_after"), message)


def matures_after(policy: RolloutPolicy) -> float | None:
    """Seconds after which labels count; None where no gate waits for them."""
    return next((gate.labels.mature_after for gate in policy.gates if gate.labels is not None), None)


def told_by_labels(service: ModelService) -> frozenset[str]:
    """Slices whose groups only feedback knows."""
    return frozenset(name for name, one in service.slices.items() if one.source == "labels")


def label_needs(service: ModelService, gate: Gate) -> list[tuple[str, str]]:
    """Key and message of what a gate on labels needs and the service does not declare."""
    if not on_labels(gate):
        return []
    outcome, prediction = service.outcome, service.prediction
    if outcome is None:
        kinds = " or ".join(kind for kind, metrics in _OF_TYPE.items() if gate.metric in metrics)
        return [("metric", f"{gate.metric} needs outcome: {{type: {kinds}}}; the service declares none")]
    allowed = _OF_TYPE[outcome.type]
    if gate.metric not in allowed:
        message = f"found {gate.metric}; an outcome of type {outcome.type} allows {', '.join(allowed)}"
        return [("metric", message)]
    needs: list[tuple[str, str]] = []
    kind = "label" if outcome.type == "label" else "number"
    if prediction.type != kind:
        message = f"an outcome of type {outcome.type} needs prediction.type {kind}, found {prediction.type}"
        needs.append(("metric", message))
    elif outcome.type == "binary":
        low, high = prediction.range or (-1.0, -1.0)
        if not 0.0 <= low < high <= 1.0:
            message = "an outcome of type binary needs probabilities: prediction.range within [0, 1]"
            needs.append(("metric", message))
        if gate.metric in _DECIDED and prediction.selected is None:
            needs.append(("metric", f'{gate.metric} needs prediction.selected, such as ">= 0.5"'))
    elif outcome.type == "number" and service.uncertainty is None:
        needs.append(("metric", f'{gate.metric} needs uncertainty: {{path: "predictions[0].std"}}'))
    if gate.labels is not None and outcome.keep <= gate.labels.mature_after:
        message = (
            f"found {written_duration(gate.labels.mature_after)}, and predictions are kept for "
            f"{written_duration(outcome.keep)}; allowed: less than outcome.keep"
        )
        needs.append(("labels", message))
    return needs
