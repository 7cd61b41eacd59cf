"""Bodies to predictions and slices: by path, for every protocol, and whatever a stranger sends."""

from __future__ import annotations

import gzip
import json
import math
import time
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.errors import WireError
from accede.router.observer.decode import MAX_DECODED, decoded, read_json
from accede.router.observer.extract import MAX_INSTANCES, Extractor, Grouping
from accede.router.paths import MISSING, compile_path
from accede.store.measurement import Extraction, SlicePlan, group_names

DOCUMENT = {"a": {"b": [{"c": 1}, {"c": 2}, {}]}, "list": [3, 4], "text": "abc"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.b[0].c", [1]),
        ("a.b[1].c", [2]),
        ("a.b[2].c", None),
        ("a.b[9].c", None),
        ("a.b[*].c", [1, 2, MISSING]),
        ("list[*]", [3, 4]),
        ("list[1]", [4]),
        ("text[0]", None),  # a letter of a text is no prediction
        ("text[*]", None),
        ("a[*]", None),
        ("a.b.c", None),
        ("list.0", None),
        ("nothing", None),
    ],
)
def test_a_path_finds_what_is_there_and_nothing_else(path: str, expected: list[Any] | None) -> None:
    assert compile_path(path).instances(DOCUMENT) == expected


def test_a_path_may_begin_with_an_index() -> None:
    assert compile_path("[*].p").instances([{"p": 1}, {"p": 2}]) == [1, 2]
    assert compile_path("[1]").one([5, 6]) == 6


@pytest.mark.parametrize("path", ["", "a..b", "a[", "a[-1]", "a[x]", "a[*][*]", "a[*].b[*]", "a]", "a[0]b"])
def test_what_is_no_path_is_refused_when_compiled(path: str) -> None:
    with pytest.raises(WireError):
        compile_path(path)


def number(path: str, protocol: str = "json", slices: tuple[SlicePlan, ...] = ()) -> Extractor:
    return Extractor(Extraction(path, "number", slices=slices), protocol, frozenset(s.name for s in slices))


def label(path: str) -> Extractor:
    return Extractor(Extraction(path, "label"), "json")


@pytest.mark.parametrize("protocol", ["tensorflow-serving", "kserve-v1"])
def test_the_protocol_says_where_predictions_are(protocol: str) -> None:
    assert number("", protocol).predictions(b'{"predictions": [0.25, [0.5], [[0.75]], 1]}', "") == [
        0.25, 0.5, 0.75, 1.0,
    ]  # fmt: skip


def test_json_without_a_path_and_a_path_that_cannot_be_read_find_nothing() -> None:
    assert number("").predictions(b'{"predictions": [1]}', "") == []
    assert number("a[*][*]").predictions(b'{"a": [[1]]}', "") == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.5", 0.5), ("1", 1.0), ("-3e2", -300.0), ("NaN", None), ("Infinity", None), ("-Infinity", None),
        ("null", None), ("true", None), ('"0.5"', None), ("[0.5]", 0.5), ("[0.5, 0.6]", None), ("[]", None),
        ("{}", None), ("1e999", None), ("1" * 400, None), ("1" * 5000, None), ("[[[[[0.5]]]]]", None),
    ],
)  # fmt: skip
def test_only_finite_numbers_are_usable(value: str, expected: float | None) -> None:
    found = number("p").predictions(f'{{"p": {value}}}'.encode(), "")
    assert found in ([expected], [] if expected is None else [expected])


def test_one_nan_spoils_no_other_prediction() -> None:
    assert number("p[*]").predictions(b'{"p": [0.5, NaN, 0.25]}', "") == [0.5, None, 0.25]


@pytest.mark.parametrize(
    ("value", "expected"),
    [('"yes"', "yes"), ("1", "1"), ("1.0", "1"), ("0.5", "0.5"), ("true", "true"), ("null", None),
     ("NaN", None), ('["no"]', "no"), ('"\\ud800"', None), (json.dumps("x" * 257), None), ("9" * 4000, None)],
)  # fmt: skip
def test_labels_are_texts(value: str, expected: str | None) -> None:
    assert label("p").predictions(f'{{"p": {value}}}'.encode(), "") == [expected]


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "deflate", "identity", "", "gzip, identity"])
def test_content_codings_are_undone(encoding: str) -> None:
    plain = b'{"p": 0.5}'
    body = plain
    if "gzip" in encoding.lower():
        body = gzip.compress(plain)
    elif encoding == "deflate":
        body = zlib.compress(plain)
    assert number("p").predictions(body, encoding) == [0.5]


