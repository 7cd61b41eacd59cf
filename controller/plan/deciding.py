"""When a comparison decides: the analysis itself, asked about expected evidence. Pure.

The cells, limits, weights and levels are those of `cells` and `reading`, and so is the reading: what is
asked is after how much traffic it proves the margin kept (the candidate equals stable) or says `fail` (it
is harmful).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import exp, inf
from typing import Final

from ...policies.metrics import places_of
from ...policies.policy import Gate, Place, RolloutPolicy, Step
from ...store.measurement import is_latency
from ...store.rollouts import Outcome
from ..analysis.cells import Cell, cells_of, limits_of
from ..analysis.reading import Levels, Reader, Reading
from .forecast import ExpectedView, Span, forecast_sides, luck_of
from .traffic import Moments, Traffic

MEDIAN: Final = 0.5
LATE: Final = 0.9
FOREVER: Final = 10 * 366 * 86400.0  # seconds; what takes longer is never
FIRST: Final = 5.0  # seconds; a look comes once a second, and a time cluster takes five
_STRIDE: Final = 2.0
_FINE: Final = 1.02
_ALIKE: Final = 1.5


@dataclass(frozen=True, slots=True)
class Question:
    """Asked of one cell: after spans `before`, when does a step of these shares answer it."""

    cell: Cell
    before: tuple[Span, ...]
    step: Step
    number: int
    quantile: float
    last_alone: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds (infinite: never within ten years), with the reading at that time or at the limit."""

    seconds: float
    reading: Reading


@dataclass(slots=True)
class Planner:
    """Answers for one policy on one traffic."""

    policy: RolloutPolicy
    traffic: Traffic
    levels: Levels = field(init=False)
    cells: tuple[Cell, ...] = field(init=False)
    _known: dict[tuple[object, ...], Answer] = field(
        init=False, default_factory=dict[tuple[object, ...], Answer]
    )

    def __post_init__(self) -> None:
        share = 0.5**self.traffic.attempt
        risk = self.policy.risk
        self.levels = Levels(risk.false_rollback * share, risk.false_promotion * share)
        self.cells = cells_of(self.policy, self.traffic.constants)

    def of(self, index: int, step: Step) -> tuple[Cell, ...]:
        """The cells of a gate that a step's place decides."""
        return tuple(
            cell
            for cell in self.cells
            if cell.index == index and cell.place == step.place and not cell.watched
        )

    def proof(self, question: Question, limit: float) -> Answer:
        """When non-inferiority is proven where the candidate equals stable."""
        return self.proven(question, self._luck(question), limit)

    def proven_at(self, question: Question, seconds: float) -> bool:
        """Whether it is proven after so many seconds: one look, where `proof` searches for the first."""
        return _is_safe(self._read(question, seconds, self._luck(question), None), question)

    def _luck(self, question: Question) -> float:
        # All cells of a gate have to be proven at once; groups with much more traffic are long before. Of two
        # directions only one can be late.
        cell = question.cell
        share = _ALIKE * self.traffic.share(cell.group)
        rivals = [one for one in self.of(cell.index, question.step) if self.traffic.share(one.group) <= share]
        two = 2 if cell.gate.max_shift is not None else 1
        each = question.quantile ** (two / max(two, len(rivals)))
        return luck_of(1.0 - (1.0 - each) / two)

    def proven(self, question: Question, luck: float, limit: float) -> Answer:
        """When a path of so much bad luck (`forecast.luck_of`) proves one cell alone."""

        def done(reading: Reading) -> bool:
            return _is_safe(reading, question)

        key = (
            "proof", *self._alike(question.cell), question.before, question.number, luck,
            question.last_alone, limit,
        )  # fmt: skip
        return self._first(key, question, luck, None, done, limit, FOREVER)

    def harm(self, question: Question, limit: float) -> Answer:
        """When the harm is proven within `limit` seconds of this step, present since the first step."""
        harmed = partial(_harmed, question.cell, self.traffic)

        def done(reading: Reading) -> bool:
            return reading.outcome is Outcome.FAIL

        luck = -luck_of(question.quantile)
        at_end = self._read(question, limit, luck, harmed)
        if not done(at_end):
            return Answer(inf, at_end)
        key = ("harm", *self._alike(question.cell), question.before, question.number, luck, limit)
        return self._first(key, question, luck, harmed, done, limit, limit)

    def probe(self, question: Question) -> None:
        """Raises UnplannedError where the forecast does not know a cell's series or method."""
        self._read(question, FIRST, 0.0, None)

    def _alike(self, cell: Cell) -> tuple[object, ...]:
        """Cells that must answer the same, such as bins of the same share."""
        moments: object = cell.series
        if not is_latency(cell.gate.metric):
            moments = (self.traffic.moments(cell.series, cell.group), cell.series.split(".")[0])
        limits = limits_of(cell, self.traffic.constants)
        share = self.traffic.share(cell.group)
        other: object = None
        if cell.against:
            other = self.traffic.share(cell.against), self.traffic.moments(cell.series, cell.against)
        return (
            cell.place, cell.direction, cell.weight, limits, moments, share, cell.gate.metric, cell.index,
            other,
        )  # fmt: skip

    def _first(
        self,
        key: tuple[object, ...],
        question: Question,
        luck: float,
        harmed: Callable[[str, Moments], Moments] | None,
        done: Callable[[Reading], bool],
        limit: float,
        longest: float,
    ) -> Answer:
        if key in self._known:
            return self._known[key]
        low, seconds = 0.0, min(FIRST, longest)
        while True:
            got = self._read(question, seconds, luck, harmed)
            if done(got):
                break
            low = seconds
            if seconds >= longest:
                answer = Answer(inf, self._read(question, min(limit, longest), luck, harmed))
                self._known[key] = answer
                return answer
            seconds = min(seconds * _STRIDE, longest)
        while seconds > _FINE * low and seconds > FIRST:
            middle = (low * seconds) ** 0.5 if low > 0.0 else seconds / 2.0
            got = self._read(question, middle, luck, harmed)
            low, seconds = (low, middle) if done(got) else (middle, seconds)
        answer = Answer(seconds, self._read(question, min(seconds, limit), luck, harmed))
        self._known[key] = answer
        return answer

    def _read(
        self,
        question: Question,
        seconds: float,
        luck: float,
        harmed: Callable[[str, Moments], Moments] | None,
    ) -> Reading:
        spans = (*question.before, span_of(question.step, question.number, self.traffic.rate, seconds))
        view = ExpectedView(self.traffic, spans, harmed)
        sides = forecast_sides(self.traffic, luck)
        reader = Reader(view, self.policy, self.traffic.constants, self.levels, intervals=False, sides=sides)
        return reader.read(question.cell)


