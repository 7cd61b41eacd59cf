# ruff: noqa: E501  (tables of cases)
"""Restricted YAML: what people write keeps its meaning, and nothing hides or repeats meaning."""

from __future__ import annotations

import os
import time
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from accede.errors import FileError, Problem
from accede.policies.load import load_service, parse_policy, parse_service
from accede.policies.text import MAX_BYTES, Position, read_file
from accede.policies.yaml import MAX_DEPTH, Document, load_yaml

HOSTILE = [
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"a: &a [*a, *a]",
    b'a: "\\UFFFFFFFF"',
    b'a: "\\ud800"',
    b"%YAML 99999999999999999999.1\n--- a",
    b"%YAML " + b"9" * 5000 + b".1\n--- a",
    b"? [a, b]\n: c",
    b"? {a: b}\n: c",
    b"- ? a",
    b"!!python/object/apply:os.system ['true']",
    b"a: !!binary aGVsbG8=",
    b"{" * 500,
    b"[" * 100_000,
    b"- " * 60_000,
    b"a: " * 40_000,
    b"? " * 60_000,
    b"{a: " * 30_000,
    b"a: |\n" + b" \n" * 30_000,
    b'"' + b"a " * 60_000,
    b"a: 1" + b"0" * 100_000,
    b"\t" * 100_000,
    b"#" * MAX_BYTES,
    b"\n" * MAX_BYTES,
    b"a: b\n" * 20_000,
    b"&a " * 40_000,
    b"!a " * 40_000,
    b"---\n" * 30_000,
    b"*a: b",
    b"<<: {a: b}",
    b"x" * (MAX_BYTES + 1),
    b"".join(b"key%d: a\n" % number for number in range(11_000)),
    b"kind: RolloutPolicy\ngates: [" + b"{metric: erors}," * 8_000 + b"]",
    b"kind: RolloutPolicy\nsteps: [" + b"{canary: 5}," * 10_000 + b"]",
    b"kind: ModelService\nversions: {" + b"".join(b"v%d: {}," % number for number in range(12_000)) + b"}",
]


def refused(text: str | bytes) -> list[str]:
    """What is wrong, whether or not it stopped the reading."""
    try:
        return [str(problem) for _, problem in load_yaml(text, "f.yaml").problems]
    except FileError as wrong:
        return [str(problem) for problem in wrong.problems]


def value_of(text: str) -> object:
    document = load_yaml(f"k: {text}\n", "f.yaml")
    assert document.problems == ()
    return document.data["k"]


