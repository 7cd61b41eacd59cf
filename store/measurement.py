"""The measurement plan: what every source accumulates in one epoch, with the constants frozen for it.

The controller makes it, the router obeys it. It travels inside the ServiceRoute, so a plan is in
force exactly where its epoch is.
"""

from __future__ import annotations

from typing import Literal

import msgspec

# 128 clusters of time or of units: enough degrees of freedom at 1 % weight, small enough to publish.
CLUSTERS = 128

Stage = Literal["baseline", "shadow", "canary", "stable"]


class SlicePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One slice: where its value is in the request, and which named groups it falls into.

    `values`: group names are the values. `bins`: edges e0 < e1 < …, groups `[e0,e1)`, …, `[ek,inf)`.
    Anything else, and a missing value, is the group `other`.
    """

    name: str
    path: str
    values: tuple[str, ...] = ()
    bins: tuple[float, ...] = ()


class Selected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which predictions count as selected."""

    operator: Literal[">=", ">", "<=", "<", "==", "!="]
    operand: float | str


class Extraction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a body becomes predictions and slices.

    `path`: dotted with indices, `predictions[0].score`; `[*]` takes every instance. Slices with `[*]`
    are matched to predictions by position; without it they hold for all.
    """

    path: str
    type: Literal["number", "label"]
    selected: Selected | None = None
    agree_within: float | None = None
    slices: tuple[SlicePlan, ...] = ()


class LatencyThresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One latency metric's three bin indices: at or above bin `over` is slow, `mid` and `far` shifted."""

    metric: str  # latency.p95
    over: int
    mid: int
    far: int


class MeasurementPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to accumulate for one epoch of one service.

    `batch`: length of a time cluster in seconds; cluster = floor(assignment time / batch) mod CLUSTERS.
    `account_after`: seconds after assignment at which an open exchange is accounted as it stands.
    `limits`: predictions are clipped to them and scaled to [0, 1]; None in epoch 0 where the file
    declares no range (then only the value histogram is kept).
    `edges`: 9 inner deciles of stable's epoch-0 predictions in scaled units; `classes` for labels.
    `sliced_metrics`: the metric is a series' (store.evidence) without its last part where it has
    several: errors, missing, latency.p95, mean, bin, selected, agreement.
    `sticky`: prediction sums of randomised arms are kept per unit cluster, else in cluster 0.
    """

    rollout: str
    epoch: int
    stage: Stage
    extraction: Extraction | None
    batch: float
    account_after: float
    sticky: bool = False
    limits: tuple[float, float] | None = None
    thresholds: tuple[LatencyThresholds, ...] = ()
    edges: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    sliced_metrics: dict[str, tuple[str, ...]] = {}  # metric -> slice names to keep it in


# A source's evidence for one service; a plan that would exceed it is refused with what to drop.
EVIDENCE_LIMIT = 2**20

_ARMS: dict[Stage, tuple[str, ...]] = {
    "baseline": ("stable",),
    "shadow": ("stable", "pair", "paired_stable"),
    "canary": ("stable", "candidate"),
    "stable": ("stable",),
}
_LATENCY_COUNTS = 3  # over, mid, far
_KEY = 48  # bytes of a series' key and headers
_COUNTS = 6  # bytes per cluster where y is 0 or 1: n (4), Σy (2); Σy² is the same
_SUMS = 20  # bytes per cluster otherwise: n (4), Σy and Σy² (8 each)
_HISTOGRAM = 1024 * 8  # bytes of a full latency or value histogram
_COUNTED = {"errors", "missing", "client_disconnects", "extraction", "agreement"}


def estimated_bytes(plan: MeasurementPlan) -> int:
    """About the size in bytes of one source's evidence for one epoch of `plan`, rather more than less.

    To be held against EVIDENCE_LIMIT before the plan is put into a route.
    """
    groups = {} if plan.extraction is None else {s.name: _groups(s) for s in plan.extraction.slices}
    overall = ["errors", "missing", "client_disconnects", *(t.metric for t in plan.thresholds)]
    if plan.extraction is not None:
        overall += ["extraction", "mean", "bin"]
        overall += [] if plan.extraction.selected is None else ["selected"]
        overall += ["agreement"] if plan.stage == "shadow" else []
    total = len(_ARMS[plan.stage]) * _HISTOGRAM + _HISTOGRAM
    for arm in _ARMS[plan.stage]:
        for metric in overall:
            total += _bytes(plan, arm, metric)
        for metric, names in plan.sliced_metrics.items():
            total += _bytes(plan, arm, metric) * sum(groups.get(name, 1) for name in names)
    return total


def _groups(planned: SlicePlan) -> int:
    return len(planned.values) + len(planned.bins) + 1  # and `other`


def _bytes(plan: MeasurementPlan, arm: str, metric: str) -> int:
    paired = arm in {"pair", "paired_stable"}
    if metric == "agreement" and arm != "pair":
        return 0
    series = 1
    if metric.startswith("latency."):
        series = _LATENCY_COUNTS
    elif metric == "bin":
        series = max(len(plan.classes), len(plan.edges) + 1 if plan.edges else 0)
    by_cluster = paired or plan.sticky or metric not in {"mean", "bin", "selected"}
    counted = metric in _COUNTED or (metric.startswith("latency.") and arm != "pair")
    return series * (_KEY + (CLUSTERS if by_cluster else 1) * (_COUNTS if counted else _SUMS))


def group_names(planned: SlicePlan) -> tuple[str, ...]:
    """The groups of a slice in order, `other` last: the text after `=` in evidence's slice names.

    Edges are written as in the file: `[0,25)`, `[0.5,inf)`.
    """
    edges = [str(int(edge)) if float(edge).is_integer() else repr(float(edge)) for edge in planned.bins]
    bins = tuple(f"[{low},{high})" for low, high in zip(edges, [*edges[1:], "inf"], strict=False))
    return (*planned.values, *bins, "other")
