"""Latencies of a shadow's pairs: which thresholds each side is over, as differences."""

from __future__ import annotations

from typing import Any

import msgspec

from accede.router.facts import PAIR_FLOOR, PAIR_SHADOW, Ending
from accede.store.evidence import Evidence, SeriesKey
from accede.store.histogram import bin_of, edge
from accede.store.measurement import CLUSTERS, LatencyThresholds, MeasurementPlan, estimated_bytes
from tests.router.observer.test_fold import PLAN, fold, published, sums
from tests.router.observer.test_pair_kinds import pair, paired

AT = bin_of(1.0)  # thresholds are 1 s, about 1.2 s and about 1.5 s
OVER, MID, FAR = (edge(AT + more) * 1.001 for more in (0, 10, 20))
SHADOW = msgspec.structs.replace(PLAN, stage="shadow")
BOTH = msgspec.structs.replace(
    SHADOW, thresholds=(LatencyThresholds("latency.p50", AT, AT + 2, AT + 4), *SHADOW.thresholds)
)


def timed(stable: float, candidate: float, plan: MeasurementPlan = SHADOW, **changes: Any) -> Evidence:
    one = pair([2], [2], PAIR_SHADOW, stable_latency=stable, shadow_latency=candidate, **changes)
    return paired(one, plan=plan)


def moved(evidence: Evidence, metric: str = "latency.p95") -> tuple[tuple[float, float, float] | None, ...]:
    """Sums of the candidate at half the margin and at all of it, each less stable at its quantile."""
    return tuple(sums(evidence, "pair", f"{metric}.{part}") for part in ("mid", "far"))


def test_each_side_is_held_against_its_own_threshold() -> None:
    same, up, down = (1, 0, 0), (1, 1, 1), (1, -1, 1)
    assert moved(timed(0.1, 0.1)) == (same, same)
    assert moved(timed(0.1, OVER)) == (same, same)
    assert moved(timed(0.1, MID)) == (up, same)
    assert moved(timed(0.1, FAR)) == (up, up)
    assert moved(timed(OVER, 0.1)) == (down, down)
    assert moved(timed(OVER, MID)) == (same, down)
    assert moved(timed(FAR, FAR)) == (same, same)


def test_stables_side_of_both_differences_is_its_quantile() -> None:
    for part in ("mid", "far"):
        assert sums(timed(OVER, 0.1), "paired_stable", f"latency.p95.{part}") == (1, 1, 1)
        assert sums(timed(0.1, FAR), "paired_stable", f"latency.p95.{part}") == (1, 0, 0)


def test_a_failure_is_slow_however_fast_it_failed() -> None:
    up = (1, 1, 1)
    assert moved(timed(0.1, 0.001, shadow_status=500)) == (up, up)
    assert moved(timed(0.1, 0.001, shadow_ending=Ending.TIMEOUT)) == (up, up)
    assert moved(timed(0.001, 0.1, stable_status=500)) == ((1, -1, 1), (1, -1, 1))
    assert moved(timed(0.001, 0.001, stable_status=500, shadow_status=500)) == ((1, 0, 0), (1, 0, 0))


def test_several_gates_are_counted_side_by_side() -> None:
    evidence = timed(0.1, edge(AT + 3) * 1.001, BOTH)
    assert moved(evidence, "latency.p50") == ((1, 1, 1), (1, 0, 0))
    assert moved(evidence, "latency.p95") == ((1, 0, 0), (1, 0, 0))


def test_pairs_add_up_in_their_batch_of_time() -> None:
    folded = fold(SHADOW)
    for at, candidate in ((12.0, FAR), (13.0, FAR), (12.0 + 5.0 * CLUSTERS, FAR), (17.0, 0.1)):
        one = pair([2], [2], PAIR_SHADOW, assigned_at=at, shadow_latency=candidate)
        folded.add_pair(one, folded.read_pair(one))
    series = published(folded).series[SeriesKey("pair", "", "latency.p95.far")]
    assert (series.n[2], series.sum[2], series.n[3], series.sum[3]) == (3, 3, 1, 0)


def test_bodies_play_no_part() -> None:
    assert moved(timed(0.1, FAR, request=b"")) == ((1, 1, 1), (1, 1, 1))


def test_the_times_of_copies_that_were_answered_are_kept() -> None:
    assert timed(0.1, FAR).latency == {"pair": {bin_of(FAR): 1}}
    assert timed(0.1, FAR, shadow_status=500).latency == {}


def test_stable_asked_twice_says_nothing_of_the_candidate() -> None:
    evidence = paired(pair([2], [2], PAIR_FLOOR, shadow_latency=FAR), plan=SHADOW)
    assert moved(evidence) == (None, None)


def test_a_plan_without_latency_gates_keeps_nothing() -> None:
    evidence = timed(0.1, FAR, msgspec.structs.replace(SHADOW, thresholds=()))
    assert not [key for key in evidence.series if "latency" in key.metric]
    assert evidence.latency == {}


def test_the_size_of_the_evidence_was_foreseen() -> None:
    without = msgspec.structs.replace(SHADOW, thresholds=())
    grown = len(msgspec.msgpack.encode(timed(OVER, FAR))) - len(
        msgspec.msgpack.encode(timed(OVER, FAR, without))
    )
    assert estimated_bytes(SHADOW) - estimated_bytes(without) > grown
