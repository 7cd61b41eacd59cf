"""What one policy with its frozen constants fixes about a sweep: cells, and the parameters of their tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...policies.groups import POOLED
from ...policies.metrics import on_labels, on_pairs
from ...policies.policy import Place, RolloutPolicy
from ...store.evidence import ArmKey, SeriesKey
from ...store.measurement import is_latency
from ...store.rollouts import FrozenConstants
from ..analysis.batching import OF_THE_SERVER
from ..analysis.cells import SERIES, Cell, Limit, cells_of, is_amount, limits_of
from ..analysis.comparison import may_lack
from ..analysis.reading import Levels
from ..analysis.sums import least_of_pairs
from ..validity.lacking import told
from .rows import PLACE, Kind, Row, Rows
from .silence import GateCells, Silence

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

KINDS: Final[tuple[Kind, ...]] = ("server", "requests", "units", *PLACE)
PLACES: Final[tuple[Place, ...]] = ("shadow", "canary")
# Series of single requests: means of values and shares of events.
_OUTCOMES: Final = frozenset(
    f"outcome.{name}" for name in ("accuracy", "recall", "false_positive_rate", "brier", "calibration")
)
_OF_THE_REQUEST: Final = _OUTCOMES | {"mean", "selected", "tokens.output", "rank", "uncertainty"}


@dataclass(frozen=True, slots=True, eq=False)
class Tests:
    """T tests of one kind, each a limit of a cell. All arrays are (T,).

    `cell`: position in the program. `harm_row`, `safe_row`: positions in `rows`. `sign`: -1 where the
    candidate harms by less. `gap`, `harm_level` (0: none), `variance`: for tuning. `counted`: y is a share of
    events. `absolute`: decided from few events too. `may_lack`: share of the candidate's y that may miss.
    `pairs`: of tests on pairs, whose `harm_row` and `safe_row` are positions in it.
    """

    kind: Kind
    rows: Rows
    cell: Indices
    harm_row: Indices
    safe_row: Indices
    harm_ratio: Floats
    safe_ratio: Floats
    harm_null: Floats
    safe_null: Floats
    sign: Floats
    gap: Floats
    harm_level: Floats
    centre: Floats
    variance: Floats
    counted: NDArray[np.bool_]
    absolute: NDArray[np.bool_]
    may_lack: Floats
    pairs: PairQuestions | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PairQuestions:
    """What is asked of pairs: Q differences, factors or least shares. All arrays are (Q,).

    `row`: of the series. `ratio`: of stable's y that is taken from the candidate's, 1 for a difference.
    `least`: the share that is asked for, NaN for none. `counted`: y is a share of events. `tau`: pairs that
    are worth one where few differ.
    """

    row: Indices
    ratio: Floats
    least: Floats
    counted: NDArray[np.bool_]
    tau: float


@dataclass(frozen=True, slots=True, eq=False)
class Missing:
    """The series of values that answers of a place lack. `at`: where a cell's are in it, -1 for nowhere."""

    place: Place
    rows: Rows
    at: Indices


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """`gates`: in the policy's order; `silence`: their verdicts without a word. `first`, `second`: a cell's
    tests in `tests` laid end to end, -1 where it has none. `missing`: of each place that has some; `untold`:
    cells of which answers lack nothing. `shadow`: cells that are decided in a shadow. `steps`: those that
    decide tests of a kind.
    """

    policy: RolloutPolicy
    constants: FrozenConstants
    levels: Levels
    cells: tuple[Cell, ...]
    limits: tuple[tuple[Limit, ...], ...]
    gates: tuple[GateCells, ...]
    silence: Silence
    tests: tuple[Tests, ...]
    first: Indices
    second: Indices
    weight: Floats
    missing: tuple[Missing, ...]
    untold: NDArray[np.bool_]
    shadow: NDArray[np.bool_]
    steps: Mapping[Kind, tuple[int, ...]]


