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
