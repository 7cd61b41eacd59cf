"""What must fit together in a policy file, beyond each value by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .label_rules import check_labels, matures_after
from .metrics import (
    MARGIN_KEYS,
    METRICS,
    NAMES,
    AllowedMargin,
    MarginKey,
    Metric,
    decides,
    find,
    on_pairs,
    places_of,
    with_default_margins,
)
from .policy import Gate, Place, RolloutPolicy, Step
from .quantities import RATIOS, Margin, found, percent, written_duration
from .reading import Reading, near, piece
from .service_rules import check_name
from .yaml import Data, KeyPath

MAX_STEPS: Final = 50
MAX_GATES: Final = 100
# Latency bins are 2 % wide and harm is looked for at half the margin, so less than two bins decide nothing.
SMALLEST_LATENCY_RATIO: Final = 1.05
_TIMES: Final = ("latency.", "stream.first_token.")
_MIRROR_GRAIN: Final = 1_000_000  # a mirror's rate is per million
_CANARY_GRAIN: Final = 10_000  # weights are basis points
_NOT_OF_APPROVE: Final = {
    "duration": "for", "requests": "requests", "until": "until", "mirror_back": "mirror_back",
}  # fmt: skip
_EVIDENT_REQUESTS: Final = 500
_EVIDENT_SECONDS: Final = 600.0


def check_policy(data: dict[str, Data], reading: Reading) -> None:
    """Report everything in a policy file that does not fit together."""
    check_name(data.get("name"), reading)
    steps = [piece(Step, item) for item in _list(data.get("steps"))]
    gates = [piece(Gate, item) for item in _list(data.get("gates"))]
    for index, step in enumerate(steps):
        if step is not None:
            _check_step(step, ("steps", index), reading)
    _check_order(steps, reading)
    for index, gate in enumerate(gates):
        if gate is not None:
            _check_gate(gate, ("gates", index), reading)
    check_labels(gates, reading)
    _check_duplicates(gates, reading)
    _check_deciders(steps, gates, reading)
    if len(steps) > MAX_STEPS:
        reading.add(("steps",), f"found {len(steps)} steps; allowed: at most {MAX_STEPS}")
    if len(gates) > MAX_GATES:
        reading.add(("gates",), f"found {len(gates)} gates; allowed: at most {MAX_GATES}")


def check_metrics(data: dict[str, Data], reading: Reading) -> None:
    """Report metrics that are unknown. Their gates' margins are then not worth a word."""
    supported = f"supported: {', '.join(NAMES)}"
    for index, gate in enumerate(_list(data.get("gates"))):
        name = gate.get("metric") if isinstance(gate, dict) else None
        if not isinstance(name, str) or reading.full:
            continue
        if find(name) is not None:
            continue
        hint = near(name, NAMES)
        reading.add(("gates", index, "metric"), f"found {found(name)}; {hint}{supported}")
        reading.silence(("gates", index))


def check_durations(policy: RolloutPolicy, reading: Reading) -> None:
    """Report a rollout that could not end in its own time; needs the whole policy."""
    least = policy.baseline.duration + sum(step.least_seconds for step in policy.steps)
    mature = matures_after(policy)
    if mature is not None and policy.max_duration < least + mature:
        whole = written_duration(least + mature)
        reading.add(
            ("max_duration",),
            f"found {written_duration(policy.max_duration)}; the baseline and the steps take "
            f"{written_duration(least)}, and labels {written_duration(mature)} more: write at least {whole}",
        )
    elif policy.max_duration < least:
        reading.add(
            ("max_duration",),
            f"found {policy.max_duration:g}s; the baseline and the steps alone take {least:g}s",
        )


def advice(policy: RolloutPolicy) -> tuple[str, ...]:
    """What a checked policy allows that deserves a second look; one line each, for `validate` to show."""
    lines: list[str] = []
    for index, step in enumerate(policy.steps):
        if step.place == "canary" and step.requests < _EVIDENT_REQUESTS:
            lines.append(
                f"steps[{index}].requests: {step.requests} requests of the candidate show little; "
                f"the default is {_EVIDENT_REQUESTS}"
            )
        if step.place == "canary" and step.duration < _EVIDENT_SECONDS:
            lines.append(
                f"steps[{index}].for: {step.duration:g} s see little of the day's changes; the default is 10m"
            )
    return tuple(lines)


def _list(data: Data) -> tuple[Data, ...]:
    return data if isinstance(data, tuple) else ()


def _is_one_verb(step: Step) -> bool:
    return sum(verb is not None for verb in (step.shadow, step.canary, step.approve)) == 1


