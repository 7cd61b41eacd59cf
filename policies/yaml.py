"""Restricted YAML: one text becomes plain data, with the position of every key and value.

What people write keeps its meaning: only `true` and `false` are booleans, only plain decimals are
numbers, `null`, `~` and nothing are null, and everything else is text (dates, `12:30`, `0755`, `yes`,
`1e3`). Whatever could hide or repeat meaning is refused at its place: duplicate and non-text keys,
anchors, aliases, merge keys, tags, directives and further documents. Size and depth are bounded, and
the reader takes events one by one, so a hostile file costs no more than an honest one of its size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import yaml as pyyaml

from ..errors import FileError, Problem
from .text import START, UNWANTED, Position, decode, fatal, shorten

MAX_DEPTH: Final = 16  # the language itself needs 5
MAX_PROBLEMS: Final = 100  # nobody reads more, and a hostile file could cause thousands
MAX_DIGITS: Final = 15  # what a float holds exactly

KeyPath: TypeAlias = tuple[str | int, ...]
Data: TypeAlias = "bool | int | float | str | tuple[Data, ...] | dict[str, Data] | None"

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_WORDS: Final[dict[str, bool | None]] = {"true": True, "false": False, "null": None, "~": None, "": None}
# What PyYAML says, in our words; anything else is quoted after "not valid YAML".
_SYNTAX: Final = (
    (
        "mapping values are not allowed",
        "a ':' is not allowed here; put the text in quotes, or check the indentation",
    ),
    ("found character '\\t'", "a tab cannot indent; use spaces"),
    ("could not find expected ':'", "a key without ':'; write `key: value`"),
    ("found unexpected end of stream", "the file ends inside quotes; close them"),
    ("found undefined alias", "aliases (*name) are not allowed; write the value out"),
    ("expected ',' or ']'", "a list that is not closed; write ',' or ']'"),
    ("expected ',' or '}'", "a mapping that is not closed; write ',' or '}'"),
    ("expected <block end>", "the indentation does not fit the lines above"),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A file's data, and where each value and key stands. Its problems did not stop the reading."""

    file: str
    data: dict[str, Data]
    values: Mapping[KeyPath, Position]
    keys: Mapping[KeyPath, Position]
    problems: tuple[tuple[KeyPath, Problem], ...]

    def position(self, path: KeyPath, *, key: bool = False) -> Position:
        """Where a value (or its key) stands; what is missing stands where its nearest parent does."""
        if key and path in self.keys:
            return self.keys[path]
        while path not in self.values and path:
            path = path[:-1]
        return self.values.get(path, START)