class Programs:
    """Programs of the rollouts that were looked at last; made anew where what they rest on changed."""

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._known: dict[str, Program] = {}

    def of(self, rollout: str, policy: RolloutPolicy, constants: FrozenConstants, levels: Levels) -> Program:
        """The program of a rollout."""
        known = self._known.get(rollout)
        if (
            known is None
            or known.levels != levels
            or known.policy is not policy
            or (known.constants is not constants and known.constants != constants)
        ):
            known = program_of(policy, constants, levels)
            self._known.pop(rollout, None)
            while len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[rollout] = known
        return known


def program_of(policy: RolloutPolicy, constants: FrozenConstants, levels: Levels) -> Program:
    """Everything about a sweep that no evidence changes."""
    cells = cells_of(policy, constants)
    limits = tuple(limits_of(cell, constants) for cell in cells)
    found: dict[Kind, list[tuple[int, Limit]]] = {kind: [] for kind in KINDS}
    gates: dict[tuple[int, Place], list[int]] = {}
    for position, cell in enumerate(cells):
        gates.setdefault((cell.index, cell.place), []).append(position)
        kind = _kind(cell, constants)
        if kind is not None and all(limit.gap > 0.0 for limit in limits[position]):
            found[kind] += [(position, limit) for limit in limits[position]]
    tests = tuple(_tests(kind, which, cells, constants, levels) for kind, which in found.items() if which)
    first, second = np.full(len(cells), -1), np.full(len(cells), -1)
    for number, position in enumerate(int(p) for one in tests for p in one.cell):
        if first[position] < 0:
            first[position] = number
        else:
            second[position] = number
    missing = tuple(one for place in PLACES if len((one := _missing(cells, place)).rows))
    its_gates = [_gate(index, place, positions, cells) for (index, place), positions in gates.items()]
    return Program(
        policy, constants, levels, cells, limits,
        tuple(its_gates), Silence(policy, its_gates), tests, first, second,
        np.array([cell.weight for cell in cells]),
        missing, np.array([not told(cell.series) for cell in cells], dtype=bool),
        np.array([cell.place == "shadow" for cell in cells], dtype=bool),
        {kind: _steps(kind, policy) for kind in KINDS},
    )  # fmt: skip


def _steps(kind: Kind, policy: RolloutPolicy) -> tuple[int, ...]:
    place = PLACE.get(kind, "canary")
    return tuple(
        k
        for k, step in enumerate(policy.steps)
        if step.place == place and (kind != "back" or step.mirror_back is not None)
    )


def _gate(index: int, place: Place, positions: Sequence[int], cells: Sequence[Cell]) -> GateCells:
    """A group too small to prove is only watched, unless all are."""
    needed = [position for position in positions if not cells[position].watched] or positions
    return GateCells(index, place, np.array(positions), np.array(needed))


def _kind(cell: Cell, constants: FrozenConstants) -> Kind | None:
    """How a cell is swept; None: it is read by itself."""
    if cell.against or cell.group.endswith(f"={POOLED}"):  # of several groups
        return None
    if on_pairs(cell.gate, cell.place):
        return _paired_kind(cell)
    if cell.place != "canary" or not _swept(cell.gate.metric):
        return None
    if is_latency(cell.gate.metric) or cell.series in OF_THE_SERVER:
        return "server"
    if cell.series in _OF_THE_REQUEST or cell.series.startswith(("bin.", "metrics.")):
        return "units" if constants.sticky else "requests"
    return None


def _paired_kind(cell: Cell) -> Kind | None:
    metric = cell.gate.metric
    known = metric in _ALIKE or (_swept(metric) and metric != "prediction.divergence")
    if not known or is_latency(metric) or on_labels(cell.gate):
        return None
    return "shadow" if cell.place == "shadow" else "back"


def _swept(metric: str) -> bool:
    """Metrics that are not named here are read cell by cell, until somebody has held them equal."""
    return metric in _SWEPT or metric.startswith(("class_share.", "metrics."))


_ALIKE: Final = frozenset({"prediction.agreement", "explanation.agreement"})
_SWEPT: Final = frozenset({*SERIES, *_OUTCOMES, "stream.truncated", "tokens.output"}) | {
    f"{kind}.{quantile}" for kind in ("latency", "stream.first_token") for quantile in ("p50", "p95", "p99")
}