def test_raw_deflate_and_several_gzip_members_are_read() -> None:
    raw = zlib.compressobj(wbits=-15)
    assert decoded(raw.compress(b"abc") + raw.flush(), "deflate") == b"abc"
    assert decoded(gzip.compress(b"ab") + gzip.compress(b"c"), "gzip") == b"abc"


BOMB = gzip.compress(b" " * (MAX_DECODED + 1))


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (BOMB, "gzip"),
        (gzip.compress(BOMB), "gzip, gzip"),
        (gzip.compress(b"") * 5000, "gzip"),
        (gzip.compress(b"{}")[:-4], "gzip"),
        (b"{}", "gzip"),
        (b"{}", "br"),
        (b"{}", "deflate"),
        (b"{}", "gzip, gzip, gzip, gzip, gzip"),
    ],
    # Named, because a compressed body carries the time and pytest would make a name of it.
    ids=["bomb", "bomb twice", "many members", "cut", "no gzip", "br", "no deflate", "five times"],
)
def test_bombs_broken_and_unknown_codings_have_no_prediction(body: bytes, encoding: str) -> None:
    assert read_json(body, encoding) is MISSING
    assert number("p").predictions(body, encoding) == []


HOSTILE = [
    b"[" * 250_000,
    b'{"p":' * 50_000,
    b'{"p": ' + b"9" * 250_000 + b"}",
    b'{"p": 1e' + b"9" * 250_000 + b"}",
    b'{"p": "' + b"\xff\xfe" * 1000 + b'"}',
    b'{"p": "\\ud800"}',
    b"\x00" * 1000,
    b"",
    b"null",
    b"{",
    b'{"p": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"p": [' + b"0," * 125_000 + b"0]}",
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("kind", ["number", "label"])
def test_a_hostile_body_never_raises_and_takes_no_time(body: bytes, kind: Any) -> None:
    slices = (SlicePlan("s", "p[*].x", ("a",)), SlicePlan("t", "p", (), (0.0, 1.0)))
    extractor = Extractor(Extraction("p[*]", kind, slices=slices), "json", frozenset({"s", "t"}))
    began = time.process_time()
    values, groups = extractor.exchange(body, "", body, "")
    assert time.process_time() - began < 5  # seconds; milliseconds are usual, quadratic work takes minutes
    assert all(value is None or isinstance(value, str) or math.isfinite(value) for value in values)
    assert len(groups) == 2


@given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate", "br"]))
def test_any_bytes_are_survived(body: bytes, encoding: str) -> None:
    for extractor in (number("p[*].x"), label("p[0]"), number("[*]")):
        for value in extractor.predictions(body, encoding):
            assert value is None or isinstance(value, str) or math.isfinite(value)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("px"), inner, max_size=2),
    max_leaves=8,
)


@given(json_values, json_values)
def test_any_json_gives_as_many_groups_as_predictions(request: Any, response: Any) -> None:
    slices = (SlicePlan("s", "p[*].x", ("a",)), SlicePlan("t", "x", (), (0.0, 1.0)))
    extractor = number("p[*]", slices=slices)
    values, groups = extractor.exchange(json.dumps(request).encode(), "", json.dumps(response).encode(), "")
    assert all(value is None or (isinstance(value, float) and math.isfinite(value)) for value in values)
    for group in groups:
        assert isinstance(group, int) or not values or len(group) == len(values)


def test_too_many_instances_have_no_prediction() -> None:
    body = json.dumps({"p": [0] * (MAX_INSTANCES + 1)}).encode()
    assert number("p[*]").predictions(body, "") == []


