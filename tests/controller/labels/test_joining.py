"""Joining predictions to labels: the same sums in every order, and the numbers that scikit-learn has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, confusion_matrix, recall_score

from accede.controller.labels.joining import Meaning, fold
from accede.store.evidence import Evidence, SeriesKey
from accede.store.labels import ARM, PAIR, Joined, Label, Prediction, Value, request_key
from accede.store.measurement import CLUSTERS, Selected

WANTED = frozenset(
    {
        "outcome.accuracy", "outcome.brier", "outcome.recall", "outcome.false_positive_rate",
        "outcome.calibration", "uncertainty.coverage",
    }
)  # fmt: skip
BINARY = Meaning(
    "binary", WANTED, (0.0, 1.0), Selected(">=", 0.5),
    sliced={"outcome.accuracy": ("sex", "region"), "labelled": ("sex", "region")},
)  # fmt: skip


def arm(request: str, *values: Value, candidate: bool = True, **fields: Any) -> Prediction:
    return Prediction(
        request_key("s", request), ARM, "r1", 2, 10.0, 99.0, int(candidate), fields.pop("unit", 0), 3,
        (values,), **fields,
    )  # fmt: skip


def pair(request: str, stable: Sequence[Value], candidate: Sequence[Value], **fields: Any) -> Prediction:
    return Prediction(
        request_key("s", request), PAIR, "r1", 2, 10.0, 99.0, 0, 0, 130, (tuple(stable), tuple(candidate)),
        **fields,
    )  # fmt: skip


def label(request: str, *values: float | str, groups: tuple[str, ...] = ()) -> Label:
    return Label(request_key("s", request), values, groups)


def folded(rows: Sequence[tuple[Prediction, Label | None]], meaning: Meaning = BINARY) -> Evidence:
    _, (sums,) = fold("s", [Joined(p, one, 0) for p, one in rows], [], meaning, 50.0)
    return sums


def y(sums: Evidence, arm: Any, metric: str, group: str = "") -> tuple[float, float, float] | None:
    series = sums.series.get(SeriesKey(arm, group, metric))
    return None if series is None else (sum(series.n), sum(series.sum), sum(series.square))


STATES = (
    None,
    label("a", 1.0),
    label("a", groups=("region=north",)),
    label("a", 1.0, groups=("region=north",)),
)


@pytest.mark.parametrize("path", [(0, 3), (3,), (0, 1, 3), (0, 2, 3), (1, 3), (2, 3), (0, 0, 1, 1, 3, 3)])
def test_sums_do_not_depend_on_what_came_first(path: tuple[int, ...]) -> None:
    row = Joined(arm("a", 0.8, groups=("sex=female",)), None, 0)
    held: Sequence[Evidence] = ()
    for state in path:
        (row,), held = fold("s", [msgspec.structs.replace(row, label=STATES[state])], held, BINARY, 50.0)
    assert len(held) == 1
    sums = held[0]
    assert sums.series == folded([(row.prediction, STATES[3])]).series
    assert y(sums, "candidate", "labelled") == (1.0, 1.0, 1.0)
    assert y(sums, "candidate", "labelled", "region=north") == (1.0, 1.0, 1.0)
    assert y(sums, "candidate", "outcome.accuracy", "region=north") == (1.0, 1.0, 1.0)
    assert y(sums, "candidate", "outcome.accuracy", "sex=female") == (1.0, 1.0, 1.0)


def test_rows_add_in_any_order_and_in_any_parts() -> None:
    rows = [
        Joined(arm("a", 0.8), label("a", 1.0), 0),
        Joined(arm("b", 0.25, candidate=False), None, 0),
        Joined(pair("c", [0.5], [0.75]), label("c", 0.0), 0),
    ]
    _, (whole,) = fold("s", rows, [], BINARY, 50.0)
    for order in permutations(rows):
        held: Sequence[Evidence] = ()
        for row in order:
            before = [msgspec.structs.replace(one) for one in held]
            _, held = fold("s", [row], before, BINARY, 50.0)
        assert [one.series for one in held] == [whole.series]


def test_what_is_held_is_not_changed() -> None:
    sums = folded([(arm("a", 0.8), label("a", 1.0))])
    fold("s", [Joined(arm("b", 0.8), label("b", 1.0), 0)], [sums], BINARY, 60.0)
    assert y(sums, "candidate", "labelled") == (1.0, 1.0, 1.0)


def test_a_prediction_without_a_label_counts_only_for_coverage() -> None:
    sums = folded([(arm("a", 0.8), None)])
    assert {key.metric for key in sums.series} == {"labelled", "labelled.selected"}
    assert y(sums, "candidate", "labelled") == (1.0, 0.0, 0.0)


def test_instances_are_averaged_and_those_without_a_value_left_out() -> None:
    sums = folded([(arm("a", 0.9, 0.1, None, 0.2), label("a", 1.0, 1.0, 0.0, 0.0))])
    assert y(sums, "candidate", "outcome.accuracy") == pytest.approx((1.0, 2 / 3, 4 / 9))
    assert y(sums, "candidate", "outcome.recall") == (1.0, 0.5, 0.25)
    assert y(sums, "candidate", "outcome.false_positive_rate") == (1.0, 0.0, 0.0)
    assert y(sums, "candidate", "outcome.calibration") == pytest.approx((1.0, (1 - 0.8 / 3) / 2, 0.1344444))


def test_groups_of_instances_hold_their_own_instances() -> None:
    groups = (("sex=female", "sex=male", "sex=male"),)
    sums = folded([(arm("a", 0.9, 0.1, 0.9, groups=groups), label("a", 1.0, 1.0, 1.0))])
    assert y(sums, "candidate", "outcome.accuracy", "sex=female") == (1.0, 1.0, 1.0)
    assert y(sums, "candidate", "outcome.accuracy", "sex=male") == (1.0, 0.5, 0.25)
    assert y(sums, "candidate", "outcome.brier", "sex=male") is None


def test_what_the_request_told_stands_before_feedback() -> None:
    known = label("a", 1.0, groups=("sex=male",))
    sums = folded([(arm("a", 0.9, groups=("sex=female",)), known)])
    assert y(sums, "candidate", "labelled", "sex=male") is None


def test_a_label_of_another_length_is_none_and_is_counted() -> None:
    sums = folded([(arm("a", 0.9, 0.2), label("a", 1.0))])
    assert y(sums, "candidate", "labelled") == (1.0, 0.0, 0.0)
    assert y(sums, "candidate", "labelled.mismatched") == (1.0, 1.0, 1.0)
    assert y(sums, "candidate", "outcome.accuracy") is None


def test_pairs_hold_differences_on_what_both_answered() -> None:
    stated = (((0.0, 0.5), None), ((0.0, 0.1), (0.5, 1.0)))
    sums = folded([(pair("a", [0.4, None], [0.7, 0.9], stated=stated), label("a", 0.0, 1.0))])
    assert y(sums, "pair", "outcome.brier") == pytest.approx((1.0, 0.33, 0.33**2))
    assert y(sums, "paired_stable", "outcome.brier") == pytest.approx((1.0, 0.16, 0.16**2))
    assert y(sums, "pair", "outcome.calibration") == pytest.approx((1.0, 0.3, 0.09))
    assert y(sums, "pair", "outcome.false_positive_rate") == (1.0, 1.0, 1.0)
    assert y(sums, "pair", "outcome.recall") is None
    assert y(sums, "pair", "uncertainty.coverage") == (1.0, 1.0, 1.0)
    series = sums.series[SeriesKey("pair", "", "outcome.brier")]
    assert (len(series.n), series.n[130 % CLUSTERS]) == (CLUSTERS, 1.0)


def test_units_have_clusters_only_where_they_are_sticky() -> None:
    rows = [(arm("a", 0.9, unit=5), label("a", 1.0)), (arm("b", 0.9, unit=7), label("b", 1.0))]
    key = SeriesKey("candidate", "", "outcome.accuracy")
    assert len(folded(rows).series[key].n) == 1
    by_unit = folded(rows, _sticky()).series[key].n
    assert [at for at, n in enumerate(by_unit) if n] == [5, 7]


def _sticky() -> Meaning:
    return Meaning("binary", WANTED, (0.0, 1.0), Selected(">=", 0.5), sticky=True)


def test_numbers_are_scaled_by_their_range_and_compared_by_agree_within() -> None:
    meaning = Meaning("number", WANTED, (0.0, 200.0), agree_within=10.0)
    stated = (((40.0, 60.0), (0.0, 1.0)),)
    sums = folded([(arm("a", 50.0, 250.0, stated=stated), label("a", 58.0, 100.0))], meaning)
    assert y(sums, "candidate", "outcome.accuracy") == (1.0, 0.5, 0.25)
    assert y(sums, "candidate", "outcome.brier") == pytest.approx(
        (1.0, (0.04**2 + 0.25) / 2, ((0.04**2 + 0.25) / 2) ** 2)
    )
    assert y(sums, "candidate", "outcome.calibration") == pytest.approx((1.0, 0.615, 0.615**2))
    assert y(sums, "candidate", "uncertainty.coverage") == (1.0, 0.5, 0.25)
    assert y(sums, "candidate", "outcome.recall") is None


def test_labels_are_compared_as_texts() -> None:
    meaning = Meaning("label", WANTED, selected=Selected("==", "approve"))
    rows = [
        (arm("a", "approve"), label("a", "approve")), (arm("b", "approve"), label("b", "deny")),
        (arm("c", "deny"), label("c", "approve")), (arm("d", "deny"), label("d", "refer")),
    ]  # fmt: skip
    sums = folded(rows, meaning)
    assert y(sums, "candidate", "outcome.accuracy") == (4.0, 1.0, 1.0)
    assert y(sums, "candidate", "outcome.recall") == (2.0, 1.0, 1.0)
    assert y(sums, "candidate", "outcome.false_positive_rate") == (2.0, 1.0, 1.0)
    assert y(sums, "candidate", "outcome.brier") is None


@pytest.mark.parametrize("seed", range(4))
def test_sums_are_those_of_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    p = draw.beta(1.0 + seed, 3.0, 300).round(6)
    o = (draw.random(300) < p * 0.8).astype(float)
    rows = [
        (arm(f"{k}", float(value)), label(f"{k}", float(true)))
        for k, (value, true) in enumerate(zip(p, o, strict=True))
    ]
    sums = folded(rows)

    def mean(metric: str) -> float:
        got = y(sums, "candidate", metric)
        assert got is not None
        return got[1] / got[0]

    hit = p >= 0.5
    tn, fp, _, _ = confusion_matrix(o, hit).ravel()
    assert mean("outcome.accuracy") == pytest.approx(accuracy_score(o, hit), abs=1e-12)
    assert mean("outcome.brier") == pytest.approx(brier_score_loss(o, p), abs=1e-12)
    assert mean("outcome.recall") == pytest.approx(recall_score(o, hit), abs=1e-12)
    assert mean("outcome.false_positive_rate") == pytest.approx(fp / (fp + tn), abs=1e-12)
    assert 2 * mean("outcome.calibration") - 1 == pytest.approx(float(np.mean(p) - np.mean(o)), abs=1e-12)
