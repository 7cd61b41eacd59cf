"""What a sweep looks for in evidence: pairs of series, and where stored records have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ...store.evidence import Evidence, SeriesKey
from ...store.rollouts import EpochRecord
from ..evidence.columns import Keys

if TYPE_CHECKING:
    from ..stats.arrays import Deviations
    from .gather import EpochSums

_REMEMBERED: Final = 4  # sets of keys: places of a rollout's steps, and of what its routers keep besides


@dataclass(frozen=True, slots=True)
class Row:
    """Two series that are compared: of the candidate, of stable."""

    candidate: SeriesKey
    stable: SeriesKey


class Rows:
    """R rows, and what follows from them alone, worked out once."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self.of_errors = np.array([row.candidate.metric == "errors" for row in self.rows], dtype=bool)
        self._places: dict[Keys, NDArray[np.intp]] = {}
        # Of an epoch, or of two, with what they were made from.
        self.sums: dict[int, tuple[Evidence, EpochSums]] = {}
        self.overdue: dict[int, tuple[Evidence, float]] = {}
        self.products: list[tuple[Deviations, Deviations, NDArray[np.float64]]] = []
        self._centres: tuple[tuple[EpochRecord, ...], NDArray[np.float64]] | None = None

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def places(self, keys: Keys) -> NDArray[np.intp]:
        """Where the series of the candidate and of stable lie, -1 for nowhere, (R, 2)."""
        known = self._places.get(keys)
        if known is None:
            where = keys.place
            found = [where.get(key, -1) for row in self.rows for key in (row.candidate, row.stable)]
            known = np.array(found, dtype=np.intp).reshape(-1, 2)
            while len(self._places) >= _REMEMBERED:
                del self._places[next(iter(self._places))]
            self._places[keys] = known
        return known

    def centres(self, epochs: tuple[EpochRecord, ...], fixed: dict[str, float]) -> NDArray[np.float64]:
        """m of every row in every one of `epochs`, (R, E); `fixed`: those of the rollout."""
        known = self._centres
        if known is None or tuple(map(id, known[0])) != tuple(map(id, epochs)):
            keys = [f"{row.candidate.metric}|{row.candidate.slice}" for row in self.rows]
            found = [[epoch.centres.get(key, fixed.get(key, 0.5)) for epoch in epochs] for key in keys]
            known = epochs, np.array(found).reshape(len(keys), len(epochs))
            self._centres = known
        return known[1]
