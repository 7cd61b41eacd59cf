"""Evidence adds: in any order, any grouping, over any split of the traffic; and it stays small."""

from __future__ import annotations

import contextlib
import itertools
import random
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accede.errors import WireError
from accede.store.columns import pack, unpack
from accede.store.evidence import (
    ArmCounts,
    ArmKey,
    Evidence,
    MirrorCounts,
    Series,
    SeriesKey,
    decode_evidence,
    encode_evidence,
    merge,
)
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

if TYPE_CHECKING:
    from accede.store.protocol import Store
    from tests.store.conftest import Records

CLUSTERS_OF = {"errors": 4, "mean": 1}  # few, so that draws meet in one cluster

counts = st.integers(0, 2**40)
names = st.sampled_from(["stable", "candidate", "pair"])


@st.composite
def series(draw: st.DrawFn, clusters: int) -> Series:
    """Sums of y in multiples of 1/64, which add without rounding."""
    n = draw(st.lists(st.integers(0, 2**33), min_size=clusters, max_size=clusters))
    y = [draw(st.integers(-64 * k, 64 * k)) / 64 for k in n]
    squares = [draw(st.integers(0, 64 * k)) / 64 for k in n]
    return Series([float(k) for k in n], y, squares)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    keys = st.builds(SeriesKey, names, st.sampled_from(["", "sex=f"]), st.sampled_from(list(CLUSTERS_OF)))
    chosen = draw(st.sets(keys, max_size=3))
    bins = st.dictionaries(st.integers(-5, 5), counts, max_size=3)
    return Evidence(
        wire="accede.evidence/1", service="s", rollout="r", epoch=3, source=draw(st.text(max_size=3)),
        published=draw(st.integers(0, 99)), watermark=draw(st.integers(0, 99)),
        arms=draw(st.dictionaries(names, st.builds(ArmCounts, counts, counts, counts, counts), max_size=2)),
        open=draw(st.dictionaries(names, counts, max_size=2)),
        mirror=draw(st.builds(MirrorCounts, counts, counts, counts, counts)),
        series={key: draw(series(CLUSTERS_OF[key.metric])) for key in chosen},
        latency=draw(st.dictionaries(names, bins, max_size=2)),
        values=draw(bins), labels=draw(st.dictionaries(st.text(max_size=2), counts, max_size=2)),
    )  # fmt: skip


def added(*parts: Evidence) -> Evidence:
    total = merge(parts)
    assert total is not None
    return total


@given(evidences(), evidences(), evidences())
def test_merging_is_associative_and_commutative(a: Evidence, b: Evidence, c: Evidence) -> None:
    once = added(a, b, c)
    assert added(added(a, b), c) == added(a, added(b, c)) == once
    for order in itertools.permutations((a, b, c)):
        assert added(*order) == once


@given(evidences(), evidences())
def test_merging_changes_no_part(a: Evidence, b: Evidence) -> None:
    before = encode_evidence(a), encode_evidence(b)
    total = added(a, b)
    for sums in total.series.values():
        sums.n[0] += 1
    assert (encode_evidence(a), encode_evidence(b)) == before


def test_nothing_merges_to_nothing() -> None:
    assert merge([]) is None


class Source:
    """A replica that folds observations one by one, as the observer does."""

    def __init__(self, name: str) -> None:
        self.evidence = Evidence(
            wire="accede.evidence/1", service="fraud", rollout="r1", epoch=1, source=name,
            published=1.0, watermark=1.0,
        )  # fmt: skip

    def fold(self, arm: ArmKey, group: str, cluster: int, y: float, latency: int) -> None:
        evidence = self.evidence
        key = SeriesKey(arm, group, "errors")
        sums = evidence.series.setdefault(key, Series([0.0] * CLUSTERS, [0.0] * CLUSTERS, [0.0] * CLUSTERS))
        sums.n[cluster] += 1
        sums.sum[cluster] += y
        sums.square[cluster] += y * y
        evidence.arms.setdefault(arm, ArmCounts()).accounted += 1
        bins = evidence.latency.setdefault(arm, {})
        bins[latency] = bins.get(latency, 0) + 1


