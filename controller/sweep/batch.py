"""All tests of one kind of several rollouts, asked at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ...policies.policy import Place
from ...store.evidence import Evidence
from ...store.measurement import CLUSTERS
from ...store.rollouts import EpochRecord
from .gather import Gathered, gathered, moments_of
from .kept import Asked, all_sums, end_to_end, remembered_products
from .pairs import ask_pairs
from .program import Program, Tests
from .questions import Traffic, ask, joined
from .rows import PLACE, Kind, Rows
from .swept import is_late, levels_of, traffic_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]
T = TypeVar("T")

_REMEMBERED: Final = 192  # of 32 groups, as many as there are programs: five kinds of tests each, and cells


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A rollout. Of each kind of tests: its `epochs`, and `places`, the tail of each of its steps, -1 before
    it has begun. `evidence`: of each place.
    """

    at: int
    program: Program
    epochs: Mapping[Kind, list[tuple[EpochRecord, Evidence]]]
    places: Mapping[Kind, list[int]]
    evidence: Mapping[Place, list[Evidence]]


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """What no evidence changes about a batch. `its`: the tests of each rollout that has some.

    `offsets`: where they begin, by the position among the rollouts. `tests`: all of them. `pi`, `centres`:
    (R, E). `safe_level`, `last` (tail of the last step): (T,). `carried`: how many tests, and the tails of
    their steps.
    """

    its: tuple[tuple[int, Tests], ...]
    offsets: dict[int, int]
    tests: Tests
    pi: Floats
    centres: Floats
    safe_level: Floats
    last: Indices
    carried: tuple[tuple[int, list[int]], ...]

    @classmethod
    def of(cls, kind: Kind, found: Sequence[Found]) -> _Frame | None:
        its: list[tuple[int, Tests]] = []
        tests: list[Tests] = []
        offsets: dict[int, int] = {}
        rows = count = 0
        for number, one in enumerate(found):
            for mine in one.program.tests:
                if mine.kind == kind:
                    its.append((number, mine))
                    offsets[number] = count
                    tests.append(replace(mine, harm_row=mine.harm_row + rows, safe_row=mine.safe_row + rows))
                    rows, count = rows + len(mine.rows), count + len(mine.cell)
        if not count:
            return None
        sizes = [len(mine.cell) for _, mine in its]
        weights = [[epoch.weight for epoch, _ in found[number].epochs[kind]] for number, _ in its]
        return cls(
            tuple(its), offsets, _joined(tests),
            np.repeat(np.array(weights), [len(mine.rows) for _, mine in its], axis=0),
            np.concatenate([
                mine.rows.centres(
                    tuple(e for e, _ in found[number].epochs[kind]), found[number].program.constants.centres
                )
                for number, mine in its
            ]),
            np.repeat([found[number].program.levels.safe for number, _ in its], sizes),
            np.repeat([found[number].places[kind][-1] for number, _ in its], sizes).astype(np.intp),
            tuple((len(mine.cell), found[number].places[kind]) for number, mine in its),
        )  # fmt: skip


