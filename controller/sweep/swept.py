"""A sweep's result, cell by cell: what is proven at this look, as arrays and as readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, log

import numpy as np
from numpy.typing import NDArray

from ...policies.policy import Place
from ...store.evidence import Evidence
from ...store.measurement import CLUSTERS
from ...store.rollouts import EpochRecord, Outcome
from ..analysis.cells import Limit
from ..analysis.reading import Reading
from ..analysis.sums import overdue
from ..validity.lacking import lacks, lacks_more
from .gather import EpochSums, epoch_sums, epochs_at, epochs_of, gathered, is_stored, moments_of, summed
from .pairs import ask_pairs
from .program import Program, Tests
from .questions import Asked, Question, Traffic, ask
from .rows import PLACE

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """Where the cells of a program stand, one truth per cell: `known`, `passed` and `last` (proven on the
    last step alone) as in `Swept`. `whole`: no values are missing that would hold it before anything is
    computed; where it is not, ask `lacking`.
    """

    known: NDArray[np.bool_]
    passed: NDArray[np.bool_]
    last: NDArray[np.bool_]
    whole: NDArray[np.bool_]


class Swept:
    """What a look says of the cells of a program. It speaks only of those that are `known`: passed and open
    ones, exactly as `reading.Reader` reads them. All others are the reader's.

    `harm`, `safe`, `safe_last`: logs of E-values of every cell, minus infinity where there is none.
    """

    def __init__(
        self,
        program: Program,
        asked: Sequence[Asked | None],
        known: NDArray[np.bool_],
        logs: tuple[Floats, ...],
        whole: NDArray[np.bool_],
    ) -> None:
        self.known = known
        self.harm, self.safe, self.safe_last = logs
        needed = -log(program.levels.safe)
        self.passed = known & (self.safe >= needed)
        self.standing = Standing(known, self.passed, self.safe_last >= needed, whole)
        self._program = program
        self._asked = asked
        self._places = [
            (batch, test) for batch, one in enumerate(program.tests) for test in range(len(one.cell))
        ]
        self._columns: dict[int, _Columns] = {}
        self._reaches: dict[int, tuple[list[float], list[float]]] = {}

    def reading(self, cell: int, *, interval: bool) -> Reading:
        """The reading of a known cell."""
        program = self._program
        batch, test = self._places[int(program.first[cell])]
        columns, limit = self._columns_of(batch), program.limits[cell][0]
        level = program.levels.harm * program.cells[cell].weight
        low, high = self._interval(batch, test, limit, decides_harm=level > 0.0) if interval else (None, None)
        harm, safe, last = (float(log_e[cell]) for log_e in (self.harm, self.safe, self.safe_last))
        needed = -log(program.levels.safe)
        return Reading(
            Outcome.PASS if self.passed[cell] else Outcome.INCONCLUSIVE, "",
            _told(columns.harm, test, columns.harm.estimate[test], limit, limit.harm_at), low, high,
            _finite(harm) if level > 0.0 else None, -log(level) if level > 0.0 else None,
            safe, needed, columns.harm.n_s[test], columns.harm.n_c[test],
            columns.methods[test], last >= needed,
        )  # fmt: skip

    def _interval(
        self, batch: int, test: int, limit: Limit, *, decides_harm: bool
    ) -> tuple[float | None, float | None]:
        columns, (for_harm, for_safe) = self._columns_of(batch), self._reaches_of(batch)
        sign = columns.sign[test]
        near = columns.harm.estimate[test] - sign * for_harm[test]
        far = columns.safe.estimate[test] + sign * for_safe[test]
        ends = (
            _told(columns.harm, test, near, limit, limit.harm_at) if decides_harm else None,
            _told(columns.safe, test, far, limit, limit.margin),
        )
        return ends if sign > 0.0 else (ends[1], ends[0])

    def _columns_of(self, batch: int) -> _Columns:
        if batch not in self._columns:
            self._columns[batch] = _Columns.of(self._program.tests[batch], self._answers(batch))
        return self._columns[batch]

    def _reaches_of(self, batch: int) -> tuple[list[float], list[float]]:
        if batch not in self._reaches:
            tests, got = self._program.tests[batch], self._answers(batch)
            common = np.full_like(tests.gap, self._program.levels.safe)
            with np.errstate(all="ignore"):
                harm, safe = got.harm.reach(tests.gap, levels_of(tests)), got.safe.reach(tests.gap, common)
            self._reaches[batch] = harm.tolist(), safe.tolist()
        return self._reaches[batch]

    def _answers(self, batch: int) -> Asked:
        got = self._asked[batch]
        assert got is not None  # noqa: S101 (a cell is known where its tests were asked)
        return got


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """What is told of one question over all epochs, by test: Python's numbers, which are read faster."""

    estimate: list[float]
    expected: list[float]
    n_c: list[float]
    n_s: list[float]

    @classmethod
    def of(cls, one: Question) -> _Side:
        return cls(*(column[:, 0].tolist() for column in (one.estimate, one.expected, one.n_c, one.n_s)))


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    harm: _Side
    safe: _Side
    sign: list[float]
    methods: list[str]

    @classmethod
    def of(cls, tests: Tests, asked: Asked) -> _Columns:
        harm = _Side.of(asked.harm)
        safe = harm if asked.safe is asked.harm else _Side.of(asked.safe)
        methods = [asked.harm.methods[int(one)] for one in asked.harm.bounded[:, 0]]
        return cls(harm, safe, tests.sign.tolist(), methods)


