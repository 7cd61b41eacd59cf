"""What is remembered of an exchange and of a pair until a label comes."""

from __future__ import annotations

import pytest

from accede.router.facts import PAIR_BACK, PAIR_FLOOR, PAIR_SHADOW, Fact, Pair
from accede.router.observer.remembered import Remembering
from accede.store.labels import ARM, PAIR, decode_prediction, encode_prediction, request_key
from accede.store.measurement import MeasurementPlan

NAMES = (("sex=f", "sex=m", "sex=other"),)


def remembering(*, sample: float = 1.0, sticky: bool = False) -> Remembering:
    plan = MeasurementPlan(
        "r", 3, "canary", None, 5.0, 10.0, sticky=sticky, labels=True, label_sample=sample, label_keep=60.0
    )
    return Remembering("fraud", plan, NAMES)


def fact(arm: int = 1, *, excluded: bool = False) -> Fact:
    return Fact(0, 0, arm, arm, 1000.0, 0, 200, 0.1, 130, excluded, 1, 0, 0)


def pair(kind: int = PAIR_SHADOW, *, lost: bool = False) -> Pair:
    return Pair(
        0, 0, 1000.0, 0, 200, 0.1, 0, 200, 0.1, lost, b"{}", b"{}", b"{}", "", "", "", kind, request_id="a"
    )


def test_an_exchange_is_remembered_under_its_epoch_arm_clusters_and_groups() -> None:
    found = remembering(sticky=True).exchange(fact(), "a", [0.5, None], ([0, 2],), [0.1])
    assert found is not None
    assert (found.request, found.kind, found.rollout, found.epoch) == (request_key("fraud", "a"), ARM, "r", 3)
    assert (found.at, found.until, found.arm, found.unit, found.batch) == (1000.0, 1060.0, 1, 2, 200 % 128)
    assert (found.sides, found.groups) == (((0.5, None),), (("sex=f", "sex=other"),))
    assert found.stated[0][0] == pytest.approx((0.5 - 0.196, 0.5 + 0.196))
    assert found.stated[0][1] is None
    assert decode_prediction(encode_prediction(found)) == found


@pytest.mark.parametrize("kind", [PAIR_SHADOW, PAIR_BACK])
def test_a_pair_is_remembered_with_both_sides(kind: int) -> None:
    found = remembering().pair(pair(kind), [0.5, 0.7], [0.4], (1,), ([], [(0.1, 0.9)]))
    assert found is not None
    assert (found.kind, found.unit, found.groups) == (PAIR, 0, ("sex=m",))
    assert found.sides == ((0.5, 0.7), (0.4, None))
    assert found.stated == ((None, None), ((0.1, 0.9), None))


def test_what_no_label_could_judge_is_not_remembered() -> None:
    one = remembering()
    assert one.exchange(fact(), "", [0.5], (0,)) is None
    assert one.exchange(fact(), "a", [None], (0,)) is None
    assert one.exchange(fact(excluded=True), "a", [0.5], (0,)) is None
    assert one.pair(pair(PAIR_FLOOR), [0.5], [0.5], (0,)) is None
    assert one.pair(pair(lost=True), [0.5], [0.5], (0,)) is None
    assert one.pair(pair(), [], [0.5], (0,)) is None


def test_the_sample_is_of_requests_and_so_the_same_in_both_arms() -> None:
    one = remembering(sample=0.25)
    arms = [
        {name for name in map(str, range(2000)) if one.exchange(fact(arm), name, [0.5], (0,)) is not None}
        for arm in (0, 1)
    ]
    assert arms[0] == arms[1]
    assert 430 < len(arms[0]) < 570
