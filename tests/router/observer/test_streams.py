"""The event stream format, line by line, whoever cut it and however hostile it is."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.router.observer.streams import Event, events, is_stream, seconds_at


def told(body: bytes) -> list[bytes]:
    return [event.data for event in events(body)]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_lines_end_in_any_of_three_ways(end: bytes) -> None:
    parts = [
        [b": hello", b"data: one", b"", b""],
        [b"data:two", b"data: 2", b"", b""],
        [b"event: x", b"", b"data", b"", b""],
    ]
    one, two, three = (end.join(part) for part in parts)
    assert list(events(one + two + three)) == [
        Event(len(one), b"", b"one"),
        Event(len(one + two), b"", b"two\n2"),
        Event(len(one + two + three), b"", b""),
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),  # only one mark is taken off
        (b"data:  a\n\n", [b" a"]),  # one space belongs to the colon
        (b"data: a: b\n\n", [b"a: b"]),
        (b"datax: a\n\n data: a\n\nDATA: a\n\n", []),
        (b"id: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"data: a\n\ndata: b\n", [b"a"]),  # no empty line: not sent in full
        (b"data: a\n\ndata: b", [b"a"]),
        (b"data: a", []), (b"", []), (b"\n\n\r\r", []), (b"data: a\r\n\r\ndata: b\r\r", [b"a", b"b"]),
        (b"data: a\n\r\ndata: \xff\n\n", [b"a", b"\xff"]),
    ],
)  # fmt: skip
def test_fields_comments_marks_and_cut_ends(body: bytes, expected: list[bytes]) -> None:
    assert told(body) == expected


def test_an_event_has_the_name_of_its_own_field() -> None:
    body = b"event: error\ndata: a\n\ndata: b\n\nevent:x\n\ndata: c\n\n"
    assert [(event.name, event.data) for event in events(body)] == [
        (b"error", b"a"),
        (b"", b"b"),
        (b"", b"c"),
    ]


@given(st.binary(max_size=200) | st.text("data: \r\n\ufeffx", max_size=60).map(str.encode))
def test_any_bytes_are_read_and_ends_grow(body: bytes) -> None:
    ends = [event.end for event in events(body)]
    assert ends == sorted(set(ends))
    assert all(0 < end <= len(body) for end in ends)


@given(
    st.lists(st.sampled_from(["data: a", "data: b", ": c", "event: e", "", "id: 1"]), max_size=12), st.data()
)
def test_what_arrived_so_far_is_always_a_beginning_of_the_whole(
    lines: list[str], data: st.DataObject
) -> None:
    body = "".join(line + data.draw(st.sampled_from(["\n", "\r\n"])) for line in lines).encode()
    whole = list(events(body))
    cut = data.draw(st.integers(0, len(body)))
    part = list(events(body[:cut]))
    # A CR whose LF has not come ends its line already, so the same event may end one byte earlier.
    assert [(e.name, e.data) for e in part] == [(e.name, e.data) for e in whole[: len(part)]]
    assert len([event for event in whole if event.end <= cut]) <= len(part)


@pytest.mark.parametrize("piece", [b"\n", b"\r", b"data:x\n\n", b":\n", b"data:\n", b"x"])
def test_hostile_streams_end(piece: bytes) -> None:
    body = piece * (4 * 2**20 // len(piece))
    began = time.monotonic()
    for _ in events(body):
        pass
    assert time.monotonic() - began < 10  # quadratic would take hours


def test_streams_are_told_from_documents() -> None:
    for stream in (
        b"data: {}",
        b": ping",
        b"event: x",
        b"\xef\xbb\xbfdata:",
        b"\r\n\ndata: x",
        b"id:",
        b"data\n",
    ):
        assert is_stream(stream)
    for document in (b'{"data": 1}', b"[1]", b"", b'"data:"', b"database", b" {", b"NaN"):
        assert not is_stream(document)


def test_a_byte_has_the_time_of_the_piece_that_brought_it() -> None:
    marks = [(10, 0.1), (25, 0.4), (40, 0.5)]
    assert [seconds_at(marks, end) for end in (1, 10, 11, 25, 40, 99)] == [0.1, 0.1, 0.4, 0.4, 0.5, 0.5]
    assert seconds_at([], 5) is None
