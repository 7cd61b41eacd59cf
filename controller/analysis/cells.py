"""The cells of a policy: every single comparison that may prove harm, with its share of the false alarms.

A cell is one gate, in one place, for one group, in one direction (and one bin). The level of false rollback
is split over all cells (weighted Bonferroni on Ville's inequality): half over errors and latency, half over
the rest, nothing for gates that decide nothing; within a half equally over gate, place and group, then over
directions and bins. A gate that compares groups with each other has the share of one group in all, split over
its pairs. The split depends on the policy and the frozen constants alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import Final, Literal

from ...policies.metrics import deciding_places, on_pairs, with_default_margins
from ...policies.policy import Gate, Place, RolloutPolicy
from ...policies.quantities import Margin
from ...store.measurement import is_latency
from ...store.rollouts import FrozenConstants
from ..stats.evalues import Importance, alpha_weights
from .gaps import Form
from .groups import compared, is_small, moment_of

Direction = Literal["up", "down"]

# A gate's metric -> the series that evidence keeps for it (bins have a number each, latencies three parts).
SERIES: Final = {
    "errors": "errors",
    "client_disconnects": "client_disconnects",
    "prediction.mean": "mean",
    "prediction.missing": "missing",
    "prediction.agreement": "agreement",
    "prediction.distribution": "bin",
    "prediction.rank": "rank",
    "prediction.divergence": "agreement",
    "selection_rate": "selected",
    "selection_ratio": "selected",
    "selection_gap": "selected",
    "uncertainty.mean": "uncertainty",
    "explanation.agreement": "explanation",
}
MEANS: Final = frozenset(
    {"mean", "rank", "uncertainty", "tokens.output", "outcome.brier", "outcome.calibration"}
)
"""Series of amounts, where others count events; the numbers of a service's own metrics are amounts too."""
NOT_WORSE: Final = 0.95  # `or: not_worse_than_stable`: at least this share of stable's ratio
_LEAST_AGREEMENT_GAP: Final = 0.01
_LEAST_SHORTFALL: Final = 0.01


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison. `index`: of the gate in the policy. `group`: empty, or `slice=group`.

    `series`: of the evidence. `weight`: share of the harm level. `watched`: the group is too small to
    need a proof. `part`: the bin or class, in words. `against`: the group it is compared with, if another.
    """

    index: int
    gate: Gate
    place: Place
    group: str
    series: str
    direction: Direction
    weight: float
    watched: bool = False
    part: str = ""
    against: str = ""

    @property
    def where(self) -> str:
        """As in `sex=female` or `sex=female against male`; empty for all requests."""
        return f"{self.group} against {self.against.partition('=')[2]}" if self.against else self.group

    @property
    def name(self) -> str:
        """As in `selection_rate{sex=female} down`."""
        where = f"{{{self.where}}}" if self.group else ""
        part = f" {self.part}" if self.part else ""
        one_sided = self.gate.max_shift is None
        return f"{self.gate.metric}{where}{part}{'' if one_sided else f' {self.direction}'}"


@dataclass(frozen=True, slots=True)
class Limit:
    """What a cell compares with, in units of y (differences) or as a factor (ratios).

    `harm_at`, `margin`: nulls of harm and of non-inferiority. `gap`: the difference planned for. `form`:
    between two groups, what is compared. `parity`: one group's rate as a share of another's.
    """

    effect: Literal["difference", "ratio", "share", "parity"]
    harm_at: float
    margin: float
    gap: float
    form: Form = "gap"


@dataclass(frozen=True, slots=True)
class Display:
    """How numbers of a cell are shown: value * factor in `unit`."""

    unit: str
    factor: float


def series_of(metric: str) -> str:
    """The series that a gate's metric is decided on; `bin` where it has several, or one of them."""
    return "bin" if metric.startswith("class_share.") else SERIES.get(metric, metric)


def is_amount(series: str, constants: FrozenConstants) -> bool:
    """False where y counts events: shares, which have few events when a candidate is like stable."""
    return series in MEANS or series in constants.spans


