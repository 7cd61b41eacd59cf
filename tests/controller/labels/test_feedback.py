"""Labels as they are sent: what is kept of them, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from accede.controller.labels.feedback import MOST_NAMED, SentLabel, read, value_of
from accede.errors import UsageError
from accede.policies.outcome import OutcomeType
from accede.policies.service import Slice
from accede.store.labels import Label, request_key

SLICES = {
    "sex": Slice(path="instances[0].sex", values=("female", "male")),
    "age": Slice(path="instances[0].age", bins=(0.0, 25.0)),
}


def sent(**fields: Any) -> SentLabel:
    return SentLabel.model_validate({"request_id": "a", **fields})


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        ("binary", 1, 1.0), ("binary", 0.0, 0.0), ("binary", True, 1.0), ("binary", "FALSE", 0.0),
        ("binary", " 1 ", 1.0), ("number", "12.5", 12.5), ("number", -3, -3.0),
        ("label", "approve", "approve"),
    ],
)  # fmt: skip
def test_a_value_as_it_is_kept(kind: OutcomeType, given: Any, kept: Any) -> None:
    got = value_of(kind, given)
    assert got == kept
    assert type(got) is type(kept)


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        ("binary", 2, "the number 2; allowed for an outcome of type binary: 1, 0, true or false"),
        ("binary", "yes", "a text; allowed"), ("binary", float("nan"), "nan"), ("binary", "", "empty"),
        ("number", True, "true or false"), ("number", "inf", "a text"), ("number", "many", "a text"),
        ("label", 1, "the number 1"), ("label", "", "empty"), ("label", True, "true or false"),
    ],
)  # fmt: skip
def test_any_other_value_is_refused(kind: OutcomeType, given: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        value_of(kind, given)


def test_instances_and_groups_are_kept_as_they_are_declared() -> None:
    got = read("fraud", "binary", SLICES, [sent(value=[1, 0], groups={"sex": "male", "age": "[0,25)"})])
    assert got == [Label(request_key("fraud", "a"), (1.0, 0.0), ("age=[0,25)", "sex=male"))]
    (late,) = read("fraud", "binary", SLICES, [sent(groups={"sex": "other"})])
    assert (late.values, late.groups) == ((), ("sex=other",))


def test_every_wrong_label_is_named_by_where_it_is_from_and_no_text_is_repeated() -> None:
    labels = [
        sent(value=1),
        sent(value="secret", at="labels.csv:3"),
        sent(value=1, groups={"sex": "secret"}),
        sent(value=1, groups={"region": "secret"}),
        sent(),
    ]
    with pytest.raises(UsageError) as refused:
        read("fraud", "binary", SLICES, labels)
    first, second, third, last = str(refused.value).splitlines()
    assert first.startswith("labels.csv:3: the value is a text")
    assert second == "labels[2]: no such group of slice 'sex'; allowed: female, male, other"
    assert third == "labels[3]: no slice 'region'; the service has: sex, age"
    assert last == "labels[4]: has neither a value nor groups"
    assert "secret" not in str(refused.value)


def test_only_the_first_wrong_labels_are_named() -> None:
    with pytest.raises(UsageError, match="and 5 more"):
        read("fraud", "binary", {}, [sent(value=7)] * (MOST_NAMED + 5))
