"""Ten million observations made into evidence and analysed; and how large evidence is."""

from __future__ import annotations

import time

import numpy as np

from accede.controller.stats.clusters import ClusterEpoch, ClusterEstimate, cluster_estimate
from accede.controller.stats.mean import MeanEpoch, MeanStatistic, mean_statistic
from accede.controller.stats.tuning import RANDOMISED, asymptotic_v_opt, mean_v_opt
from accede.store.evidence import Evidence, Series, SeriesKey, encode_evidence
from accede.store.measurement import (
    CLUSTERS,
    EVIDENCE_LIMIT,
    Extraction,
    LatencyThresholds,
    MeasurementPlan,
    Selected,
    SlicePlan,
    estimated_bytes,
)

from .results import Folded, Size

_WEIGHTS = (0.05, 0.25, 0.5)


def folded(observations: int, seed: int = 41) -> Folded:
    """Requests as columns: epoch, cluster of time, arm, error, score. Errors by P4, scores by P1."""
    rng = np.random.default_rng(seed)
    epoch = rng.integers(0, len(_WEIGHTS), observations)
    cluster = rng.integers(0, CLUSTERS, observations)
    candidate = rng.random(observations) < np.array(_WEIGHTS)[epoch]
    error = rng.random(observations) < 0.01
    score = rng.random(observations)

    began = time.perf_counter()
    cell = (epoch * 2 + candidate) * CLUSTERS + cluster
    shape = (len(_WEIGHTS), 2, CLUSTERS)
    n, failed, total, square = (
        np.bincount(cell, weight, int(np.prod(shape))).reshape(shape).astype(np.float64)
        for weight in (None, error, score, score * score)
    )
    done = time.perf_counter()
    errors = cluster_estimate(
        [ClusterEpoch(pi, n[e, 1], failed[e, 1], n[e, 0], failed[e, 0]) for e, pi in enumerate(_WEIGHTS)]
    )
    scores = mean_statistic(
        [
            MeanEpoch(pi, 0.5, *(float(v[e, arm].sum()) for arm in (1, 0) for v in (n, total, square)))
            for e, pi in enumerate(_WEIGHTS)
        ]
    )
    assert isinstance(errors, ClusterEstimate)
    assert isinstance(scores, MeanStatistic)
    low, high = scores.interval(mean_v_opt(1 / 12, 0.03, 0.025, scale=RANDOMISED), 0.025, 0.025)
    interval = errors.interval(asymptotic_v_opt(0.005, 0.025), 0.025, 0.025)
    assert isinstance(interval, tuple)
    end = time.perf_counter()
    return Folded(
        observations, done - began, end - done,
        f"scores {low:+.5f} to {high:+.5f}, errors {interval[0]:+.6f} to {interval[1]:+.6f}",
    )  # fmt: skip


def sizes() -> list[Size]:
    """Evidence with every sum filled, of plans from one group to the twenty that a slice may have."""
    made: list[Size] = []
    for values, sticky in ((0, False), (8, False), (18, False), (18, True)):
        slices = (
            (SlicePlan("group", "g", values=tuple(f"value{k}" for k in range(values))),) if values else ()
        )
        kept = ("group",) if values else ()
        plan = MeasurementPlan(
            rollout="r", epoch=1, stage="canary", batch=5.0, account_after=31.0, sticky=sticky,
            extraction=Extraction("p", "number", Selected(">=", 0.5), slices=slices),
            thresholds=(LatencyThresholds("latency.p95", 400, 405, 410),), edges=tuple(range(1, 10)),
            sliced_metrics={metric: kept for metric in ("errors", "latency.p95", "mean", "selected") if kept},
        )  # fmt: skip
        groups = values + 2 if values else 1
        made.append(
            Size(
                f"{groups} group{'s' if values else ''}, units are {'users' if sticky else 'requests'}",
                estimated_bytes(plan), len(encode_evidence(_full(groups, sticky=sticky))), EVIDENCE_LIMIT,
            )
        )  # fmt: skip
    return made


def _full(groups: int, *, sticky: bool) -> Evidence:
    """Sums as after some million requests: errors and latency by time cluster, predictions by unit."""
    rng = np.random.default_rng(42)
    series: dict[SeriesKey, Series] = {}
    by_time = ("errors", "latency.p95.over", "latency.p95.mid", "latency.p95.far")
    for arm in ("stable", "candidate"):
        for number in range(groups):
            group = f"group=value{number}"
            for metric in (*by_time, "mean", "selected"):
                length = CLUSTERS if metric in by_time or sticky else 1
                n = rng.integers(1_000, 60_000, length).astype(float)
                whole = metric != "mean"
                y = np.floor(n * rng.random(length) * 0.1) if whole else n * rng.random(length)
                series[SeriesKey(arm, group, metric)] = Series(
                    n.tolist(), y.tolist(), (y if whole else y * rng.random(length)).tolist()
                )
    return Evidence(
        wire="accede.evidence/1", service="s", rollout="r", epoch=1, source="a/1", published=1.0,
        watermark=1.0, series=series,
        latency={arm: dict.fromkeys(range(1024), 10_000) for arm in ("stable", "candidate")},
    )  # fmt: skip