def cells_of(policy: RolloutPolicy, constants: FrozenConstants) -> tuple[Cell, ...]:
    """All cells in the order of the gates. A gate by a slice without any known group has none."""
    gates = [with_default_margins(gate) for gate in policy.gates]
    pairs = [compared(gate, constants) for gate in gates]
    comparisons: list[tuple[int, Gate, Place, str, str]] = [
        (index, gate, place, group, against)
        for index, gate in enumerate(gates)
        for place in deciding_places(gate, policy.steps)
        for group, against in pairs[index]
    ]
    weights = alpha_weights(
        {
            f"{index} {place} {'' if against else group}": importance(gate)
            for index, gate, place, group, against in comparisons
        }
    )
    cells: list[Cell] = []
    for index, gate, place, group, against in comparisons:
        directions = directions_of(gate)
        parts = _parts(gate, constants)
        weight = weights[f"{index} {place} {'' if against else group}"] / len(directions) / max(1, len(parts))
        if against:
            weight /= len(pairs[index])
        watched = _watched(gate, group, constants) or _watched(gate, against, constants)
        cells += [
            Cell(index, gate, place, group, series, direction, weight, watched, part, against)
            for series, part in parts
            for direction in directions
        ]
    return tuple(cells)


def directions_of(gate: Gate) -> tuple[Direction, ...]:
    """In which directions the candidate can harm."""
    if gate.max_shift is not None:
        return ("up", "down")
    return ("down",) if gate.min is not None or gate.max_decrease is not None else ("up",)


def importance(gate: Gate) -> Importance:
    """Errors and latency share one half of the level, everything else the other; `nothing` gets none."""
    if gate.require == "nothing":
        return "advisory"
    return "primary" if gate.metric == "errors" or is_latency(gate.metric) else "secondary"


def limits_of(cell: Cell, constants: FrozenConstants) -> tuple[Limit, ...]:
    """What the cell's gate asks: one limit, or an increase and a ratio of which either may hold."""
    gate = cell.gate
    if is_latency(gate.metric):
        # The factor is in the thresholds of every epoch; what is compared are shares over them.
        beyond = 1.0 - quantile_of(gate.metric)
        return (Limit("difference", 0.0, 0.0, beyond / 2.0),)
    if cell.against:
        return _limits_between(cell, constants)
    if gate.min is not None:
        return (Limit("share", gate.min, gate.min, max(1.0 - gate.min, _LEAST_AGREEMENT_GAP)),)
    limits: list[Limit] = []
    absolute = gate.max_shift or gate.max_increase or gate.max_decrease
    if absolute is not None:
        margin = in_units_of_y(absolute, cell, constants)
        limits.append(Limit("difference", _harm_at(gate, margin, cell, constants), margin, margin))
    if gate.max_ratio is not None:
        centre = moment_of(constants.centres, cell.series, cell.group, constants)
        rate = max(centre or 0.0, 1.0 / max(constants.requests, 1))
        limits.append(Limit("ratio", harm_ratio(gate), gate.max_ratio, (gate.max_ratio - 1.0) * rate))
    return tuple(limits)


def _limits_between(cell: Cell, constants: FrozenConstants) -> tuple[Limit, ...]:
    """A gap may grow against stable's gap in either direction: it is the absolute gap that may not.

    A ratio has its least value and, with `or`, a least share of stable's ratio, told by its logarithm.
    """
    gate = cell.gate
    if gate.min is None:
        assert gate.max_increase is not None  # noqa: S101 (checked: a metric between groups has one or min)
        margin = gate.max_increase.value
        harm_at = _harm_at(gate, margin, cell, constants)
        return (
            Limit("difference", harm_at, margin, margin),
            Limit("difference", harm_at, margin, margin, "reverse"),
        )
    rate = moment_of(constants.centres, cell.series, cell.against, constants) or 0.0
    gap = max((1.0 - gate.min) * rate, _LEAST_SHORTFALL)
    absolute = Limit("parity", gate.min, gate.min, gap, "shortfall")
    if gate.or_else is None:
        return (absolute,)
    worse = -log(NOT_WORSE)
    return (
        absolute,
        Limit("difference", 0.0 if gate.require == "no-harm" else worse / 2.0, worse, worse, "ratio"),
    )


