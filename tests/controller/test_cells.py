"""How the level of false rollback is shared out, and what each cell compares with."""

from __future__ import annotations

import math
from typing import Any

import pytest

from accede.controller.analysis.cells import Cell, cells_of, display_of, harm_ratio, limits_of, quantile_of
from accede.policies.policy import RolloutPolicy
from accede.store.rollouts import FrozenConstants

CONSTANTS = FrozenConstants(
    limits=(0.0, 50.0),
    centres={"errors|": 0.02},
    deviations={"mean|": 0.2},
    quantiles={},
    edges=(0.25, 0.5, 0.75),
    requests=1000,
    groups={"sex=female": 0.5, "sex=male": 0.495, "age=[0,25)": 0.005},
)


def policy(*gates: dict[str, Any]) -> RolloutPolicy:
    return RolloutPolicy.model_validate(
        {
            "format": "accede/v1",
            "kind": "RolloutPolicy",
            "name": "p",
            "steps": ({"shadow": "100%"}, {"canary": "5%"}, {"canary": "50%"}),
            "gates": gates,
        }
    )


def cells(*gates: dict[str, Any]) -> list[Cell]:
    return list(cells_of(policy(*gates), CONSTANTS))


def test_half_the_level_goes_to_errors_and_latency() -> None:
    found = cells(
        {"metric": "errors", "max_increase": "1pp", "in": "canary"},
        {"metric": "latency.p99", "max_ratio": 1.2},
        {"metric": "prediction.mean", "max_shift": "0.1sd", "in": "shadow"},
        {"metric": "selection_rate", "by": "sex", "max_shift": "3pp", "in": "shadow"},
        {"metric": "prediction.agreement", "min": "90%", "require": "nothing"},
    )
    assert {cell.name: cell.weight for cell in found} == pytest.approx(
        {
            "errors": 1 / 4,
            "latency.p99": 1 / 4,
            "prediction.mean up": 1 / 12,
            "prediction.mean down": 1 / 12,
            "selection_rate{sex=female} up": 1 / 12,
            "selection_rate{sex=female} down": 1 / 12,
            "selection_rate{sex=male} up": 1 / 12,
            "selection_rate{sex=male} down": 1 / 12,
            "prediction.agreement": 0.0,
        }
    )


def test_one_class_alone_takes_the_whole_level() -> None:
    found = cells({"metric": "prediction.mean", "max_shift": "0.1sd"})
    assert [(cell.place, cell.direction) for cell in found] == [
        ("shadow", "up"), ("shadow", "down"), ("canary", "up"), ("canary", "down"),
    ]  # fmt: skip
    assert sum(cell.weight for cell in found) == pytest.approx(1.0)


def test_a_distribution_splits_its_weight_over_bins_and_directions() -> None:
    found = cells({"metric": "prediction.distribution", "max_shift": "5pp", "in": "canary"})
    assert [cell.series for cell in found[::2]] == ["bin.0", "bin.1", "bin.2", "bin.3"]
    assert {cell.weight for cell in found} == {1 / 8}
    assert found[0].part == "bin 1 of 4"


def test_places_follow_the_metric() -> None:
    found = cells(
        {"metric": "latency.p95", "max_ratio": 1.2},
        {"metric": "prediction.agreement", "min": "90%"},
        {"metric": "errors", "max_ratio": 1.5},
    )
    assert [(cell.series, cell.place) for cell in found] == [
        ("latency.p95", "canary"), ("agreement", "shadow"), ("errors", "shadow"), ("errors", "canary"),
    ]  # fmt: skip


def test_a_group_is_only_watched_when_small_and_the_policy_says_so() -> None:
    gate = {"metric": "selection_rate", "by": "age", "max_shift": "3pp", "in": "canary"}
    assert [cell.watched for cell in cells(gate)] == [False, False]
    assert [cell.watched for cell in cells({**gate, "small_slices": "no-harm"})] == [True, True]
    assert not any(cell.watched for cell in cells({**gate, "by": "sex", "small_slices": "no-harm"}))


def test_harm_begins_at_half_the_margin() -> None:
    (cell, _) = cells({"metric": "selection_rate", "max_shift": "3pp", "in": "canary"})
    (limit,) = limits_of(cell, CONSTANTS)
    assert (limit.effect, limit.harm_at, limit.margin) == ("difference", 0.015, 0.03)
    (cell,) = cells({"metric": "errors", "max_ratio": 1.5, "in": "canary"})
    (limit,) = limits_of(cell, CONSTANTS)
    assert (limit.harm_at, limit.margin, limit.gap) == pytest.approx((math.sqrt(1.5), 1.5, 0.01))


def test_harm_begins_at_nothing_where_a_gate_only_watches() -> None:
    (cell, _) = cells({"metric": "selection_rate", "max_shift": "3pp", "require": "no-harm", "in": "canary"})
    assert limits_of(cell, CONSTANTS)[0].harm_at == 0.0
    assert harm_ratio(cells({"metric": "errors", "max_ratio": 1.5, "require": "no-harm"})[0].gate) == 1.0


def test_margins_come_in_units_of_y_and_go_out_in_their_own() -> None:
    (sd, _) = cells({"metric": "prediction.mean", "max_shift": "0.1sd", "in": "canary"})
    assert limits_of(sd, CONSTANTS)[0].margin == pytest.approx(0.02)
    assert display_of(sd, CONSTANTS).factor * 0.02 == pytest.approx(0.1)
    (plain, _) = cells({"metric": "prediction.mean", "max_shift": 2.0, "in": "canary"})
    assert limits_of(plain, CONSTANTS)[0].margin == pytest.approx(0.04)
    assert display_of(plain, CONSTANTS).factor * 0.04 == pytest.approx(2.0)


def test_at_least_gates_have_one_bound_for_harm_and_safety() -> None:
    (cell,) = cells({"metric": "prediction.agreement", "min": "95%"})
    (limit,) = limits_of(cell, CONSTANTS)
    assert cell.direction == "down"
    assert limit.harm_at == limit.margin == 0.95


def test_quantiles_are_read_from_names() -> None:
    assert [quantile_of(f"latency.{name}") for name in ("p50", "p95", "p99", "p999")] == [
        0.5,
        0.95,
        0.99,
        0.999,
    ]


@pytest.mark.parametrize(
    ("harm_at", "increase", "ratio"),
    [(None, 0.0025, math.sqrt(1.5)), ("0.1pp", 0.001, math.sqrt(1.5)), (1.2, 0.0025, 1.2)],
)
def test_harm_at_speaks_of_the_limit_of_its_unit_alone(
    harm_at: str | float | None, increase: float, ratio: float
) -> None:
    """A factor taken for an increase (of 120 points) would never be exceeded: no harm could be found."""
    more = {} if harm_at is None else {"harm_at": harm_at}
    cell = cells({"metric": "errors", "max_increase": "0.5pp", "max_ratio": 1.5, "in": "canary", **more})[0]
    assert [limit.harm_at for limit in limits_of(cell, CONSTANTS)] == pytest.approx([increase, ratio])
