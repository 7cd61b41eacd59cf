"""Where the cells of many rollouts stand, all at once: on which side of its level each test is, no more.

The questions and their conditions are those of a sweep (`questions`). Here most tests are only bounded
(`stats.bounds`); the few whose bounds do not tell are computed. What has reached a level of harm, or is odd,
is left to the reader, as by a sweep. Epochs that do not change any more are gathered once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import log
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...store.evidence import Evidence
from ...store.measurement import CLUSTERS
from ...store.rollouts import EpochRecord
from ..stats.arrays import Deviations, products
from .gather import EpochSums, Gathered, epoch_sums, gathered, is_stored, randomised, stacked
from .program import Kind, Program, Tests
from .questions import Asked, Traffic, ask
from .rows import Rows
from .swept import Standing, first_of, is_late, levels_of, rows_whole, traffic_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

_KINDS: Final[tuple[Kind, ...]] = ("server", "requests", "units")
_SLACK: Final = 1e-6  # of a log E-value: what is this near to its level is computed, whatever its bounds say


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """One rollout at one moment. `evidence`: epoch -> the sum over sources."""

    program: Program
    epochs: Sequence[EpochRecord]
    evidence: Mapping[int, Evidence]


class Glances:
    """Where rollouts stood on the evidence that was looked at last."""

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._known: dict[Program, tuple[tuple[EpochRecord, ...], dict[int, Evidence], Standing | None]] = {}

    def of(self, look: Looked) -> Standing | None:
        """Where a rollout stands, as `glance` says."""
        self.prepare([look])
        known = self._known.get(look.program)
        return None if known is None else known[2]

    def prepare(self, looks: Sequence[Looked]) -> None:
        """Glance at once at those whose evidence is another than the last time."""
        new = [look for look in looks if not self._knows(look)]
        for look, standing in zip(new, glance(new), strict=True):
            self._known.pop(look.program, None)
            while len(self._known) >= self._most:
                del self._known[next(iter(self._known))]
            self._known[look.program] = tuple(look.epochs), dict(look.evidence), standing

    def _knows(self, look: Looked) -> bool:
        known = self._known.get(look.program)
        if known is None or len(known[1]) != len(look.evidence):
            return False
        if not all(is_stored(one) for one in look.evidence.values()):
            return False
        epochs, evidence, _ = known
        same = all(evidence.get(epoch) is one for epoch, one in look.evidence.items())
        return same and epochs == tuple(look.epochs)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A rollout with E randomised epochs. `places`: the tail of each canary step, -1 before it has begun."""

    at: int
    program: Program
    epochs: list[tuple[EpochRecord, Evidence]]
    places: list[int]
    all_evidence: list[Evidence]


def glance(looks: Sequence[Looked]) -> list[Standing | None]:
    """Where each stands; None where a sweep has nothing to say."""
    standing: list[Standing | None] = [None] * len(looks)
    alike: dict[int, list[_Found]] = {}
    for at, look in enumerate(looks):
        epochs = randomised(look.epochs, look.evidence)
        if not epochs or not look.program.steps or not look.program.tests:
            continue
        first = (first_of(epochs, step) for step in look.program.steps)
        places = [-1 if place is None else place for place in first]
        canary = [
            look.evidence[e.epoch] for e in look.epochs if e.place == "canary" and e.epoch in look.evidence
        ]
        alike.setdefault(len(epochs), []).append(_Found(at, look.program, epochs, places, canary))
    for found in alike.values():
        for one, its in zip(found, _standings(found), strict=True):
            standing[one.at] = its
    return standing


