"""The sums of a program's rows over the randomised epochs, as arrays."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ...store.evidence import Evidence
from ...store.measurement import CLUSTERS
from ...store.rollouts import EpochRecord
from ..sums import MOST, ROUNDING
from .program import Row

Floats = NDArray[np.float64]

_ZEROS = array("d", bytes(8 * CLUSTERS))
_ZERO = array("d", bytes(8))


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """R rows over E epochs, G clusters: n, y, square of each arm are (R, E, G).

    `present`: one of the two series is there, (R, E). `odd`: rows whose sums are missing clusters or cannot
    be right, which are left to the reader that says so, (R,).
    """

    n_c: Floats
    y_c: Floats
    square_c: Floats
    n_s: Floats
    y_s: Floats
    square_s: Floats
    present: NDArray[np.bool_]
    odd: NDArray[np.bool_]


def randomised(
    epochs: Sequence[EpochRecord], evidence: Mapping[int, Evidence]
) -> list[tuple[EpochRecord, Evidence]]:
    """The canary epochs that have evidence and split requests, in order."""
    return [
        (epoch, evidence[epoch.epoch])
        for epoch in epochs
        if epoch.place == "canary"
        and epoch.step is not None
        and 0.0 < epoch.weight < 1.0
        and epoch.epoch in evidence
    ]


def gathered(rows: Sequence[Row], found: Sequence[Evidence], clusters: int, *, counts: bool) -> Gathered:
    """The sums of `rows` in every one of `found`.

    `clusters`: how many each series should have. `counts`: y is 0 or 1, so that its squares are itself; a
    series that says otherwise is odd. They are then not brought along.
    """
    zeros = _ZEROS if clusters == CLUSTERS else _ZERO
    columns: list[Sequence[float]] = []
    here: list[bool] = []
    wrong: list[bool] = []
    nothing = (zeros, zeros) if counts else (zeros, zeros, zeros)
    for row in rows:
        off = False
        for evidence in found:
            either = False
            for key in (row.candidate, row.stable):
                series = evidence.series.get(key)
                if series is None:
                    columns += nothing
                    continue
                fits = len(series.n) == len(series.sum) == len(series.square) == clusters
                if fits and counts:
                    fits = series.square is series.sum or series.square == series.sum
                either = either or fits
                off = off or not fits
                if not fits:
                    columns += nothing
                elif counts:
                    columns += (series.n, series.sum)
                else:
                    columns += (series.n, series.sum, series.square)
            here.append(either)
        wrong.append(off)
    shape = (len(rows), len(found), 2, len(nothing), clusters)
    try:
        joined = b"".join(cast("list[array[float]]", columns))  # lists are no buffers
    except TypeError:
        joined = b"".join(map(_buffer, columns))
    sums = np.frombuffer(joined, dtype=np.float64).reshape(shape)
    n, y, square = sums[:, :, :, 0], sums[:, :, :, 1], sums[:, :, :, -1]
    return Gathered(
        n[:, :, 0], y[:, :, 0], square[:, :, 0], n[:, :, 1], y[:, :, 1], square[:, :, 1],
        np.array(here, dtype=bool).reshape(len(rows), len(found)),
        np.array(wrong, dtype=bool) | ~(_counted(n, y) if counts else _possible(n, y, square)),
    )  # fmt: skip


def _buffer(column: Sequence[float]) -> array[float]:
    return column if isinstance(column, array) else array("d", column)


def _counted(n: Floats, y: Floats) -> NDArray[np.bool_]:
    """Rows whose sums `sums.sums_of` would accept, where Σy² is Σy."""
    rest = n - y  # a count cannot be above another that is itself in bounds
    axes = (1, 2, 3)
    with np.errstate(all="ignore"):
        least = np.minimum(y.min(axis=axes), rest.min(axis=axes))
        return np.asarray((least >= 0.0) & (n.max(axis=axes) <= MOST))  # NaN is neither


def _possible(n: Floats, y: Floats, square: Floats) -> NDArray[np.bool_]:
    """Rows whose sums `sums.sums_of` would accept: they come from y in [0, 1]."""
    with np.errstate(all="ignore"):
        most = n + ROUNDING
        fine = (
            (n >= 0.0) & (n <= MOST) & (y <= most) & (y >= -ROUNDING) & (square <= most)
            & (np.abs(y) <= np.sqrt(np.maximum(square, 0.0) * n) + ROUNDING * most)
        )  # fmt: skip
    return np.asarray(fine.all(axis=(1, 2, 3)))