class TestSlices:
    SEX = SlicePlan("sex", "i[*].sex", ("f", "m"))
    COUNTRY = SlicePlan("country", "country", ("de", "fr"))
    AGE = SlicePlan("age", "i[*].age", bins=(0, 25, 40.5))

    def exchange(self, request: Any, response: Any, path: str = "p[*]", *slices: SlicePlan) -> Any:
        extractor = number(path, slices=slices)
        return extractor.exchange(json.dumps(request).encode(), "", json.dumps(response).encode(), "")

    def test_instances_are_matched_by_position(self) -> None:
        request = {"i": [{"sex": "m"}, {"sex": "f"}, {"sex": "x"}], "country": "fr"}
        values, groups = self.exchange(request, {"p": [1, 2, 3]}, "p[*]", self.SEX, self.COUNTRY)
        assert (values, groups) == ([1.0, 2.0, 3.0], ([1, 0, 2], 1))

    def test_an_instance_that_is_not_answered_is_missing(self) -> None:
        values, groups = self.exchange({"i": [{"sex": "m"}, {"sex": "f"}]}, {"p": [1]}, "p[*]", self.SEX)
        assert (values, groups) == ([1.0, None], ([1, 0],))

    def test_a_prediction_without_an_instance_is_in_other(self) -> None:
        values, groups = self.exchange({"i": [{"sex": "m"}]}, {"p": [1, 2]}, "p[*]", self.SEX)
        assert (values, groups) == ([1.0, 2.0], ([1, 2],))

    def test_one_prediction_of_several_instances_is_the_first_ones(self) -> None:
        values, groups = self.exchange({"i": [{"sex": "m"}, {"sex": "f"}]}, {"p": 1}, "p", self.SEX)
        assert (values, groups) == ([1.0], (1,))

    def test_a_crossed_slice_has_the_combinations_and_other_where_any_part_is(self) -> None:
        both = SlicePlan("x", "", cross=(self.SEX, self.AGE))
        assert group_names(both)[:4] == ("f/[0,25)", "f/[25,40.5)", "f/[40.5,inf)", "m/[0,25)")
        assert len(group_names(both)) == 7
        people = [("f", 1), ("f", 50), ("m", 30), ("x", 30), ("m", -1), (None, None)]
        request = {"i": [{"sex": sex, "age": age} for sex, age in people]}
        _, groups = self.exchange(request, {"p": list(range(6))}, "p[*]", both)
        assert groups == ([0, 2, 4, 6, 6, 6],)

    def test_a_part_that_holds_for_the_whole_request_is_crossed_with_every_instance(self) -> None:
        both = SlicePlan("x", "", cross=(self.COUNTRY, self.SEX))
        request = {"i": [{"sex": "m"}, {"sex": "f"}], "country": "fr"}
        _, groups = self.exchange(request, {"p": [1, 2]}, "p[*]", both, self.SEX)
        assert groups == ([3, 2], [1, 0])
        _, groups = self.exchange({"country": "fr"}, {"p": [1]}, "p[*]", both)
        assert groups == (4,)

    def test_without_an_answer_the_groups_are_known_all_the_same(self) -> None:
        values, groups = self.exchange({"i": [{"sex": "m"}, {"sex": "f"}]}, {}, "p[*]", self.SEX)
        assert (values, groups) == ([], ([1, 0],))

    def test_a_broken_request_is_in_other(self) -> None:
        extractor = number("p", slices=(self.SEX, self.COUNTRY))
        assert extractor.exchange(b"{", "", b'{"p": 1}', "") == ([1.0], (2, 2))

    @pytest.mark.parametrize(
        ("age", "group"),
        [(-1, 3), (0, 0), (24.9, 0), (25, 1), (40.4, 1), (40.5, 2), (1e9, 2), (None, 3), ("30", 3), (True, 3),
         ([30], 1), (float("nan"), 3), (10**30, 2)],
    )  # fmt: skip
    def test_bins_take_their_lower_edge(self, age: Any, group: int) -> None:
        assert Grouping(self.AGE).of(age) == group

    @pytest.mark.parametrize(
        ("value", "group"), [("1", 0), (1, 0), (1.0, 0), (True, 1), ("true", 1), (["1"], 0), ({}, 2), (2, 2)]
    )
    def test_values_are_compared_as_text(self, value: Any, group: int) -> None:
        assert Grouping(SlicePlan("s", "x", ("1", "true"))).of(value) == group

    def test_groups_are_named_as_the_file_writes_them(self) -> None:
        assert group_names(self.AGE) == ("[0,25)", "[25,40.5)", "[40.5,inf)", "other")
        assert group_names(self.SEX) == ("f", "m", "other")
