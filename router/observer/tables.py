"""Rows and columns: MLflow's request formats, SageMaker's free bodies, CSV in both.

MLflow takes `dataframe_split`, `dataframe_records`, `instances`, `inputs` or CSV with a header, and clients
of one model may use different ones: a path that is a column's name is looked up in whichever is there.
"""

from __future__ import annotations

import csv
import io
import re
from typing import Any, Final, NamedTuple, cast

from ..paths import EVERY, MISSING, Accessor, accessor, kind_of, tokens_of
from .decode import decoded, read_json
from .formats import Feature, Json, compiled, only_value

_ROOTS: Final = ("dataframe_split", "dataframe_records", "instances", "inputs", "params")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")


class Csv(NamedTuple):
    """The rows of a CSV body, numbers as numbers; the first may be the header."""

    rows: list[list[Any]]


def read_csv(text: str) -> Csv | None:
    """The rows of a text (RFC 4180), empty lines left out; None where it is none."""
    try:
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error:
        return None
    return Csv([[_cell(cell) for cell in line] for line in lines if line])


def _cell(text: str) -> Any:
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if not text.lstrip("-").isdigit() else int(text)


def _plain_text(body: bytes, encoding: str) -> str | None:
    plain = decoded(body, encoding) if encoding else body
    try:
        return None if plain is None else plain.decode()
    except UnicodeDecodeError:
        return None


class Column:
    """A column of an MLflow request by name, and what the path says within its values."""

    every = True

    def __init__(self, path: str) -> None:
        name, *within = tokens_of(path)
        within = within[1:] if within and within[0] is EVERY else within  # `sex[*]` is `sex`
        self._name = cast("str", name)
        self._within: Accessor | None = accessor(within) if within and EVERY not in within else None
        self._beside = compiled(path)

    def one(self, document: Any) -> Any:  # noqa: ARG002
        """A column has no value for the whole request."""
        return MISSING

    def instances(self, document: Any) -> list[Any] | None:
        """See Feature."""
        values = self._values(document)
        if values is None:
            return self._beside.instances(document)  # no column: a key of an LLM's request
        within = self._within
        return values if within is None else [within.one(value) for value in values]

    def _values(self, document: Any) -> list[Any] | None:
        if isinstance(document, Csv):
            return _of_rows(self._name, document.rows[0], document.rows[1:]) if document.rows else None
        if kind_of(document) is not dict:
            return None
        split = document.get("dataframe_split")
        if kind_of(split) is dict:
            return _of_rows(self._name, split.get("columns"), split.get("data"))
        for key in ("dataframe_records", "instances", "inputs"):
            rows = document.get(key)
            if kind_of(rows) is list:
                return [_value(row, self._name) for row in rows]
            if kind_of(rows) is dict and self._name in rows:
                column = rows[self._name]
                return cast("list[Any]", column) if kind_of(column) is list else [column]
        return None


def _value(row: Any, name: str) -> Any:
    return cast("dict[str, Any]", row).get(name, MISSING) if kind_of(row) is dict else MISSING


def _of_rows(name: str, columns: Any, rows: Any) -> list[Any] | None:
    if kind_of(columns) is not list or kind_of(rows) is not list or name not in columns:
        return None
    at: int = columns.index(name)
    return [row[at] if kind_of(row) is list and at < len(row) else MISSING for row in rows]


class Mlflow(Json):
    """MLflow's scoring server. Without a path: `predictions`, or the text of an LLM's unwrapped answer."""

    def __init__(self, path: str, *, number: bool) -> None:
        super().__init__(path, number=number)
        self._anywhere = not path
        self.every = self.every or self._anywhere

    def found(self, document: Any) -> list[Any] | None:
        """See Json."""
        if not self._anywhere:
            return super().found(document)
        if kind_of(document) is not dict:
            return None
        if "predictions" not in document:
            return _unwrapped(document)
        found = only_value(document["predictions"])
        if kind_of(found) is list:
            return [only_value(value) for value in found]
        return [found]

    def request(self, body: bytes, encoding: str, head: int) -> Any:  # noqa: ARG002
        """See Format."""
        document = read_json(body, encoding)
        if document is not MISSING:
            return document
        text = _plain_text(body, encoding)
        if text is None or text.lstrip()[:1] in {"{", "["}:
            return MISSING
        return read_csv(text) or MISSING

    def feature(self, path: str) -> Feature:
        """See Format."""
        plain = compiled(path)
        root = re.match(r"[^.\[]+", path)
        return plain if root is None or root[0] in {*_ROOTS, "$"} else Column(path)


# Where MLflow's chat, agent and embedding models put what they say (mlflow.types.llm, .agent, .responses).
_SAID: Final = tuple(
    compiled(path)
    for path in (
        "choices[0].message.content",
        "choices[0].text",
        "messages[*].content",
        "output[*].content[0].text",
        "data[*].embedding",
    )
)


def _unwrapped(document: Any) -> list[Any] | None:
    for path in _SAID:
        found = path.instances(document)
        if found:
            return found[-1:] if path is _SAID[2] or path is _SAID[3] else found  # the last one is the answer
    return None


class SageMaker(Json):
    """A SageMaker container: JSON, JSON lines or CSV, as it likes. CSV is a list of rows: `[*][0]`."""

    def predictions(self, body: bytes, encoding: str, head: int) -> list[Any] | None:
        """See Format."""
        document = self.request(body, encoding, head)
        return None if document is MISSING else self.found(document)

    def request(self, body: bytes, encoding: str, head: int) -> Any:  # noqa: ARG002
        """See Format. What begins like JSON is JSON; all else, a single number too, is CSV."""
        text = _plain_text(body, encoding)
        if text is None:
            return MISSING
        if text.lstrip()[:1] not in {"{", "[", '"'}:
            found = read_csv(text)
            return MISSING if found is None else found.rows
        document = read_json(body, encoding)
        return _lines(text) if document is MISSING else document


def _lines(text: str) -> Any:
    """The values of JSON lines, MISSING where one line is none."""
    values: list[Any] = []
    for line in text.splitlines():
        if line.strip():
            value = read_json(line.encode(), "")
            if value is MISSING:
                return MISSING
            values.append(value)
    return values