def dotted(path: KeyPath) -> str:
    """A key path as users read it: `gates[2].max_shift`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w-]+", part):
            text += f".{part}" if text else part
        else:
            text += f'["{shorten(part)}"]'
    return text


def load_yaml(content: bytes | str, file: str, begins: str = "begins with format: accede/v1") -> Document:
    """The document in `content`; `begins`: how such a file begins, for who wrote none.

    Raises FileError where the text cannot be read to its end as one mapping.
    """
    text = decode(content, file)
    builder = _Builder(file)
    try:
        data = builder.document(pyyaml.parse(text, Loader=pyyaml.SafeLoader))
    except pyyaml.YAMLError as problem:
        raise FileError((*builder.found(), _syntax(problem, file))) from None
    except (ValueError, OverflowError):
        # PyYAML meets escapes such as "\UFFFFFFFF" and huge directive numbers with Python's own errors.
        raise fatal(file, START, "not valid YAML: an escape or number is out of range") from None
    if data is None and not builder.values:
        raise fatal(file, START, f"the file is empty; it {begins}")
    if not isinstance(data, dict):
        message = f"the file must be a mapping that {begins}"
        raise FileError((*builder.found(), Problem(file, *builder.at(()), "", message)))
    return Document(file, data, builder.values, builder.keys, tuple(builder.problems))


def _syntax(problem: pyyaml.YAMLError, file: str) -> Problem:
    mark = getattr(problem, "problem_mark", None) or getattr(problem, "context_mark", None)
    said = str(getattr(problem, "problem", None) or getattr(problem, "context", None) or "cannot be read")
    message = next(
        (ours for theirs, ours in _SYNTAX if theirs in said), f"not valid YAML: {shorten(said, 120)}"
    )
    return Problem(file, mark.line + 1 if mark else 1, mark.column + 1 if mark else 1, "", message)


@dataclass(slots=True)
class _Builder:
    """Turns events into data. Problems that leave the rest readable are collected with their key path."""

    file: str
    values: dict[KeyPath, Position] = field(default_factory=dict[KeyPath, Position])
    keys: dict[KeyPath, Position] = field(default_factory=dict[KeyPath, Position])
    problems: list[tuple[KeyPath, Problem]] = field(default_factory=list[tuple[KeyPath, Problem]])
    events: Iterator[pyyaml.Event] = field(default_factory=lambda: iter(()))
    depth: int = 0

    def found(self) -> tuple[Problem, ...]:
        return tuple(problem for _, problem in self.problems)

    def at(self, path: KeyPath) -> tuple[int, int]:
        position = self.values.get(path, START)
        return position.line, position.column

    def document(self, events: Iterator[pyyaml.Event]) -> Data:
        self.events = events
        data: Data = None
        documents = 0
        for event in self.events:
            if isinstance(event, pyyaml.DocumentStartEvent):
                documents += 1
                if event.version or event.tags:
                    self._refuse((), event, "directives (%YAML, %TAG) are not allowed; remove them")
                if documents > 1:
                    self._refuse(("---",), event, "a second document; write one document per file", shown=())
                    break
                data = self._node(self._next(), ())
        return data

    def _next(self) -> pyyaml.Event:
        event = next(self.events)
        if isinstance(event, pyyaml.CollectionStartEvent):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                problem = Problem(self.file, *_place(event), "", f"nested more than {MAX_DEPTH} levels deep")
                raise FileError((*self.found(), problem))
        elif isinstance(event, pyyaml.CollectionEndEvent):
            self.depth -= 1
        return event

    def _refuse(self, path: KeyPath, event: pyyaml.Event, message: str, shown: KeyPath | None = None) -> None:
        key = dotted(path if shown is None else shown)
        if len(self.problems) > MAX_PROBLEMS:
            return
        self.problems.append((path, Problem(self.file, *_place(event), key, message)))

    def _node(self, event: pyyaml.Event, path: KeyPath) -> Data:
        self.values[path] = Position(*_place(event))
        if isinstance(event, pyyaml.AliasEvent):
            self._refuse(path, event, "aliases (*name) are not allowed; write the value out")
            return None
        self._refuse_decoration(path, event)
        if isinstance(event, pyyaml.ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, pyyaml.SequenceStartEvent):
            items: list[Data] = []
            while not isinstance(event := self._next(), pyyaml.SequenceEndEvent):
                items.append(self._node(event, (*path, len(items))))
            return tuple(items)
        return self._mapping(path)

    def _refuse_decoration(self, path: KeyPath, event: pyyaml.Event) -> None:
        if getattr(event, "anchor", None) is not None:
            self._refuse(
                path, event, "anchors (&name) are not allowed; write the value out where it is needed"
            )
        if getattr(event, "tag", None) is not None:
            self._refuse(path, event, "tags (!name) are not allowed; quote the value if it is text")

    def _mapping(self, path: KeyPath) -> dict[str, Data]:
        data: dict[str, Data] = {}
        while not isinstance(event := self._next(), pyyaml.MappingEndEvent):
            key = self._key(event, path)
            value = self._next()
            if key is not None and key in data:
                first = self.keys[(*path, key)]
                where = f"line {first.line}, column {first.column}"
                self._refuse((*path, key), event, f"this key was already given in {where}; keep one")
                key = None
            if key is None:
                self._skip(value)
                continue
            self.keys[(*path, key)] = Position(*_place(event))
            data[key] = self._node(value, (*path, key))
        return data

    def _key(self, event: pyyaml.Event, path: KeyPath) -> str | None:
        """The key as text, or None where it is refused."""
        if not isinstance(event, pyyaml.ScalarEvent):
            self._skip(event)
            self._refuse((*path, "?"), event, "a key must be text", shown=path)
            return None
        written = shorten(event.value)
        if event.anchor is not None or event.tag is not None:
            self._refuse(
                (*path, event.value), event, "anchors and tags are not allowed on a key; remove them"
            )
            return None
        if event.implicit[0] and event.value == "<<":
            self._refuse((*path, "<<"), event, "merge keys (<<) are not allowed; write the keys out")
            return None
        if event.implicit[0] and not isinstance(_plain(event.value), str):
            quoted = f'write "{written}":' if written else "write the key before ':'"
            self._refuse(
                (*path, event.value), event, f"a key must be text; quote it: {quoted}" if written else quoted
            )
            return None
        if UNWANTED.search(event.value):
            self._refuse((*path, event.value), event, "a control character in a key; remove it")
            return None
        return event.value

    def _skip(self, event: pyyaml.Event) -> None:
        """Pass over one node; `_next` still bounds its depth."""
        outside = self.depth - 1
        if isinstance(event, pyyaml.CollectionStartEvent):
            while self.depth > outside:
                self._next()

    def _scalar(self, event: pyyaml.ScalarEvent, path: KeyPath) -> Data:
        value = _plain(event.value) if event.implicit[0] else str(event.value)
        if isinstance(value, str) and UNWANTED.search(value):
            self._refuse(path, event, "a control character in the text; remove it")
            return ""
        if isinstance(value, int | float) and len(event.value.strip("-").partition(".")[0]) > MAX_DIGITS:
            self._refuse(path, event, f"a number of more than {MAX_DIGITS} digits; quote it if it is text")
            return 0
        return value


def _place(event: pyyaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (START.line, START.column)


def _plain(text: str) -> bool | float | str | None:
    """What an unquoted scalar means."""
    if text in _WORDS:
        return _WORDS[text]
    number = _NUMBER.fullmatch(text) if len(text) <= 2 * MAX_DIGITS else None
    if number is None:
        return text
    return float(text) if number[2] else int(text)
