"""What was measured: lines of figures per side and round, ratios paired by round, goals."""

from __future__ import annotations

import statistics
from typing import Literal

import msgspec

from .scene import OURS


class Goal(msgspec.Struct, frozen=True):
    """A limit on the median over the rounds of ours / `against`; without `against`, on our own median."""

    against: str
    limit: float
    kind: Literal["at most", "at least"] = "at most"


class Spread(msgspec.Struct, frozen=True):
    """Of the rounds' figures."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """Median, minimum and maximum."""
    return Spread(statistics.median(values), min(values), max(values))


class Line(msgspec.Struct):
    """One measure of one row: side -> one figure per round. `goals` are what the design asks for."""

    row: str
    title: str
    unit: str
    values: dict[str, list[float]]
    goals: tuple[Goal, ...] = ()
    note: str = ""

    def ratio(self, against: str) -> Spread | None:
        """Ours / theirs, round by round; None where either was not measured (or is 0)."""
        ours, theirs = self.values.get(OURS), self.values.get(against)
        if not ours or not theirs or min(theirs) <= 0:
            return None
        return spread([mine / other for mine, other in zip(ours, theirs, strict=True)])

    def found(self, goal: Goal) -> float | None:
        """What the goal is about."""
        if not goal.against:
            ours = self.values.get(OURS)
            return statistics.median(ours) if ours else None
        ratio = self.ratio(goal.against)
        return None if ratio is None else ratio.median

    def met(self, goal: Goal) -> bool | None:
        """Whether; None where it could not be measured."""
        found = self.found(goal)
        if found is None:
            return None
        return found <= goal.limit if goal.kind == "at most" else found >= goal.limit


class Share(msgspec.Struct, frozen=True):
    """A part of a profile: where (kernel, interpreter, …) or which function, and its share 0..1."""

    name: str
    share: float
    us: float  # per request


class Profile(msgspec.Struct, frozen=True):
    """Where a microsecond goes, for one work. `functions`: of our own code, by time in themselves."""

    title: str
    us: float
    parts: tuple[Share, ...]
    symbols: tuple[Share, ...]
    functions: tuple[Share, ...]
    missing: str = ""


class Curve(msgspec.Struct, frozen=True):
    """Cost against a number. `points`: (x, figures of the rounds)."""

    name: str
    title: str
    x: str
    unit: str
    points: tuple[tuple[float, tuple[float, ...]], ...]


class Report(msgspec.Struct):
    """One run of the suite."""

    at: str
    machine: dict[str, str]
    versions: dict[str, str]
    rounds: int
    seconds: float
    connections: int
    pinned: bool
    lines: list[Line]
    curves: list[Curve]
    profiles: list[Profile]
    failed: dict[str, str]  # row -> why it could not be measured
    ahead: bool = False
