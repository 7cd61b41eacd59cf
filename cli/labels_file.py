"""A file of labels: CSV with the columns request_id and value, or JSON Lines with those keys.

Further columns of a CSV are slices, and hold the group that only feedback knows. What is wrong in the form
of a line is said with its number; what a value may be knows the controller, which has the service's file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

import msgspec

from ..errors import FileError, Problem, UsageError
from .reading import opened

SUFFIXES: Final = (".csv", ".jsonl", ".ndjson")
MOST_PROBLEMS: Final = 20
_LONGEST: Final = 2**18  # bytes of a line
_LONGEST_ID: Final = 1000  # characters, as the controller takes them

Value = bool | float | str


class LabelLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One label as it is sent. `at`: file and line."""

    request_id: str
    value: Value | list[Value] | None = None
    groups: dict[str, str] = {}
    at: str = ""


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    request_id: str | int
    value: Value | list[Value] | None = None
    groups: dict[str, str] = {}


def check(path: Path) -> int:
    """How many labels the file holds. Raises FileError with its wrong lines, UsageError for its name."""
    problems: list[Problem] = []
    count = 0
    for line, found in _lines(path):
        if isinstance(found, str):
            problems.append(Problem(str(path), line, 1, "", found))
            if len(problems) == MOST_PROBLEMS:
                break
        count += 1
    if problems:
        raise FileError(tuple(problems))
    if not count:
        raise FileError((Problem(str(path), 1, 1, "", "holds no label"),))
    return count


def labels(path: Path) -> Iterator[LabelLine]:
    """The labels of a file that has been checked. Raises FileError where it has changed meanwhile."""
    for line, found in _lines(path):
        if isinstance(found, str):
            raise FileError((Problem(str(path), line, 1, "", found),))
        yield found


def _lines(path: Path) -> Iterator[tuple[int, LabelLine | str]]:
    """(line, label or what is wrong with it)."""
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"{path}: a file of labels is {', '.join(SUFFIXES)}, found {path.suffix or 'no suffix'}"
        )
    try:
        if path.suffix == ".csv":
            with TextIOWrapper(opened(path), encoding="utf-8", newline="") as text:
                yield from _csv(path, text)
        else:
            with opened(path) as lines:
                yield from _json(path, lines)
    except UnicodeDecodeError:
        raise FileError((Problem(str(path), 1, 1, "", "is not UTF-8"),)) from None


def _json(path: Path, lines: Any) -> Iterator[tuple[int, LabelLine | str]]:
    number = 0
    while text := lines.readline(_LONGEST + 1):
        number += 1
        if len(text) > _LONGEST:
            yield number, f"is longer than a label may be ({_LONGEST} bytes)"
            while text and not text.endswith(b"\n"):
                text = lines.readline(_LONGEST)
        elif text.strip():
            yield number, _json_line(path, number, text)


def _json_line(path: Path, number: int, text: bytes) -> LabelLine | str:
    try:
        found = msgspec.json.decode(text, type=_Line)
    except msgspec.ValidationError as problem:
        return f"is no label ({problem})"  # names keys and kinds, never a value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "is no JSON"
    return _checked(LabelLine(str(found.request_id), found.value, found.groups, f"{path}:{number}"))


def _csv(path: Path, text: Any) -> Iterator[tuple[int, LabelLine | str]]:
    reader = csv.reader(text, strict=True)
    none: list[str] = []
    try:
        header = next(reader, none)
        if not {"request_id", "value"} <= set(header) or len(set(header)) < len(header):
            told = "the first line must name the columns request_id and value, each once"
            raise FileError((Problem(str(path), 1, 1, "", told),))
        for fields in reader:
            if fields:
                yield reader.line_num, _csv_line(path, reader.line_num, header, fields)
    except csv.Error:
        yield reader.line_num, "is no CSV"


def _csv_line(path: Path, number: int, header: list[str], fields: list[str]) -> LabelLine | str:
    if len(fields) != len(header):
        return f"has {len(fields)} fields where the first line names {len(header)} columns"
    row = dict(zip(header, fields, strict=True))
    # A request id is the value of a header, which has no space around it.
    request, value = row.pop("request_id").strip(), row.pop("value").strip()
    groups = {name: group for name, group in row.items() if group}
    return _checked(LabelLine(request, value or None, groups, f"{path}:{number}"))


def _checked(line: LabelLine) -> LabelLine | str:
    if not line.request_id.strip():
        return "has no request_id"
    if len(line.request_id) > _LONGEST_ID:
        return f"has a request_id of more than {_LONGEST_ID} characters"
    if line.value == [] or (line.value is None and not line.groups):
        return "has no value"
    return line