@pytest.mark.parametrize(
    "text",
    ["yes", "no", "on", "off", "True", "FALSE", "y", "2026-02-01", "2026-02-01 10:00:00", "12:30", "190:20:30",
     "0755", "0o17", "0x1f", "1_000", "1e3", "1.", ".5", "+1", ".inf", ".nan", "NULL", "Null", "500-599", "5%", "10m",
     "9" * 40],
)  # fmt: skip
def test_what_other_readers_convert_stays_text(text: str) -> None:
    assert value_of(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("false", False), ("null", None), ("~", None), ("", None), ("0", 0), ("-7", -7), ("42", 42),
     ("0.5", 0.5), ("-0.25", -0.25), ('"42"', "42"), ("'true'", "true"), ('"null"', "null"), ("[1, a]", (1, "a")),
     ("{a: {b: 1}}", {"a": {"b": 1}})],
)  # fmt: skip
def test_plain_values(text: str, value: object) -> None:
    found = value_of(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: a: this key was already given in line 1, column 1; keep one"),
        ("a: {b: 1, b: 2}\n", "f.yaml:1:11: a.b: this key was already given in line 1, column 5"),
        ("42: a\n", 'f.yaml:1:1: 42: a key must be text; quote it: write "42":'),
        ("true: a\n", 'a key must be text; quote it: write "true":'),
        ("a: {null: 1}\n", 'f.yaml:1:5: a.null: a key must be text; quote it: write "null":'),
        (": a\n", "f.yaml:1:1"),
        ("? [a]\n: b\n", "f.yaml:1:3: a key must be text"),
        ("a: &x 1\n", "f.yaml:1:4: a: anchors (&name) are not allowed"),
        ("a: &x 1\nb: *x\n", "f.yaml:2:4: b: aliases (*name) are not allowed"),
        ("&x a: 1\n", "anchors and tags are not allowed on a key"),
        ("a: !!str 1\n", "f.yaml:1:4: a: tags (!name) are not allowed; quote the value if it is text"),
        ("a: !x [1]\n", "f.yaml:1:4: a: tags (!name) are not allowed"),
        ("a: 1\n<<: {b: 2}\n", 'f.yaml:2:1: ["<<"]: merge keys (<<) are not allowed'),
        ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document; write one document per file"),
        ("%YAML 1.1\n---\na: 1\n", "f.yaml:1:1: directives (%YAML, %TAG) are not allowed"),
        ("a: 1234567890123456\n", "f.yaml:1:4: a: a number of more than 15 digits; quote it if it is text"),
        ('a: "\\0"\n', "f.yaml:1:4: a: a control character in the text; remove it"),
        ("a: b: c\n", "f.yaml:1:5: a ':' is not allowed here"),
        ("a:\n\t- b\n", "f.yaml:2:1: a tab cannot indent; use spaces"),
        ('a: "b\n', "the file ends inside quotes; close them"),
        ("a: [1, 2\nb: 1\n", "a list that is not closed"),
        ("a: {b: 1\n", "a mapping that is not closed"),
        ("a: 1\n b: 2\n", "f.yaml:2:3: a ':' is not allowed here"),
        ("", "f.yaml:1:1: the file is empty; it begins with format: accede/v1"),
        ("# only a comment\n", "f.yaml:1:1: the file is empty"),
        ("- a\n", "f.yaml:1:1: the file must be a mapping that begins with format: accede/v1"),
        ("just text\n", "f.yaml:1:1: the file must be a mapping"),
        (b"a: b\nc: \xff\n", "f.yaml:2:4: not UTF-8; save the file as UTF-8"),
        (b"a: b\nc: d\x00\n", "f.yaml:2:5: the character U+0000 is not allowed; remove it"),
        ("a: b\r\nc: \x1b[0m\r\n", "f.yaml:2:4: the character U+001B is not allowed"),
        ("a: \u202eb\n", "f.yaml:1:4: the character U+202E is not allowed"),
        (b"a" * (MAX_BYTES + 1), "f.yaml:1:1: the file is larger than 128 KiB"),
        ("a: " + "[" * MAX_DEPTH, f"f.yaml:1:{3 + MAX_DEPTH}: nested more than 16 levels deep"),
    ],
)  # fmt: skip
def test_what_hides_or_breaks_meaning_is_refused_at_its_place(text: str | bytes, told: str) -> None:
    found = refused(text)
    assert any(told in line for line in found), found


def test_problems_that_leave_the_rest_readable_come_together() -> None:
    assert len(refused("a: &x 1\nb: !t 2\na: 3\n7: 4\n")) == 4


def test_positions_of_keys_and_values() -> None:
    document: Document = load_yaml("\ufeffa:\n  - {b: 1}\n  - c\n", "f.yaml")
    assert document.position(("a",), key=True) == Position(1, 1)
    assert document.position(("a", 0, "b"), key=True) == Position(2, 6)
    assert document.position(("a", 0, "b")) == Position(2, 9)
    assert document.position(("a", 1)) == Position(3, 5)
    assert document.position(("a", 1, "missing", "x")) == Position(3, 5)
    assert document.position(("nowhere",)) == Position(1, 1)