def test_shards_add_to_the_stream_however_often_each_publishes(store: Store) -> None:
    rng = random.Random(7)
    whole = Source("*")
    shards = [Source(f"replica/{k}") for k in range(4)]
    for k in range(3_000):
        seen: tuple[ArmKey, str, int, float, int] = (
            rng.choice(("stable", "candidate")), rng.choice(("", "sex=f")), rng.randrange(CLUSTERS),
            rng.randrange(-8, 9) / 8, rng.randrange(9),
        )  # fmt: skip
        whole.fold(*seen)
        shard = rng.choice(shards)
        shard.fold(*seen)
        if k % 100 == 0:  # some publications come twice, most are never seen
            for _ in range(rng.randrange(3)):
                store.publish_evidence(shard.evidence)
    for shard in shards:
        store.publish_evidence(shard.evidence)
    assert merge(store.evidence("fraud", "r1")) == whole.evidence


def test_only_evidence_of_one_epoch_adds(records: Records) -> None:
    with pytest.raises(ValueError, match="one service, rollout and epoch"):
        merge([records.evidence(), records.evidence(epoch=1)])


def test_sources_that_keep_different_clusters_do_not_add(records: Records) -> None:
    key = SeriesKey("stable", "", "errors")
    other = msgspec.structs.replace(records.evidence("b/1"), series={key: Series([1.0], [1.0], [1.0])})
    with pytest.raises(WireError, match=r"stable/all/errors has 128 clusters .* and 1 "):
        merge([records.evidence(), other])


# The wire form


@given(evidences())
def test_evidence_reads_back_as_itself(evidence: Evidence) -> None:
    assert decode_evidence(encode_evidence(evidence)) == evidence


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**33).map(float), min_size=1)
)
def test_a_column_reads_back_exactly(values: list[float]) -> None:
    assert list(unpack(pack(values), len(values))) == values


@given(st.binary(max_size=40), st.integers(1, 6))
def test_any_bytes_are_a_column_or_refused(data: bytes, length: int) -> None:
    with contextlib.suppress(ValueError):
        assert len(unpack(data, length)) == length


def encoded(n: list[float], y: list[float], squares: list[float]) -> bytes:
    evidence = Evidence(
        wire="accede.evidence/1", service="s", rollout="r", epoch=0, source="a/1",
        published=1.0, watermark=1.0,
        series={SeriesKey("stable", "", "errors"): Series(n, y, squares)},
    )  # fmt: skip
    return encode_evidence(evidence)


@pytest.mark.parametrize(
    ("n", "y", "square"),
    [(-1.0, 0.0, 0.0), (1.0, 1.1, 1.0), (1.0, -1.1, 1.0), (1.0, 0.5, 1.1), (1.0, 0.5, -0.1),
     (float("nan"), 0.0, 0.0), (1.0, float("nan"), 0.0), (float("inf"), 0.0, 0.0)],
)  # fmt: skip
def test_impossible_sums_are_refused(n: float, y: float, square: float) -> None:
    with pytest.raises(WireError, match=r"'a/1'.*stable/all/errors"):
        decode_evidence(encoded([n], [y], [square]))


@pytest.mark.parametrize("lengths", [(0, 0, 0), (1, 2, 1), (2, 2, 1), (CLUSTERS + 1,) * 3])
def test_lists_of_other_lengths_are_not_encoded(lengths: tuple[int, int, int]) -> None:
    with pytest.raises(WireError, match="equal lengths"):
        encoded(*([0.0] * length for length in lengths))


def test_negative_counts_and_endless_times_are_refused(records: Records) -> None:
    for change in (
        {"arms": {"stable": ArmCounts(-1)}},
        {"open": {"stable": -1}},
        {"latency": {"stable": {3: -1}}},
        {"mirror": MirrorCounts(lost=-1)},
        {"watermark": float("nan")},
        {"published": float("inf")},
        {"epoch": -1},
    ):
        with pytest.raises(WireError):
            decode_evidence(encode_evidence(msgspec.structs.replace(records.evidence(), **change)))


# Size


