"""Facts, bodies and pairs to sums: every rule of the table against numbers computed by hand."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from accede.router.facts import PAIR_SHADOW, Body, Ending, Fact, MirrorTally, Pair
from accede.router.observer.fold import Fold
from accede.store.evidence import ArmCounts, Evidence, SeriesKey, decode_evidence, encode_evidence
from accede.store.histogram import bin_of, edge, value_bin
from accede.store.measurement import (
    CLUSTERS,
    Extraction,
    LatencyThresholds,
    MeasurementPlan,
    Selected,
    SlicePlan,
)
from accede.store.routes import WIRE, Arm, RouteErrors, ServiceRoute

SECOND = bin_of(1.0)  # latency thresholds are 1 s, about 1.2 s, about 1.5 s
PLAN = MeasurementPlan(
    rollout="r",
    epoch=3,
    stage="canary",
    extraction=Extraction(
        "p[*]", "number", Selected(">=", 5.0), 1.0, (SlicePlan("sex", "i[*].sex", ("f", "m")),)
    ),
    batch=5.0,
    account_after=10.0,
    limits=(0.0, 10.0),
    thresholds=(LatencyThresholds("latency.p95", SECOND, SECOND + 10, SECOND + 20),),
    edges=(0.25, 0.5, 0.75),
    sliced_metrics=dict.fromkeys(("mean", "selected", "missing", "errors", "agreement"), ("sex",)),
)


def route(plan: MeasurementPlan = PLAN, **changes: Any) -> ServiceRoute:
    arms = (Arm("stable", "1", ("http://a",), 5000), Arm("candidate", "2", ("http://b",), 5000))
    base = ServiceRoute(
        wire=WIRE, service="s", generation=1, path="/", host=None, protocol="json", arms=arms, plan=plan
    )
    return msgspec.structs.replace(base, **changes)


def fold(plan: MeasurementPlan = PLAN, **changes: Any) -> Fold:
    return Fold(route(plan, **changes), plan)


def fact(**changes: Any) -> Fact:
    base = Fact(1, 0, 0, 0, 12.0, Ending.ANSWERED, 200, 0.1, -1, False, 1, 10, 10)
    changes.setdefault("served", changes.get("arm", 0))
    return msgspec.structs.replace(base, **changes)


def body(predictions: Any, sexes: str = "f") -> Body:
    sent = json.dumps({"i": [{"sex": sex} for sex in sexes]}).encode()
    return Body(1, sent, json.dumps({"p": predictions}).encode(), "", "")


def added(*exchanges: tuple[Fact, Body | None], into: Fold | None = None) -> Evidence:
    into = into or fold()
    for one, its in exchanges:
        into.add(one, into.read(one, its))
    return published(into)


def published(folded: Fold) -> Evidence:
    evidence = folded.evidence("replica:boot", 100.0, 99.0, {})
    assert decode_evidence(encode_evidence(evidence)) == evidence
    return evidence


def sums(evidence: Evidence, arm: Any, metric: str, group: str = "") -> tuple[float, float, float] | None:
    """n, Σy, Σy² over clusters; None where there is no such series."""
    series = evidence.series.get(SeriesKey(arm, group, metric))
    return None if series is None else (sum(series.n), sum(series.sum), sum(series.square))


def test_an_answer_is_accounted_in_its_arm_and_time_cluster() -> None:
    evidence = added((fact(arm=1, assigned_at=5.0 * (CLUSTERS + 3) + 4.9), body([2])))
    assert evidence.arms == {"candidate": ArmCounts(accounted=1)}
    errors = evidence.series[SeriesKey("candidate", "", "errors")]
    assert len(errors.n) == CLUSTERS
    assert errors.n[3] == 1
    assert sums(evidence, "stable", "errors") is None
    assert (evidence.service, evidence.rollout, evidence.epoch) == ("s", "r", 3)
    assert (evidence.source, evidence.published, evidence.watermark) == ("replica:boot", 100.0, 99.0)


@pytest.mark.parametrize(
    ("ending", "status", "errors", "over", "disconnects", "missing", "extraction"),
    [
        # y of each series; None: no y
        (Ending.ANSWERED, 200, 0, 0, 0, 0, 0),
        (Ending.ANSWERED, 400, 0, 0, 0, 1, None),
        (Ending.ANSWERED, 500, 1, 1, 0, 1, None),
        (Ending.ANSWERED, 599, 1, 1, 0, 1, None),
        (Ending.CONNECT, 0, 1, 1, 0, 1, None),
        (Ending.TIMEOUT, 0, 1, 1, 0, 1, None),
        (Ending.TRUNCATED, 200, 1, 1, 0, 1, None),
        (Ending.DISCONNECTED, 0, 0, 0, 1, None, None),
        (Ending.OPEN, 0, 0, 0, 0, 1, None),
    ],
)
def test_every_ending_counts_as_it_should(
    ending: Ending,
    status: int,
    errors: int,
    over: int,
    disconnects: int,
    missing: int | None,
    extraction: int | None,
) -> None:
    answered = ending == Ending.ANSWERED
    refused = Body(1, b'{"i": [{"sex": "f"}]}', b'{"error": "no"}' if answered else b"", "", "")
    one = fact(arm=1, ending=ending, status=status, latency=0.1, captured=1)
    evidence = added((one, body([2]) if answered and status == 200 else refused))
    for metric, y in {
        "errors": errors,
        "latency.p95.over": over,
        "latency.p95.far": over,
        "client_disconnects": disconnects,
        "missing": missing,
        "extraction": extraction,
    }.items():
        assert sums(evidence, "candidate", metric) == (None if y is None else (1, y, y)), metric
        if metric in {"errors", "missing"}:  # a slice sees the failures of its requests too
            assert sums(evidence, "candidate", metric, "sex=f") == (None if y is None else (1, y, y)), metric
    assert (sums(evidence, "candidate", "mean") is not None) == (status == 200 and answered)
    in_histogram = ending == Ending.ANSWERED and status < 500
    assert evidence.latency == ({"candidate": {bin_of(0.1): 1}} if in_histogram else {})


@pytest.mark.parametrize(
    ("errors", "ending", "status", "y"),
    [
        (RouteErrors(connect=False), Ending.CONNECT, 0, 0),
        (RouteErrors(timeout=False), Ending.TIMEOUT, 0, 0),
        (RouteErrors(connect=False, timeout=False), Ending.TRUNCATED, 0, 1),
        (RouteErrors(ranges=((429, 429), (500, 599))), Ending.ANSWERED, 429, 1),
        (RouteErrors(ranges=()), Ending.ANSWERED, 500, 0),
    ],
)
def test_the_service_says_what_an_error_is_and_no_answer_is_fast(
    errors: RouteErrors, ending: Ending, status: int, y: int
) -> None:
    evidence = added((fact(ending=ending, status=status, captured=0), None), into=fold(errors=errors))
    assert sums(evidence, "stable", "errors") == (1, y, y)
    over = 1 if ending != Ending.ANSWERED else y
    assert sums(evidence, "stable", "latency.p95.over") == (1, over, over)


def test_a_fallback_answer_is_the_candidates_error_and_gives_no_score() -> None:
    evidence = added((fact(arm=1, served=0), body([2])))
    assert sums(evidence, "candidate", "errors") == (1, 1, 1)
    assert sums(evidence, "candidate", "latency.p95.far") == (1, 1, 1)
    assert sums(evidence, "candidate", "missing") == (1, 1, 1)
    assert sums(evidence, "candidate", "mean") is None
    assert evidence.latency == {}
    assert "stable" not in evidence.arms


@pytest.mark.parametrize("ending", [Ending.ANSWERED, Ending.DISCONNECTED, Ending.OPEN])
@pytest.mark.parametrize(
    ("latency", "over", "mid", "far"),
    [
        (0.99 * edge(SECOND), 0, 0, 0),
        (1.001 * edge(SECOND), 1, 0, 0),
        (1.001 * edge(SECOND + 10), 1, 1, 0),
        (1.001 * edge(SECOND + 20), 1, 1, 1),
        (500.0, 1, 1, 1),
    ],
)
def test_latency_and_the_age_of_the_unfinished_are_held_against_each_threshold(
    ending: Ending, latency: float, over: int, mid: int, far: int
) -> None:
    evidence = added((fact(ending=ending, latency=latency, captured=0), None))
    found = [sums(evidence, "stable", f"latency.p95.{name}") for name in ("over", "mid", "far")]
    assert found == [(1, y, y) for y in (over, mid, far)]


def test_requests_without_a_unit_are_counted_and_nothing_else() -> None:
    evidence = added((fact(excluded=True), body([2])))
    assert evidence.arms == {"stable": ArmCounts(accounted=1, unassignable=1)}
    assert evidence.series == {}
    assert evidence.latency == {}


def test_uncaptured_and_lost_bodies_leave_predictions_alone() -> None:
    evidence = added((fact(captured=0), None), (fact(captured=2), None), (fact(captured=1), None))
    assert evidence.arms == {"stable": ArmCounts(accounted=3, uncaptured=1, bodies_lost=2)}
    assert sums(evidence, "stable", "errors") == (3, 0, 0)
    for metric in ("missing", "extraction", "mean", "selected"):
        assert sums(evidence, "stable", metric) is None


def test_of_sampled_bodies_failures_are_the_same_sample() -> None:
    folded = fold(capture_sample=0.25)
    for number in range(100):
        folded.add(fact(number=number, ending=Ending.TIMEOUT, captured=0), None)
    evidence = published(folded)
    assert sums(evidence, "stable", "errors") == (100, 100, 100)
    assert sums(evidence, "stable", "missing") is None
    assert evidence.arms["stable"].uncaptured == 100


@pytest.mark.parametrize(
    "answer", [b"", b"{", b'{"p": []}', b'{"p": [null]}', b'{"p": ["2"]}', b'{"q": [2]}']
)
def test_an_answer_without_a_usable_prediction_is_missing_and_the_extractors_fault(answer: bytes) -> None:
    its = Body(1, b'{"i": [{"sex": "f"}]}', answer, "", "")
    evidence = added((fact(), its))
    assert sums(evidence, "stable", "missing") == (1, 1, 1)
    assert sums(evidence, "stable", "missing", "sex=f") == (1, 1, 1)
    assert sums(evidence, "stable", "extraction") == (1, 1, 1)
    assert sums(evidence, "stable", "mean") is None
    assert sums(evidence, "stable", "errors") == (1, 0, 0)


def test_a_reader_that_breaks_loses_its_prediction_and_no_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    folded = fold()

    def broken(*_: object) -> Any:
        raise MemoryError

    monkeypatch.setattr("accede.router.observer.formats.read_json", broken)
    evidence = added((fact(), body([2, 3])), into=folded)
    assert evidence.arms == {"stable": ArmCounts(accounted=1)}
    assert sums(evidence, "stable", "missing") == (1, 1, 1)


def test_a_prediction_is_clipped_scaled_binned_and_selected() -> None:
    evidence = added(*[(fact(number=n), body([value])) for n, value in enumerate((-5, 2, 2.5, 6, 99))])
    y = [0, 0.2, 0.25, 0.6, 1]
    assert sums(evidence, "stable", "mean") == pytest.approx((5, sum(y), sum(v * v for v in y)))
    assert sums(evidence, "stable", "selected") == (5, 2, 2)
    assert [sums(evidence, "stable", f"bin.{k}") for k in range(4)] == [
        (5, 2, 2),
        (5, 1, 1),
        (5, 1, 1),
        (5, 1, 1),
    ]
    assert len(evidence.series[SeriesKey("stable", "", "mean")].n) == 1


def test_several_predictions_of_one_request_are_one_unit() -> None:
    evidence = added((fact(arm=1), body([2, 4, 9], "fmm")))
    assert sums(evidence, "candidate", "errors") == (1, 0, 0)
    assert sums(evidence, "candidate", "missing") == (1, 0, 0)
    assert sums(evidence, "candidate", "mean") == pytest.approx((1, 0.5, 0.25))
    assert sums(evidence, "candidate", "selected") == pytest.approx((1, 1 / 3, 1 / 9))
    assert sums(evidence, "candidate", "bin.0") == pytest.approx((1, 1 / 3, 1 / 9))
    assert sums(evidence, "candidate", "bin.2") == (1, 0, 0)
    assert sums(evidence, "candidate", "mean", "sex=f") == pytest.approx((1, 0.2, 0.04))
    assert sums(evidence, "candidate", "mean", "sex=m") == pytest.approx((1, 0.65, 0.65**2))
    assert sums(evidence, "candidate", "selected", "sex=m") == pytest.approx((1, 0.5, 0.25))
    assert sums(evidence, "candidate", "errors", "sex=m") == (1, 0, 0)
    assert sums(evidence, "candidate", "mean", "sex=other") is None
    assert sums(evidence, "candidate", "bin.0", "sex=f") is None  # not asked for
    assert sums(evidence, "candidate", "latency.p95.over", "sex=f") is None


def test_one_unusable_prediction_of_several_is_missing_and_the_others_count() -> None:
    evidence = added((fact(), body([2, None, 4], "fmm")))
    assert sums(evidence, "stable", "missing") == (1, 1, 1)
    assert sums(evidence, "stable", "missing", "sex=f") == (1, 0, 0)
    assert sums(evidence, "stable", "missing", "sex=m") == (1, 1, 1)
    assert sums(evidence, "stable", "mean") == pytest.approx((1, 0.3, 0.09))
    assert sums(evidence, "stable", "mean", "sex=m") == pytest.approx((1, 0.4, 0.16))


def test_an_error_is_an_error_of_its_slices() -> None:
    evidence = added((fact(status=503), body([2], "mf")))
    assert sums(evidence, "stable", "errors", "sex=f") == (1, 1, 1)
    assert sums(evidence, "stable", "errors", "sex=m") == (1, 1, 1)
    assert sums(evidence, "stable", "missing", "sex=m") == (1, 1, 1)
    assert sums(evidence, "stable", "mean", "sex=m") is None


def test_predictions_of_sticky_units_are_kept_by_unit_and_the_rest_by_time() -> None:
    evidence = added((fact(unit=77), body([2])), into=fold(msgspec.structs.replace(PLAN, sticky=True)))
    for metric in ("mean", "selected", "bin.0"):
        assert evidence.series[SeriesKey("stable", "", metric)].n[77] == 1
    assert evidence.series[SeriesKey("stable", "sex=f", "mean")].n[77] == 1
    assert evidence.series[SeriesKey("stable", "", "missing")].n[2] == 1


def test_all_requests_of_sticky_units_are_counted_by_unit_whatever_became_of_them() -> None:
    sticky = fold(msgspec.structs.replace(PLAN, sticky=True))
    evidence = added((fact(unit=77), None), (fact(unit=77), body([2])), into=sticky)
    assert evidence.series[SeriesKey("stable", "", "requests")].n[77] == 2
    assert SeriesKey("stable", "", "requests") not in added((fact(), body([2]))).series


def test_the_baseline_keeps_stables_values_and_needs_no_limits() -> None:
    plan = msgspec.structs.replace(PLAN, stage="baseline", limits=None, edges=())
    evidence = added((fact(), body([2, 2, -7], "fff")), into=fold(plan))
    assert evidence.values == {value_bin(2.0): 2, value_bin(-7.0): 1}
    assert sums(evidence, "stable", "mean") is None
    assert sums(evidence, "stable", "bin.0") is None
    assert sums(evidence, "stable", "selected") == (1, 0, 0)
    assert added((fact(), body([2]))).values == {}


class TestLabels:
    PLAN = MeasurementPlan(
        rollout="r",
        epoch=1,
        stage="canary",
        extraction=Extraction("p[*]", "label", Selected("==", "yes")),
        batch=5.0,
        account_after=10.0,
        classes=("yes", "no"),
    )

    def test_classes_are_bins_and_the_rest_is_other(self) -> None:
        evidence = added((fact(), body(["yes", "no", "no", "?"])), into=fold(self.PLAN))
        assert sums(evidence, "stable", "bin.0") == (1, 0.25, 0.0625)
        assert sums(evidence, "stable", "bin.1") == (1, 0.5, 0.25)
        assert sums(evidence, "stable", "bin.other") == (1, 0.25, 0.0625)
        assert sums(evidence, "stable", "selected") == (1, 0.25, 0.0625)
        assert sums(evidence, "stable", "mean") is None

    def test_the_baseline_counts_at_most_64_labels_and_other(self) -> None:
        folded = fold(msgspec.structs.replace(self.PLAN, stage="baseline", classes=()))
        evidence = added(*[(fact(number=n), body([f"l{n}"])) for n in range(70)], into=folded)
        assert len(evidence.labels) == 65
        assert evidence.labels["other"] == 6
        assert sum(evidence.labels.values()) == 70


def test_without_an_extraction_only_transport_is_measured() -> None:
    plan = msgspec.structs.replace(PLAN, extraction=None, sliced_metrics={})
    evidence = added((fact(), body([2])), (fact(ending=Ending.TIMEOUT, captured=0), None), into=fold(plan))
    assert {key.metric for key in evidence.series} == {
        "errors", "client_disconnects", "latency.p95.over", "latency.p95.mid", "latency.p95.far",
    }  # fmt: skip
    assert evidence.arms["stable"].bodies_lost == 0


class TestPairs:
    def pair(self, stable: Any, shadow: Any, sexes: str = "f", **changes: Any) -> Pair:
        sent = json.dumps({"i": [{"sex": sex} for sex in sexes]}).encode()
        base = Pair(
            1, 0, 12.0, Ending.ANSWERED, 200, 0.1, Ending.ANSWERED, 200, 0.1, False, sent,
            json.dumps({"p": stable}).encode(), json.dumps({"p": shadow}).encode(), "", "", "",
        )  # fmt: skip
        return msgspec.structs.replace(base, **changes)

    def paired(self, *pairs: Pair, plan: MeasurementPlan = PLAN) -> Evidence:
        folded = fold(msgspec.structs.replace(plan, stage="shadow"))
        for pair in pairs:
            folded.add_pair(pair, folded.read_pair(pair))
        return published(folded)

    def test_a_difference_is_candidate_minus_stable(self) -> None:
        evidence = self.paired(self.pair([2], [6]))
        assert sums(evidence, "pair", "mean") == pytest.approx((1, 0.4, 0.16))
        assert sums(evidence, "paired_stable", "mean") == pytest.approx((1, 0.2, 0.04))
        assert sums(evidence, "pair", "selected") == (1, 1, 1)
        assert sums(evidence, "paired_stable", "selected") == (1, 0, 0)
        assert [sums(evidence, "pair", f"bin.{k}") for k in range(4)] == [
            (1, -1, 1),
            (1, 0, 0),
            (1, 1, 1),
            (1, 0, 0),
        ]
        assert sums(evidence, "paired_stable", "bin.0") == (1, 1, 1)
        assert sums(evidence, "pair", "errors") == (1, 0, 0)
        assert sums(evidence, "pair", "missing") == (1, 0, 0)
        assert sums(evidence, "pair", "agreement") == (1, 0, 0)
        assert sums(evidence, "paired_stable", "agreement") is None
        assert sums(evidence, "pair", "mean", "sex=f") == pytest.approx((1, 0.4, 0.16))
        assert evidence.series[SeriesKey("pair", "", "mean")].n[2] == 1  # by time
        assert evidence.mirror.paired == 1

    @pytest.mark.parametrize(("shadow", "agrees"), [(2, 1), (3, 1), (1, 1), (3.01, 0), (0.99, 0)])
    def test_numbers_agree_within_the_tolerance(self, shadow: float, agrees: int) -> None:
        assert sums(self.paired(self.pair([2], [shadow])), "pair", "agreement") == (1, agrees, agrees)

    def test_numbers_without_a_tolerance_have_no_agreement(self) -> None:
        assert PLAN.extraction is not None
        extraction = msgspec.structs.replace(PLAN.extraction, agree_within=None)
        plan = msgspec.structs.replace(PLAN, extraction=extraction)
        assert sums(self.paired(self.pair([2], [2]), plan=plan), "pair", "agreement") is None

    def test_labels_agree_when_equal(self) -> None:
        evidence = self.paired(self.pair(["yes"], ["yes"]), self.pair(["yes"], ["no"]), plan=TestLabels.PLAN)
        assert sums(evidence, "pair", "agreement") == (2, 1, 1)
        assert sums(evidence, "pair", "bin.1") == (2, 1, 1)
        assert sums(evidence, "pair", "bin.0") == (2, -1, 1)

    @pytest.mark.parametrize(
        ("ending", "status"),
        [(Ending.CONNECT, 0), (Ending.TIMEOUT, 0), (Ending.TRUNCATED, 200), (Ending.ANSWERED, 500),
         (Ending.OPEN, 0), (Ending.DISCONNECTED, 0)],
    )  # fmt: skip
    def test_a_failed_candidate_is_an_error_missing_and_a_disagreement(
        self, ending: Ending, status: int
    ) -> None:
        failed = self.pair([2], None, shadow_ending=ending, shadow_status=status, shadow_response=b"")
        evidence = self.paired(failed)
        assert sums(evidence, "pair", "errors") == (1, 1, 1)
        assert sums(evidence, "pair", "missing") == (1, 1, 1)
        assert sums(evidence, "pair", "agreement") == (1, 0, 0)
        assert sums(evidence, "pair", "mean") is None
        assert sums(evidence, "pair", "missing", "sex=f") == (1, 1, 1)
        assert sums(evidence, "pair", "agreement", "sex=f") == (1, 0, 0)
        assert evidence.mirror.paired == 1

    def test_where_stable_failed_there_is_nothing_to_compare_with(self) -> None:
        evidence = self.paired(self.pair(None, [2], stable_status=503))
        assert sums(evidence, "pair", "errors") == (1, -1, 1)
        assert sums(evidence, "paired_stable", "errors") == (1, 1, 1)
        assert sums(evidence, "pair", "missing") == (1, -1, 1)
        for metric in ("mean", "selected", "bin.0", "agreement"):
            assert sums(evidence, "pair", metric) is None

    def test_where_stables_client_left_the_pair_says_nothing(self) -> None:
        left = self.pair(None, [2], stable_ending=Ending.DISCONNECTED, stable_status=0)
        evidence = self.paired(left)
        assert evidence.series == {}
        assert evidence.mirror.paired == 1

    def test_being_too_late_counts_alike_on_both_sides(self) -> None:
        late = self.pair(None, [2], stable_ending=Ending.OPEN, stable_status=0)
        cut_off = self.pair([2], None, shadow_ending=Ending.TIMEOUT, shadow_status=0, shadow_response=b"")
        both = msgspec.structs.replace(late, shadow_ending=Ending.TIMEOUT, shadow_response=b"")
        for metric in ("errors", "missing"):
            assert sums(self.paired(late), "pair", metric) == (1, -1, 1)
            assert sums(self.paired(late, cut_off, both), "pair", metric) == (3, 0, 2)
        assert sums(self.paired(late), "pair", "agreement") is None
        folded = fold(errors=RouteErrors(timeout=False))
        for one in (late, cut_off):
            folded.add_pair(one, folded.read_pair(one))
        assert sums(published(folded), "pair", "errors") == (2, 0, 0)

    def test_a_pair_lost_to_our_bounds_counts_in_coverage_only(self) -> None:
        evidence = self.paired(self.pair([2], [2], lost=True, request=b""))
        assert evidence.series == {}
        assert (evidence.mirror.paired, evidence.mirror.lost) == (0, 1)

    def test_batches_are_compared_instance_by_instance(self) -> None:
        evidence = self.paired(self.pair([2, 4, 9, 1], [2.5, None, 6], "fmmf"))
        assert sums(evidence, "pair", "missing") == (1, 1, 1)
        assert sums(evidence, "pair", "agreement") == (1, 0.25, 0.0625)
        assert sums(evidence, "pair", "mean") == pytest.approx((1, (0.25 + 0.6) / 2 - 0.55, 0.125**2))
        assert sums(evidence, "paired_stable", "mean") == pytest.approx((1, 0.55, 0.55**2))
        assert sums(evidence, "pair", "mean", "sex=f") == pytest.approx((1, 0.05, 0.0025))
        assert sums(evidence, "pair", "agreement", "sex=f") == (1, 0.5, 0.25)
        assert sums(evidence, "pair", "missing", "sex=m") == (1, 1, 1)

    def test_copies_are_tallied(self) -> None:
        folded = fold()
        for _ in range(2):
            folded.add_tally(MirrorTally(0, 6, 1, 2, 1, 1, 1, unconnected=1))
        folded.lose_pairs(3, PAIR_SHADOW)
        mirror = published(folded).mirror
        assert (mirror.chosen, mirror.sent, mirror.dropped_in_flight, mirror.lost) == (12, 2, 4, 3)
        assert (mirror.dropped_bytes, mirror.dropped_rate, mirror.dropped_size) == (2, 2, 2)
        assert mirror.unconnected == 2


def test_evidence_is_a_copy() -> None:
    folded = fold()
    first = added((fact(), body([2])), into=folded)
    before = encode_evidence(first)
    added((fact(), body([3])), into=folded)
    assert encode_evidence(first) == before
