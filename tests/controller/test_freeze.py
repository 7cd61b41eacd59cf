"""What epoch 0 fixes, computed by hand, and when it refuses."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from accede.controller.analysis.freeze import NotReady, epoch_constants, freeze
from accede.policies.policy import RolloutPolicy
from accede.policies.service import ModelService
from accede.store.evidence import ArmCounts, Evidence, Series, SeriesKey
from accede.store.histogram import bin_of, edge, value_bin, value_of
from accede.store.rollouts import FrozenConstants


def service(**prediction: Any) -> ModelService:
    return ModelService.model_validate(
        {
            "format": "accede/v1", "kind": "ModelService", "name": "s", "match": {"path": "/s"},
            "protocol": "json", "versions": {"1": {"url": "http://a"}}, "stable": "1",
            "prediction": {"path": "score", "selected": ">= 0.5", **prediction},
            "slices": {
                "sex": {"path": "sex", "values": ("female", "male")},
                "age": {"path": "age", "bins": (0.0, 25.0, 40.0)},
            },
            "mirror": {"min_coverage": "90%"}, "unit": {"header": "x-user-id"},
        }
    )  # fmt: skip


def policy(*gates: dict[str, Any]) -> RolloutPolicy:
    return RolloutPolicy.model_validate(
        {
            "format": "accede/v1", "kind": "RolloutPolicy", "name": "p",
            "baseline": {"requests": 100, "for": "1s"},
            "steps": ({"shadow": "100%"}, {"canary": "50%"}), "gates": gates,
        }
    )  # fmt: skip


MEAN = {"metric": "prediction.mean", "max_shift": "0.1sd"}
SELECTED = {"metric": "selection_rate", "by": "sex", "max_shift": "3pp"}
P95 = {"metric": "latency.p95", "max_ratio": 1.2}


def baseline(accounted: int = 1000, **more: Any) -> Evidence:
    return Evidence(
        wire="", service="s", rollout="r", epoch=0, source="*", published=0.0, watermark=0.0,
        arms={"stable": ArmCounts(accounted=accounted)}, **more,
    )  # fmt: skip


def stable(
    metric: str, n: float, y: float, square: float | None = None, group: str = ""
) -> dict[SeriesKey, Series]:
    return {SeriesKey("stable", group, metric): Series([n], [y], [y if square is None else square])}


def frozen(found: FrozenConstants | NotReady) -> FrozenConstants:
    assert isinstance(found, FrozenConstants), found
    return found


def test_waits_for_its_requests() -> None:
    found = freeze(policy(P95), service(), baseline(accounted=40))
    assert found == NotReady("60 more requests of stable")


def test_requests_without_a_unit_do_not_count() -> None:
    evidence = baseline()
    evidence.arms["stable"] = ArmCounts(accounted=150, unassignable=100)
    assert freeze(policy(P95), service(), evidence) == NotReady("50 more requests of stable")


def test_declared_limits_give_mean_and_sd_of_the_series() -> None:
    evidence = baseline(
        series=stable("mean", 100.0, 40.0, 20.0), values={value_bin(0.4): 100}
    )  # mean 0.4, variance 0.2 - 0.16
    found = frozen(freeze(policy(MEAN), service(range=(0.0, 1.0)), evidence))
    assert found.limits == (0.0, 1.0)
    assert found.centres["mean|"] == pytest.approx(0.4)
    assert found.deviations["mean|"] == pytest.approx(0.2)
    assert (found.requests, found.sticky, found.min_coverage) == (1000, True, 0.9)


def test_limits_come_from_the_extremes_widened_by_half_their_span() -> None:
    values = {value_bin(100.0): 500, value_bin(200.0): 500}
    found = frozen(freeze(policy(MEAN), service(), baseline(values=values)))
    assert found.limits is not None
    low, high = (value_of(value_bin(v)) for v in (100.0, 200.0))
    assert found.limits == pytest.approx((low - (high - low) / 2, high + (high - low) / 2))
    # Two values at a quarter and three quarters of the limits, equally often.
    assert found.centres["mean|"] == pytest.approx(0.5)
    assert found.deviations["mean|"] == pytest.approx(0.25)


def test_a_constant_prediction_has_room_on_both_sides() -> None:
    found = frozen(freeze(policy(MEAN), service(), baseline(values={value_bin(-7.0): 1000})))
    assert found.limits is not None
    assert found.limits[0] < -7.2
    assert found.limits[1] > -6.8
    assert found.deviations["mean|"] == 0.0


def test_deciles_split_stable_evenly_and_equal_ones_merge() -> None:
    gate = {"metric": "prediction.distribution", "max_shift": "5pp"}
    spread = Counter(value_bin(0.001 * k) for k in range(1, 1001))
    found = frozen(freeze(policy(gate), service(range=(0.0, 1.0)), baseline(values=dict(spread))))
    assert len(found.edges) == 9
    assert list(found.edges) == pytest.approx([k / 10 for k in range(1, 10)], rel=0.03)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    # Half of all answers are one value: it gets a bin of its own.
    atom = dict(spread + Counter({value_bin(0.3): 1000}))
    found = frozen(freeze(policy(gate), service(range=(0.0, 1.0)), baseline(values=atom)))
    assert max(found.shares.values()) == pytest.approx(0.5, abs=0.02)
    assert len(found.edges) < 9
    assert list(found.edges) == sorted(set(found.edges))
    assert found.centres["bin.0|"] == found.shares["bin.0"]


def test_classes_are_the_common_labels_and_any_other() -> None:
    gate = {"metric": "prediction.distribution", "max_shift": "5pp"}
    labels = {"approve": 700, "deny": 295, "odd": 5}
    found = frozen(
        freeze(policy(gate), service(type="label", selected="== approve"), baseline(labels=labels))
    )
    assert found.classes == ("approve", "deny")
    assert found.shares == pytest.approx({"bin.0": 0.7, "bin.1": 0.295, "bin.other": 0.005})


def test_groups_have_their_share_their_centre_and_never_other() -> None:
    series = {
        **stable("selected", 1000.0, 300.0),
        **stable("selected", 600.0, 120.0, group="sex=female"),
        **stable("selected", 390.0, 175.5, group="sex=male"),
        **stable("selected", 10.0, 5.0, group="sex=other"),
    }
    evidence = baseline(series=series, values={value_bin(0.4): 100})
    found = frozen(freeze(policy(SELECTED), service(), evidence))
    assert found.groups == pytest.approx({"sex=female": 0.6, "sex=male": 0.39})
    assert found.centres["selected|sex=female"] == pytest.approx(0.2)
    assert found.deviations["selected|sex=male"] == pytest.approx(math.sqrt(0.45 * 0.55))
    assert "selected|sex=other" not in found.centres


def test_a_group_nobody_saw_is_kept_with_the_mean_of_all() -> None:
    evidence = baseline(
        series={**stable("selected", 1000.0, 300.0), **stable("selected", 900.0, 270.0, group="age=[0,25)")},
        values={value_bin(0.4): 100},
    )
    found = frozen(freeze(policy({**SELECTED, "by": "age"}), service(), evidence))
    assert list(found.groups) == ["age=[0,25)", "age=[25,40)", "age=[40,inf)"]
    assert found.groups["age=[40,inf)"] == 0.0
    assert found.centres["selected|age=[40,inf)"] == pytest.approx(0.3)


def test_without_a_series_the_selection_rate_comes_from_the_values() -> None:
    evidence = baseline(values={value_bin(0.2): 75, value_bin(0.9): 25})
    found = frozen(freeze(policy(SELECTED), service(), evidence))
    assert found.centres["selected|sex=female"] == pytest.approx(0.25)


def test_a_latency_quantile_is_a_bin_edge() -> None:
    evidence = baseline(latency={"stable": {bin_of(0.010): 940, bin_of(0.050): 60}})
    found = frozen(freeze(policy(P95), service(), evidence))
    assert found.quantiles == {"latency.p95": edge(bin_of(0.050) + 1)}
    assert isinstance(freeze(policy(P95), service(), baseline()), NotReady)


def test_an_extractor_that_finds_nothing_is_not_ready() -> None:
    evidence = baseline(series=stable("extraction", 1000.0, 1000.0))
    found = freeze(policy(MEAN), service(), evidence)
    assert isinstance(found, NotReady)
    assert "100.0%" in found.reason
    assert isinstance(
        freeze(policy({"metric": "errors", "max_ratio": 1.5}), service(), evidence), FrozenConstants
    )


def test_no_prediction_seen_is_not_ready() -> None:
    assert isinstance(freeze(policy(MEAN), service(), baseline()), NotReady)


def test_bursts_of_errors_are_worth_fewer_requests() -> None:
    bursts = Series([100.0] * 20, [20.0, 0.0] * 10, [20.0, 0.0] * 10)
    evidence = baseline(series={SeriesKey("stable", "", "errors"): bursts})
    found = frozen(freeze(policy({"metric": "errors", "max_ratio": 1.5}), service(), evidence))
    # variance between batches 100, binomial 100 * 0.1 * 0.9 = 9
    assert found.autocorrelation_time == pytest.approx(100 / 9)


CONSTANTS = FrozenConstants(
    limits=(0.0, 1.0),
    centres={"mean|": 0.4, "selected|sex=female": 0.2},
    deviations={},
    quantiles={"latency.p95": edge(300)},
)


def test_an_epoch_without_a_past_keeps_the_baseline() -> None:
    centres, thresholds = epoch_constants(policy(P95), CONSTANTS, None)
    assert centres == CONSTANTS.centres
    assert thresholds == {"latency.p95": (300, 304, 309)}  # 1.02^9 = 1.195


def test_an_epoch_follows_stable_of_the_one_before_where_it_saw_enough() -> None:
    previous = baseline(
        series={**stable("mean", 2000.0, 1000.0), **stable("selected", 999.0, 500.0, group="sex=female")},
        latency={"stable": {400: 900, 500: 100}},
    )
    centres, thresholds = epoch_constants(policy(P95), CONSTANTS, previous)
    assert centres == {"mean|": 0.5, "selected|sex=female": 0.2}
    assert thresholds == {"latency.p95": (501, 505, 510)}


def test_harm_thresholds_follow_the_gate() -> None:
    watching = epoch_constants(policy({**P95, "require": "no-harm"}), CONSTANTS, None)[1]
    assert watching == {"latency.p95": (300, 300, 309)}
    at_margin = epoch_constants(policy({**P95, "harm_at": 1.2}), CONSTANTS, None)[1]
    assert at_margin == {"latency.p95": (300, 309, 309)}
