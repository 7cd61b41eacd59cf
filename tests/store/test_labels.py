"""Every guarantee of store.labels, by its number, over every implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from accede.errors import StaleWrite
from accede.store.evidence import LABELS, Evidence, Series, SeriesKey, merge
from accede.store.labels import (
    COUNTED,
    TOMBSTONES,
    VALUED,
    Joined,
    Kept,
    Label,
    Prediction,
    encode_prediction,
    request_key,
)
from accede.store.protocol import Store

if TYPE_CHECKING:
    from tests.store.conftest import Backend, Records


def prediction(request: str = "a", *, at: float = 10.0, until: float = 1000.0) -> Prediction:
    return Prediction(
        request=request_key("fraud", request), kind=0, rollout="r1", epoch=1, at=at, until=until, arm=1,
        unit=0, batch=3, sides=((0.25,),), groups=("sex=female",),
    )  # fmt: skip


def label(request: str = "a", *values: float, groups: tuple[str, ...] = ()) -> Label:
    return Label(request_key("fraud", request), values, groups)


def sums(n: float) -> Evidence:
    return Evidence(
        wire="accede.evidence/1", service="fraud", rollout="r1", epoch=1, source=LABELS, published=0.0,
        watermark=0.0, series={SeriesKey("candidate", "", "labelled"): Series([n], [n], [n])},
    )  # fmt: skip


def folded(store: Store) -> list[float]:
    return [series.n[0] for one in store.evidence("fraud", "r1") for series in one.series.values()]


# 1: the first stands


def test_a_prediction_published_twice_is_one(store: Store) -> None:
    assert store.labels.publish_predictions("fraud", [prediction(), prediction()]) == Kept(1)
    assert store.labels.publish_predictions("fraud", [prediction(at=11.0), prediction("b", at=12.0)]) == Kept(
        1
    )
    rows = store.labels.due("fraud", "r1", 100.0, 10).rows
    assert [row.prediction for row in rows] == [prediction(), prediction("b", at=12.0)]


def test_of_predictions_without_room_it_is_said_how_many_they_are(store: Store) -> None:
    labels: Any = store.labels
    labels._most_predictions = 2
    assert labels.publish_predictions("fraud", [prediction(name) for name in "abc"]) == Kept(2, 1)
    assert labels.publish_predictions("fraud", [prediction("d")]) == Kept(0, 1)
    assert labels.held("fraud").dropped == 2


def test_room_is_also_of_bytes_and_what_expires_gives_them_back(store: Store) -> None:
    labels: Any = store.labels
    size = len(encode_prediction(prediction()))
    labels._most_bytes = 2 * size + size // 2
    assert labels.publish_predictions("fraud", [prediction()]) == Kept(1)
    assert labels.publish_predictions("fraud", [prediction()]) == Kept(0)  # had been there: takes no room
    assert labels.publish_predictions("fraud", [prediction("b"), prediction("c")]) == Kept(1, 1)
    assert labels.publish_predictions("other", [prediction("c")]) == Kept(1)  # each service has its own
    labels.expire(1e9, 10)
    assert labels.publish_predictions("fraud", [prediction(name) for name in "def"]) == Kept(2, 1)
    assert labels.held("fraud").dropped == 2


def test_a_label_counts_once_and_another_value_is_a_conflict(store: Store) -> None:
    store.labels.publish_predictions("fraud", [prediction()])
    got = store.labels.add_labels("fraud", [label("a", 1.0), label("a", 1.0), label("a", 0.0)], 1000.0)
    assert (got.new, got.duplicates, got.conflicts, got.unknown) == (1, 1, 1, 0)
    assert store.labels.due("fraud", "r1", 100.0, 10).rows[0].label == label("a", 1.0)


def test_attributes_may_come_after_the_value(store: Store) -> None:
    store.labels.add_labels("fraud", [label("a", 1.0)], 1000.0)
    store.labels.add_labels("fraud", [label("a", groups=("region=north",))], 1000.0)
    store.labels.publish_predictions("fraud", [prediction()])
    assert store.labels.due("fraud", "r1", 100.0, 10).rows[0].label == label(
        "a", 1.0, groups=("region=north",)
    )


# 2: out of order


def test_a_label_before_its_prediction_is_kept_and_joined(store: Store) -> None:
    assert store.labels.add_labels("fraud", [label("a", 1.0)], 1000.0).unknown == 1
    store.labels.publish_predictions("fraud", [prediction()])
    assert store.labels.due("fraud", "r1", 100.0, 10).rows == (Joined(prediction(), label("a", 1.0), 0),)


def test_only_mature_predictions_are_due_oldest_first(store: Store) -> None:
    store.labels.publish_predictions("fraud", [prediction("c", at=30), prediction("b", at=20), prediction()])
    due = store.labels.due("fraud", "r1", 20.0, 10).rows
    assert [row.prediction.at for row in due] == [10.0, 20.0]
    assert len(store.labels.due("fraud", "r1", 20.0, 1).rows) == 1


# 3: exactly once


def test_what_is_folded_is_due_again_only_when_its_label_comes(backend: Backend, store: Store) -> None:
    store.labels.publish_predictions("fraud", [prediction()])
    due = store.labels.due("fraud", "r1", 100.0, 10)
    counted = msgspec.structs.replace(due.rows[0], folded=COUNTED)
    store.labels.fold("fraud", "r1", due.number, [counted], [sums(1.0)])
    again = backend.open()
    assert again.labels.due("fraud", "r1", 100.0, 10).rows == ()
    assert folded(again) == [1.0]
    again.labels.add_labels("fraud", [label("a", 1.0)], 1000.0)
    assert again.labels.due("fraud", "r1", 100.0, 10).rows == (
        Joined(prediction(), label("a", 1.0), COUNTED),
    )


def test_a_stale_fold_writes_nothing(backend: Backend, store: Store) -> None:
    store.labels.publish_predictions("fraud", [prediction()])
    first, second = (handle.labels.due("fraud", "r1", 100.0, 10) for handle in (store, backend.open()))
    store.labels.fold("fraud", "r1", first.number, first.rows, [sums(1.0)])
    with pytest.raises(StaleWrite, match="folded first"):
        store.labels.fold("fraud", "r1", second.number, second.rows, [sums(9.0)])
    assert folded(store) == [1.0]


def test_a_label_that_comes_while_its_prediction_is_folded_stays_due(store: Store) -> None:
    store.labels.publish_predictions("fraud", [prediction()])
    due = store.labels.due("fraud", "r1", 100.0, 10)
    store.labels.add_labels("fraud", [label("a", 1.0)], 1000.0)
    counted = msgspec.structs.replace(due.rows[0], folded=COUNTED)
    store.labels.fold("fraud", "r1", due.number, [counted], [sums(1.0)])
    left = store.labels.due("fraud", "r1", 100.0, 10)
    assert left.rows == (Joined(prediction(), label("a", 1.0), COUNTED),)
    done = msgspec.structs.replace(left.rows[0], folded=COUNTED | VALUED)
    store.labels.fold("fraud", "r1", left.number, [done], [sums(1.0)])
    assert store.labels.due("fraud", "r1", 100.0, 10).rows == ()


# 4: bounded


def test_what_is_old_is_forgotten_and_its_label_counted_as_expired(store: Store) -> None:
    store.labels.publish_predictions("fraud", [prediction()])
    assert store.labels.expire(1001.0, 10) == 1
    assert store.labels.due("fraud", "r1", 100.0, 10).rows == ()
    got = store.labels.add_labels("fraud", [label("a", 1.0), label("b", 1.0)], 2000.0)
    assert (got.expired, got.new, got.unknown) == (1, 1, 1)
    assert store.labels.expire(2001.0 + TOMBSTONES, 10) == 2
    assert store.labels.held("fraud").labels == got


def test_the_source_of_labels_has_no_say_in_the_watermark(records: Records) -> None:
    router = msgspec.structs.replace(records.evidence(epoch=1), watermark=5.0, published=6.0)
    total = merge([sums(1.0), router])
    assert total is not None
    assert (total.watermark, total.published) == (5.0, 6.0)
    assert SeriesKey("candidate", "", "labelled") in total.series
