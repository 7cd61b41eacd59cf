"""What answers tell beside their predictions: own metrics, uncertainty, explanations."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from scipy.stats import kendalltau, rankdata

from accede.router.observer.asides import Aside, share_of, spread_of, stated_of
from accede.router.observer.extract import Extractor
from accede.router.observer.ranks import importance_of, mid_ranks, rank_agreement
from accede.store.measurement import Extraction, ValuePlan

PLANNED = Extraction(
    "predictions[*].score",
    "number",
    values=(
        ValuePlan("refused", "predictions[*].refused"),
        ValuePlan("cost", "cost", "number", (10.0, 20.0)),
    ),
    uncertainty="predictions[*].std",
    explanation="predictions[*].why",
)


def told(answer: Any, extraction: Extraction = PLANNED, protocol: str = "json") -> Aside:
    body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    return Extractor(extraction, protocol).asides.read(body, "", -1)


def test_everything_beside_the_predictions_is_read_by_position() -> None:
    answer = {
        "cost": 12.5,
        "predictions": [
            {"score": 0.5, "refused": True, "std": 0.1, "why": {"age": -2.0, "sex": 1}},
            {"score": 0.5, "std": {"low": 0.2, "high": 0.8}, "why": [1.0, "x"]},
        ],
    }
    got = told(answer)
    assert got.values == ([1.0, None], [0.25])
    assert list(got.uncertainty) == [0.1, (0.2, 0.8)]
    assert list(got.explanation) == [{"age": 2.0, "sex": 1.0}, None]


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'{"predictions": 3}', b'{"predictions": [{}]}'])
def test_an_answer_without_them_tells_nothing(body: bytes) -> None:
    got = told(body)
    assert not any(value is not None for column in got.values for value in column)
    assert not any(one is not None for one in (*got.uncertainty, *got.explanation))


def test_tensors_tell_them_by_name() -> None:
    planned = Extraction("outputs[0][*]", "number", uncertainty="outputs[1][*]")
    answer = {
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2], "data": [0.5, 0.25]},
            {"name": "std", "datatype": "FP32", "shape": [2], "data": [0.125, 0.5]},
        ]
    }
    assert list(told(answer, planned, "open-inference").uncertainty) == [0.125, 0.5]


def test_mlflow_columns_are_of_requests_and_answers_are_json() -> None:
    planned = Extraction("predictions[*].y", "number", values=(ValuePlan("refused", "predictions[*].no"),))
    answer = {"predictions": [{"y": 1.0, "no": False}, {"y": 2.0, "no": True}]}
    assert told(answer, planned, "mlflow").values == ([0.0, 1.0],)


def test_a_share_is_a_truth_or_a_number_from_0_to_1() -> None:
    shares: tuple[Any, ...] = (True, False, 0.5, 1, [True], [[0.25]])
    assert [share_of(value) for value in shares] == [1, 0, 0.5, 1, 1, 0.25]
    wrong: tuple[Any, ...] = (1.5, -0.1, "true", None, float("nan"), [0, 1], {})
    assert [share_of(value) for value in wrong] == [None] * 7


def test_an_uncertainty_is_a_deviation_or_an_interval() -> None:
    assert [stated_of(value) for value in (0.5, 0, [2.0], [{"low": -1, "high": 1}])] == [
        0.5,
        0.0,
        2.0,
        (-1.0, 1.0),
    ]
    wrong: Any
    for wrong in (-0.1, "0.5", None, True, {"low": 1, "high": 0}, {"low": 1}, [0.1, 0.2], [[[0.1]]]):
        assert stated_of(wrong) is None
    assert [spread_of(one) for one in (0.5, (1.0, 4.0), None, (-1.7e308, 1.7e308))] == [
        0.5,
        1.5,
        None,
        1.7e308,
    ]


def test_importances_are_sizes_of_finite_numbers() -> None:
    assert importance_of([1, -2.5]) == (1.0, 2.5)
    assert importance_of([{"a": -1}]) == {"a": 1.0}
    assert importance_of([[1, 2]]) == (1.0, 2.0)
    for wrong in (None, 3, "a", [], {}, [None], {"a": "b"}, [float("inf")], [0.0] * 1025):
        assert importance_of(wrong) is None


def test_mid_ranks_are_those_of_scipy() -> None:
    rng = np.random.default_rng(11)
    for _ in range(200):
        values = rng.integers(0, 6, size=rng.integers(1, 12)).astype(float)
        assert mid_ranks(list(values)) == list(rankdata(values))


def test_rank_agreement_is_one_less_the_footrule_over_its_largest_value() -> None:
    assert rank_agreement((3.0, 2.0, 1.0), (30.0, 20.0, 10.0)) == 1.0
    for n in range(2, 9):  # no order is farther than the opposite one
        there = tuple(map(float, range(n)))
        assert rank_agreement(there, there[::-1]) == pytest.approx(0.0)
    assert rank_agreement({"a": 2.0, "b": 1.0}, {"b": 5.0, "a": 9.0}) == 1.0
    assert rank_agreement({"a": 2.0, "b": 1.0}, {"a": 1.0}) == 1.0  # b has no importance in the other
    assert rank_agreement({"a": 2.0, "b": 1.0}, {"c": 1.0}) == 0.0  # 3 2 1 and 1.5 1.5 3
    assert rank_agreement((1.0, 1.0, 1.0), (2.0, 2.0, 2.0)) == 1.0  # a correlation would not be defined
    assert rank_agreement((1.0, 2.0), (1.0, 2.0, 3.0)) == 0.0
    assert rank_agreement({"a": 1.0}, (1.0,)) == 0.0
    assert rank_agreement((5.0,), (7.0,)) == 1.0


def test_the_footrule_is_bounded_with_ties_and_follows_kendalls_distance() -> None:
    """Diaconis & Graham 1977: K <= F <= 2K, with K the number of discordant pairs (no ties)."""
    rng = np.random.default_rng(12)
    for _ in range(300):
        n = int(rng.integers(2, 10))
        one, other = rng.permutation(n).astype(float), rng.permutation(n).astype(float)
        footrule = (1.0 - rank_agreement(tuple(one), tuple(other))) * (n * n // 2)
        discordant = (1.0 - kendalltau(one, other).statistic) / 2.0 * n * (n - 1) / 2.0
        assert discordant - 1e-9 <= footrule <= 2.0 * discordant + 1e-9
        tied, also = rng.integers(0, 3, n).astype(float), rng.integers(0, 3, n).astype(float)
        assert -1e-12 <= rank_agreement(tuple(tied), tuple(also)) <= 1.0
