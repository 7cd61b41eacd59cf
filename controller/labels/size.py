"""How large the sums of labels become, which are evidence of a source of their own."""

from __future__ import annotations

from collections.abc import Mapping

from ...store.measurement import CLUSTERS, MeasurementPlan, arms_of, series_bytes
from ..stats.calibration import BINS
from .joining import LABELLED, MISMATCHED, SELECTED, Meaning


def label_bytes(plan: MeasurementPlan, meaning: Meaning, groups: Mapping[str, int]) -> int:
    """About the bytes of one epoch, rather more than less. `groups`: of each slice, with `other`."""
    total = 0
    for arm in arms_of(plan):
        clusters = CLUSTERS if meaning.sticky or arm in {"pair", "paired_stable"} else 1
        counts = (LABELLED, SELECTED, MISMATCHED) if arm != "paired_stable" else ()
        for metric in (*counts, *meaning.wanted):
            kept = 1 + sum(groups.get(name, 1) for name in meaning.sliced.get(metric, ()))
            total += kept * series_bytes(clusters, counted=metric in counts)
        total += BINS * series_bytes(1, counted=False)
    return total
