"""One cell at one look: E-values of harm and of non-inferiority, and what they say.

Harm is carried over steps: E = mean over the place's planned steps j of E^(j), where E^(j) counts the epochs
from step j on and is 1 before. So a harm that begins late is not drowned by what came before it, and one
level serves the whole rollout. Non-inferiority is read at this look, over all epochs of the place, and once
more over the last planned step alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite, log
from typing import Any, Final

from ..policies.policy import RolloutPolicy
from ..store.rollouts import FrozenConstants, Outcome, RolloutRecord
from .cells import Cell, Limit, limits_of
from .methods import (
    Asymptotic,
    Measured,
    paired_agreement,
    paired_differences,
    server_outcomes,
    unit_outcomes,
)
from .stats.evalues import log_mean_exp
from .stats.result import NotComputable
from .sums import Broken, CanaryEpoch, PairEpoch, View

Epochs = Sequence[CanaryEpoch | PairEpoch]

# They depend on the server's state, not only on the request: time clusters.
OF_THE_SERVER: Final = frozenset({"errors", "missing", "client_disconnects"})


@dataclass(frozen=True, slots=True)
class Reading:
    """What a cell's evidence says. E-values are logs; None where nothing could be computed.

    `estimate`, `low`, `high`: in units of y, or the factor of a ratio; `low` and `high` are the ends that
    decide harm and safety. `proven`, `proven_last`: non-inferior over all steps, over the last one.
    """

    outcome: Outcome
    reason: str = ""
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    harm: float | None = None
    harm_needed: float | None = None
    safe: float | None = None
    safe_needed: float | None = None
    n_stable: float = 0.0
    n_candidate: float = 0.0
    method: str = ""
    proven_last: bool = False


@dataclass(frozen=True, slots=True)
class Levels:
    """Levels of the whole rollout, halved with every earlier attempt of the same candidate."""

    harm: float
    safe: float

    @classmethod
    def of(cls, policy: RolloutPolicy, record: RolloutRecord) -> Levels:
        """The policy's, for this attempt."""
        share = 0.5**record.attempt
        return cls(policy.risk.false_rollback * share, policy.risk.false_promotion * share)


class Reader:
    """Reads the cells of one look. What several cells measure alike is measured once."""

    def __init__(
        self,
        view: View,
        policy: RolloutPolicy,
        constants: FrozenConstants,
        levels: Levels,
        *,
        intervals: bool,
    ) -> None:
        self._view = view
        self._policy = policy
        self._constants = constants
        self._levels = levels
        self._intervals = intervals
        self._sides: dict[tuple[object, ...], tuple[_Side, _Side] | Broken] = {}

    def read(self, cell: Cell) -> Reading:
        """The reading of one cell."""
        limits = limits_of(cell, self._constants)
        if any(limit.gap <= 0.0 for limit in limits):
            reason = "stable's values do not vary, so this margin is 0; give it in the prediction's own unit"
            return Reading(Outcome.INCONCLUSIVE, reason)
        steps = [number for number, step in enumerate(self._policy.steps) if step.place == cell.place]
        tests: list[_Test] = []
        for limit in limits:
            sides = self._alike(cell, limit)
            if isinstance(sides, Broken):
                return Reading(Outcome.ERROR, sides.reason)
            if not sides[0].epochs or not sides[1].epochs:
                return Reading(Outcome.INCONCLUSIVE, f"no {cell.place} observations yet")
            tests.append(_Test(cell, limit, sides, steps, self._levels))
        shown = tests[0]
        if isinstance(shown.harmful, NotComputable):
            return Reading(Outcome.INCONCLUSIVE, shown.harmful.reason)
        # Either of two limits may hold: harm is both exceeded, safety the mean of both E-values.
        harm = min(test.harm for test in tests)
        safe = log_mean_exp([test.safe for test in tests])
        last = log_mean_exp([test.last for test in tests])
        safe_needed = -log(self._levels.safe)
        harm_needed = -log(self._levels.harm * cell.weight) if cell.weight > 0.0 else None
        if harm_needed is not None and harm >= harm_needed and safe < safe_needed:
            outcome, reason = Outcome.FAIL, ""
        elif safe >= safe_needed:
            outcome, reason = Outcome.PASS, ""
        else:
            outcome, reason = Outcome.INCONCLUSIVE, next((test.reason for test in tests if test.reason), "")
        low, high = shown.interval() if self._intervals else (None, None)
        return Reading(
            outcome, reason, _finite(shown.estimate), low, high,
            _finite(harm), harm_needed, _finite(safe), safe_needed,
            shown.harmful.n_stable, shown.harmful.n_candidate, shown.harmful.method, last >= safe_needed,
        )  # fmt: skip

    def _alike(self, cell: Cell, limit: Limit) -> tuple[_Side, _Side] | Broken:
        key = (cell.place, cell.group, cell.series, limit.effect, limit.harm_at, limit.margin)
        if key not in self._sides:
            self._sides[key] = _sides(cell, limit, self._view, self._constants)
        return self._sides[key]


