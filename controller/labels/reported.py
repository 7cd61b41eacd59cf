"""What labels say beside the gates: calibration error and coverage of stated intervals of both versions.

Each is of one epoch, the newest in which both have enough labels: arms are not pooled over steps, whose
traffic differs. Nothing here decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from ...store.evidence import ArmKey, Evidence, SeriesKey
from ...store.rollouts import Calibration, EpochRecord, RolloutRecord
from ..stats.calibration import BINS, CalibrationError, calibration_error
from ..stats.result import NotComputable
from ..sums import Broken, Sums, sums_of
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
        both = [_error(found, arm) for arm in _ARMS[epoch.place]]
        if all(one is None for one in both):
            continue
        got = [one if isinstance(one, CalibrationError) else None for one in both]
        notes = [one.reason for one in both if isinstance(one, NotComputable)]
        sizes = [_labels(found, arm) for arm in _ARMS[epoch.place]]
        told = Calibration(
            "calibration error", (epoch.step or 0) + 1, epoch.place, *sizes,
            *(None if one is None else one.error for one in got),
            *(None if one is None else one.by_chance for one in got), "; ".join(notes),
        )  # fmt: skip
        if all(got):
            yield told
            return
        first = first or told
    if first is not None:
        yield first


def _coverage(record: RolloutRecord, evidence: Mapping[int, Evidence]) -> Iterator[Calibration]:
    for epoch, found in _newest_first(record, evidence):
        both = [sums_of(found, SeriesKey(arm, "", INSIDE)) for arm in _ARMS[epoch.place]]
        known = [
            (float(one.n.sum()), float(one.y.sum())) if isinstance(one, Sums) else (0.0, 0.0) for one in both
        ]
        if max(n for n, _ in known) < FEWEST:
            continue
        yield Calibration(
            "coverage of intervals", (epoch.step or 0) + 1, epoch.place, *(n for n, _ in known),
            *(y / n if n >= FEWEST else None for n, y in known), None, None, "",
        )  # fmt: skip
        return


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