def _told(side: _Side, test: int, value: float, limit: Limit, null: float) -> float | None:
    """A difference as it is shown: itself, as a share or as a factor (see `reading._Test`)."""
    if limit.effect == "share":
        value = min(1.0, max(0.0, limit.margin + value))
    if limit.effect == "ratio":
        n_c, expected = side.n_c[test], side.expected[test]
        value = null + value * null * n_c / expected if expected > 0.0 else inf
    return _finite(value)


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def levels_of(tests: Tests) -> Floats:
    """Of harm; some level or other where a cell decides none."""
    return np.where(tests.harm_level > 0.0, tests.harm_level, 0.25)


def sweep(program: Program, epochs: Sequence[EpochRecord], evidence: Mapping[int, Evidence]) -> Swept | None:
    """Ask all tests of a program; None where there is no evidence of any yet."""
    asked: list[Asked | None] = []
    first: list[list[int | None]] = []
    for tests in program.tests:
        found, steps = epochs_of(tests.kind, epochs, evidence), program.steps[tests.kind]
        asked.append(_ask(tests, program, found) if found and steps else None)
        first.append([first_of(found, step) for step in steps])
    if not any(asked):
        return None
    harm, safe, last, odd = _all_tests(program, asked, first)
    cells = len(program.cells)
    known = np.zeros(cells, dtype=bool)
    whole, least, latest = (np.full(cells, -np.inf) for _ in range(3))
    swept = program.first >= 0
    one, two = program.first[swept], program.second[swept]
    pair = two >= 0
    other = np.where(pair, two, one)
    # Either of two limits may hold: harm is both exceeded, safety the mean of both E-values.
    whole[swept] = np.minimum(harm[one], harm[other])
    least[swept] = np.logaddexp(safe[one], safe[other]) - log(2.0)
    latest[swept] = np.logaddexp(last[one], last[other]) - log(2.0)
    fine = ~(odd[one] | odd[other]) & np.isfinite(safe[one]) & np.isfinite(safe[other])
    with np.errstate(divide="ignore"):
        needed = -np.log(program.levels.harm * program.weight[swept])  # infinite where a cell decides no harm
    known[swept] = fine & (whole[swept] < needed)
    return Swept(program, asked, known, (whole, least, latest), _whole(program, epochs, evidence))


def _whole(
    program: Program, epochs: Sequence[EpochRecord], evidence: Mapping[int, Evidence]
) -> NDArray[np.bool_]:
    """`lacking` of all cells at once; those whose sums are odd are its own."""
    whole = program.untold.copy()
    for missing in program.missing:
        found = [one for _, one in epochs_at(missing.place, epochs, evidence)]
        swept = missing.at >= 0
        if found:
            sums = summed([epoch_sums(missing.rows, one, 1, counts=True) for one in found])
            whole[swept] = rows_whole(sums, missing.place)[missing.at[swept]]
        else:
            whole[swept] = True
    return whole


def rows_whole(sums: EpochSums, place: Place) -> NDArray[np.bool_]:
    """Rows of missing values of which, over all epochs, too few are missing to matter."""
    theirs, missing, asked, without = sums.totals.reshape(-1, 4).T
    beside = 0.0 if place == "shadow" else 1.0  # of pairs only those count in which stable had a value
    few = np.logical_or(lacks(asked, without), lacks_more(beside * asked, beside * without, theirs, missing))
    return np.asarray(~sums.odd & ~few)


