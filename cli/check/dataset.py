"""Files of requests: JSON Lines (a whole request a line) or CSV (an instance a row), of any length.

The file is read twice: once to check every row and to remember where it begins, then row by row in the order
of the check. What is kept in memory are three whole numbers a row, never the rows.

A line of JSON Lines is the body of a request. One that has `request`, and beside it nothing but `id`, `unit`,
`label` and `groups`, holds the body there: {"id": "17", "unit": "user-4", "label": 1, "request": {…}}. In a
CSV the columns of these are named by flags.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np
import xxhash

from ...errors import AccedeError, FileError, Problem, UsageError
from ..reading import opened, state_of
from .bodies import body_of
from .problems import Problems
from .truth import UNKNOWN, Label, Sent, Truth

SUFFIXES: Final = (".jsonl", ".ndjson", ".csv")
_ENVELOPE: Final = frozenset({"request", "id", "unit", "label", "groups"})


@dataclass(frozen=True, slots=True)
class Row:
    """One request. `line`: where it stands in the file, from 1."""

    line: int
    body: bytes
    id: str = ""
    unit: str = ""
    label: Label = UNKNOWN


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a CSV that are no feature; '' for none. `groups`: (slice, column)."""

    id: str = ""
    unit: str = ""
    label: str = ""
    groups: tuple[tuple[str, str], ...] = ()


