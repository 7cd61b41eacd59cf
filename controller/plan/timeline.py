"""A plan: the steps of a rollout one after the other, each with the evidence of those before it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, isfinite

from msgspec.structs import replace

from ...policies.metrics import decides, with_default_margins
from ...policies.policy import Gate, RolloutPolicy, Step
from ...policies.quantities import written_duration
from ..analysis.cells import Cell
from .deciding import FIRST, LATE, MEDIAN, Answer, Planner, Question, slowest, span_of
from .forecast import Span
from .planned import GatePlan, GateStep, Harm, Needed, Plan, StepPlan
from .traffic import Traffic, UnplannedError

# Says what to change about a gate: (planner, gate, its index, step, its number, spans before, limit in s).
Advise = Callable[[Planner, Gate, int, Step, int, tuple[Span, ...], float], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Timeline:
    """One run at one quantile: per step its spans, its length, and the answers of its gates."""

    spans: tuple[Span, ...]
    lengths: tuple[float, ...]
    held_by: tuple[str, ...]
    answers: dict[tuple[int, int], tuple[Answer, Cell]]  # (gate, step) -> the slowest cell's
    limits: tuple[float, ...]


def plan(
    service: str,
    policy: RolloutPolicy,
    traffic: Traffic,
    advise: Advise,
) -> Plan:
    """The plan of a rollout. `advise`: what to change about a gate that a step cannot decide in time.

    People take as long as they take: a step that waits for them has no length here, and says so.
    """
    whole = policy
    policy = whole.without_approvals()
    planner = Planner(policy, traffic)
    gates = tuple(with_default_margins(gate) for gate in policy.gates)
    unplanned = _unplanned(planner, gates)
    baseline = max(policy.baseline.duration, policy.baseline.requests / traffic.rate)
    median = _timeline(planner, gates, unplanned, baseline, MEDIAN)
    late = _timeline(planner, gates, unplanned, baseline, LATE)
    planned = tuple(
        GatePlan(
            _name(gate),
            () if index in unplanned else _gate_steps(planner, gate, index, median, late, advise),
            None if index in unplanned else _harm(planner, gate, index, median.spans),
            unplanned.get(index, ""),
        )
        for index, gate in enumerate(gates)
    )
    steps = tuple(
        StepPlan(number + 1, step.text, _finite(median.lengths[number]), _finite(late.lengths[number]),
                 median.held_by[number])
        for number, step in enumerate(policy.steps)
    )  # fmt: skip
    takes, takes_late = (baseline + sum(line.lengths) for line in (median, late))
    reachable = takes <= policy.max_duration and not any(
        one.problem for gate in planned for one in gate.steps if one.required
    )
    return Plan(
        service, policy.name, reachable, _finite(takes), _finite(takes_late), policy.max_duration,
        traffic.rate, baseline, _with_people(whole, steps), _renumbered(whole, planned), traffic.facts,
    )  # fmt: skip


def _with_people(policy: RolloutPolicy, steps: Sequence[StepPlan]) -> tuple[StepPlan, ...]:
    """All steps by their own numbers, those that wait for people among them."""
    planned = iter(steps)
    return tuple(
        StepPlan(number, step.text, 0.0, 0.0, "people", people=True)
        if step.approve is not None
        else replace(next(planned), number=number)
        for number, step in enumerate(policy.steps, start=1)
    )


def _renumbered(policy: RolloutPolicy, gates: Sequence[GatePlan]) -> tuple[GatePlan, ...]:
    """The gates, with steps by their numbers in the policy as it is written."""
    number = [number for number, step in enumerate(policy.steps, start=1) if step.approve is None]
    return tuple(
        replace(
            gate,
            steps=tuple(replace(one, step=number[one.step - 1]) for one in gate.steps),
            harm=gate.harm
            if gate.harm is None or gate.harm.step is None
            else replace(gate.harm, step=number[gate.harm.step - 1]),
        )
        for gate in gates
    )


def required(policy: RolloutPolicy, gate: Gate, number: int) -> bool:
    """Whether a step waits for a gate's proof (`conditions.missing_to_advance`)."""
    step = policy.steps[number]
    last = number == len(policy.steps) - 1
    return gate.require == "proof" and decides(gate, step) and (step.until_gates or last)


def _timeline(
    planner: Planner, gates: Sequence[Gate], unplanned: dict[int, str], baseline: float, quantile: float
) -> _Timeline:
    policy, rate = planner.policy, planner.traffic.rate
    spans: list[Span] = []
    lengths: list[float] = []
    held: list[str] = []
    limits: list[float] = []
    answers: dict[tuple[int, int], tuple[Answer, Cell]] = {}
    left = max(FIRST, policy.max_duration - baseline)
    for number, step in enumerate(policy.steps):
        limit = min(left, step.deadline or inf)
        limits.append(limit)
        seen = step.share * rate
        length, by = step.duration, "for"
        if step.requests / seen > length:
            length, by = step.requests / seen, "requests"
        for index, gate in enumerate(gates):
            if index in unplanned or not decides(gate, step) or gate.require == "nothing":
                continue
            answer = slowest(planner, index, step, number, tuple(spans), quantile, limit)
            if answer is None:
                continue
            answers[index, number] = answer
            wait = _label_wait(policy, gate, number, spans)
            if required(policy, gate, number):
                wait = answer[0].seconds
            if wait > length:
                length, by = wait, _name(gate)
        lengths.append(length)
        held.append(by)
        # What never ends by itself ends at its limit, and the steps after it see that much evidence.
        lasted = min(length, limit)
        spans.append(span_of(step, number, rate, lasted))
        left = max(FIRST, left - lasted)
    return _Timeline(tuple(spans), tuple(lengths), tuple(held), answers, tuple(limits))


