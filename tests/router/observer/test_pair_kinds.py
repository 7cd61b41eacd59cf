"""Which sums a pair of each kind goes into, which way round, and what is counted beside."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from accede.router.facts import PAIR_BACK, PAIR_FLOOR, PAIR_SHADOW, Ending, MirrorTally, Pair
from accede.store.evidence import Evidence, MirrorCounts, decode_evidence, encode_evidence, merge
from accede.store.measurement import MeasurementPlan, estimated_bytes
from tests.router.observer.test_fold import PLAN, TestLabels, fold, published, sums

NOTHING = MirrorCounts()


def pair(stable: Any, candidate: Any, kind: int, **changes: Any) -> Pair:
    base = Pair(
        1, 0, 12.0, Ending.ANSWERED, 200, 0.1, Ending.ANSWERED, 200, 0.1, False, b'{"i": [{"sex": "f"}]}',
        json.dumps({"p": stable}).encode(), json.dumps({"p": candidate}).encode(), "", "", "", kind,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def paired(*pairs: Pair, plan: MeasurementPlan = PLAN) -> Evidence:
    folded = fold(plan)
    for one in pairs:
        folded.add_pair(one, folded.read_pair(one))
    return published(folded)


def test_a_pair_is_the_same_whoever_served_it() -> None:
    shadow, back = (paired(pair([2], [6], kind)) for kind in (PAIR_SHADOW, PAIR_BACK))
    slower = {key for key in shadow.series if key.metric.startswith("latency.")}
    assert {key: found for key, found in shadow.series.items() if key not in slower} == back.series
    assert slower  # a canary compares the arms
    assert sums(back, "pair", "mean") == pytest.approx((1, 0.4, 0.16))
    assert (shadow.mirror.paired, shadow.back) == (1, NOTHING)
    assert (back.back.paired, back.mirror) == (1, NOTHING)


def test_a_candidate_that_failed_its_users_disagrees() -> None:
    failed = pair([2], None, PAIR_BACK, shadow_status=500)
    evidence = paired(failed)
    assert sums(evidence, "pair", "missing") == (1, 1, 1)
    assert sums(evidence, "pair", "agreement") == (1, 0, 0)
    slow = pair([2], None, PAIR_BACK, shadow_ending=Ending.OPEN, shadow_status=0)
    assert sums(paired(slow), "pair", "agreement") == (1, 0, 0)


def test_a_client_who_left_says_nothing_about_the_candidate() -> None:
    evidence = paired(pair([2], None, PAIR_BACK, shadow_ending=Ending.DISCONNECTED, shadow_status=0))
    assert evidence.series == {}
    assert evidence.back.paired == 1


def test_the_difference_of_two_answers_is_absolute() -> None:
    evidence = paired(pair([2], [6], PAIR_SHADOW), pair([6], [2], PAIR_BACK))
    assert sums(evidence, "pair", "mean") == pytest.approx((2, 0.0, 0.32))
    assert sums(evidence, "pair", "difference") == pytest.approx((2, 0.8, 0.32))


def test_the_noise_floor_is_stable_with_itself_and_touches_nothing_else() -> None:
    evidence = paired(pair([2, 4], [2.5, 9], PAIR_FLOOR), pair([2], [2], PAIR_FLOOR))
    assert {(key.arm, key.slice, key.metric) for key in evidence.series} == {
        ("floor", "", "agreement"),
        ("floor", "", "difference"),
    }
    assert sums(evidence, "floor", "agreement") == (2, 1.5, 1.25)
    assert sums(evidence, "floor", "difference") == pytest.approx((2, 0.275, 0.275**2))
    assert (evidence.floor.paired, evidence.mirror, evidence.back) == (2, NOTHING, NOTHING)


@pytest.mark.parametrize("changes", [{"shadow_status": 500}, {"shadow_ending": Ending.TIMEOUT}])
def test_where_stable_failed_the_second_time_it_is_counted_and_its_answers_are_not_compared(
    changes: dict[str, Any],
) -> None:
    evidence = paired(pair([2], [2], PAIR_FLOOR, **changes))
    assert {(key.arm, key.metric) for key in evidence.series} == {("floor", "missing")}
    assert sums(evidence, "floor", "missing") == (1, 1, 1)


def test_where_stable_failed_the_first_time_there_is_nothing_to_compare_with() -> None:
    assert paired(pair([2], [2], PAIR_FLOOR, stable_status=500)).series == {}
    assert paired(pair([2], [2], PAIR_FLOOR, stable_status=500, shadow_status=500)).series == {}


def test_labels_have_a_floor_of_agreement_alone() -> None:
    plan = TestLabels.PLAN
    evidence = paired(pair(["yes"], ["yes"], PAIR_FLOOR), pair(["yes"], ["no"], PAIR_FLOOR), plan=plan)
    assert sums(evidence, "floor", "agreement") == (2, 1, 1)
    assert sums(evidence, "floor", "difference") is None


def test_lost_pairs_and_tallies_count_with_their_kind_and_survive_the_wire() -> None:
    folded = fold()
    folded.add_pair(pair([2], [2], PAIR_FLOOR, lost=True), None)
    folded.add_tally(MirrorTally(0, 5, 4, 1, 0, 0, 0, PAIR_BACK, 2))
    folded.add_tally(MirrorTally(0, 0, 0, 0, 0, 0, 0, PAIR_SHADOW, 0, 7, 30))
    folded.lose_pairs(3, PAIR_BACK)
    evidence = decode_evidence(encode_evidence(published(folded)))
    assert evidence.floor == MirrorCounts(lost=1)
    assert evidence.back == MirrorCounts(chosen=5, sent=4, dropped_in_flight=1, lost=3, unpaired=2)
    assert evidence.mirror == MirrorCounts(warmed=7, held=30)
    twice = merge([evidence, evidence])
    assert twice is not None
    assert (twice.back.chosen, twice.floor.lost, twice.mirror.held) == (10, 2, 60)


@pytest.mark.parametrize(("back", "floor"), [(True, False), (True, True), (False, True)])
def test_the_size_of_evidence_counts_what_copies_add(back: bool, floor: bool) -> None:
    plan = msgspec.structs.replace(PLAN, stage="canary")
    more = msgspec.structs.replace(plan, back=back, floor=floor)
    grown = estimated_bytes(more) - estimated_bytes(plan)
    kinds = ((PAIR_BACK,) if back else ()) + ((PAIR_FLOOR,) if floor else ())
    full = encode_evidence(
        paired(*(pair([2], [6], kind, assigned_at=5.0 * k) for kind in kinds for k in range(128)), plan=more)
    )
    assert len(full) - len(encode_evidence(paired(plan=plan))) <= grown