class Dataset:
    """The rows of one file. Raises FileError with what is wrong in it, before anything is sent."""

    def __init__(
        self, path: Path, protocol: str, longest: int, columns: Columns | None = None,
        truth: Truth | None = None,
    ) -> None:  # fmt: skip
        if path.suffix not in SUFFIXES:
            raise UsageError(
                f"{path}: a data set is {', '.join(SUFFIXES)}, found {path.suffix or 'no suffix'}"
            )
        if path.suffix != ".csv" and columns not in {None, Columns()}:
            raise UsageError(
                "--id, --unit, --label and --group name columns of a CSV; a row of JSON Lines is "
                '{"id": …, "unit": …, "label": …, "groups": {…}, "request": {…}}'
            )
        self.path = path
        self._protocol = protocol
        self._longest = longest
        self._columns = columns or Columns()
        self._truth = truth or Truth(None)
        self.labelled = 0
        self._header: list[str] = []
        self._starts, self._lines = array("q"), array("q")
        self._units, self._ids = array("Q"), array("Q")
        self._file = opened(path)
        self._was = state_of(self._file)
        try:
            self._scan()
        except AccedeError:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def units(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """A number per row, the same for rows of one unit; 0 where a row names none."""
        return np.frombuffer(self._units, dtype=np.uint64) if self._units else np.zeros(0, np.uint64)

    def row(self, index: int) -> Row:
        """The row of an index. Raises AccedeError where the file has changed since it was checked."""
        self._file.seek(self._starts[index])
        for start, line, found in self._records(self._starts[index], self._lines[index]):
            if start == self._starts[index] and isinstance(found, Row) and state_of(self._file) == self._was:
                return Row(line, found.body, found.id, found.unit, found.label)
            break
        raise AccedeError(f"{self.path}: has changed while it was read, at line {self._lines[index]}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _scan(self) -> None:
        problems = Problems(self.path)
        if self.path.suffix == ".csv":
            self._read_header()
        for start, line, found in self._records(self._file.tell(), 2 if self._header else 1):
            if isinstance(found, str):
                problems.add(line, found)
                if problems.full:
                    break
                continue
            self._starts.append(start)
            self._lines.append(line)
            self.labelled += bool(found.label.values)
            self._units.append(xxhash.xxh64_intdigest(found.unit.encode()) | 1 if found.unit else 0)
            self._ids.append(xxhash.xxh64_intdigest(found.id.encode()) | 1 if found.id else 0)
        self._check_ids(problems)
        problems.raise_any()
        if not self._starts:
            raise FileError(
                (Problem(str(self.path), 1, 1, "", "holds no row; a data set needs some hundred"),)
            )

    def _check_ids(self, problems: Problems) -> None:
        ids = np.frombuffer(self._ids, dtype=np.uint64) if self._ids else np.zeros(0, np.uint64)
        order = np.argsort(ids, kind="stable")
        same = np.flatnonzero((ids[order][1:] == ids[order][:-1]) & (ids[order][1:] != 0))
        for at in map(int, same):
            first, second = (self._lines[int(order[place])] for place in (at, at + 1))
            problems.add(second, f"the id of line {first} again; every row needs an id of its own, or none")
            if problems.full:
                break

    def _read_header(self) -> None:
        line = self._file.readline(self._longest + 1)
        none: list[str] = []
        try:
            self._header = next(csv.reader([line.decode()], strict=True), none)
        except (UnicodeDecodeError, csv.Error):
            self._header = []
        told = ""
        if len(set(self._header)) < len(self._header) or not any(self._header):
            told = "the first line must name the columns, each once"
        elif "" in self._header:  # what pandas writes for its index
            told = f"column {self._header.index('') + 1} has no name; name it, or leave it out"
        if told:
            raise FileError((Problem(str(self.path), 1, 1, "", told),))
        for flag, name in (
            ("--id", self._columns.id), ("--unit", self._columns.unit), ("--label", self._columns.label),
            *(("--group", column) for _, column in self._columns.groups),
        ):  # fmt: skip
            if name and name not in self._header:
                raise UsageError(
                    f"{flag}: {self.path} has no column {name!r}; it has {', '.join(self._header)}"
                )

    def _records(self, start: int, line: int) -> Iterator[tuple[int, int, Row | str]]:
        """(offset, line, row or what is wrong with it) from an offset on. The file stands there."""
        return self._csv(start, line) if self._header else self._json_lines(start, line)

    def _json_lines(self, start: int, line: int) -> Iterator[tuple[int, int, Row | str]]:
        while text := self._file.readline(self._longest + 2):
            if len(text.strip()) > self._longest:
                yield start, line, f"is longer than a request may be ({self._longest} bytes, limits.body)"
                while text and not text.endswith(b"\n"):
                    text = self._file.readline(self._longest)
            elif text.strip():
                yield start, line, _json_row(line, text, self._truth)
            start = self._file.tell()
            line += 1

    def _csv(self, start: int, line: int) -> Iterator[tuple[int, int, Row | str]]:
        reader = csv.reader(self._csv_lines(), strict=True)
        while True:
            before = reader.line_num
            try:
                fields = next(reader)
            except StopIteration:
                return
            except (csv.Error, UnicodeDecodeError) as problem:
                told = "is not UTF-8" if isinstance(problem, UnicodeDecodeError) else "is no CSV"
                yield start, line, told
                reader = csv.reader(self._csv_lines(), strict=True)
                line, start = line + 1, self._file.tell()
                continue
            if fields:
                yield start, line, self._csv_row(line, fields)
            line += reader.line_num - before
            start = self._file.tell()

    def _csv_lines(self) -> Iterator[str]:
        while text := self._file.readline(self._longest + 2):
            if len(text) > self._longest:
                raise csv.Error("too long")
            yield text.decode()

    def _csv_row(self, line: int, fields: list[str]) -> Row | str:
        if len(fields) != len(self._header):
            return f"has {len(fields)} fields where the first line names {len(self._header)} columns"
        row = dict(zip(self._header, fields, strict=True))
        id_ = row.pop(self._columns.id, "")
        unit = row.pop(self._columns.unit, "")
        told = {name: row.get(column, "") for name, column in self._columns.groups}
        for _, column in self._columns.groups:
            row.pop(column, None)
        try:
            label = self._truth.read(
                row.pop(self._columns.label, "") or None,
                {name: group for name, group in told.items() if group},
            )
            body = body_of(self._protocol, row)
        except ValueError as problem:
            return str(problem)
        return Row(line, body, id_, unit, label)


def _json_row(line: int, text: bytes, truth: Truth) -> Row | str:
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "is no JSON; a line holds one whole request"
    if not isinstance(document, dict):
        return f"is no object but {_kind(document)}; a line holds one whole request"
    keys = cast("dict[str, Any]", document)
    if "request" not in keys or not _ENVELOPE.issuperset(keys):
        return Row(line, text.strip())
    try:
        raw = msgspec.json.decode(text, type=_Envelope)
        label = truth.read(raw.label, raw.groups)
    except msgspec.ValidationError:
        return "has an id or a unit that is neither text nor a whole number, or a label that is no value"
    except ValueError as problem:
        return str(problem)
    return Row(line, bytes(raw.request), str(raw.id), str(raw.unit), label)


class _Envelope(msgspec.Struct):
    request: msgspec.Raw
    id: str | int = ""
    unit: str | int = ""
    label: Sent | list[Sent] | None = None
    groups: dict[str, str] = {}


def _kind(document: Any) -> str:
    return "a list" if isinstance(document, list) else "a single value"
