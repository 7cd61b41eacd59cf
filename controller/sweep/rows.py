"""What a sweep looks for in evidence: pairs of series, and where stored records have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ...policies.policy import Place
from ...store.evidence import Evidence, SeriesKey
from ...store.rollouts import EpochRecord
from ..evidence.columns import Columns, Keys, Layout

if TYPE_CHECKING:
    from ..stats.arrays import Deviations
    from .gather import EpochSums

Kind = Literal["server", "requests", "units", "shadow", "back"]
"""Of tests: over time clusters, over requests, over clusters of units; on pairs, in batches of time."""

PLACE: Final[dict[Kind, Place]] = {"shadow": "shadow", "back": "canary"}
"""Where tests on pairs are asked: mirrored, or mirrored back to stable."""

_REMEMBERED: Final = 4  # sets of keys: places of a rollout's steps, and of what its routers keep besides


@dataclass(frozen=True, slots=True)
class Row:
    """Two series that are compared: of the candidate, of stable."""

    candidate: SeriesKey
    stable: SeriesKey


@dataclass(frozen=True, slots=True, eq=False)
class Fill:
    """How the sums of R rows come from records of one layout.

    `here`: one of the two series has the sums that are asked for, `wrong`: one is of another kind, (R,).
    `counts`: all that are here are whole counts. `moves`: a block, its rows, and where they go among (2 R).
    """

    here: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    counts: bool
    moves: tuple[tuple[int, NDArray[np.intp], NDArray[np.intp]], ...]

    def take(self, columns: Columns, into: NDArray[np.float64]) -> None:
        """Fill in the first of n, Σy and Σy², (R, 2, 2 or 3, clusters), where there are any."""
        kinds = into.shape[2]
        sums = into.reshape(-1, kinds, into.shape[3])
        for block, rows, to in self.moves:
            found = columns.blocks[block][rows]
            had = found.shape[1]
            sums[to, :had] = found[:, :kinds]
            if had < kinds:
                sums[to, had:] = found[:, had - 1 :]


class Rows:
    """R rows, and what follows from them alone, worked out once. `low`: the least y of both, (R, 2)."""

    def __init__(self, rows: Sequence[Row], low: NDArray[np.float64] | None = None) -> None:
        self.rows = tuple(rows)
        self.low = low
        self.of_errors = np.array([row.candidate.metric == "errors" for row in self.rows], dtype=bool)
        self._places: tuple[Keys, NDArray[np.intp]] | None = None
        self._fills: dict[Layout, Fill] = {}
        # Of an epoch, or of two, with what they were made from. None: met once.
        self.sums: dict[int, tuple[Evidence, EpochSums | None]] = {}
        self.overdue: dict[int, tuple[Evidence, float]] = {}
        self.products: list[tuple[Deviations, Deviations, NDArray[np.float64]]] = []
        self._centres: tuple[tuple[EpochRecord, ...], NDArray[np.float64]] | None = None

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def fill(self, keys: Keys, layout: Layout, clusters: int, *, counts: bool) -> Fill:
        """How to fill in records of these keys and this layout; asked with the same last two every time."""
        known = self._fills.get(layout)
        if known is None:
            known = self._fill(keys, layout, clusters, counts=counts)
            while len(self._fills) >= _REMEMBERED:
                del self._fills[next(iter(self._fills))]
            self._fills[layout] = known
        return known

    def _fill(self, keys: Keys, layout: Layout, clusters: int, *, counts: bool) -> Fill:
        if self._places is None or self._places[0] is not keys:
            found = [keys.place.get(key, -1) for row in self.rows for key in (row.candidate, row.stable)]
            self._places = keys, np.array(found, dtype=np.intp)
        places = self._places[1]
        there = np.flatnonzero(places >= 0)
        known = places[there]
        fits = layout.clusters[known] == clusters
        if counts:
            fits &= layout.same[known]
        to, known = there[fits], known[fits]
        here, wrong = np.zeros((2, len(self.rows), 2), dtype=bool)
        here.ravel()[to] = True
        wrong.ravel()[there[~fits]] = True
        block, row = layout.block[known], layout.row[known].astype(np.intp)
        numbers = [int(number) for number in np.unique(block)]
        counted = all(layout.dtypes[number].kind == "u" for number in numbers)
        moves = tuple((number, row[block == number], to[block == number]) for number in numbers)
        return Fill(np.asarray(here.any(axis=1)), np.asarray(wrong.any(axis=1)), counted, moves)

    def centres(self, epochs: tuple[EpochRecord, ...], fixed: dict[str, float]) -> NDArray[np.float64]:
        """m of every row in every one of `epochs`, (R, E); `fixed`: those of the rollout."""
        known = self._centres
        if known is None or tuple(map(id, known[0])) != tuple(map(id, epochs)):
            keys = [f"{row.candidate.metric}|{row.candidate.slice}" for row in self.rows]
            found = [[epoch.centres.get(key, fixed.get(key, 0.5)) for epoch in epochs] for key in keys]
            known = epochs, np.array(found).reshape(len(keys), len(epochs))
            self._centres = known
        return known[1]
