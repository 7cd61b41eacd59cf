"""Server-sent events in a captured answer, and when each of its bytes arrived.

The format is the WHATWG HTML standard's, section 9.2.6: lines end in CR, LF or CRLF, an event ends at an
empty line, and what has no empty line after it was not sent in full. Works on the whole captured body, so
it does not matter where the pieces were cut on their way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

_BOM: Final = b"\xef\xbb\xbf"
_ENDS: Final = frozenset(b"\r\n")
_LINES: Final = 2**18  # at half a microsecond each; a hostile body of empty lines must not take seconds


class Event(NamedTuple):
    """One event. `end`: bytes of the body up to and with its empty line; `name`: its `event` field."""

    end: int
    name: bytes
    data: bytes


def is_stream(body: bytes) -> bool:
    """True where a body begins like an event stream and not like a JSON value."""
    start = body[:256].removeprefix(_BOM).lstrip(b"\r\n")
    return start.startswith((b"data:", b":", b"event:", b"id:", b"retry:", b"data\n", b"data\r"))


def events(body: bytes) -> Iterator[Event]:
    """The complete events that have data, in order. What comes after _LINES lines is not read."""
    at = len(_BOM) if body.startswith(_BOM) else 0
    name = b""
    data: list[bytes] = []
    # bytes.splitlines knows exactly the three ends of lines that the standard names.
    lines = body[at:].splitlines(keepends=True) if body.count(b"\n") + body.count(b"\r") <= _LINES else ()
    for line in lines:
        at += len(line)
        if line[0] in _ENDS:
            if data:
                yield Event(at, name, data[0] if len(data) == 1 else b"\n".join(data))
                data = []
            name = b""
            continue
        if line[-1] not in _ENDS:
            return  # the last line, cut off
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")


def seconds_at(marks: Sequence[tuple[int, float]], end: int) -> float | None:
    """When the first `end` bytes of a body had arrived: at the last mark if after it, None without marks."""
    for size, seconds in marks:
        if size >= end:
            return seconds
    return marks[-1][1] if marks else None