def harm_ratio(gate: Gate) -> float:
    """Where harm begins on the ratio scale: the root of the margin; 1 where a gate only watches for harm."""
    if gate.max_ratio is None or gate.require == "no-harm":
        return 1.0
    if gate.harm_at is not None and gate.harm_at.unit == "plain":
        return max(1.0, gate.harm_at.value)
    return sqrt(gate.max_ratio)


def display_of(cell: Cell, constants: FrozenConstants) -> Display:
    """Percentage points for shares; for a mean the unit its margin is written in."""
    if cell.gate.min is not None:
        return Display("", 1.0) if cell.against else Display("%", 100.0)
    if not is_amount(cell.series, constants):
        return Display("pp", 100.0)
    margin = cell.gate.max_shift or cell.gate.max_increase or cell.gate.max_decrease
    if margin is not None and margin.unit == "sd":
        deviation = constants.deviations.get(f"{cell.series}|", 0.0)
        return Display("sd", 1.0 / deviation if deviation > 0.0 else 1.0)
    return Display("", _span(cell, constants))


def in_units_of_y(margin: Margin, cell: Cell, constants: FrozenConstants) -> float:
    """A written margin in units of y in [0, 1]: scaled by stable's sd, by the limits, or as it is."""
    if margin.unit == "sd":
        return margin.value * constants.deviations.get(f"{cell.series}|", 0.0)
    if margin.unit == "plain" and is_amount(cell.series, constants):
        return margin.value / _span(cell, constants)
    return margin.value


def _span(cell: Cell, constants: FrozenConstants) -> float:
    """What y = 1 is above y = 0, in the metric's own unit."""
    series = cell.series
    if series == "tokens.output":
        return constants.tokens or 1.0
    if series in {"rank", "outcome.brier"}:
        return 1.0
    if series in constants.spans:
        return constants.spans[series]
    low, high = constants.limits or (0.0, 1.0)
    # An arm's y is (1 + p - o) / 2, so that it lies in 0..1; a pair's is p_c - p_s.
    halved = series == "outcome.calibration" and not on_pairs(cell.gate, cell.place)
    return (high - low) * (2.0 if halved else 1.0)


def quantile_of(metric: str) -> float:
    """0.95 for `latency.p95`."""
    digits = metric.rpartition(".p")[2]
    return int(digits) / float(10 ** len(digits))


def _harm_at(gate: Gate, margin: float, cell: Cell, constants: FrozenConstants) -> float:
    if gate.require == "no-harm":
        return 0.0
    written = gate.max_shift or gate.max_increase or gate.max_decrease
    if gate.harm_at is not None and written is not None and gate.harm_at.unit == written.unit:
        return in_units_of_y(gate.harm_at, cell, constants)
    return margin / 2.0  # a factor says where harm of the ratio begins, and nothing about the increase


def _watched(gate: Gate, group: str, constants: FrozenConstants) -> bool:
    return gate.small_slices == "no-harm" and is_small(group, constants)


def _parts(gate: Gate, constants: FrozenConstants) -> tuple[tuple[str, str], ...]:
    """The series of a gate with what sets them apart."""
    series = series_of(gate.metric)
    if series != "bin":
        return ((series, ""),)
    if gate.metric != "prediction.distribution":  # a class that was not frozen has no series, and no proof
        name = gate.metric.partition(".")[2]
        at = constants.classes.index(name) if name in constants.classes else None
        return ((f"bin.{at}", ""),)
    if constants.classes:
        named = tuple((f"bin.{k}", f"class {label}") for k, label in enumerate(constants.classes))
        return (*named, ("bin.other", "any other class"))
    return tuple(
        (f"bin.{k}", f"bin {k + 1} of {len(constants.edges) + 1}") for k in range(len(constants.edges) + 1)
    )