def _tests(
    kind: Kind,
    which: Sequence[tuple[int, Limit]],
    cells: Sequence[Cell],
    constants: FrozenConstants,
    levels: Levels,
) -> Tests:
    rows: dict[Row, int] = {}
    asked: dict[tuple[int, float, float, bool], int] = {}
    table: list[tuple[float, ...]] = []
    for position, limit in which:
        cell = cells[position]
        harm, safe = (rows.setdefault(row, len(rows)) for row in _rows(cell))
        if kind in PLACE:
            counted, least = not is_amount(cell.series, constants), limit.margin
            ratios = (limit.harm_at, limit.margin) if limit.effect == "ratio" else (1.0, 1.0)
            harm, safe = (
                asked.setdefault(
                    (harm, ratio, least if limit.effect == "share" else -1.0, counted), len(asked)
                )
                for ratio in ratios
            )
        key = f"{cell.series}|{cell.group}"
        centre = constants.centres.get(key, 0.5)
        deviation = constants.deviations.get(key)
        by_ratio, absolute = limit.effect == "ratio", limit.effect == "difference"
        table.append(
            (
                position, harm, safe,
                limit.harm_at if by_ratio else 1.0, limit.margin if by_ratio else 1.0,
                limit.harm_at if absolute else 0.0, limit.margin if absolute else 0.0,
                -1.0 if cell.direction == "down" else 1.0, limit.gap, levels.harm * cell.weight, centre,
                centre * (1.0 - centre) if deviation is None else deviation**2,
                not is_amount(cell.series, constants),
                absolute and not is_latency(cell.gate.metric), may_lack(cell, constants),
            )
        )  # fmt: skip
    columns = np.array(table, dtype=np.float64).T
    cell_of, harm_row, safe_row = (columns[k].astype(np.intp) for k in range(3))
    harm_ratio, safe_ratio, harm_null, safe_null, sign, gap, level, centres, variance = columns[3:12]
    paired = None
    if kind in PLACE:
        at, ratio, least, counts = np.array(list(asked)).T
        paired = PairQuestions(
            at.astype(np.intp), ratio, np.where(least < 0.0, np.nan, least), counts.astype(bool),
            max(1.0, constants.autocorrelation_time),
        )  # fmt: skip
    return Tests(
        kind, Rows(tuple(rows), _low(rows) if kind in PLACE else None),
        cell_of, harm_row, safe_row, harm_ratio, safe_ratio, harm_null, safe_null,
        sign, gap, level, centres, variance, columns[12].astype(bool), columns[13].astype(bool), columns[14],
        paired,
    )  # fmt: skip


def _low(rows: Iterable[Row]) -> Floats:
    """The least y of pairs, and of stable's side of them."""
    return np.array([(least_of_pairs(row.candidate.metric), 0.0) for row in rows])


def _missing(cells: Sequence[Cell], place: Place) -> Missing:
    rows: dict[Row, int] = {}
    at = [-1] * len(cells)
    arms: tuple[ArmKey, ArmKey] = ("pair" if place == "shadow" else "candidate", "stable")
    for position, cell in enumerate(cells):
        if told(cell.series) and cell.place == place and not cell.group.endswith(f"={POOLED}"):
            keys = (SeriesKey(arm, cell.group, f"{cell.series}.missing") for arm in arms)
            at[position] = rows.setdefault(Row(*keys), len(rows))
    return Missing(place, Rows(tuple(rows)), np.array(at, dtype=np.intp))


def _rows(cell: Cell) -> tuple[Row, Row]:
    """What harm and what safety compare."""
    if on_pairs(cell.gate, cell.place):
        row = Row(
            SeriesKey("pair", cell.group, cell.series), SeriesKey("paired_stable", cell.group, cell.series)
        )
        return row, row
    if not is_latency(cell.gate.metric):
        row = Row(
            SeriesKey("candidate", cell.group, cell.series), SeriesKey("stable", cell.group, cell.series)
        )
        return row, row
    stable = SeriesKey("stable", cell.group, f"{cell.series}.over")
    harm, safe = (SeriesKey("candidate", cell.group, f"{cell.series}.{part}") for part in ("mid", "far"))
    return Row(harm, stable), Row(safe, stable)
