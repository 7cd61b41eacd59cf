"""The measurement plan: what every source accumulates in one epoch, with the constants frozen for it.

The controller makes it, the router obeys it. It travels inside the ServiceRoute, so a plan is in
force exactly where its epoch is.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..policies.groups import OTHER, crossed, named_groups

# 128 clusters of time or of units: enough degrees of freedom at 1 % weight, small enough to publish.
CLUSTERS = 128

Stage = Literal["baseline", "shadow", "canary", "stable"]


class SlicePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One slice: where its value is in the request, and which named groups it falls into.

    `values`: group names are the values. `bins`: edges e0 < e1 < …, groups `[e0,e1)`, …, `[ek,inf)`.
    Anything else, and a missing value, is the group `other`. `cross`: other slices, whose combinations are
    the groups; `other` where any part is. Then it has no path of its own.
    """

    name: str
    path: str
    values: tuple[str, ...] = ()
    bins: tuple[float, ...] = ()
    cross: tuple[SlicePlan, ...] = ()


class Selected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which predictions count as selected."""

    operator: Literal[">=", ">", "<=", "<", "==", "!="]
    operand: float | str


class ValuePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One metric of the service's own, read from answers: y is a share (0..1, true, false), or a number
    clipped to `range` and scaled to 0..1. Its series is `metrics.` and the name.
    """

    name: str
    path: str
    type: Literal["share", "number"] = "share"
    range: tuple[float, float] = (0.0, 1.0)


class RankTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """F_ref, the distribution of stable's predictions in epoch 0, as a step function of raw values.

    A value at or above `cuts[k - 1]` and below `cuts[k]` has the rank `ranks[k]`, one more rank than cuts:
    the share of stable's predictions below it and half of those it ties with.
    """

    cuts: tuple[float, ...]
    ranks: tuple[float, ...]


class Extraction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a body becomes predictions and slices.

    `path`: dotted with indices, `predictions[0].score`; `[*]` takes every instance; '' where the protocol
    says where predictions stand. Slices with `[*]`
    are matched to predictions by position; without it they hold for all.
    `values`, `uncertainty` (a stated sd, or low and high), `explanation` (importance of features): more that
    answers tell, by paths that match in the same way; '' where they tell none.
    """

    path: str
    type: Literal["number", "label", "labels", "vector", "text"]
    selected: Selected | None = None
    agree_within: float | None = None
    slices: tuple[SlicePlan, ...] = ()
    values: tuple[ValuePlan, ...] = ()
    uncertainty: str = ""
    explanation: str = ""


class LatencyThresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One latency metric's three bin indices: at or above bin `over` is slow, `mid` and `far` shifted."""

    metric: str  # latency.p95, stream.first_token.p50
    over: int
    mid: int
    far: int


class InputPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input feature to count (router.observer.inputs). `range` of a number, `values` of a category."""

    name: str
    path: str
    type: Literal["number", "category"] = "number"
    range: tuple[float, float] | None = None
    values: tuple[str, ...] = ()


class MeasurementPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to accumulate for one epoch of one service.

    `batch`: length of a time cluster in seconds; cluster = floor(assignment time / batch) mod CLUSTERS.
    `account_after`: seconds after assignment at which an open exchange is accounted as it stands.
    `limits`: predictions are clipped to them and scaled to [0, 1]; None in epoch 0 where the file
    declares no range (then only the value histogram is kept).
    `edges`: 9 inner deciles of stable's epoch-0 predictions in scaled units; `classes` for labels.
    `sliced_metrics`: the metric is a series' (store.evidence) without its last part where it has
    several: errors, missing, latency.p95, mean, bin, selected, agreement, metrics.NAME.
    `sticky`: prediction sums of randomised arms are kept per unit cluster, else in cluster 0.
    `streams`: the protocol tells of streams and output tokens. `tokens`: the number of output tokens that
    is y = 1, None until it is frozen. `back`, `floor`: those copies make pairs too. `ranks`: stable's
    distribution where prediction.rank is asked for, None until it is frozen. `labels`: predictions are
    remembered (store.labels), of the share `label_sample` of requests, for `label_keep` seconds, and joined
    to labels of the kind `outcome`.
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
    streams: bool = False
    tokens: float | None = None
    back: bool = False
    floor: bool = False
    inputs: tuple[InputPlan, ...] = ()
    ranks: RankTable | None = None
    labels: bool = False
    label_sample: float = 1.0
    label_keep: float = 0.0
    outcome: Literal["binary", "number", "label"] | None = None


def is_latency(metric: str) -> bool:
    """True of metrics that are kept as three counts over frozen thresholds."""
    return metric.startswith(("latency.", "stream.first_token."))


def is_label_series(metric: str) -> bool:
    """True of series that need to know what turned out to be true, which no router does."""
    return metric.startswith("outcome.") or metric == "uncertainty.coverage"


# A source's evidence for one service; a plan that would exceed it is refused with what to drop.
EVIDENCE_LIMIT = 2**20

_ARMS: dict[Stage, tuple[str, ...]] = {
    "baseline": ("stable",),
    "shadow": ("stable", "pair", "paired_stable"),
    "canary": ("stable", "candidate"),
    "stable": ("stable",),
}
_PAIRED = frozenset(("pair", "paired_stable", "floor"))
_COMPARED = frozenset(("agreement", "difference"))  # of two answers; an arm by itself has neither
_OF_PAIRS = frozenset(("explanation",))  # the same, and stable's noise is not kept
_AMOUNTS = frozenset(("mean", "bin", "selected", "tokens.output", "rank", "uncertainty"))
_LATENCY_COUNTS = 3  # over, mid, far
_KEY = 48  # bytes of a series' key and headers
_COUNTS = 6  # bytes per cluster where y is 0 or 1: n (4), Σy (2); Σy² is the same
_SUMS = 20  # bytes per cluster otherwise: n (4), Σy and Σy² (8 each)
_HISTOGRAM = 1024 * 8  # bytes of a full latency or value histogram
_INPUT, _FEW = 256 * 12, 64 * 12  # bytes of an input's counts: logarithmic bins, or parts and names
_COUNTED = {
    "errors", "missing", "client_disconnects", "extraction", "agreement", "stream.truncated",
    "tokens.limited", "requests",
}  # fmt: skip


def estimated_bytes(plan: MeasurementPlan) -> int:
    """About the size in bytes of one source's evidence for one epoch of `plan`, rather more than less.

    To be held against EVIDENCE_LIMIT before the plan is put into a route.
    """
    groups = {} if plan.extraction is None else {s.name: _groups(s) for s in plan.extraction.slices}
    arms = arms_of(plan)
    overall = ["errors", "missing", "client_disconnects", *(t.metric for t in plan.thresholds)]
    overall += ["requests"] if plan.sticky else []
    if plan.extraction is not None:
        overall += ["extraction", "mean", "bin"]
        overall += [] if plan.extraction.selected is None else ["selected"]
        overall += ["agreement", "difference"] if _PAIRED.intersection(arms) else []
        overall += extra_series(plan)
        overall += ["explanation"] if plan.extraction.explanation else []
    overall += ["stream.truncated", "tokens.limited", "tokens.output"] if plan.streams else []
    total = (len(arms) + 1) * _HISTOGRAM * (2 if plan.streams else 1)
    total += 2 * sum(_INPUT if one.range is None and not one.values else _FEW for one in plan.inputs)
    for arm in arms:
        for metric in overall:
            total += _bytes(plan, arm, metric)
        for metric, names in plan.sliced_metrics.items():
            if is_label_series(metric):
                continue  # the controller's sums, see controller.labels
            total += _bytes(plan, arm, metric) * sum(groups.get(name, 1) for name in names)
    return total


def extra_series(plan: MeasurementPlan) -> list[str]:
    """Series kept beside means, bins and selected shares, in the order that routers keep them."""
    extraction = plan.extraction
    if extraction is None:
        return []
    scaled = extraction.type == "number" and plan.limits is not None
    return [
        *(["rank"] if scaled and plan.ranks is not None else []),
        *(f"metrics.{one.name}" for one in extraction.values),
        *(["uncertainty"] if scaled and extraction.uncertainty else []),
    ]


def arms_of(plan: MeasurementPlan) -> tuple[str, ...]:
    """The arms of evidence that an epoch of this plan fills."""
    pairs = ("pair", "paired_stable") if plan.back else ()
    return (*_ARMS[plan.stage], *pairs, *(("floor",) if plan.floor else ()))


def _groups(planned: SlicePlan) -> int:
    return len(group_names(planned))


def _bytes(plan: MeasurementPlan, arm: str, metric: str) -> int:
    paired = arm in _PAIRED
    if metric == "requests" and paired:
        return 0
    if arm != "pair" and (metric in _COMPARED) != (arm == "floor") and (arm, metric) != ("floor", "missing"):
        return 0
    if metric in _OF_PAIRS and arm != "pair":
        return 0
    series = 1
    if is_latency(metric):
        series = _LATENCY_COUNTS
    elif metric == "bin":
        series = max(len(plan.classes) + 1 if plan.classes else 0, len(plan.edges) + 1 if plan.edges else 0)
    own = metric.startswith("metrics.")
    by_cluster = paired or plan.sticky or not (own or metric in _AMOUNTS)
    lacking = _KEY + _COUNTS if own or metric == "uncertainty" else 0  # how many had none
    counted = metric in _COUNTED or (is_latency(metric) and arm != "pair")
    return series * series_bytes(CLUSTERS if by_cluster else 1, counted=counted) + lacking


def series_bytes(clusters: int, *, counted: bool) -> int:
    """About the size of one series' sums. `counted`: y is 0 or 1."""
    return _KEY + clusters * (_COUNTS if counted else _SUMS)


def group_names(planned: SlicePlan) -> tuple[str, ...]:
    """The groups of a slice in order, `other` last: the text after `=` in evidence's slice names.

    Edges are written as in the file: `[0,25)`, `[0.5,inf)`; crossed groups with a slash, `female/[0,25)`.
    """
    if planned.cross:
        return (*crossed([group_names(part)[:-1] for part in planned.cross]), OTHER)
    return (*named_groups(planned.values, planned.bins), OTHER)
