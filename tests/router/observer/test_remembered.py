"""What is remembered of an exchange and of a pair until a label comes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from accede.router.facts import PAIR_BACK, PAIR_FLOOR, PAIR_SHADOW, Fact, Pair
from accede.router.observer.notebook import Notebook
from accede.router.observer.pairing import PairSeen
from accede.router.observer.quick import One
from accede.router.observer.remembered import Remembering
from accede.router.observer.seen import Several
from accede.store.labels import ARM, PAIR, Prediction, decode_prediction, encode_prediction, request_key
from accede.store.measurement import Extraction, MeasurementPlan

NAMES = (("sex=f", "sex=m", "sex=other"),)
PLAN = MeasurementPlan(
    "r", 3, "canary", Extraction("p", "number"), 5.0, 10.0, labels=True, label_sample=1.0, label_keep=60.0
)
ONE: One = (0.5, True, None, (0,), 0.5, (), None)


class Book:
    """A notebook and who writes into it."""

    def __init__(self, **changes: Any) -> None:
        self.notebook = Notebook()
        plan = msgspec.structs.replace(PLAN, **changes)
        found = Remembering.of("fraud", plan, NAMES, self.notebook)
        assert found is not None
        self.remembering = found

    def written(self) -> list[Prediction]:
        return [one for _, part in self.notebook.hand_out() for one in part]

    def exchange(self, found: Fact, request: str, seen: One | Several) -> list[Prediction]:
        self.remembering.exchange(found, request, seen)
        return self.written()

    def pair(self, found: Pair, seen: PairSeen) -> list[Prediction]:
        self.remembering.pair(found, seen)
        return self.written()


def fact(arm: int = 1, *, excluded: bool = False) -> Fact:
    return Fact(0, 0, arm, arm, 1000.0, 0, 200, 0.1, 130, excluded, 1, 0, 0)


def pair(kind: int = PAIR_SHADOW, *, lost: bool = False, at: float = 1000.0) -> Pair:
    return Pair(
        0, 0, at, 0, 200, 0.1, 0, 200, 0.1, lost, b"{}", b"{}", b"{}", "", "", "", kind, request_id="a"
    )


def test_an_exchange_is_remembered_under_its_epoch_arm_unit_and_groups() -> None:
    several = Several([0.5, None], ([0, 2],), stated=[0.1])
    (found,) = Book(sticky=True).exchange(fact(), "a", several)
    assert (found.request, found.kind, found.rollout, found.epoch) == (request_key("fraud", "a"), ARM, "r", 3)
    assert (found.at, found.until, found.arm, found.unit, found.batch) == (1000.0, 1060.0, 1, 2, 0)
    assert (found.sides, found.groups) == (((0.5, None),), (("sex=f", "sex=other"),))
    assert found.stated[0][0] == pytest.approx((0.5 - 0.196, 0.5 + 0.196))
    assert found.stated[0][1] is None
    assert decode_prediction(encode_prediction(found)) == found


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("stated", [None, 0.1, (0.2, 0.9)])
def test_an_ordinary_exchange_is_remembered_as_one_of_a_single_instance(sticky: bool, stated: Any) -> None:
    ordinary: One = (0.5, True, None, (1,), 0.5, (), stated)
    several = Several([0.5], (1,), stated=() if stated is None else [stated])
    book = Book(sticky=sticky)
    assert book.exchange(fact(), "a", ordinary) == book.exchange(fact(), "a", several)


def test_a_pair_is_remembered_with_both_sides() -> None:
    seen = PairSeen([0.5, 0.7], [0.4], (1,), stated=([], [(0.1, 0.9)]))
    (found,) = Book(stage="shadow").pair(pair(), seen)
    assert (found.kind, found.arm, found.unit, found.groups) == (PAIR, 1, 0, ("sex=m",))
    assert found.batch == 200 % 128
    assert found.sides == ((0.5, 0.7), (0.4, None))
    assert found.stated == ((None, None), ((0.1, 0.9), None))


def test_what_no_label_could_judge_is_not_remembered() -> None:
    canary, shadow = Book(), Book(stage="shadow")
    assert not canary.exchange(fact(), "", ONE)
    assert not canary.exchange(fact(), "a", Several([None], (0,)))
    assert not canary.exchange(fact(excluded=True), "a", ONE)
    both = PairSeen([0.5], [0.5], (0,))
    assert shadow.pair(pair(), both)
    assert not shadow.pair(pair(PAIR_FLOOR), both)
    assert not shadow.pair(pair(lost=True), both)
    assert not shadow.pair(pair(at=float("inf")), both)
    assert not shadow.pair(pair(), PairSeen([], [0.5], (0,)))


def test_what_no_gate_reads_is_not_remembered() -> None:
    assert Book().exchange(fact(), "a", ONE)
    assert not Book(stage="shadow").exchange(fact(0), "a", ONE)
    assert not Book(stage="baseline").exchange(fact(0), "a", ONE)
    assert not Book().pair(pair(PAIR_BACK), PairSeen([0.5], [0.5], (0,)))
    assert Remembering.of("s", msgspec.structs.replace(PLAN, labels=False), NAMES, Notebook()) is None
    text = msgspec.structs.replace(PLAN, extraction=Extraction("p", "text"))
    assert Remembering.of("s", text, NAMES, Notebook()) is None


@pytest.mark.parametrize("seen", [ONE, Several([0.5, 0.5], (0,))])
def test_the_sample_is_of_requests_and_so_the_same_in_both_arms(seen: One | Several) -> None:
    book = Book(label_sample=0.25)
    arms = [
        {name for name in map(str, range(2000)) if book.exchange(fact(arm), name, seen)} for arm in (0, 1)
    ]
    assert arms[0] == arms[1]
    assert 430 < len(arms[0]) < 570