def _check_step(step: Step, path: KeyPath, reading: Reading) -> None:
    if not _is_one_verb(step):
        given = [verb for verb in ("shadow", "canary", "approve") if getattr(step, verb) is not None]
        if given:
            reading.add((*path, given[-1]), f"a step has one verb; keep {' or '.join(given)}", key=True)
        elif not reading.touches(path):
            reading.add(path, "a step has one verb; write shadow: 100% or canary: 5%")
        return
    if step.approve is not None:
        _check_approve(step, path, reading)
        return
    grain = _MIRROR_GRAIN if step.place == "shadow" else _CANARY_GRAIN
    written = step.share * grain
    if abs(written - round(written)) > 1e-6:  # noqa: PLR2004  (float noise of a decimal)
        finest = percent(1 / grain)
        reading.add((*path, step.place), f"found {percent(step.share)}; allowed: whole multiples of {finest}")
    if step.canary == 1:
        reading.add(
            (*path, "canary"),
            "at 100% nothing of stable is left to compare with; end with 50%: promotion does the rest",
        )
    if step.mirror_back is not None:
        _check_back(step, step.mirror_back, path, reading)
    if step.deadline is not None and step.deadline < step.duration:
        reading.add(
            (*path, "deadline"),
            f"found {step.deadline:g}s; allowed: no less than `for`, which is {step.duration:g}s",
        )


def _check_approve(step: Step, path: KeyPath, reading: Reading) -> None:
    """People decide when it ends, or its deadline does; what the candidate gets stays as it is."""
    for name, key in _NOT_OF_APPROVE.items():
        if name in step.model_fields_set:
            message = "an approve step waits for people, and traffic stays as it is; remove the key"
            reading.add((*path, key), message, key=True)


def _check_back(step: Step, share: float, path: KeyPath, reading: Reading) -> None:
    here = (*path, "mirror_back")
    if step.place == "shadow":
        reading.add(here, "in a shadow step every answer is stable's already; remove the key", key=True)
    elif abs(share * _MIRROR_GRAIN - round(share * _MIRROR_GRAIN)) > 1e-6:  # noqa: PLR2004  (float noise)
        finest = percent(1 / _MIRROR_GRAIN)
        reading.add(here, f"found {percent(share)}; allowed: whole multiples of {finest}")


def _check_order(steps: Sequence[Step | None], reading: Reading) -> None:
    highest: float | None = None
    for index, step in enumerate(steps):
        if step is None or not _is_one_verb(step):
            continue
        if step.place == "approve":
            if index == 0:
                reading.add(
                    ("steps", index, "approve"),
                    "nothing is seen of the candidate before it; put it after a shadow or a canary step",
                    key=True,
                )
        elif step.place == "canary":
            if highest is not None and step.share < highest:
                reading.add(
                    ("steps", index, "canary"),
                    f"found {percent(step.share)} after {percent(highest)}; weights never go down",
                )
            highest = max(highest or 0.0, step.share)
        elif highest is not None:
            reading.add(
                ("steps", index, "shadow"),
                "after a canary step this takes the users away again; move it before the first canary",
            )


def _check_gate(gate: Gate, path: KeyPath, reading: Reading) -> None:
    metric = find(gate.metric)
    if metric is None:
        return
    if gate.place is not None and gate.place not in metric.places:
        allowed = " or ".join(metric.places)
        reading.add((*path, "in"), f"{metric.name} cannot be decided in {gate.place}; allowed: {allowed}")
    if gate.by is not None and not metric.sliced:
        sliced = ", ".join(known.name for known in METRICS if known.sliced)
        reading.add((*path, "by"), f"{metric.name} is not measured by slice; allowed for: {sliced}")
    if metric.between and gate.by is None:
        reading.add(path, f"{metric.name} compares groups; add by: and the name of a slice")
    if gate.or_else is not None and metric.name not in RATIOS:
        reading.add((*path, "or"), f"{metric.name} is compared with stable already; remove the key", key=True)
    complete = with_default_margins(gate)
    for key in MARGIN_KEYS:
        value = getattr(complete, key)
        if value is not None:
            _check_margin(metric, key, value, path, reading)
    if gate.max_shift is not None and gate.max_increase is not None:
        message = "max_shift bounds both directions; keep one of the two"
        reading.add((*path, "max_increase"), message, key=True)
    if not any(getattr(complete, allowed.key) is not None for allowed in metric.margins) and not _has_margin(
        gate
    ):
        reading.add(path, f"{metric.name} needs a margin; add {_margins(metric.margins)}")
    if gate.harm_at is not None:
        check_harm_at(complete, gate.harm_at, (*path, "harm_at"), reading)


def _has_margin(gate: Gate) -> bool:
    return any(getattr(gate, key) is not None for key in MARGIN_KEYS)


def _margins(margins: Sequence[AllowedMargin]) -> str:
    return " or ".join(str(margin) for margin in margins)