class TestFiles:
    def told(self, path: Path) -> str:
        with pytest.raises(FileError) as raised:
            load_service(path)
        assert len(raised.value.problems) == 1
        return str(raised.value)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        assert self.told(tmp_path / "a.yaml") == f"{tmp_path}/a.yaml:1:1: no such file"

    def test_a_directory(self, tmp_path: Path) -> None:
        assert "not a regular file" in self.told(tmp_path) or "is a directory" in self.told(tmp_path)

    def test_a_pipe_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert "not a regular file" in self.told(tmp_path / "pipe")

    def test_a_device_that_never_ends(self) -> None:
        assert "not a regular file" in self.told(Path("/dev/zero"))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_a_file_nobody_may_read(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.touch(mode=0o000)
        assert "permission denied" in self.told(path)

    @pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
    def test_a_name_no_file_can_have(self, name: str) -> None:
        assert "cannot be read" in self.told(Path(name))

    def test_a_folder_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        assert "cannot be read" in self.told(tmp_path / "a" / "b.yaml")

    def test_a_large_file_is_not_read_to_its_end(self, tmp_path: Path) -> None:
        path = tmp_path / "large.yaml"
        with path.open("wb") as file:
            file.truncate(2**33)
        assert len(read_file(path)) == MAX_BYTES + 1
        assert "larger than" in self.told(path)


def tried(content: bytes) -> None:
    """Any bytes give a value or FileError whose every line names the file."""
    for parse in (parse_service, parse_policy):
        problems: tuple[Problem, ...] = ()
        try:
            parse(content, file="f.yaml")
        except FileError as wrong:
            problems = wrong.problems
            text = str(wrong)
        else:
            continue
        assert 0 < len(problems) <= 101
        assert all(str(problem).startswith("f.yaml:") for problem in problems)
        assert text.encode()  # nothing that cannot be shown


@pytest.mark.parametrize("content", HOSTILE, ids=[repr(content[:24]) for content in HOSTILE])
def test_hostile_bytes_end_in_a_clear_error(content: bytes) -> None:
    before = time.process_time()
    tried(content)
    # No timing is promised; quadratic behaviour on files of the allowed size would take minutes.
    assert time.process_time() - before < 60


@given(st.binary(max_size=300))
@settings(max_examples=200)
@example(b"format: \xc3\xa9")
def test_any_bytes_give_a_value_or_an_error(content: bytes) -> None:
    tried(content)


_WORDS = st.sampled_from(
    ["format: accede/v1\n", "kind: ModelService\n", "kind: RolloutPolicy\n", "name: a\n", "steps:\n", "gates: ", "[", "]",
     "{", "}", "  - ", "shadow: 5%", "canary: 5%", ", ", "\n", "  ", "versions: ", '"42": ', "url: ", "metric: errors",
     "&a ", "*a", "!t ", "- ", "? ", ": ", "slices: ", "null", "true", "7", "0.5", "'", '"', "|\n", ">\n", "#", "---\n",
     "match: ", "path: /a\n", "unit: ", "risk: ", "breaker: ", "in: ", "on_error: ", "card: ", "prediction: "],
)  # fmt: skip


@given(st.lists(_WORDS, max_size=60).map("".join))
@settings(max_examples=300)
def test_any_arrangement_of_the_language_gives_a_value_or_an_error(text: str) -> None:
    tried(text.encode())


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8)
    | st.sampled_from(["5%", "10m", "0.5pp", "64KiB", "errors", "shadow", "request"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
_KEYS = st.sampled_from(
    ["name", "match", "protocol", "versions", "stable", "candidate", "policy", "unit", "side_effects", "errors",
     "prediction", "slices", "limits", "capture", "mirror", "uncertainty", "risk", "baseline", "batch", "max_duration",
     "steps", "gates", "breaker", "on_fail", "on_error", "unattended", "windows"],
)  # fmt: skip


@given(st.dictionaries(_KEYS, _VALUES, max_size=8))
@settings(max_examples=300)
def test_any_value_under_any_key_gives_a_value_or_an_error(data: dict[str, object]) -> None:
    import json

    for kind in ("ModelService", "RolloutPolicy"):
        # JSON is YAML, and quotes every key.
        tried(json.dumps({"format": "accede/v1", "kind": kind, **data}).encode())
