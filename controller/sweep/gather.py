"""The sums of a program's rows over the randomised epochs, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...policies.policy import Place
from ...store.evidence import Evidence
from ...store.rollouts import EpochRecord
from ..analysis.sums import MOST, ROUNDING
from ..evidence.columns import StoredSeries
from ..stats.arrays import ClusterMoments, Deviations, Products, cluster_moments, deviations
from .rows import PLACE, Kind, Rows

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_MOST_BYTES: Final = 512 * 2**10  # of one epoch of one rollout, about as many as its deviations take
_WHOLE: Final = (np.uint8, np.uint16, np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class EpochSums:
    """R rows in one epoch: n, y and, unless it is a count, y² of candidate and stable, (R, 2, 2 or 3, G).

    `totals`: over all clusters, (R, 2, 2 or 3). `present`: one of the two series is there, (R,). `odd`: sums
    that are missing clusters or cannot be right, which are left to the reader that says so, (R,). `small`: as
    it is kept: the sums in few bytes, or their `deviations` in their place.
    """

    sums: NDArray[Any]
    totals: Floats
    present: Bools
    odd: Bools
    small: bool = False
    deviations: Deviations | None = None

    def kept(self) -> EpochSums:
        """As it is best remembered: what follows from it worked out, or else in few bytes."""
        if self.sums.shape[3] > 1 and self.sums.nbytes <= _MOST_BYTES:
            small = np.zeros((len(self.odd), 2, 0, 0))
            return replace(self, sums=small, small=True, deviations=deviations(self.sums))
        for kind in _WHOLE:
            less = self.sums.astype(kind) if self.sums.max(initial=0.0) <= np.iinfo(kind).max else None
            if less is not None and (less == self.sums).all():
                return replace(self, sums=less, small=True)
        return replace(self, small=True)


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """R rows over E epochs: n, y, square of each arm over all clusters, (R, E).

    `present`, `odd` as in EpochSums: (R, E), (R,). `moments`: where clusters matter.
    """

    n_c: Floats
    y_c: Floats
    square_c: Floats
    n_s: Floats
    y_s: Floats
    square_s: Floats
    present: Bools
    odd: Bools
    moments: ClusterMoments | None


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


def epochs_of(
    kind: Kind, epochs: Sequence[EpochRecord], evidence: Mapping[int, Evidence]
) -> list[tuple[EpochRecord, Evidence]]:
    """The epochs that tests of a kind are asked of, in order."""
    return epochs_at(PLACE[kind], epochs, evidence) if kind in PLACE else randomised(epochs, evidence)


def epochs_at(
    place: Place, epochs: Sequence[EpochRecord], evidence: Mapping[int, Evidence]
) -> list[tuple[EpochRecord, Evidence]]:
    """The epochs of a place that have evidence, in order."""
    return [
        (epoch, evidence[epoch.epoch])
        for epoch in epochs
        if epoch.place == place and epoch.step is not None and epoch.epoch in evidence
    ]


def is_stored(evidence: Evidence) -> bool:
    """True of evidence as a store gave it, which nobody writes to: the same object has the same sums."""
    return isinstance(evidence.series, StoredSeries) and evidence.series.packed is not None


def gathered(parts: Sequence[EpochSums], moments: ClusterMoments | None = None) -> Gathered:
    """The sums of rows in every epoch."""
    totals = np.stack([one.totals for one in parts], axis=3)
    (n_c, y_c, square_c), (n_s, y_s, square_s) = (
        (totals[:, arm, 0], totals[:, arm, 1], totals[:, arm, -1]) for arm in (0, 1)
    )
    return Gathered(
        n_c, y_c, square_c, n_s, y_s, square_s, np.stack([one.present for one in parts], axis=1),
        np.logical_or.reduce([one.odd for one in parts]), moments,
    )  # fmt: skip


def moments_of(
    parts: Sequence[Sequence[EpochSums]], pi: Floats, products: Sequence[Products] | None = None
) -> ClusterMoments:
    """Of rows whose clusters matter, of several programs under one another. `parts`: theirs in each epoch.

    `pi`: the candidate's shares, (R, E). `products`: of each program, which may remember.
    """
    found = [[one.deviations or deviations(one.sums) for one in epochs] for epochs in parts]
    return cluster_moments(pi, found, products)


def summed(parts: Sequence[EpochSums]) -> EpochSums:
    """The totals of all epochs together, at least one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    totals, present, odd = first.totals.copy(), first.present.copy(), first.odd.copy()
    for one in parts[1:]:
        totals += one.totals
        present |= one.present
        odd |= one.odd
    return EpochSums(np.zeros((len(odd), 2, 0, 0)), totals, present, odd)