class _Side:
    """What one of the two questions is asked of, and how: harm and safety may see different series."""

    def __init__(self, epochs: Epochs, measure: Callable[[Any], Measured | NotComputable]) -> None:
        self.epochs = epochs
        self._measure = measure
        self._known: dict[int, Measured | NotComputable] = {}

    def since(self, step: int) -> int:
        """How many epochs, the latest ones, belong to `step` or a later one."""
        return sum(1 for epoch in self.epochs if epoch.step >= step)

    def look(self, latest: int) -> Measured | NotComputable:
        """Measured over the `latest` so many epochs; steps never go back, so those are a tail."""
        if latest not in self._known:
            self._known[latest] = self._measure(self.epochs[len(self.epochs) - latest :])
        return self._known[latest]


class _Test:
    """One limit of a cell on its evidence."""

    def __init__(
        self, cell: Cell, limit: Limit, sides: tuple[_Side, _Side], steps: Sequence[int], levels: Levels
    ) -> None:
        self._limit = limit
        self._turned = cell.direction == "down"
        self._harm_level = levels.harm * cell.weight
        self._safe_level = levels.safe
        # A ratio or a least share is in the estimate itself; its null is then 0.
        self._harm_null = limit.harm_at if limit.effect == "difference" else 0.0
        self._safe_null = limit.margin if limit.effect == "difference" else 0.0
        self.reason = ""
        for_harm, for_safe = sides
        self.harmful = self._look(for_harm, len(for_harm.epochs))
        self._harmless = self._look(for_safe, len(for_safe.epochs))
        self.harm = self._carried(for_harm, steps) if self._harm_level > 0.0 else -inf
        self.safe = self._safe(self._harmless)
        recent = for_safe.since(steps[-1])
        if recent == len(for_safe.epochs):
            self.last = self.safe
        else:
            self.last = self._safe(self._look(for_safe, recent)) if recent else -inf

    @property
    def estimate(self) -> float:
        """As shown: a difference, a factor, or the share itself."""
        return (
            inf
            if isinstance(self.harmful, NotComputable)
            else self._shown(self.harmful, 0.0, self._limit.harm_at)
        )

    def interval(self) -> tuple[float | None, float | None]:
        """The ends that decide: harm's at its own level, safety's at the level of promotion."""
        near = far = None
        if not isinstance(self.harmful, NotComputable) and self._harm_level > 0.0:
            reach = -self.harmful.reach(self._limit.gap, self._harm_level)
            near = _finite(self._shown(self.harmful, reach, self._limit.harm_at))
        if not isinstance(self._harmless, NotComputable):
            reach = self._harmless.reach(self._limit.gap, self._safe_level)
            far = _finite(self._shown(self._harmless, reach, self._limit.margin))
        return (far, near) if self._turned else (near, far)

    def _look(self, side: _Side, latest: int) -> Measured | NotComputable:
        got = side.look(latest)
        return got.mirrored() if self._turned and not isinstance(got, NotComputable) else got

    def _carried(self, side: _Side, steps: Sequence[int]) -> float:
        """The mean over planned steps; 1 where a step has not begun or says nothing yet."""
        logs: list[float] = []
        known: dict[int, float] = {0: 0.0}
        for step in steps:
            latest = side.since(step)
            if latest not in known:
                known[latest] = self._harm(self._look(side, latest))
            logs.append(known[latest])
        return log_mean_exp(logs)

    def _harm(self, got: Measured | NotComputable) -> float:
        if isinstance(got, NotComputable):
            return 0.0
        value = got.harm(self._harm_null, self._limit.gap, self._harm_level)
        return 0.0 if isinstance(value, NotComputable) else value

    def _safe(self, got: Measured | NotComputable) -> float:
        value = got
        if not isinstance(value, NotComputable):
            outcome = value.safe(self._safe_null, self._limit.gap, self._safe_level)
            if not isinstance(outcome, NotComputable):
                return outcome
            value = outcome
        self.reason = self.reason or value.reason
        return -inf

    def _shown(self, got: Measured, reach: float, null: float) -> float:
        """The estimate, or an end of its interval `reach` away, as it is shown."""
        value = (got.estimate + reach) * (-1.0 if self._turned else 1.0)
        if self._limit.effect == "share":
            return self._limit.margin + value
        if self._limit.effect == "ratio":
            # D = r_c - R r_s is 0 where the ratio is R, so the ratio is R + D/r_s; expected = n_c R r_s.
            expected = got.expected if isinstance(got, Asymptotic) else None
            return null + value * null * got.n_candidate / expected if expected else inf
        return value


