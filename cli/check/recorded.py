"""Recorded answers of two versions to the same requests, joined by id, in place of live endpoints.

A file is JSON Lines, one answer a line:

    {"id": "17", "request": {…}, "response": {…}, "status": 200, "latency": 0.012}

`request` is needed in stable's file alone; there `label` may say what was true, and
`groups` what only labels tell. In place of `response`,
`ending` says why there is none: connect, timeout or truncated. An id that only stable's file has is a copy
whose answer is missing: it lowers the coverage. `status` is 200 and `latency` unknown where left out.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from ...errors import AccedeError, FileError, Problem
from ...router.facts import Ending
from ..reading import opened, state_of
from .dataset import Row
from .problems import Problems
from .trial import Answer
from .truth import Sent, Truth


class _Line(msgspec.Struct):
    id: str | int
    request: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    status: Annotated[int, msgspec.Meta(ge=100, le=599)] = 200
    latency: Annotated[float, msgspec.Meta(ge=0.0)] | None = None
    ending: Literal["answered", "connect", "timeout", "truncated"] = "answered"
    unit: str | int = ""
    label: Sent | list[Sent] | None = None
    groups: dict[str, str] = {}


class Answers:
    """One file: ids with the places of their lines. Raises FileError with what is wrong in it."""

    def __init__(self, path: Path, truth: Truth, *, requests: bool) -> None:
        self.path = path
        self._truth = truth
        self.labelled = 0
        self._starts = array("q")
        self.index: dict[str, int] = {}
        self.timed = True
        self._file = opened(path)
        self._was = state_of(self._file)
        try:
            self._scan(requests=requests)
        except AccedeError:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _scan(self, *, requests: bool) -> None:
        problems = Problems(self.path)
        start = self._file.tell()
        for number, text in enumerate(iter(self._file.readline, b""), 1):
            if text.strip():
                self._add(text, number, start, problems, requests=requests)
            start = self._file.tell()
            if problems.full:
                break
        problems.raise_any()
        if not self.index:
            raise FileError((Problem(str(self.path), 1, 1, "", "holds no answer"),))

    def _add(self, text: bytes, number: int, start: int, problems: Problems, *, requests: bool) -> None:
        try:
            line = msgspec.json.decode(text, type=_Line)
        except msgspec.ValidationError as problem:
            # Its words are of types and keys; a value is never in them.
            problems.add(number, f"is no recorded answer: {str(problem).partition(' - at')[0]}")
            return
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            problems.add(number, "is no JSON; a line holds one recorded answer")
            return
        if requests and not bytes(line.request):
            problems.add(number, "has no `request`, which stable's file needs")
        if line.ending == "answered" and not bytes(line.response):
            problems.add(number, "has neither `response` nor an `ending` that says why")
        try:
            self.labelled += bool(self._truth.read(line.label, line.groups).values)
        except ValueError as problem:
            problems.add(number, str(problem))
        if str(line.id) in self.index:
            problems.add(number, "has the id of an earlier line; every answer needs an id of its own")
        self.timed = self.timed and (line.latency is not None or line.ending != "answered")
        self.index[str(line.id)] = len(self._starts)
        self._starts.append(start)

    def line(self, index: int) -> tuple[Row, Answer]:
        """Request and answer at an index."""
        self._file.seek(self._starts[index])
        text = self._file.readline()
        if state_of(self._file) != self._was:
            raise AccedeError(f"{self.path}: has changed while it was read")
        found = msgspec.json.decode(text, type=_Line)
        ending = Ending[found.ending.upper()]
        body = bytes(found.response) if ending == Ending.ANSWERED else b""
        status = found.status if ending == Ending.ANSWERED else 0
        answer = Answer(ending, status, found.latency or 0.0, body, size=len(body))
        label = self._truth.read(found.label, found.groups)
        return Row(index + 1, bytes(found.request), str(found.id), str(found.unit), label), answer


class Joined:
    """Stable's file with the candidate's answers to the same ids."""

    def __init__(self, stable: Path, candidate: Path, truth: Truth) -> None:
        self._stable = Answers(stable, truth, requests=True)
        try:
            self._candidate = Answers(candidate, truth, requests=False)
        except AccedeError:
            self._stable.close()
            raise
        self.labelled = self._stable.labelled
        self._ids = list(self._stable.index)
        self.timed = self._stable.timed and self._candidate.timed
        self.only_candidate = len(self._candidate.index.keys() - self._stable.index.keys())
        if not self._candidate.index.keys() & self._stable.index.keys():
            self.close()
            told = f"has no id in common with {stable}; both must hold answers to the same requests"
            raise FileError((Problem(str(candidate), 1, 1, "", told),))

    def __len__(self) -> int:
        return len(self._ids)

    def close(self) -> None:
        """Close both files."""
        self._stable.close()
        self._candidate.close()

    def units(self) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """A number per row, the same for rows of one unit, 0 for none."""
        known: dict[str, int] = {}
        numbers = (self._stable.line(at)[0].unit for at in range(len(self)))
        return np.array([known.setdefault(u, len(known) + 1) if u else 0 for u in numbers], dtype=np.uint64)

    def stable(self, index: int) -> tuple[Row, Answer]:
        """A request with stable's answer."""
        return self._stable.line(index)

    def candidate(self, index: int) -> Answer | None:
        """The candidate's answer to it; None where there is none."""
        place = self._candidate.index.get(self._ids[index])
        return None if place is None else self._candidate.line(place)[1]

    def pairs(self, order: Iterator[tuple[int, int]]) -> Iterator[tuple[int, Row, Answer, Answer | None]]:
        """(block, request, stable's answer, the candidate's) in an order of (index, block)."""
        for index, block in order:
            row, answer = self.stable(index)
            yield block, row, answer, self.candidate(index)