def epoch_sums(rows: Rows, evidence: Evidence, clusters: int, *, counts: bool) -> EpochSums:
    """The sums of `rows` in one epoch."""
    sums = np.zeros((len(rows), 2, 2 if counts else 3, clusters))
    packed = evidence.series.packed if isinstance(evidence.series, StoredSeries) else None
    if packed is not None:
        fill = rows.fill(packed[0], packed[1].layout, clusters, counts=counts)
        fill.take(packed[1], sums)
        odd = fill.wrong if fill.counts else fill.wrong | ~checked(sums, counts=counts, low=rows.low)
        return EpochSums(sums, sums.sum(axis=3), fill.here, odd)
    here, wrong = _plain(sums, rows, evidence, counts=counts)
    fine = checked(sums, counts=counts, low=rows.low)
    present, odd = np.asarray(here.any(axis=1)), np.asarray(wrong.any(axis=1) | ~fine)
    return EpochSums(sums, sums.sum(axis=3), present, odd)


def _plain(into: Floats, rows: Rows, evidence: Evidence, *, counts: bool) -> tuple[Bools, Bools]:
    here, wrong = np.zeros((2, len(rows), 2), dtype=bool)
    for k, row in enumerate(rows):
        for arm, key in enumerate((row.candidate, row.stable)):
            series = evidence.series.get(key)
            if series is None:
                continue
            columns = (series.n, series.sum, series.square)
            fits = _lengths(columns) == {into.shape[3]}
            if fits and counts:
                fits = series.square is series.sum or list(series.square) == list(series.sum)
            here[k, arm], wrong[k, arm] = fits, not fits
            if fits:
                into[k, arm] = columns[: into.shape[2]]
    return here, wrong


def _lengths(columns: Iterable[Sequence[float]]) -> set[int]:
    return {len(column) for column in columns}


def checked(sums: Floats, *, counts: bool, low: Floats | None = None) -> Bools:
    """Rows whose sums `sums.sums_of` would accept. `low`: see Rows; 0 where there is none."""
    return _counted(sums) if counts else _possible(sums, 0.0 if low is None else low[:, :, None])


def _counted(sums: Floats) -> Bools:
    """Rows whose sums `sums.sums_of` would accept, where Σy² is Σy. Of (R, 2, 2, G)."""
    n, y = sums[:, :, 0], sums[:, :, 1]
    with np.errstate(all="ignore"):  # a count cannot be above another that is itself in bounds
        return np.asarray(((y >= 0.0) & (y <= n) & (n <= MOST)).all(axis=(1, 2)))  # NaN is neither


def _possible(sums: Floats, low: Floats | float) -> Bools:
    """Rows whose sums `sums.sums_of` would accept: they come from y in [low, 1]. Of (R, 2, 3, G)."""
    n, y, square = (sums[:, :, k] for k in range(3))
    with np.errstate(all="ignore"):
        most = n + ROUNDING
        fine = (
            (n >= 0.0) & (n <= MOST) & (y <= most) & (y >= low * most - ROUNDING) & (square <= most)
            & (np.abs(y) <= np.sqrt(np.maximum(square, 0.0) * n) + ROUNDING * most)
        )  # fmt: skip
    return np.asarray(fine.all(axis=(1, 2)))
