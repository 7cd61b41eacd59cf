"""What to change about a gate that cannot be decided in time: its margin, pairs, traffic or time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil, floor, isfinite, log10
from typing import Final

from ...policies.policy import Gate, RolloutPolicy, Step
from ...policies.quantities import Margin
from ..analysis.groups import SMALL_GROUP
from .deciding import Planner, all_proven, paired_elsewhere, time_to_prove
from .forecast import Span

_WIDEST: Final = 32.0
_STEPS: Final = 7


def advise(
    planner: Planner, gate: Gate, index: int, step: Step, number: int, before: tuple[Span, ...], limit: float
) -> tuple[str, ...]:
    """Ways out, the one that keeps the question as it is first. Empty where none was found."""
    ways: list[str] = []
    if paired_elsewhere(gate, planner.policy):
        shadow = Step(shadow=1.0, until="gates")
        policy = planner.policy.model_copy(update={"steps": (shadow, *planner.policy.steps)})
        took = time_to_prove(Planner(policy, planner.traffic), index, shadow, 0, (), limit)
        if took <= limit:
            first = "" if planner.traffic.mirrors else " (once the service declares side_effects: none)"
            ways.append(f"use a paired shadow step{first}, which decides it in {duration(took)}")
    wider = _widened(planner, gate, index, step, number, before, limit)
    if wider is not None:
        ways.append(wider)
    took = time_to_prove(planner, index, step, number, before, limit)
    if isfinite(took):
        ways.append(f"allow it {duration(took)} (now {duration(limit)})")
    traffic = _busier(planner, index, step, number, before, limit)
    if traffic is not None:
        ways.append(traffic)
    small = [
        group
        for cell in planner.of(index, step)
        if (group := cell.group) and planner.traffic.share(group) < SMALL_GROUP
    ]
    if small and gate.small_slices == "hold":
        ways.append(
            f"watch small groups for harm only: small_slices: no-harm ({', '.join(dict.fromkeys(small))})"
        )
    return tuple(ways)


def _widened(
    planner: Planner, gate: Gate, index: int, step: Step, number: int, before: tuple[Span, ...], limit: float
) -> str | None:
    def enough(factor: float) -> bool:
        policy = _with(planner.policy, index, _scaled(gate, factor))
        return all_proven(Planner(policy, planner.traffic), index, step, number, before, limit)

    factor = _least(enough)
    return None if factor is None else f"widen it to {_margin(_scaled(gate, factor))}"


def _busier(
    planner: Planner, index: int, step: Step, number: int, before: tuple[Span, ...], limit: float
) -> str | None:
    traffic = planner.traffic

    def enough(factor: float) -> bool:
        more = Planner(
            planner.policy, replace(traffic, rate=traffic.rate * factor, units=traffic.units * factor)
        )
        spans = tuple(replace(span, requests=span.requests * factor) for span in before)
        return all_proven(more, index, step, number, spans, limit)

    factor = _least(enough)
    return None if factor is None else f"it takes about {factor:.2g} times this traffic"


def _least(enough: Callable[[float], bool]) -> float | None:
    """The smallest factor in 1..32 that is enough, to a few percent; None: none is."""
    if not enough(_WIDEST):
        return None
    low, high = 1.0, _WIDEST
    for _ in range(_STEPS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _scaled(gate: Gate, factor: float) -> Gate:
    def margin(old: Margin | None) -> Margin | None:
        if old is None:
            return None
        scale = 100.0 if old.unit == "pp" else 1.0
        return Margin(value=_up(old.value * factor * scale) / scale, unit=old.unit)

    return gate.model_copy(
        update={
            "max_increase": margin(gate.max_increase),
            "max_shift": margin(gate.max_shift),
            "max_decrease": margin(gate.max_decrease),
            "max_ratio": None if gate.max_ratio is None else 1.0 + _up((gate.max_ratio - 1.0) * factor),
            "min": None if gate.min is None else max(0.001, 1.0 - _up((1.0 - gate.min) * factor)),
            "harm_at": None,
        }
    )


def _margin(gate: Gate) -> str:
    parts: list[str] = []
    for key, margin in (
        ("max_increase", gate.max_increase),
        ("max_shift", gate.max_shift),
        ("max_decrease", gate.max_decrease),
    ):
        if margin is not None:
            scale = 100.0 if margin.unit == "pp" else 1.0
            parts.append(f"{key}: {margin.value * scale:.4g}{'' if margin.unit == 'plain' else margin.unit}")
    if gate.max_ratio is not None:
        parts.append(f"max_ratio: {gate.max_ratio:.4g}")
    if gate.min is not None:
        parts.append(f"min: {gate.min * 100:.4g}%")
    return ", ".join(parts)


def _up(value: float) -> float:
    """Rounded up to two digits, so that what is advised is enough."""
    if value <= 0.0:
        return value
    digit = 10.0 ** (floor(log10(value)) - 1)
    return ceil(round(value / digit, 6)) * digit


def _with(policy: RolloutPolicy, index: int, gate: Gate) -> RolloutPolicy:
    gates = tuple(gate if at == index else one for at, one in enumerate(policy.gates))
    return policy.model_copy(update={"gates": gates})


def duration(seconds: float) -> str:
    """A length of time in one unit: `40 s`, `12 min`, `3.5 h`, `31 d`."""
    for size, unit, decimals in ((86400.0, "d", 1), (3600.0, "h", 1), (60.0, "min", 0)):
        if seconds >= size * 1.5:
            return f"{seconds / size:.{decimals}f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"
