"""What answers should tell and do not: own metrics and uncertainty, classes that stable never answered.

Values that are missing may be the harmful ones, so nothing is proven from those that are left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...store.evidence import ArmKey, Evidence, SeriesKey
from ...store.rollouts import Outcome
from ..analysis.cells import Cell
from ..analysis.reading import Reading
from ..analysis.sums import Broken, View, sums_of

Count = float | NDArray[np.float64]
Bools = bool | np.bool_ | NDArray[np.bool_]

TOLERATED: Final = 0.01
"""Share of stable's answers without a value beyond which the declaration is wrong."""
UNLIKE: Final = 0.02
"""Share of the candidate's values that may be missing beyond stable's; as for predictions."""
FEWEST: Final = 100.0
_SHOWN: Final = 8


def unready(wanted: Collection[str], named: Iterable[str], baseline: Evidence) -> str | None:
    """Why a baseline without these values, or these classes, cannot be frozen."""
    for series in sorted(wanted):
        if told(series):
            asked, lacking = _count([baseline], "stable", "", series)
            if not asked or lacking > TOLERATED * asked:
                share = _share(lacking, asked)
                return f"{series} of stable: {share} of its answers have none at the declared path"
    unknown = [name for name in named if not baseline.labels.get(name)]
    if unknown:
        known = sorted(baseline.labels, key=lambda label: -baseline.labels[label])[:_SHOWN]
        return (
            f"class_share.{unknown[0]}: stable did not answer this class in the baseline; it answered "
            f"{', '.join(known) or 'none'}; classes that are new are what prediction.distribution watches"
        )
    return None


def lacking(cell: Cell, view: View) -> Reading | None:
    """What missing values say about a cell before anything is computed; None where nothing."""
    if not told(cell.series):
        return None
    found = [evidence for _, _, evidence in view.epochs(cell.place)]
    asked, without = _count(found, "stable", cell.group, cell.series)
    if lacks(asked, without):
        reason = f"{_share(without, asked)} of stable's answers have none at the declared path"
        return Reading(Outcome.ERROR, reason)
    arm: ArmKey = "pair" if cell.place == "shadow" else "candidate"
    theirs, missing = _count(found, arm, cell.group, cell.series)
    compared = (asked, without) if arm == "candidate" else (0.0, 0.0)
    if lacks_more(*compared, theirs, missing):
        return Reading(
            Outcome.INCONCLUSIVE,
            f"{_share(missing, theirs)} of the candidate's answers have none, so the two cannot be compared",
        )
    return None


def lacks(asked: Count, without: Count) -> Bools:
    """Too many of stable's answers have no value."""
    return (asked >= FEWEST) & (without > TOLERATED * asked)


def lacks_more(asked: Count, without: Count, theirs: Count, missing: Count) -> Bools:
    """Too many of the candidate's have none, beside those of stable (0 of 0: nothing is known of it)."""
    allowed = UNLIKE + without / np.maximum(asked, 1.0)
    return (theirs > 0.0) & (missing > allowed * theirs) & (missing > 1.0)


def told(series: str) -> bool:
    """True of values that answers may tell, or not."""
    return series.startswith("metrics.") or series == "uncertainty"


def _count(found: Iterable[Evidence], arm: ArmKey, group: str, series: str) -> tuple[float, float]:
    """Answers that were asked for a value, and those of them without; broken sums are all without."""
    asked = lacking = 0.0
    for evidence in found:
        sums = sums_of(evidence, SeriesKey(arm, group, f"{series}.missing"))
        if isinstance(sums, Broken):
            return FEWEST, FEWEST
        if sums is not None:
            asked += float(sums.n.sum())
            lacking += float(sums.y.sum())
    return asked, lacking


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "all"
