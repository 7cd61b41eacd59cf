"""Texts, sets of labels and vectors: equal where they should agree, absent where there is nothing."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.router.observer.unscored import agree, compared, labels_of, text_of, vector_of


def test_a_text_is_a_fingerprint_that_only_the_same_text_has() -> None:
    assert text_of("a") == text_of("a") != text_of("a ")
    assert text_of("a" * 10**6) != text_of("a" * (10**6 + 1))
    assert text_of("secret") != "secret"
    assert text_of("\ud800") is not None


@pytest.mark.parametrize("value", ["", " \n", None, 3, [], {}, True])
def test_what_is_no_text_is_missing(value: Any) -> None:
    assert text_of(value) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (["a", "b"], ["b", "a"], True),
        (["a", "b", "a"], ["a", "b"], True),
        (["a"], "a", True),
        ([1, 2], ["1", "2.0"], False),
        ([1, 2.0], ["2", "1"], True),
        (["a", "b"], ["a"], False),
        (["ab"], ["a", "b"], False),
        (["1:a"], ["a"], False),
    ],
)
def test_labels_are_a_set(one: Any, other: Any, same: bool) -> None:
    assert (labels_of(one) == labels_of(other)) == same
    assert labels_of(one) is not None


@pytest.mark.parametrize(
    "value", [[], "x" * 300, None, {}, ["a", None], ["a", {}], ["a"] * 5000, [["a", "b"]]]
)
def test_what_is_no_set_of_labels_is_missing(value: Any) -> None:
    assert labels_of(value) is None


@pytest.mark.parametrize(
    "value",
    [
        [], [0, 0.0], [float("nan")], [1, None], [True], ["1"], None, 3, {}, "nonsense", "AAA=", [10**400],
        [[1], [2]],
    ],
)  # fmt: skip
def test_what_is_no_vector_is_missing(value: Any) -> None:
    assert vector_of(value) is None


def test_vectors_may_be_wrapped_or_packed() -> None:
    packed = base64.b64encode(struct.pack("<3f", 1, -0.5, 0)).decode()
    assert vector_of(packed) == vector_of([[1, -0.5, 0]]) == vector_of([[[1.0, -0.5, 0]]]) == (1.0, -0.5, 0.0)
    assert vector_of(base64.b64encode(struct.pack("<2f", 1, float("inf"))).decode()) is None


_NUMBERS = st.lists(
    st.floats(-1e300, 1e300).filter(lambda x: x == 0 or abs(x) > 1e-100), min_size=1, max_size=5
)


@given(_NUMBERS, st.floats(1e-3, 1e3))
def test_a_vector_agrees_with_its_multiples_and_not_with_its_opposite(
    numbers: list[float], by: float
) -> None:
    one, other = vector_of(numbers), vector_of([x * by for x in numbers])
    if one is None or other is None:
        return
    assert agree(one, other, 0.0)
    opposite = tuple(-x for x in one)
    assert agree(one, opposite, 2.0)
    assert not agree(one, opposite, 1.9)


def test_vectors_become_equal_where_they_agree() -> None:
    stable, shadow = compared(
        [(1.0, 0.0), (1.0, 0.0), None, (1.0,)], [(2.0, 0.0), (0.0, 1.0), (1.0,), None, (1.0,)], 0.1
    )
    assert stable == [1.0, 1.0, None, 1.0]
    assert shadow == [1.0, 0.0, 0.0, None, 0.0]