class _Batch:
    """All tests of one kind of several rollouts with equally many epochs."""

    def __init__(self, kind: Kind, found: Sequence[_Found]) -> None:
        clusters, counts = (1 if kind == "requests" else CLUSTERS), kind == "server"
        parts: list[Gathered] = []
        tests: list[Tests] = []
        traffic: list[Floats] = []
        centres: list[Floats] = []
        safe: list[float] = []
        late: list[Bools] = []
        self.offsets: dict[int, int] = {}
        self.carried: list[tuple[int, list[int]]] = []  # tests, and the tails of their steps
        rows = count = 0
        for one in found:
            for its in one.program.tests:
                if its.kind != kind:
                    continue
                self.offsets[one.at] = count
                shape = 3, len(its.rows), len(one.epochs)
                traffic.append(np.broadcast_to(traffic_of(one.epochs)[:, None], shape))
                sums = [_remembered(its.rows, e.epoch, f, clusters, counts=counts) for e, f in one.epochs]
                its_products = partial(_products, its.rows)
                parts.append(gathered(sums, traffic[-1][0], clustered=clusters > 1, products=its_products))
                tests.append(replace(its, harm_row=its.harm_row + rows, safe_row=its.safe_row + rows))
                centres.append(
                    its.rows.centres(tuple(e for e, _ in one.epochs), one.program.constants.centres)
                )
                safe.append(one.program.levels.safe)
                late.append(is_late(its, one.epochs))
                self.carried.append((len(its.cell), one.places))
                rows, count = rows + len(its.rows), count + len(its.cell)
        self.size = count
        if not count:
            return
        self.tests = _joined(tests)
        pi, open_c, open_s = np.concatenate(traffic, axis=1)
        asked = ask(self.tests, stacked(parts), Traffic(pi, open_c, open_s, np.concatenate(centres)))
        self.asked = replace(asked, odd=asked.odd | np.concatenate(late))
        self.safe_level = np.repeat(safe, [n for n, _ in self.carried])
        last = np.repeat([places[-1] for _, places in self.carried], [n for n, _ in self.carried])
        self.last: Indices = last.astype(np.intp)

    def bounds(self) -> tuple[Floats, Floats, Floats]:
        """(T,) above harm carried over the steps; (T, 2) below and above safety, in all and on the last."""
        tests, asked = self.tests, self.asked
        _, harm = asked.harm.bounds(tests.sign, tests.harm_null, tests.gap, levels_of(tests), safe=False)
        low, high = asked.safe.bounds(tests.sign, tests.safe_null, tests.gap, self.safe_level, safe=True)
        # A mean of E-values is at most the largest; a step that has not begun has 1.
        most = np.where(np.isnan(harm), 0.0, np.maximum(harm, 0.0)).max(axis=1)
        return most, self._ends(low), self._ends(high)

    def exact(self, which: Indices) -> tuple[Floats, Floats]:
        """Of some tests: (T',) harm carried over the steps, (T', 2) safety in all and on the last step."""
        tests = self.tests
        sign, gap = tests.sign[which], tests.gap[which]
        harm = self.asked.harm.of(which).log_e(
            sign, tests.harm_null[which], gap, levels_of(tests)[which], safe=False
        )
        safe = self.asked.safe.of(which).log_e(
            sign, tests.safe_null[which], gap, self.safe_level[which], safe=True
        )
        shares = np.concatenate(
            [np.tile(_shares(places, harm.shape[1]), (n, 1)) for n, places in self.carried]
        )
        harm = np.concatenate([np.where(np.isnan(harm), 0.0, harm), np.zeros((which.size, 1))], axis=1)
        with np.errstate(divide="ignore"):
            carried = np.logaddexp.reduce(harm + np.log(shares[which]), axis=1)
        return carried, self._ends(safe, which)

    def _ends(self, safe: Floats, which: Indices | None = None) -> Floats:
        last = self.last if which is None else self.last[which]
        safe = np.where(np.isnan(safe), -np.inf, safe)
        there = np.where(last >= 0, safe[np.arange(last.size), last], -np.inf)
        return np.stack([safe[:, 0], there], axis=1)


def _shares(places: Sequence[int], epochs: int) -> Floats:
    """The share of each tail among the steps; in the end that of steps that have not begun."""
    return np.bincount([epochs if place < 0 else place for place in places], minlength=epochs + 1) / len(
        places
    )


def _standings(found: Sequence[_Found]) -> list[Standing]:
    with np.errstate(all="ignore"):
        batches = [batch for kind in _KINDS if (batch := _Batch(kind, found)).size]
        harm, low, high = (
            np.concatenate(ends) for ends in zip(*(one.bounds() for one in batches), strict=True)
        )
        fine = np.concatenate([_computable(one.asked) for one in batches])
        cells = _Cells(found, batches)
        fine = fine[cells.one] & fine[cells.other]
        near = fine & (
            (cells.least(harm) >= cells.harm_needed - _SLACK)
            | (cells.straddle(low, high, 0) & (cells.mean(high)[:, 0] >= cells.safe_needed - _SLACK))
            | (cells.straddle(low, high, 1) & (cells.mean(high)[:, 0] >= cells.safe_needed - _SLACK))
        )
        doubtful = np.unique(np.concatenate([cells.one[near], cells.other[near]]))
        start = 0
        for batch in batches:
            which = doubtful[(doubtful >= start) & (doubtful < start + batch.size)]
            if which.size:
                harm[which], low[which] = batch.exact(which - start)
            start += batch.size
        # Where the bounds told, both are on the same side; where not, `low` is exact now.
        safe = cells.mean(low)
        known = fine & (cells.least(harm) < cells.harm_needed)
        passed = known & (safe[:, 0] >= cells.safe_needed)
        last = passed & (safe[:, 1] >= cells.safe_needed)
    whole = _whole(found)
    split = (np.split(values, cells.ends) for values in (known, passed, last))
    return [
        Standing(_spread(one.program, a), _spread(one.program, b), _spread(one.program, c), its)
        for one, its, a, b, c in zip(found, whole, *split, strict=True)
    ]


