"""Flushes to evidence: in order below the line, whatever comes when and through which worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.router.facts import Body, Ending, Fact, Flush, MirrorTally, Pair, Placed, Table
from accede.router.observer import inflow as module
from accede.router.observer.inflow import Inflow
from accede.store.evidence import Evidence, Series, SeriesKey, merge
from accede.store.measurement import Extraction, InputPlan, MeasurementPlan, Selected, SlicePlan
from accede.store.routes import WIRE, Arm, ServiceRoute

NOW = 1_000_000.0


def route(epoch: int = 1, service: str = "s") -> ServiceRoute:
    plan = MeasurementPlan(
        rollout="r",
        epoch=epoch,
        stage="canary",
        extraction=Extraction(
            "p[*]", "number", Selected(">=", 0.5), 0.125, (SlicePlan("sex", "i[*].sex", ("f", "m")),)
        ),
        batch=5.0,
        account_after=10.0,
        limits=(0.0, 1.0),
        edges=(0.25, 0.5, 0.75),
        sliced_metrics={"mean": ("sex",), "selected": ("sex",)},
    )
    arms = (Arm("stable", "1", ("http://a",), 5000), Arm("candidate", "2", ("http://b",), 5000))
    return ServiceRoute(
        wire=WIRE, service=service, generation=1, path="/", host=None, protocol="json", arms=arms, plan=plan
    )


def table(*epochs: int) -> Table:
    return Table(1, tuple(Placed(route(epoch, f"s{epoch}"), epoch) for epoch in epochs))


def flush(worker: int = 0, boot: str = "a", line: int = 10**9, at: float = NOW, **parts: Any) -> Flush:
    base = Flush(worker, boot, at, line, at, 10**9, at, [], [], [], [], [])
    return msgspec.structs.replace(base, **parts)


def fact(number: int, slot: int = 1, arm: int = 0, **changes: Any) -> Fact:
    base = Fact(number, slot, arm, arm, NOW + number / 100, Ending.ANSWERED, 200, 0.01, -1, False, 0, 1, 1)
    return msgspec.structs.replace(base, **changes)


def accounted(evidence: list[Evidence]) -> dict[str, int]:
    return {one.service: sum(arm.accounted for arm in one.arms.values()) for one in evidence}


@pytest.fixture
def inflow() -> Inflow:
    made = Inflow("replica:boot")
    made.obey(table(1), NOW)
    return made


def test_nothing_is_published_before_a_worker_has_spoken(inflow: Inflow) -> None:
    assert inflow.evidence(NOW) == []


def test_facts_wait_until_all_before_them_are_in(inflow: Inflow) -> None:
    inflow.take(flush(line=1, facts=[fact(2), fact(3, arm=1)], open=[(1, 0, 1)]), NOW)
    (evidence,) = inflow.evidence(NOW)
    assert accounted([evidence]) == {"s1": 0}
    assert evidence.open == {"stable": 2, "candidate": 1}  # one open, two reported and waiting
    inflow.take(flush(line=3, facts=[fact(1)]), NOW)
    (evidence,) = inflow.evidence(NOW)
    assert accounted([evidence]) == {"s1": 2}
    assert evidence.open == {"candidate": 1}
    inflow.take(flush(line=4), NOW)
    (evidence,) = inflow.evidence(NOW)
    assert accounted([evidence]) == {"s1": 3}
    assert evidence.open == {}


def test_inputs_wait_for_their_turn_too_so_that_a_slow_arm_looks_like_no_other_input() -> None:
    inflow = Inflow("replica:boot")
    plain = route(1, "s1")
    assert plain.plan is not None
    plan = msgspec.structs.replace(plain.plan, inputs=(InputPlan("n", "n", range=(0.0, 10.0)),))
    inflow.obey(Table(1, (Placed(msgspec.structs.replace(plain, plan=plan), 1),)), NOW)
    asked = [Body(number, b'{"n": 1}', b"", "", "") for number in (1, 2)]
    inflow.take(flush(line=1, facts=[fact(2, captured=1)], bodies=asked[1:]), NOW)
    assert inflow.evidence(NOW)[0].inputs == {}
    inflow.take(flush(line=3, facts=[fact(1, arm=1, captured=1)], bodies=asked[:1]), NOW)
    assert inflow.evidence(NOW)[0].inputs == {"stable|n": {"1": 1}, "candidate|n": {"1": 1}}


def test_the_watermark_is_the_oldest_open_exchange_or_pair_of_any_worker(inflow: Inflow) -> None:
    inflow.take(flush(worker=0, line_time=NOW - 7, pair_line_time=NOW - 1), NOW)
    inflow.take(flush(worker=1, line_time=NOW - 2, pair_line_time=NOW - 9), NOW)
    assert inflow.evidence(NOW)[0].watermark == NOW - 9
    inflow.take(flush(worker=1, at=NOW), NOW)
    assert inflow.evidence(NOW + 1)[0].watermark == NOW - 7


def test_the_watermark_stays_behind_the_first_flush_of_a_new_worker(inflow: Inflow) -> None:
    inflow.take(flush(at=NOW), NOW)
    assert inflow.evidence(NOW)[0].watermark == NOW - module.SETTLE


def test_a_silent_worker_stops_holding_and_what_it_reported_counts(inflow: Inflow) -> None:
    inflow.take(flush(worker=0, line=1, line_time=NOW - 5, facts=[fact(2)]), NOW)
    inflow.take(flush(worker=1, at=NOW + 20), NOW + 20)
    assert inflow.evidence(NOW + 20)[0].watermark == NOW - 5
    (evidence,) = inflow.evidence(NOW + 20.5)
    assert evidence.watermark == NOW + 20
    assert accounted([evidence]) == {"s1": 1}


def test_a_new_boot_closes_the_one_before(inflow: Inflow) -> None:
    inflow.take(flush(boot="a", line=1, facts=[fact(2), fact(3)], open=[(1, 0, 1)]), NOW)
    inflow.take(flush(boot="b", line=5, at=NOW + 1), NOW + 1)
    (evidence,) = inflow.evidence(NOW + 1)
    assert accounted([evidence]) == {"s1": 2}
    assert evidence.open == {}
    assert evidence.watermark == NOW + 1 - module.SETTLE


def test_a_flush_waits_for_the_table_that_names_its_slots(inflow: Inflow) -> None:
    inflow.take(flush(facts=[fact(1, slot=2)]), NOW)
    inflow.take(flush(facts=[fact(2, slot=1)]), NOW)  # behind it: order is kept
    assert accounted(inflow.evidence(NOW)) == {}
    inflow.obey(table(1, 2), NOW + 1)
    assert accounted(inflow.evidence(NOW + 1)) == {"s1": 1, "s2": 1}


def test_a_slot_that_nobody_names_holds_nothing_up_for_long(inflow: Inflow) -> None:
    inflow.take(flush(facts=[fact(1, slot=9), fact(2)]), NOW)
    assert accounted(inflow.evidence(NOW + module.PATIENCE + 1)) == {"s1": 1}
    assert inflow.strays == 1


def test_waiting_flushes_are_bounded_in_bytes(inflow: Inflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELD_BYTES", 10_000)
    big = Body(1, b"x" * 6000, b"", "", "")
    inflow.take(flush(facts=[fact(1, slot=9), fact(2)], bodies=[big]), NOW)
    inflow.take(flush(facts=[fact(3, slot=9), fact(4)], bodies=[big]), NOW)
    assert accounted(inflow.evidence(NOW)) == {"s1": 1}


def test_facts_that_wait_for_their_turn_are_bounded(inflow: Inflow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PENDING", 10)
    inflow.take(flush(line=1, facts=[fact(number) for number in range(2, 30)]), NOW)
    inflow.take(flush(line=100, at=NOW + 1), NOW + 1)
    assert accounted(inflow.evidence(NOW + 1)) == {"s1": 10}
    assert inflow.strays == 18


def test_a_fact_with_impossible_numbers_loses_no_other(inflow: Inflow) -> None:
    inflow.take(flush(facts=[fact(1, latency=float("nan")), fact(2, arm=7), fact(3)]), NOW)
    stable = inflow.evidence(NOW)[0].series[SeriesKey("stable", "", "errors")]
    assert sum(stable.n) == 1
    assert inflow.strays == 2


def test_only_epochs_with_news_are_published_and_current_ones_for_their_watermark(inflow: Inflow) -> None:
    inflow.take(flush(facts=[fact(1)]), NOW)
    assert len(inflow.evidence(NOW)) == 1
    assert inflow.evidence(NOW + module.IDLE / 2) == []
    assert len(inflow.evidence(NOW + module.IDLE)) == 1
    inflow.obey(table(2), NOW + 1)
    assert [one.service for one in inflow.evidence(NOW + 9)] == ["s2"]
    inflow.take(flush(facts=[fact(2)]), NOW + 9)  # late, for a closed epoch
    assert {one.service for one in inflow.evidence(NOW + 9)} >= {"s1"}


def test_closed_epochs_are_kept_for_late_facts_up_to_a_bound(inflow: Inflow) -> None:
    inflow = Inflow("x")
    for epoch in range(1, module.KEPT_EPOCHS + 5):
        inflow.obey(Table(epoch, (Placed(route(epoch), epoch),)), NOW)
        inflow.take(flush(at=NOW + epoch), NOW + epoch)
        inflow.evidence(NOW + epoch)
    inflow.take(flush(facts=[fact(1, slot=6), fact(2, slot=2)]), NOW + 90)
    inflow.evidence(NOW + 90 + module.PATIENCE + 1)
    assert inflow.strays == 1


def test_a_closed_epoch_is_let_go_once_nothing_of_it_can_come() -> None:
    inflow = Inflow("x")
    for epoch in (1, 2):
        inflow.obey(Table(epoch, (Placed(route(epoch), epoch),)), NOW)
        inflow.take(flush(at=NOW), NOW)
        inflow.evidence(NOW + 1)
    later = NOW + module.KEPT_FOR + 60
    inflow.take(flush(at=later), later)
    inflow.evidence(later)
    inflow.take(flush(at=later, facts=[fact(1, slot=1), fact(2, slot=2)]), later)
    inflow.take(flush(at=later), later + module.PATIENCE + 1)
    inflow.evidence(later + module.PATIENCE + 1)
    assert inflow.strays == 1


def test_an_epoch_that_is_held_is_not_begun_anew() -> None:
    inflow = Inflow("x")
    inflow.obey(Table(1, (Placed(route(1), 1),)), NOW)
    inflow.take(flush(at=NOW, facts=[fact(1)]), NOW)
    inflow.obey(Table(2, (Placed(route(1), -1, "lease"),)), NOW)
    later = NOW + 10 * module.KEPT_FOR
    inflow.evidence(later)
    inflow.obey(Table(3, (Placed(route(1), 1),)), later)
    inflow.take(flush(at=later, line=3, facts=[fact(2)]), later)
    assert accounted(inflow.evidence(later)) == {"s": 2}


def test_finishing_folds_what_waits(inflow: Inflow) -> None:
    inflow.take(flush(line=1, facts=[fact(2)]), NOW)
    inflow.take(flush(facts=[fact(3, slot=9), fact(4)]), NOW)
    inflow.finish()
    assert accounted(inflow.evidence(NOW)) == {"s1": 2}


def test_lost_pairs_are_counted_where_copies_were_last_chosen(inflow: Inflow) -> None:
    inflow.take(flush(mirrors=[MirrorTally(1, 5, 5, 0, 0, 0, 0)], pairs_lost=2), NOW)
    assert inflow.evidence(NOW)[0].mirror.lost == 2


# Values are sixteenths, whose sums are exact in any order.
sixteenths = st.integers(0, 16).map(lambda k: k / 16)
endings = st.sampled_from([Ending.ANSWERED] * 5 + list(Ending))


@st.composite
def exchanges(draw: st.DrawFn) -> list[tuple[Fact, Body | None, Pair | None]]:
    made: list[tuple[Fact, Body | None, Pair | None]] = []
    for number in range(draw(st.integers(1, 25))):
        ending = draw(endings)
        status = draw(st.sampled_from([200, 200, 200, 404, 500]))
        values = draw(st.lists(st.none() | sixteenths, max_size=2))
        sent = json.dumps({"i": [{"sex": draw(st.sampled_from("fmx"))} for _ in values]}).encode()
        answer = json.dumps({"p": values}).encode()
        one = fact(
            number, 1 + draw(st.integers(0, 1)), draw(st.integers(0, 1)),
            ending=ending, status=status, captured=int(ending == Ending.ANSWERED), latency=draw(sixteenths),
        )  # fmt: skip
        pair = None
        if draw(st.booleans()):
            other = json.dumps({"p": [draw(sixteenths) for _ in values]}).encode()
            pair = Pair(
                number, one.slot, one.assigned_at, ending, status, 0.1, draw(endings), 200, 0.1,
                draw(st.sampled_from([False, False, True])), sent, answer, other, "", "", "",
            )  # fmt: skip
        made.append((one, Body(number, sent, answer, "", "") if one.captured else None, pair))
    return made


def totals(evidence: Evidence) -> Any:
    """Everything that adds, with empty parts left out."""
    series: Mapping[SeriesKey, Series] = evidence.series
    return (
        {arm: counts for arm, counts in evidence.arms.items() if counts.accounted},
        evidence.mirror, series, evidence.latency,
    )  # fmt: skip


@pytest.mark.slow
@given(exchanges(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_neither_order_nor_sharding_over_workers_nor_sources_changes_a_sum(
    made: list[tuple[Fact, Body | None, Pair | None]], workers: int, draw: Any
) -> None:
    whole = Inflow("one")
    whole.obey(table(1, 2), NOW)
    whole.take(
        flush(
            facts=[one for one, _, _ in made],
            bodies=[its for _, its, _ in made if its is not None],
            pairs=[pair for _, _, pair in made if pair is not None],
        ),
        NOW,
    )
    expected = {one.service: totals(one) for one in whole.evidence(NOW)}

    sources = [Inflow(f"source {index}") for index in range(2)]
    for source in sources:
        source.obey(table(1, 2), NOW)
    shards: dict[tuple[int, int], list[tuple[Fact, Body | None, Pair | None]]] = {}
    for one in made:
        shards.setdefault((draw.randrange(2), draw.randrange(workers)), []).append(one)
    for (place, worker), shard in shards.items():
        reported = list(shard)
        draw.shuffle(reported)
        while reported:
            size = draw.randint(1, len(reported))
            now, reported = reported[:size], reported[size:]
            line = min((later.number for later, _, _ in reported), default=10**9)
            pair_line = min((pair.number for _, _, pair in reported if pair is not None), default=10**9)
            sources[place].take(
                flush(
                    worker=worker, line=line, pair_line=pair_line,
                    facts=[one for one, _, _ in now],
                    bodies=[its for _, its, _ in now if its is not None],
                    pairs=[pair for _, _, pair in now if pair is not None],
                ),
                NOW,
            )  # fmt: skip
    parts: dict[str, list[Evidence]] = {}
    for source in sources:
        for part in source.evidence(NOW):
            parts.setdefault(part.service, []).append(part)
    found = {
        service: totals(total) for service, several in parts.items() if (total := merge(several)) is not None
    }
    assert found == expected
