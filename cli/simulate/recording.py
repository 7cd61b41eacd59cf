"""Recordings of the router (router.observer.recorder) as rows: one request, with the answers that are known.

An `exchange` of stable is a request of which only stable's answer is known. A `pair` or `pair-back` is one
of which both are. Exchanges that a candidate answered are left out: stable's answer to them is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from ...errors import FileError, Problem
from ...router.facts import Ending
from ..reading import opened

_ENDINGS: Final = {ending.name.lower(): int(ending) for ending in Ending}

Known = float | str | None


@dataclass(frozen=True, slots=True)
class Side:
    """One version's answer. `values`: predictions, None where one is missing."""

    ending: int
    status: int
    latency: float
    values: tuple[Known, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `candidate` None: not recorded. `fields`: recorded path -> value, of the request."""

    at: float
    unit: int
    stable: Side
    candidate: Side | None
    fields: dict[str, Any]


_At = Annotated[float, msgspec.Meta(ge=0.0, le=1e11)]  # seconds since 1970; the year 5138
_Status = Annotated[int, msgspec.Meta(ge=0, le=599)]
_Latency = Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]


class _Answer(msgspec.Struct):
    status: _Status
    latency: _Latency
    ending: str
    predictions: list[Known] = []


class _Line(msgspec.Struct):
    v: Literal[1]
    kind: str
    at: _At
    arm: str = "stable"
    served: str = "stable"
    ending: str = "answered"
    status: _Status = 0
    latency: _Latency = 0.0
    unit: int = -1
    excluded: bool = False
    predictions: list[Known] = []
    request: dict[str, Any] = {}
    stable: _Answer | None = None
    candidate: _Answer | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """All requests in order of time. `left_out`: lines of no use here. `cut`: unfinished last lines."""

    requests: tuple[Request, ...]
    left_out: int
    cut: int

    @property
    def seconds(self) -> float:
        """From the first to the last request."""
        return self.requests[-1].at - self.requests[0].at


def read(path: Path, *, pairs: bool) -> Recorded:
    """The recording in a file, or in all .jsonl files of a folder, rotated ones in their order.

    `pairs`: requests of which both answers are known; else stable's own. Raises FileError: nothing of use in
    it, or a line in the middle that cannot be read (the last of a file may be cut by a crash).
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    found: list[Request] = []
    left_out = cut = 0
    for file in files:
        for line in _lines(file):
            if line is None:
                cut += 1
                continue
            request = _request(line, pairs=pairs)
            if request is None:
                left_out += 1
            else:
                found.append(request)
    found.sort(key=lambda request: request.at)
    if len(found) < 2 or found[0].at == found[-1].at:  # noqa: PLR2004  (one moment is no time)
        what = "pairs" if pairs else "exchanges of stable"
        told = f"holds no recorded {what} of two moments or more (.jsonl of `recording`)"
        raise FileError((Problem(str(path), 1, 1, "", told),))
    return Recorded(tuple(found), left_out, cut)


def _lines(file: Path) -> Iterator[_Line | None]:
    decoder = msgspec.json.Decoder(_Line)
    with opened(file) as whole:
        texts = whole.read().split(b"\n")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            yield decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            if number == len(texts):
                yield None
                continue
            why = (
                str(problem).partition(" - at")[0] if isinstance(problem, msgspec.DecodeError) else "no JSON"
            )
            told = f"is no line of a recording: {why}"
            raise FileError((Problem(str(file), number, 1, "", told),)) from None


def _request(line: _Line, *, pairs: bool) -> Request | None:
    if pairs:
        if line.kind not in {"pair", "pair-back"} or line.stable is None or line.candidate is None:
            return None
        stable, candidate = _side(line.stable), _side(line.candidate)
        return Request(line.at, line.unit, stable, candidate, line.request)
    if line.kind != "exchange" or line.arm != "stable" or line.excluded or line.ending not in _ENDINGS:
        return None
    side = Side(_ENDINGS[line.ending], line.status, line.latency, tuple(line.predictions))
    return Request(line.at, line.unit, side, None, line.request)


def _side(answer: _Answer) -> Side:
    ending = _ENDINGS.get(answer.ending, int(Ending.TRUNCATED))
    return Side(ending, answer.status, answer.latency, tuple(answer.predictions))