def _check_margin(
    metric: Metric, key: MarginKey, value: Margin | float, path: KeyPath, reading: Reading
) -> None:
    here = (*path, key)
    allowed = metric.margin(key)
    if allowed is None:
        later = isinstance(value, Margin) and value.unit == "ms" and metric.unit == "ms"
        reason = f"{key} of {metric.name} is not supported yet" if later else f"{metric.name} takes no {key}"
        reading.add(here, f"{reason}; allowed: {_margins(metric.margins)}", key=True)
    elif isinstance(value, Margin):
        units = " or ".join("a plain number" if unit == "plain" else unit for unit in allowed.units)
        if value.unit not in allowed.units:
            reading.add(
                here, f"found {value}; {metric.name} takes {key} in {units}, such as {allowed.example}"
            )
        elif value.value <= 0 or (value.unit == "pp" and value.value > 1):
            limit = " and at most 100pp" if value.unit == "pp" else ""
            reading.add(here, f"found {value}; allowed: more than 0{limit}, such as {allowed.example}")
    elif key == "min" and metric.name in RATIOS and not 0 < value < 1:
        reading.add(here, f"found {value:g}; allowed: more than 0 and less than 1, such as {allowed.example}")
    elif key == "min" and not 0 < value < 1:
        reading.add(
            here, f"found {percent(value)}; allowed: more than 0% and less than 100%, which no number proves"
        )
    elif key == "max_ratio" and metric.name.startswith(_TIMES) and value < SMALLEST_LATENCY_RATIO:
        reading.add(
            here,
            f"found {value:g}; latencies are measured in steps of 2%: at least {SMALLEST_LATENCY_RATIO}",
        )


def check_harm_at(gate: Gate, harm_at: Margin, path: KeyPath, reading: Reading) -> None:
    """`harm_at` lies below the margin of its unit; a plain number below a factor lies at 1 or above."""
    if gate.min is not None:
        reading.add(path, f"{gate.metric} fails below its own min; remove the key", key=True)
        return
    written_margins = (gate.max_increase, gate.max_shift, gate.max_decrease)
    absolute = [margin for margin in written_margins if margin is not None]
    for margin in absolute:
        if margin.unit == harm_at.unit:
            if harm_at.value >= margin.value:
                reading.add(path, f"found {harm_at}; allowed: less than the margin {margin}")
            return
    if gate.max_ratio is not None and harm_at.unit == "plain":
        if not 1 <= harm_at.value < gate.max_ratio:
            reading.add(
                path, f"found {harm_at}; allowed: a factor from 1 to under max_ratio {gate.max_ratio:g}"
            )
        return
    written = [str(margin) for margin in absolute]
    if gate.max_ratio is not None:
        written.append(f"the factor {gate.max_ratio:g}")
    if written:
        reading.add(
            path, f"found {harm_at}; allowed: less than the margin, in its unit ({' or '.join(written)})"
        )


def _check_duplicates(gates: Sequence[Gate | None], reading: Reading) -> None:
    seen: dict[tuple[str, str | None, Place], int] = {}
    for index, gate in enumerate(gates):
        if gate is None or find(gate.metric) is None:
            continue
        for place in places_of(gate):
            first = seen.setdefault((gate.metric, gate.by, place), index)
            if first != index:
                reading.add(
                    ("gates", index),
                    f"{gate.metric} in {place} is already gates[{first}]; keep one, or part them by in",
                )
                break


def _check_deciders(steps: Sequence[Step | None], gates: Sequence[Gate | None], reading: Reading) -> None:
    """Every gate has a step that can decide it, every `until: gates` a gate, and something must be proven.

    Said only when all steps, or all gates, are readable: otherwise the missing one could be the decider.
    """
    known_steps = [step for step in steps if step is not None and _is_one_verb(step)]
    known_gates = [
        (index, gate) for index, gate in enumerate(gates) if gate is not None and find(gate.metric)
    ]
    if steps and len(known_steps) == len(steps):
        for index, gate in known_gates:
            if places_of(gate) and not any(decides(gate, step) for step in known_steps):
                needed = _deciders(gate, known_steps)
                reading.add(("gates", index), f"no step can decide it; add {needed}, or remove the gate")
    if not gates or len(known_gates) != len(gates):
        return
    for index, step in enumerate(steps):
        if step is None or not _is_one_verb(step) or not step.until_gates:
            continue
        if not any(decides(gate, step) and gate.require == "proof" for _, gate in known_gates):
            reading.add(
                ("steps", index, "until"),
                f"no gate is proven in {step.place}; add a gate, or remove until: gates",
            )
    if not any(gate.require == "proof" for _, gate in known_gates):
        reading.add(
            ("gates",),
            "nothing has to be proven, so anything would be promoted; give one gate require: proof",
        )


def _deciders(gate: Gate, steps: Sequence[Step]) -> str:
    """What would decide a gate that nothing decides, in words."""
    needed = [
        f"a {place} step" for place in places_of(gate) if not on_pairs(gate, place) or place == "shadow"
    ]
    if "canary" in places_of(gate) and on_pairs(gate, "canary"):
        canary = any(step.place == "canary" for step in steps)
        needed.append("mirror_back to a canary step" if canary else "a canary step with mirror_back")
    return " or ".join(needed)