class _Cells:
    """The swept cells of several rollouts and their tests, of which there may be one or two."""

    def __init__(self, found: Sequence[_Found], batches: Sequence[_Batch]) -> None:
        starts = dict(
            zip((b.tests.kind for b in batches), np.cumsum([0, *(b.size for b in batches)]), strict=False)
        )
        of_kind = {batch.tests.kind: batch for batch in batches}
        one: list[Indices] = []
        other: list[Indices] = []
        needed: list[Floats] = []
        for each in found:
            program = each.program
            where = np.concatenate(
                [
                    starts[t.kind] + of_kind[t.kind].offsets[each.at] + np.arange(len(t.cell))
                    for t in program.tests
                ]
            )
            swept = program.first >= 0
            first, second = program.first[swept], program.second[swept]
            one.append(where[first])
            other.append(where[np.where(second >= 0, second, first)])
            needed.append(-np.log(program.levels.harm * program.weight[swept]))
        sizes = [len(each) for each in one]
        self.ends = np.cumsum(sizes)[:-1]
        self.one, self.other = np.concatenate(one), np.concatenate(other)
        self.harm_needed = np.concatenate(needed)  # infinite where a cell decides no harm
        self.safe_needed = np.repeat([-log(each.program.levels.safe) for each in found], sizes)

    def least(self, harm: Floats) -> Floats:
        """Either of two limits may hold, so harm is both exceeded."""
        return np.minimum(harm[self.one], harm[self.other])

    def mean(self, safe: Floats) -> Floats:
        """And safety is the mean of both E-values."""
        return np.asarray(np.logaddexp(safe[self.one], safe[self.other]) - log(2.0))

    def straddle(self, low: Floats, high: Floats, end: int) -> Bools:
        """The bounds do not tell on which side of its level safety is."""
        below, above = self.mean(low)[:, end], self.mean(high)[:, end]
        return np.asarray((below < self.safe_needed + _SLACK) & (above >= self.safe_needed - _SLACK))


def _computable(asked: Asked) -> Bools:
    safe = asked.safe.computable[:, 0]
    return np.asarray(~asked.odd & asked.harm.computable[:, 0] & safe)


def _spread(program: Program, swept: Bools) -> Bools:
    cells = np.zeros(len(program.cells), dtype=bool)
    cells[program.first >= 0] = swept
    return cells


def _whole(found: Sequence[_Found]) -> list[Bools]:
    """`lacking` of all cells at once; those whose sums are odd are its own."""
    whole: list[Bools] = []
    for one in found:
        program = one.program
        mine = program.untold.copy()
        if len(program.missing):
            parts = [_remembered(program.missing, f.epoch, f, 1, counts=True) for f in one.all_evidence]
            at = program.missing_at >= 0
            mine[at] = rows_whole(parts)[program.missing_at[at]]
        whole.append(mine)
    return whole


def _remembered(rows: Rows, epoch: int, evidence: Evidence, clusters: int, *, counts: bool) -> EpochSums:
    """The sums of an epoch, gathered again only where its evidence is another."""
    if not is_stored(evidence):
        return epoch_sums(rows, evidence, clusters, counts=counts)
    known = rows.sums.get(epoch)
    if known is not None and known[0] is evidence:
        if not known[1].small:
            rows.sums[epoch] = known = evidence, known[1].kept()
        return known[1]
    sums = epoch_sums(rows, evidence, clusters, counts=counts)
    rows.sums[epoch] = evidence, sums
    return sums


def _products(rows: Rows, one: Deviations, other: Deviations) -> Floats:
    """Those of two epochs that do not change any more are worked out once."""
    for mine, its, found in rows.products:
        if mine is one and its is other:
            return found
    found = products(one, other)
    if all(any(kept is (sums.deviations) for _, sums in rows.sums.values()) for kept in (one, other)):
        rows.products = [entry for entry in rows.products if _alive(rows, entry)] + [(one, other, found)]
    return found


def _alive(rows: Rows, entry: tuple[Deviations, Deviations, Floats]) -> bool:
    kept = {id(sums.deviations) for _, sums in rows.sums.values()}
    return id(entry[0]) in kept and id(entry[1]) in kept


def _joined(tests: Sequence[Tests]) -> Tests:
    """Tests of one kind one after another; their rows are no longer theirs."""
    first = tests[0]
    columns = {
        name: np.concatenate([getattr(one, name) for one in tests])
        for name in Tests.__slots__
        if name not in {"kind", "rows"}
    }
    return Tests(kind=first.kind, rows=Rows(()), **columns)