def _sides(cell: Cell, limit: Limit, view: View, constants: FrozenConstants) -> tuple[_Side, _Side] | Broken:
    """What harm and what safety look at, and with which statistic."""
    if cell.place == "shadow":
        return _paired_sides(cell, limit, view, constants)
    if cell.gate.metric.startswith("latency."):
        return _latency_sides(cell, view)
    epochs = view.canary(cell.group, cell.series, cell.series)
    if isinstance(epochs, Broken):
        return epochs
    if cell.series in OF_THE_SERVER:
        harm_at, margin = (limit.harm_at, limit.margin) if limit.effect == "ratio" else (1.0, 1.0)
        harmful = _Side(epochs, partial(server_outcomes, ratio=harm_at))
        pending = any(epoch.open_candidate or epoch.open_stable for epoch in epochs)
        if harm_at == margin and not pending:
            return harmful, harmful
        return harmful, _Side(epochs, partial(server_outcomes, ratio=margin, worst_case=pending))
    centre = constants.centres.get(f"{cell.series}|{cell.group}", 0.5)
    variance = constants.deviations.get(f"{cell.series}|{cell.group}", (centre * (1.0 - centre)) ** 0.5) ** 2
    counted = cell.series != "mean"
    side = _Side(epochs, partial(unit_outcomes, sticky=constants.sticky, counted=counted, variance=variance))
    return side, side


def _latency_sides(cell: Cell, view: View) -> tuple[_Side, _Side] | Broken:
    """The candidate over half the margin for harm, over all of it for safety; stable over its quantile."""
    stable = f"{cell.series}.over"
    half, whole = (view.canary(cell.group, f"{cell.series}.{part}", stable) for part in ("mid", "far"))
    if isinstance(half, Broken):
        return half
    if isinstance(whole, Broken):
        return whole
    return (
        _Side(half, partial(server_outcomes, absolute=False)),
        _Side(whole, partial(server_outcomes, absolute=False, worst_case=True)),
    )


def _paired_sides(
    cell: Cell, limit: Limit, view: View, constants: FrozenConstants
) -> tuple[_Side, _Side] | Broken:
    epochs = view.pairs(cell.group, cell.series)
    if isinstance(epochs, Broken):
        return epochs
    tau = max(1.0, constants.autocorrelation_time)
    if limit.effect == "share":
        side = _Side(epochs, partial(paired_agreement, least=limit.margin, autocorrelation=tau))
        return side, side
    measure = partial(paired_differences, counted=cell.series != "mean", autocorrelation=tau)
    if limit.effect == "ratio":
        return (
            _Side(epochs, partial(measure, ratio=limit.harm_at)),
            _Side(epochs, partial(measure, ratio=limit.margin)),
        )
    side = _Side(epochs, measure)
    return side, side


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