def full(plan: MeasurementPlan, arms: tuple[ArmKey, ...], metrics: dict[str, bool]) -> Evidence:
    """Busy evidence of a plan: every cluster of every series filled; metric -> whether y is 0 or 1 only."""
    rng = random.Random(1)
    assert plan.extraction is not None
    groups = ["", *(f"{s.name}={v}" for s in plan.extraction.slices for v in (*s.values, "other"))]
    every: dict[SeriesKey, Series] = {}
    for arm, group, (metric, whole) in itertools.product(arms, groups, metrics.items()):
        n = [float(rng.randrange(1_000, 60_000)) for _ in range(CLUSTERS)]
        y = [float(rng.randrange(1_000)) if whole else rng.random() * k for k in n]
        every[SeriesKey(arm, group, metric)] = Series(n, y, y if whole else [v / 2 for v in y])
    return Evidence(
        wire="accede.evidence/1", service="s", rollout="r", epoch=1, source="a/1",
        published=1.0, watermark=1.0,
        series=every, latency={arm: dict.fromkeys(range(1024), 10000) for arm in arms},
    )  # fmt: skip


def plan_of(values: int, *, sticky: bool, selected: bool = True) -> MeasurementPlan:
    slices = (SlicePlan("group", "g", values=tuple(f"value{k}" for k in range(values))),)
    kept = ("group",)
    return MeasurementPlan(
        rollout="r", epoch=1, stage="canary", batch=5.0, account_after=31.0, sticky=sticky,
        extraction=Extraction("p", "number", Selected(">=", 0.5) if selected else None, slices=slices),
        thresholds=(LatencyThresholds("latency.p95", 400, 405, 410),), edges=tuple(range(1, 10)),
        sliced_metrics={"errors": kept, "latency.p95": kept, "mean": kept, "selected": kept},
    )  # fmt: skip


def test_twenty_slices_of_ten_metrics_fit_into_the_limit() -> None:
    plan = plan_of(18, sticky=True)  # 20 groups with `` and `other`
    evidence = full(plan, ("stable", "candidate"), {f"metric{k}": False for k in range(10)})
    assert len(evidence.series) == 20 * 10 * 2
    body = encode_evidence(evidence)
    assert len(body) <= EVIDENCE_LIMIT
    assert decode_evidence(body) == evidence


@pytest.mark.parametrize("sticky", [True, False])
def test_the_estimate_is_above_the_real_size_and_of_its_order(sticky: bool) -> None:
    plan = plan_of(10, sticky=sticky)
    metrics = {"errors": True, "latency.p95.over": True, "latency.p95.mid": True, "latency.p95.far": True}
    plain = full(plan, ("stable", "candidate"), metrics)
    predicted = full(plan, ("stable", "candidate"), {"mean": False, "selected": False})
    if not sticky:
        predicted.series = {
            key: Series(s.n[:1], s.sum[:1], s.square[:1]) for key, s in predicted.series.items()
        }
    plain.series.update(predicted.series)
    size = len(encode_evidence(plain))
    assert size <= estimated_bytes(plan) <= 2 * size


def test_more_of_anything_costs_more() -> None:
    small = estimated_bytes(plan_of(2, sticky=False))
    assert small < estimated_bytes(plan_of(2, sticky=True))
    assert small < estimated_bytes(plan_of(20, sticky=False))
    assert estimated_bytes(plan_of(200, sticky=True)) > EVIDENCE_LIMIT


@settings(max_examples=20)
@given(st.sampled_from(["baseline", "shadow", "canary", "stable"]))
def test_a_plan_without_predictions_can_be_estimated(stage: str) -> None:
    plan = msgspec.convert(
        {"rollout": "r", "epoch": 0, "stage": stage, "extraction": None, "batch": 1.0, "account_after": 1.0},
        MeasurementPlan,
    )
    assert 0 < estimated_bytes(plan) < EVIDENCE_LIMIT


def test_what_was_stored_before_there_were_other_copies_and_streams_is_read() -> None:
    now = full(plan_of(2, sticky=False), ("stable", "candidate"), {"errors": True})
    now.arms = {"stable": ArmCounts(7, 1, 2, 3)}
    now.mirror = MirrorCounts(chosen=9, sent=8, paired=7, lost=1)
    raw = msgspec.msgpack.decode(encode_evidence(now), strict=False)
    for name in ("first_token", "tokens", "back", "floor", "inputs"):
        del raw["head"][name]
    raw["head"]["arms"] = {arm: counts[:4] for arm, counts in raw["head"]["arms"].items()}
    raw["head"]["mirror"] = raw["head"]["mirror"][:8]
    assert decode_evidence(msgspec.msgpack.encode(raw)) == now