def _label_wait(policy: RolloutPolicy, gate: Gate, number: int, before: Sequence[Span]) -> float:
    """Seconds for which promotion waits until a gate that only watches for harm has seen a label."""
    if gate.require != "no-harm" or gate.labels is None or number < len(policy.steps) - 1:
        return 0.0
    place = policy.steps[number].place
    started = next((at for at, span in enumerate(before) if span.place == place), len(before))
    return gate.labels.mature_after - sum(span.seconds for span in before[started:])


def _gate_steps(
    planner: Planner,
    gate: Gate,
    index: int,
    median: _Timeline,
    late: _Timeline,
    advise: Advise,
) -> tuple[GateStep, ...]:
    found: list[GateStep] = []
    for number, step in enumerate(planner.policy.steps):
        if (index, number) not in median.answers:
            continue
        answer, cell = median.answers[index, number]
        slow = late.answers[index, number][0].seconds
        rate, limit = planner.traffic.rate, median.limits[number]
        needed = required(planner.policy, gate, number)
        problem = ""
        advice: tuple[str, ...] = ()
        proof = None
        if gate.require == "proof":
            proof = Needed(
                _finite(answer.seconds), _finite(slow), _finite(answer.seconds * rate), _finite(slow * rate)
            )
            if answer.seconds > limit:
                problem = answer.reading.reason or "the margin is too narrow for so few requests"
                if gate.labels is not None and not answer.reading.method:
                    problem += f"; labels count after {written_duration(gate.labels.mature_after)}"
                if needed:
                    advice = advise(planner, gate, index, step, number, median.spans[:number], limit)
        found.append(
            GateStep(number + 1, needed, cell.name, answer.reading.method, proof, limit, problem, advice)
        )
    return tuple(found)


def _harm(planner: Planner, gate: Gate, index: int, spans: tuple[Span, ...]) -> Harm | None:
    """The slowest cell of the fastest place: which group or direction the harm is in, nobody chooses."""
    cells = [cell for cell in planner.cells if cell.index == index and cell.weight > 0.0]
    if not cells:
        return None
    places = {cell.place for cell in cells}
    found: list[tuple[float, float, int | None]] = []
    for quantile in (MEDIAN, LATE):
        by_place = [
            max(_found(planner, cell, spans, quantile) for cell in cells if cell.place == place)
            for place in places
        ]
        seconds, exposed, step = min(by_place)
        found.append((seconds, exposed, None if step < 0 else step))
    (seconds, exposed, where), (late, late_exposed, _) = found
    return Harm(
        harm_text(gate, planner.traffic.harm), _finite(seconds), _finite(late), _finite(exposed),
        _finite(late_exposed), where,
    )  # fmt: skip


def _found(
    planner: Planner, cell: Cell, spans: tuple[Span, ...], quantile: float
) -> tuple[float, float, int]:
    """(seconds, requests of users that the candidate answered, step) until a cell's harm is proven."""
    passed = exposed = 0.0
    for number, (step, span) in enumerate(zip(planner.policy.steps, spans, strict=True)):
        if step.place == cell.place and decides(cell.gate, step):
            question = Question(cell, spans[:number], step, number, quantile)
            answer = planner.harm(question, span.seconds)
            if isfinite(answer.seconds):
                return (
                    passed + answer.seconds,
                    exposed + answer.seconds * span.weight * planner.traffic.rate,
                    number + 1,
                )
        passed += span.seconds
        exposed += span.requests * span.weight
    return inf, inf, -1


def harm_text(gate: Gate, size: float) -> str:
    """A harm in the words of the margins: `×2 and +1pp`."""
    parts: list[str] = []
    if gate.max_ratio is not None:
        parts.append(f"×{1.0 + size * (gate.max_ratio - 1.0):g}")
    for margin, sign in ((gate.max_increase, "+"), (gate.max_shift, "±"), (gate.max_decrease, "−")):
        if margin is not None:
            scale = 100.0 if margin.unit == "pp" else 1.0
            parts.append(
                f"{sign}{margin.value * size * scale:.4g}{'' if margin.unit == 'plain' else margin.unit}"
            )
    if gate.min is not None:
        parts.append(f"{100.0 * max(0.0, 1.0 - size * (1.0 - gate.min)):.4g}%")
    return " and ".join(parts)


def _unplanned(planner: Planner, gates: Sequence[Gate]) -> dict[int, str]:
    """Gates that the forecast knows nothing about, each with the reason; never silently left out."""
    problems: dict[int, str] = {}
    for index, gate in enumerate(gates):
        mine = [cell for cell in planner.cells if cell.index == index]
        if gate.require == "nothing":
            problems[index] = "it decides nothing (require: nothing)"
        elif not mine:
            where = f"slice {gate.by!r} has no known group" if gate.by else "no step of the policy decides it"
            problems[index] = f"not planned: {where}"
        for cell in mine:
            step, number = next(
                (step, number)
                for number, step in enumerate(planner.policy.steps)
                if step.place == cell.place and decides(gate, step)
            )
            try:
                planner.probe(Question(cell, (), step, number, MEDIAN))
            except UnplannedError as unknown:
                problems[index] = f"not planned yet: {unknown}"
                break
    return problems


def _name(gate: Gate) -> str:
    return f"{gate.metric}{f' by {gate.by}' if gate.by else ''}"


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
