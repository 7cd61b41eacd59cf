"""A model's name in a request's body: every other byte stays where it was."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.router.proxy.rewriting import rewritten


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"model": "a", "n": 1}', '{"model": "NEW", "n": 1}'),
        ('{"n":1,"model":"a"}', '{"n":1,"model":"NEW"}'),
        ('\t{ "model"\n:\r "a" }\n', '\t{ "model"\n:\r "NEW" }\n'),
        ('{"model":"a\\"b\\\\","x":"\\"model\\":"}', '{"model":"NEW","x":"\\"model\\":"}'),
        ('{"x":{"model":"a"},"y":[{"model":1}]}', '{"model": "NEW", "x":{"model":"a"},"y":[{"model":1}]}'),
        ('{"model":"a","x":{"model":"b"},"model":"c"}', '{"model":"NEW","x":{"model":"b"},"model":"NEW"}'),
        ('{"mod\\u0065l":"a"}', '{"mod\\u0065l":"NEW"}'),
        ('{"model":"a","mod\\u0065l":"b"}', '{"model":"NEW","mod\\u0065l":"NEW"}'),
        ('{"\\model":1}', None),
        ('{"model":{"model":[1,"]"]},"x":2}', '{"model":"NEW","x":2}'),
        ('{"x":["model"],"model":[{}] ,"y":"model"}', '{"x":["model"],"model":"NEW" ,"y":"model"}'),
        ('{"model":null}', '{"model":"NEW"}'),
        ('{"model":-1.5e3,"t":NaN}', '{"model":"NEW","t":NaN}'),
        ('{"t":-Infinity,"model":true }', '{"t":-Infinity,"model":"NEW" }'),
        ('{"n":' + "9" * 6000 + ',"x":1e999,"model":""}', '{"n":' + "9" * 6000 + ',"x":1e999,"model":"NEW"}'),
        ('{"\\u00e9":1,"model":"x"}', '{"\\u00e9":1,"model":"NEW"}'),
        ('{"a":1,"a":2,"model":"x","u":"\\ud800"}', '{"a":1,"a":2,"model":"NEW","u":"\\ud800"}'),
        ("{}", '{"model": "NEW"}'),
        (" { } ", ' { "model": "NEW"} '),
        ('{"x":"é€😀","model":"ü"}', '{"x":"é€😀","model":"NEW"}'),
        ('["model","a"]', None), ('"model"', None), ("", None), ("nul", None), ('{"model":"a"', None),
        ('{"model":"a",}', None), ('{"model":"a"} x', None), ("{'model':'a'}", None),
        ('\ufeff{"model":"a"}', None), ('{"model":"a\nb"}', None), ('{"model":tru}', None),
    ],
)  # fmt: skip
def test_a_model_is_named_and_nothing_else_changes(body: str, expected: str | None) -> None:
    got = rewritten(body.encode(), b"NEW")
    assert got == (None if expected is None else expected.encode())


def test_a_name_is_escaped_as_json_wants_it() -> None:
    for name in ('a"b\\c\n', "modèle/été 😀", ""):
        got = rewritten(b'{"model": "x"}', name.encode())
        assert got is not None
        assert json.loads(got) == {"model": name}


@pytest.mark.parametrize(
    "body", [b'{"model":"\xff"', b"\xff\xfe{\x00}\x00", '{"model":"a"}'.encode("utf-16")]
)
def test_other_encodings_than_utf_8_stay_untouched(body: bytes) -> None:
    assert rewritten(body, b"NEW") is None


def test_strings_that_are_not_utf_8_are_the_servers_business() -> None:
    assert rewritten(b'{"x\xff\\n":"\xff","model":"a"}', b"NEW") == b'{"x\xff\\n":"\xff","model":"NEW"}'


def test_a_name_that_is_not_utf_8_is_never_written() -> None:
    assert rewritten(b'{"model": "x"}', b"\xff") is None


@pytest.mark.parametrize("piece", [b"[", b'{"a":', b'"\\"', b'"model":', b"\\u", b'{"model":[', b"{"])
def test_hostile_bodies_end_in_none_and_do_not_recurse(piece: bytes) -> None:
    assert rewritten(b'{"model":"a","x":' + piece * 200_000, b"NEW") is None


def test_long_bodies_of_any_content_are_rewritten() -> None:
    for filler in ('\\"' * 300_000, "model" * 100_000, "\\u0041" * 100_000, "{" * 500_000):
        body = b'{"x":"' + filler.encode() + b'","model":"a"}'
        assert rewritten(body, b"NEW") == body[:-3] + b'NEW"}'


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
_NAMES = st.sampled_from(["model", "Model", "n", "messages", "", 'mo"del', "modèle"]) | _TEXT
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=12,
)


@st.composite
def _written(draw: st.DrawFn) -> list[tuple[str, str, str, str]]:
    """Members of an object, duplicates among them: name, what is before its value, value, what is after."""
    space = st.sampled_from(["", " ", "\n\t ", "\r\n"])
    members: list[tuple[str, str, str, str]] = []
    for name, value in draw(st.lists(st.tuples(_NAMES, _VALUES), max_size=5)):
        key = json.dumps(name, ensure_ascii=draw(st.booleans()))
        if name == "model" and draw(st.booleans()):
            key = '"' + "".join(f"\\u{ord(char):04x}" for char in name) + '"'
        before = f"{draw(space)}{key}{draw(space)}:{draw(space)}"
        shown = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        members.append((name, before, shown, draw(space)))
    return members


@given(_written(), _TEXT)
def test_only_the_values_of_top_level_models_differ(
    written: list[tuple[str, str, str, str]], name: str
) -> None:
    new = msgspec.json.encode(name).decode()
    body = "{" + ",".join(before + value + after for _, before, value, after in written) + "}"
    expected = ",".join(
        before + (new if key == "model" else value) + after for key, before, value, after in written
    )
    if all(key != "model" for key, *_ in written):
        space = len(expected) - len(expected.lstrip(" \n\r\t"))
        expected = f'{expected[:space]}"model": {new}{", " if written else ""}{expected[space:]}'
    got = rewritten(body.encode(), name.encode())
    assert got is not None
    assert got == ("{" + expected + "}").encode()
    assert json.loads(got) == {**json.loads(body), "model": name}