def _ask(tests: Tests, program: Program, found: Sequence[tuple[EpochRecord, Evidence]]) -> Asked:
    if tests.kind in PLACE:
        with np.errstate(all="ignore"):
            return ask_pairs(tests, found)
    clusters = 1 if tests.kind == "requests" else CLUSTERS
    parts = [epoch_sums(tests.rows, one, clusters, counts=tests.kind == "server") for _, one in found]
    centres = tests.rows.centres(tuple(epoch for epoch, _ in found), program.constants.centres)
    pi, open_c, open_s = np.broadcast_to(traffic_of(found)[:, None], (3, *centres.shape))
    traffic = Traffic(pi, open_c, open_s, centres)
    with np.errstate(all="ignore"):
        moments = moments_of([parts], pi) if clusters > 1 else None
        got = ask(tests, gathered(parts, moments), traffic)
    return Asked(got.harm, got.safe, got.odd | is_late(tests, found))


def is_late(tests: Tests, found: Sequence[tuple[EpochRecord, Evidence]]) -> NDArray[np.bool_]:
    """Tests of errors whose requests are overdue, which the reader judges, (T,)."""
    late, known = tests.rows.of_errors, tests.rows.overdue
    if not late.any():
        return np.zeros(len(tests.cell), dtype=bool)
    shares: list[float] = []
    for epoch, one in found:
        before = known.get(epoch.epoch)
        if before is None or before[0] is not one or not is_stored(one):
            known[epoch.epoch] = before = one, overdue(one)
        shares.append(before[1])
    if max(shares) > 0.0:
        return np.asarray(late[tests.harm_row])
    return np.zeros(len(tests.cell), dtype=bool)


def traffic_of(found: Sequence[tuple[EpochRecord, Evidence]]) -> Floats:
    """The candidate's share and open requests of both arms in every epoch, (3, E)."""
    return np.array(
        [
            (epoch.weight, float(one.open.get("candidate", 0)), float(one.open.get("stable", 0)))
            for epoch, one in found
        ]
    ).T


def first_of(found: Sequence[tuple[EpochRecord, Evidence]], step: int) -> int | None:
    """The first epoch of `step` or a later one; None where it has not begun."""
    return next((k for k, (epoch, _) in enumerate(found) if (epoch.step or 0) >= step), None)


def _all_tests(
    program: Program, asked: Sequence[Asked | None], first: Sequence[Sequence[int | None]]
) -> tuple[Floats, Floats, Floats, NDArray[np.bool_]]:
    """Of all batches end to end: harm carried over the steps, safety over all and on the last step, odd.

    `first`: of each batch, the first epoch of each of its steps. What has no epochs yet is odd.
    """
    harms: list[Floats] = []
    safes: list[Floats] = []
    lasts: list[Floats] = []
    odd: list[NDArray[np.bool_]] = []
    for tests, got, steps in zip(program.tests, asked, first, strict=True):
        nothing = np.zeros(len(tests.cell))
        if got is None:
            harms.append(nothing)
            safes.append(nothing - np.inf)
            lasts.append(nothing - np.inf)
            odd.append(nothing == 0.0)
            continue
        with np.errstate(all="ignore"):
            harm = got.harm.log_e(tests.sign, tests.harm_null, tests.gap, levels_of(tests), safe=False)
            common = np.full_like(tests.gap, program.levels.safe)
            safe = got.safe.log_e(tests.sign, tests.safe_null, tests.gap, common, safe=True)
        harm = np.where(np.isnan(harm), 0.0, harm)  # says nothing yet: E = 1
        safe = np.where(np.isnan(safe), -np.inf, safe)
        begun = [harm[:, place] for place in steps if place is not None]
        waiting = [nothing] * (len(steps) - len(begun))
        harms.append(np.logaddexp.reduce(np.array(begun + waiting), axis=0) - log(len(steps)))
        safes.append(safe[:, 0])
        place = steps[-1]
        lasts.append(nothing - np.inf if place is None else safe[:, place])
        odd.append(got.odd | ~got.harm.computable[:, 0])
    return np.concatenate(harms), np.concatenate(safes), np.concatenate(lasts), np.concatenate(odd)
