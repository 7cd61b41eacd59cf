"""Input features are counted per arm, and no value that a stranger made up is kept."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from accede.router.observer.extract import FORMATS
from accede.router.observer.inputs import Inputs
from accede.store.measurement import InputPlan

AMOUNT = InputPlan("amount", "instances[*].amount", range=(0.0, 100.0))
FREE = InputPlan("free", "score")
KIND = InputPlan("kind", "kind", "category", values=("card", "cash"))
FORM = FORMATS["json"]("", number=True)


def counted(plan: InputPlan, *documents: object) -> dict[str, int]:
    inputs = Inputs((plan,), FORM.feature)
    for document in documents:
        inputs.add(0, inputs.labels(FORM.request(json.dumps(document).encode(), "", -1)))
    return inputs.counts(("stable", "candidate")).get(f"stable|{plan.name}", {})


def amounts(*values: object) -> dict[str, object]:
    return {"instances": [{"amount": value} for value in values]}


def test_numbers_fall_into_tenths_of_the_declared_range() -> None:
    found = counted(AMOUNT, *map(amounts, (0, 5, 9.99, 10, 100)))
    assert found == {"0": 3, "1": 1, "9": 1}


def test_a_batch_is_one_request_and_its_first_instance_counts() -> None:
    assert counted(AMOUNT, amounts(5, 15, 25), amounts(95, 5)) == {"0": 1, "9": 1}


def test_numbers_outside_the_range_and_what_is_no_number_are_told_apart() -> None:
    assert counted(AMOUNT, *map(amounts, (-1, 101, "12", None, True))) == {
        "below": 1,
        "above": 1,
        "missing": 3,
    }


def test_a_request_without_instances_is_missing_once() -> None:
    assert counted(AMOUNT, {"instances": []}, {}) == {"missing": 2}


def test_without_a_range_numbers_fall_into_logarithmic_bins_and_their_count_is_bounded() -> None:
    found = counted(FREE, *({"score": 1.05**power} for power in range(1000)))
    assert len(found) <= 257
    assert sum(found.values()) == 1000
    assert found["other"] > 0


def test_categories_are_counted_by_declared_names_only() -> None:
    found = counted(KIND, {"kind": "card"}, {"kind": ["cash"]}, {"kind": "secret"}, {"kind": {}}, {})
    assert found == {"card": 1, "cash": 1, "new": 1, "missing": 2}


def test_the_arms_are_counted_apart() -> None:
    inputs = Inputs((KIND,), FORM.feature)
    inputs.add(1, inputs.labels({"kind": "card"}))
    assert inputs.counts(("stable", "candidate")) == {"candidate|kind": {"card": 1}}


@given(st.binary(max_size=200), st.sampled_from([AMOUNT, FREE, KIND]))
def test_any_bytes_are_counted_as_something(body: bytes, plan: InputPlan) -> None:
    inputs = Inputs((plan,), FORM.feature)
    inputs.add(0, inputs.labels(FORM.request(body, "", -1)))
    assert sum(inputs.counts(("stable", "candidate"))[f"stable|{plan.name}"].values()) >= 1