def _is_safe(reading: Reading, question: Question) -> bool:
    safe, needed = reading.safe, reading.safe_needed
    proven = safe is not None and needed is not None and safe >= needed
    return proven and (reading.proven_last or not question.last_alone)


def span_of(step: Step, number: int, rate: float, seconds: float) -> Span:
    """A step's traffic over so many seconds."""
    shadow = step.shadow is not None
    place: Place = "shadow" if shadow else "canary"
    return Span(
        number, place, 0.0 if shadow else step.share, step.share if shadow else 0.0,
        step.mirror_back or 0.0, rate * seconds, seconds,
    )  # fmt: skip


def slowest(
    planner: Planner,
    index: int,
    step: Step,
    number: int,
    before: tuple[Span, ...],
    quantile: float,
    limit: float,
) -> tuple[Answer, Cell] | None:
    """The cell of a gate that is proven last in a step; None where the step decides none."""
    worst: tuple[Answer, Cell] | None = None
    for cell in sorted(planner.of(index, step), key=lambda one: planner.traffic.share(one.group)):
        asked = Question(cell, before, step, number, quantile, _decides_last(planner.policy, step, number))
        # Whoever is proven by then is not the last one; nobody is later than never.
        if worst is None or (worst[0].seconds < inf and not planner.proven_at(asked, worst[0].seconds)):
            answer = planner.proof(asked, limit)
            if worst is None or answer.seconds > worst[0].seconds:
                worst = answer, cell
    return worst


def all_proven(
    planner: Planner, index: int, step: Step, number: int, before: tuple[Span, ...], limit: float
) -> bool:
    """Whether all cells of a gate are proven after `limit` seconds, at the median."""
    last = _decides_last(planner.policy, step, number)
    return all(
        planner.proven_at(Question(cell, before, step, number, MEDIAN, last), limit)
        for cell in planner.of(index, step)
    )


def _decides_last(policy: RolloutPolicy, step: Step, number: int) -> bool:
    return number == len(policy.steps) - 1 and step.place == "canary"


def time_to_prove(
    planner: Planner, index: int, step: Step, number: int, before: tuple[Span, ...], limit: float
) -> float:
    """Median seconds until all cells of a gate are proven; 0 where it has none."""
    got = slowest(planner, index, step, number, before, MEDIAN, limit)
    return 0.0 if got is None else got[0].seconds


def paired_elsewhere(gate: Gate, policy: RolloutPolicy) -> bool:
    """Whether a shadow could decide a gate that no step of the policy decides on pairs."""
    return "shadow" in places_of(gate) and not any(step.place == "shadow" for step in policy.steps)


def _harmed(cell: Cell, traffic: Traffic, series: str, same: Moments) -> Moments:
    """The candidate's y where its harm is `traffic.harm` times what the margin allows."""
    gate, size = cell.gate, traffic.harm
    metric, _, part = series.rpartition(".")
    if is_latency(metric):
        if metric != gate.metric or gate.max_ratio is None:
            return same
        return same.moved(traffic.slower(metric, part, 1.0 + size * (gate.max_ratio - 1.0)))
    if series != cell.series:
        return same
    mean = same.mean
    sign = 1.0 if cell.direction == "up" else -1.0
    means: list[float] = []
    for limit in limits_of(cell, traffic.constants):
        if limit.effect == "share":
            means.append(1.0 - size * (1.0 - limit.margin))
        elif limit.effect == "parity":
            means.append(mean * (1.0 - size * (1.0 - limit.margin)))
        elif limit.form == "ratio":
            means.append(mean * exp(-size * limit.margin))
        elif limit.effect == "ratio":
            means.append(mean * (1.0 + size * (limit.margin - 1.0)))
        else:
            means.append(mean + sign * size * limit.margin)
    return same.moved(max(means) if sign > 0.0 else min(means))