class Frames:
    """Of the groups that were looked at last."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[tuple[object, ...], object]] = {}

    def of(self, kind: Kind, found: Sequence[Found]) -> _Frame | None:
        """The frame of a group; None where it has no tests of this kind."""
        return self.remembered(kind, found, lambda: _Frame.of(kind, found))

    def remembered(self, what: str, found: Sequence[Found], make: Callable[[], T]) -> T:
        """What follows from the programs and epochs of a group alone, made once."""
        rests_on = tuple(_objects(found))
        places = tuple(tuple(its) for one in found for its in one.places.values())
        key = what, places, *map(id, rests_on)
        known = self._known.get(key)
        if known is None:
            while len(self._known) >= _REMEMBERED:
                del self._known[next(iter(self._known))]
            # As long as it is known, so are they, and nothing else has their identity.
            self._known[key] = known = rests_on, make()
        return cast("T", known[1])


def _objects(found: Sequence[Found]) -> Iterator[object]:
    for one in found:
        yield one.program
        for its in one.epochs.values():
            for epoch, _ in its:
                yield epoch


class Batch:
    """All tests of one kind of several rollouts with equally many epochs."""

    def __init__(self, frame: _Frame, kind: Kind, found: Sequence[Found]) -> None:
        self.tests, self.offsets, self.size = frame.tests, frame.offsets, len(frame.tests.cell)
        self._frame = frame
        if kind in PLACE:
            self.asked = joined([ask_pairs(its, found[number].epochs[kind]) for number, its in frame.its])
            return
        open_c, open_s = np.repeat(
            np.stack([traffic_of(found[number].epochs[kind])[1:] for number, _ in frame.its], axis=1),
            [len(its.rows) for _, its in frame.its], axis=1,
        )  # fmt: skip
        traffic = Traffic(frame.pi, open_c, open_s, frame.centres)
        asked = ask(self.tests, _sums(frame, kind, found), traffic)
        late = [is_late(its, found[number].epochs[kind]) for number, its in frame.its]
        self.asked = replace(asked, odd=asked.odd | np.concatenate(late))

    def bounds(self) -> tuple[Floats, Floats, Floats]:
        """(T,) above harm carried over the steps; (T, 2) below and above safety, in all and on the last."""
        tests, asked = self.tests, self.asked
        _, harm = asked.harm.bounds(tests.sign, tests.harm_null, tests.gap, levels_of(tests), safe=False)
        low, high = asked.safe.bounds(
            tests.sign, tests.safe_null, tests.gap, self._frame.safe_level, safe=True
        )
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
            sign, tests.safe_null[which], gap, self._frame.safe_level[which], safe=True
        )
        shares = np.concatenate(
            [np.tile(_shares(places, harm.shape[1]), (n, 1)) for n, places in self._frame.carried]
        )
        harm = np.concatenate([np.where(np.isnan(harm), 0.0, harm), np.zeros((which.size, 1))], axis=1)
        with np.errstate(divide="ignore"):
            carried = np.logaddexp.reduce(harm + np.log(shares[which]), axis=1)
        return carried, self._ends(safe, which)

    def _ends(self, safe: Floats, which: Indices | None = None) -> Floats:
        last = self._frame.last if which is None else self._frame.last[which]
        safe = np.where(np.isnan(safe), -np.inf, safe)
        there = np.where(last >= 0, safe[np.arange(last.size), last], -np.inf)
        return np.stack([safe[:, 0], there], axis=1)


def _sums(frame: _Frame, kind: Kind, found: Sequence[Found]) -> Gathered:
    clusters, counts = (1 if kind == "requests" else CLUSTERS), kind == "server"
    asked = [
        [Asked(its.rows, e.epoch, f) for e, f in found[number].epochs[kind]] for number, its in frame.its
    ]
    parts = iter(all_sums([one for its in asked for one in its], clusters, counts=counts))
    sums = [[next(parts) for _ in its] for its in asked]
    whole = gathered([end_to_end(epoch) for epoch in zip(*sums, strict=True)])
    if clusters == 1:
        return whole
    remembering = [partial(remembered_products, its.rows) for _, its in frame.its]
    return replace(whole, moments=moments_of(sums, frame.pi, remembering))


def _shares(places: Sequence[int], epochs: int) -> Floats:
    """The share of each tail among the steps; in the end that of steps that have not begun."""
    return np.bincount([epochs if place < 0 else place for place in places], minlength=epochs + 1) / len(
        places
    )


def _joined(tests: Sequence[Tests]) -> Tests:
    """Tests of one kind one after another; their rows are no longer theirs."""
    first = tests[0]
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in tests])
        for name in Tests.__slots__
        if name not in {"kind", "rows", "pairs"}
    }
    return Tests(kind=first.kind, rows=Rows(()), **columns)
