"""What is measured, as it is stored in statistics.json."""

from __future__ import annotations

import math

import msgspec
from scipy.stats import beta


class Rate(msgspec.Struct, frozen=True):
    """How many simulated runs ever raised an alarm that was wrong.

    ``kind``: ours, peer (valid under its own assumptions), naive, or "as if independent". ``side``: harm
    (called worse) or safe (called within the margin while exactly at it). Ours and peers promise ``level``.
    """

    scene: str
    method: str
    kind: str
    side: str
    level: float
    hits: int
    runs: int

    @property
    def share(self) -> float:
        return self.hits / self.runs

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the share, Clopper and Pearson 1934."""
        low = 0.0 if self.hits == 0 else float(beta.ppf(0.025, self.hits, self.runs - self.hits + 1))
        full = self.hits == self.runs
        return low, 1.0 if full else float(beta.ppf(0.975, self.hits + 1, self.runs - self.hits))

    @property
    def allowed(self) -> float:
        """Nominal plus three standard errors."""
        return self.level + 3 * math.sqrt(self.level * (1 - self.level) / self.runs)

    @property
    def held(self) -> bool:
        return self.share <= self.allowed


class Delay(msgspec.Struct, frozen=True):
    """When a true harm was called, and how often the same procedure called equals in as many looks.

    ``median`` and ``most`` (90%) over all runs, in ``unit``; None where fewer runs had found it by the end.
    ``fixed`` is the size at which one test, read once, has 80% power at the same level.
    """

    setting: str
    method: str
    kind: str
    unit: str
    found: float
    median: float | None
    most: float | None
    false: float
    runs: int
    fixed: float

    @property
    def ratio(self) -> float | None:
        return None if self.median is None else self.median / self.fixed


class Path(msgspec.Struct, frozen=True):
    """One run's interval over time: requests, lower end, estimate, upper end."""

    name: str
    truth: float
    points: list[tuple[float, float, float, float]]


class Folded(msgspec.Struct, frozen=True):
    """Observations made into sums and analysed, in seconds of one core."""

    observations: int
    folding: float
    analysis: float
    read: str


class Size(msgspec.Struct, frozen=True):
    """Bytes of one source's evidence of one epoch: said by the plan, and encoded; and what is allowed."""

    plan: str
    estimated: int
    encoded: int
    limit: int


class Measured(msgspec.Struct):
    """Everything of one run of `scripts/bench statistics`. ``scenes``: what each one is."""

    at: str
    machine: dict[str, str]
    seconds: float
    scenes: dict[str, str]
    rates: list[Rate]
    delays: list[Delay]
    paths: list[Path]
    folded: list[Folded]
    sizes: list[Size]
