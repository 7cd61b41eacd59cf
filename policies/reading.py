"""From a document to a model: every problem of the file at once, in our words, each at its place.

Three passes over the same data: keys (unknown, not supported yet, empty), values (pydantic, translated),
and then the rules of the file's kind, which see every piece that is right by itself.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Final, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ..errors import FileError, Problem
from .later import HARMLESS, LATER_KEYS, LATER_VALUES, NULLABLE
from .quantities import WRITTEN, Value, found
from .yaml import MAX_PROBLEMS, Data, Document, KeyPath, dotted

Model = TypeVar("Model", bound=Value)


@dataclass(slots=True)
class Reading:
    """The problems of one document. The first one about a key path silences those at and below it."""

    document: Document
    _problems: list[Problem] = field(default_factory=list[Problem])
    _reported: set[KeyPath] = field(default_factory=set[KeyPath])

    def __post_init__(self) -> None:
        for path, problem in self.document.problems:
            self._problems.append(problem)
            self._reported.add(path)

    def add(self, path: KeyPath, message: str, *, key: bool = False) -> None:
        """Report a problem at a value, or with `key` at the key itself."""
        if self.full or self.covers(path):
            return
        position = self.document.position(path, key=key)
        self._problems.append(
            Problem(self.document.file, position.line, position.column, dotted(path), message)
        )
        if path:
            self._reported.add(path)

    @property
    def full(self) -> bool:
        """True where there are so many problems that further ones are not worth finding."""
        return len(self._problems) > MAX_PROBLEMS

    def silence(self, path: KeyPath) -> None:
        """Say nothing more at and below a path: what is wrong around it is told."""
        self._reported.add(path)

    def covers(self, path: KeyPath) -> bool:
        """True where the path, or something around it, is already reported."""
        return any(path[:length] in self._reported for length in range(1, len(path) + 1))

    def touches(self, path: KeyPath) -> bool:
        """True where the path, or something around or below it, is already reported."""
        return self.covers(path) or any(reported[: len(path)] == path for reported in self._reported)

    def problems(self) -> tuple[Problem, ...]:
        """All problems, in file order; of very many the first."""
        ordered = sorted(self._problems, key=lambda problem: (problem.line, problem.column))
        if self.full:
            last = ordered[MAX_PROBLEMS - 1]
            ordered[MAX_PROBLEMS:] = [
                Problem(last.file, last.line, last.column, "", "and more; mend these first")
            ]
        return tuple(ordered)

    def finish(self) -> None:
        """Raise FileError when there was any problem."""
        if self._problems:
            raise FileError(self.problems())


def keys_of(model: type[Value]) -> dict[str, str]:
    """Key as written -> field name."""
    # Written names stand in validation_alias: type checkers would take `alias` for the constructor's name.
    return {str(info.validation_alias or name): name for name, info in model.model_fields.items()}


def near(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'? ` where a known word is close, else nothing."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'? " if close else ""


def check_keys(model: type[Value], data: dict[str, Data], path: KeyPath, reading: Reading) -> dict[str, Data]:
    """Report keys that may not stand here; the data without them, for the passes to come."""
    fields = keys_of(model)
    later = LATER_KEYS.get(model, {})
    kept: dict[str, Data] = {}
    for key, value in data.items():
        if reading.full:
            break
        here = (*path, key)
        if key in later:
            if HARMLESS.get(model, {}).get(key, ...) != value:
                reading.add(here, f"not supported yet; {later[key]}", key=True)
        elif key not in fields:
            allowed = sorted(set(fields) - set(later))
            reading.add(
                here, f"unknown key; {near(key, {*fields, *later})}allowed: {', '.join(allowed)}", key=True
            )
        elif value is None and key not in NULLABLE.get(model, ()):
            reading.add(here, "found nothing after the key; write a value or remove the key", key=True)
        elif value in (refused := LATER_VALUES.get(model, {}).get(key, ())):
            supported = [word for word in _words(model, fields[key]) if word not in refused]
            reading.add(here, f"{found(value)} is not supported yet; supported: {', '.join(supported)}")
        else:
            kept[key] = _check_below(model.model_fields[fields[key]].annotation, value, here, reading)
    return kept


def validate(model: type[Model], data: Data, path: KeyPath, reading: Reading) -> Model | None:
    """The model of the data, or None after reporting why not."""
    try:
        return model.model_validate(data, context=WRITTEN)
    except ValidationError as problem:
        for error in problem.errors(include_url=False):
            at = (*path, *error["loc"])
            reading.add(at, _message(error))
        return None


def piece(model: type[Model], data: Data) -> Model | None:
    """The model of one piece, or None where it is not right by itself (reported with the whole)."""
    try:
        return model.model_validate(data, context=WRITTEN)
    except ValidationError:
        return None


def _check_below(annotation: object, value: Data, path: KeyPath, reading: Reading) -> Data:
    nested = _models_in(annotation)
    if nested is None:
        return value
    shape, model = nested

    def below(item: Data, *part: str | int) -> Data:
        return check_keys(model, item, (*path, *part), reading) if isinstance(item, dict) else item

    if shape is tuple and isinstance(value, tuple):
        return tuple(below(item, index) for index, item in enumerate(value))
    if shape is dict and isinstance(value, dict):
        return {key: below(item, key) for key, item in value.items()}
    return below(value) if shape is None else value


def _models_in(annotation: object) -> tuple[type | None, type[Value]] | None:
    """The model that an annotation holds, and what holds it: a tuple, a dict, or nothing (None)."""
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return None, annotation
    origin = get_origin(annotation)
    if origin in (Union, UnionType, Annotated):
        inside = (_models_in(part) for part in get_args(annotation))
        return next((nested for nested in inside if nested is not None), None)
    if origin in (tuple, dict):
        inside = (_models_in(part) for part in get_args(annotation))
        return next(((origin, nested[1]) for nested in inside if nested is not None), None)
    return None


def _words(model: type[Value], name: str) -> tuple[str, ...]:
    """The words of a Literal field."""

    def words(annotation: object) -> tuple[str, ...]:
        parts = get_args(annotation)
        return tuple(w for part in parts for w in ((part,) if isinstance(part, str) else words(part)))

    return words(model.model_fields[name].annotation)


_EXPECTED: Final = {
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of at most 15 digits",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list, such as [a, b]",
    "model_type": "a mapping, such as {key: value}",
    "model_attributes_type": "a mapping, such as {key: value}",
    "dict_type": "a mapping, such as {key: value}",
    "none_required": "null",
}
_YES: Final = frozenset({"yes", "on", "y", "true"})
_NO: Final = frozenset({"no", "off", "n", "false"})
_BOUNDS: Final = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _message(error: ErrorDetails) -> str:
    """One of pydantic's errors in our words. Its own text is never shown."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return "this key is required; add it"
    if kind == "value_error":
        return str(context["error"])
    if kind == "too_short":
        return f"found {context['actual_length']} entries; allowed: at least {context['min_length']}"
    if kind == "too_long":
        return f"found more entries than the {context['max_length']} that are allowed"
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", str(context["expected"]))
        hint = near(value, words) if isinstance(value, str) else ""
        return f"found {found(value)}; {hint}allowed: {', '.join(words)}"
    if kind in _BOUNDS:
        name, words_for = _BOUNDS[kind]
        return f"found {found(value)}; allowed: {words_for} {_bound(value, context[name])}"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f'found {found(value)}, which is not text; quote it: "{found(value)}"'
    expected = _EXPECTED.get(kind, "another value, see the reference")
    return f"found {found(value)}; allowed: {expected}{_unquote(kind, value)}"


def _bound(value: object, bound: float) -> str:
    """A bound in the unit in which the value was written."""
    if isinstance(value, str) and value.endswith("%"):
        return f"{bound * 100:g}%"
    return f"{bound:g}" if bound else "0"


def _unquote(kind: str, value: object) -> str:
    """What to change in text that stands where a number or a boolean is expected."""
    if not isinstance(value, str):
        return ""
    if kind in {"float_type", "int_type"} and re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?", value):
        return ", without quotes"
    if kind == "bool_type" and value.lower() in _YES | _NO:
        return f"; write {'true' if value.lower() in _YES else 'false'}, without quotes"
    return ""
