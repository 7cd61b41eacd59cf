"""Where the cells of many rollouts stand, all at once: on which side of its level each test is, no more.

The questions and their conditions are those of a sweep (`questions`). Here most tests are only bounded
(`stats.bounds`); the few whose bounds do not tell are computed. What has reached a level of harm, or is odd,
is left to the reader, as by a sweep. Epochs that do not change any more are gathered once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...policies.policy import Place
from ...store.evidence import Evidence
from ...store.rollouts import EpochRecord
from .batch import Batch, Found, Frames
from .gather import epochs_at, epochs_of, is_stored, summed
from .kept import Asked, all_sums, end_to_end
from .program import KINDS, PLACES, Program
from .rows import PLACE, Kind
from .swept import Standing, first_of, rows_whole

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

_FRAMES: Final = Frames()  # only remembers what programs and epochs fix
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


def glance(looks: Sequence[Looked]) -> list[Standing | None]:
    """Where each stands; None where a policy has no tests."""
    standing: list[Standing | None] = [None] * len(looks)
    alike: dict[tuple[int, ...], list[Found]] = {}
    for at, look in enumerate(looks):
        program = look.program
        if not program.tests:
            continue
        epochs: dict[Kind, list[tuple[EpochRecord, Evidence]]] = {
            kind: epochs_of(kind, look.epochs, look.evidence) for kind in KINDS
        }
        places: dict[Kind, list[int]] = {
            kind: [-1 if place is None else place for place in firsts]
            for kind in KINDS
            if (firsts := [first_of(epochs[kind], step) for step in program.steps[kind]])
        }
        evidence: dict[Place, list[Evidence]] = {
            place: [one for _, one in epochs_at(place, look.epochs, look.evidence)] for place in PLACES
        }
        alike.setdefault(tuple(len(its) for its in epochs.values()), []).append(
            Found(at, program, epochs, places, evidence)
        )
    for found in alike.values():
        for one, its in zip(found, _standings(found), strict=True):
            standing[one.at] = its
    return standing


def _standings(found: Sequence[Found]) -> list[Standing]:
    with np.errstate(all="ignore"):
        batches = [
            Batch(frame, kind, found)
            for kind in KINDS
            if found[0].epochs[kind] and (frame := _FRAMES.of(kind, found)) is not None
        ]
        nothing = np.zeros(0), np.zeros((0, 2)), np.zeros((0, 2))
        harm, low, high = (
            np.concatenate(ends) for ends in zip(nothing, *(one.bounds() for one in batches), strict=True)
        )
        fine = np.concatenate([np.zeros(0, dtype=bool), *(_computable(one) for one in batches)])
        cells = _FRAMES.remembered("cells", found, lambda: _Cells(found, batches))
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
        Standing(_spread(at, a, _waiting(one)), _spread(at, b), _spread(at, c), its)
        for one, its, at, a, b, c in zip(found, whole, cells.swept, *split, strict=True)
    ]


class _Cells:
    """The swept cells of several rollouts and their tests, of which there may be one or two."""

    def __init__(self, found: Sequence[Found], batches: Sequence[Batch]) -> None:
        starts = dict(
            zip((b.tests.kind for b in batches), np.cumsum([0, *(b.size for b in batches)]), strict=False)
        )
        of_kind = {batch.tests.kind: batch for batch in batches}
        self.swept: list[Bools] = []
        one: list[Indices] = []
        other: list[Indices] = []
        needed: list[Floats] = []
        for number, each in enumerate(found):
            program = each.program
            where = np.concatenate(
                [
                    np.full(len(t.cell), -1)
                    if t.kind not in of_kind
                    else starts[t.kind] + of_kind[t.kind].offsets[number] + np.arange(len(t.cell))
                    for t in program.tests
                ]
            )
            swept = (program.first >= 0) & (where[program.first] >= 0)
            first, second = program.first[swept], program.second[swept]
            self.swept.append(swept)
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


def _computable(batch: Batch) -> Bools:
    """Tests of which the bounds tell. On pairs, what cannot be computed yet is open for the reader too."""
    asked = batch.asked
    if batch.tests.kind in PLACE:
        return ~asked.odd
    return np.asarray(~asked.odd & asked.harm.computable[:, 0] & asked.safe.computable[:, 0])


def _waiting(one: Found) -> Bools:
    """Cells of places of which there is no evidence yet: they are open, whatever they ask."""
    shadow = one.program.shadow
    there = [bool(one.evidence[place]) for place in ("shadow", "canary")]
    return np.asarray(np.where(shadow, not there[0], not there[1]))


def _spread(swept: Bools, values: Bools, besides: Bools | None = None) -> Bools:
    cells = np.zeros(swept.size, dtype=bool) if besides is None else besides.copy()
    cells[swept] = values
    return cells


def _whole(found: Sequence[Found]) -> list[Bools]:
    """`lacking` of all cells at once; those whose sums are odd are its own."""
    whole = [one.program.untold.copy() for one in found]
    for place in PLACES:
        its = [
            (number, missing, one.evidence[place])
            for number, one in enumerate(found)
            for missing in one.program.missing
            if missing.place == place
        ]
        for number, missing, evidence in its:
            if not evidence:
                whole[number][missing.at >= 0] = True
        asking = [one for one in its if one[2]]
        if not asking:
            continue
        asked = [[Asked(missing.rows, f.epoch, f) for f in evidence] for _, missing, evidence in asking]
        parts = iter(all_sums([one for its in asked for one in its], 1, counts=True))
        sums = [summed([next(parts) for _ in its]) for its in asked]
        fine = np.split(rows_whole(end_to_end(sums), place), np.cumsum([len(its.odd) for its in sums])[:-1])
        for (number, missing, _), rows in zip(asking, fine, strict=True):
            whole[number][missing.at >= 0] = rows[missing.at[missing.at >= 0]]
    return whole
