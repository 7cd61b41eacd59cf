"""What labels say beside the gates: calibration error and coverage of stated intervals of both versions.

Each is of one epoch, the newest in which both have enough labels: arms are not pooled over steps, whose
traffic differs. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from msgspec.structs import replace

from ...store.evidence import ArmKey, Evidence, SeriesKey
from ...store.rollouts import Calibration, EpochRecord, RolloutRecord
from ..analysis.sums import Broken, Sums, sums_of
from ..stats.calibration import BINS, CalibrationError, calibration_error
from ..stats.result import NotComputable
from .joining import INSIDE, reliability

FEWEST: Final = 100.0  # labels, below which no coverage of intervals is shown
_ARMS: Final[dict[str, tuple[ArmKey, ArmKey]]] = {
    "canary": ("stable", "candidate"),
    "shadow": ("paired_stable", "pair"),
}


def reported(record: RolloutRecord, evidence: Mapping[int, Evidence]) -> tuple[Calibration, ...]:
    """Nothing before labels of a step are there."""
    return (*_calibration(record, evidence), *_coverage(record, evidence))


def _calibration(record: RolloutRecord, evidence: Mapping[int, Evidence]) -> Iterator[Calibration]:
    first: Calibration | None = None
    for epoch, found in _newest_first(record, evidence):
        stable, candidate = (_error(found, arm) for arm in _ARMS[epoch.place])
        if stable is None and candidate is None:
            continue
        n_s, n_c = (_labels(found, arm) for arm in _ARMS[epoch.place])
        note = "; ".join(one.reason for one in (stable, candidate) if isinstance(one, NotComputable))
        told = Calibration("calibration error", (epoch.step or 0) + 1, epoch.place, n_s, n_c, note=note)
        if isinstance(stable, CalibrationError):
            told = replace(told, stable=stable.error, stable_by_chance=stable.by_chance)
        if isinstance(candidate, CalibrationError):
            told = replace(told, candidate=candidate.error, candidate_by_chance=candidate.by_chance)
        if not told.note and told.stable is not None and told.candidate is not None:
            yield told
            return
        first = first or told
    if first is not None:
        yield first


def _coverage(record: RolloutRecord, evidence: Mapping[int, Evidence]) -> Iterator[Calibration]:
    for epoch, found in _newest_first(record, evidence):
        (n_s, stable), (n_c, candidate) = (_inside(found, arm) for arm in _ARMS[epoch.place])
        if stable is None and candidate is None:
            continue
        yield Calibration(
            "coverage of intervals", (epoch.step or 0) + 1, epoch.place, n_s, n_c, stable, candidate
        )
        return


def _inside(found: Evidence, arm: ArmKey) -> tuple[float, float | None]:
    """How many labels with an interval, and the share inside; None of too few, or of broken sums."""
    sums = sums_of(found, SeriesKey(arm, "", INSIDE))
    if not isinstance(sums, Sums):
        return 0.0, None
    n = float(sums.n.sum())
    return n, float(sums.y.sum()) / n if n >= FEWEST else None


def _newest_first(
    record: RolloutRecord, evidence: Mapping[int, Evidence]
) -> Iterator[tuple[EpochRecord, Evidence]]:
    for epoch in reversed(record.epochs):
        found = evidence.get(epoch.epoch)
        if epoch.place in _ARMS and found is not None:
            yield epoch, found


def _error(found: Evidence, arm: ArmKey) -> CalibrationError | NotComputable | None:
    """None where there is no label."""
    n, gap, square = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for k in range(BINS):
        sums = sums_of(found, SeriesKey(arm, "", reliability(k)))
        if isinstance(sums, Broken):
            return NotComputable(sums.reason)
        if sums is not None:  # of y = (1 + p - o) / 2
            count, y, squares = (float(column.sum()) for column in (sums.n, sums.y, sums.square))
            n[k], gap[k], square[k] = count, 2.0 * y - count, max(0.0, 4.0 * (squares - y) + count)
    return calibration_error(n, gap, square) if n.any() else None


def _labels(found: Evidence, arm: ArmKey) -> float:
    each = (sums_of(found, SeriesKey(arm, "", reliability(k))) for k in range(BINS))
    return sum(float(sums.n.sum()) for sums in each if isinstance(sums, Sums))
