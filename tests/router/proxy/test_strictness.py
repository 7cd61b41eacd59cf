"""What two parsers could read differently: properties of the strict parsers beside an independent one.

Over sockets: test_raw_requests, test_raw_responses; arbitrary bytes: test_fuzz.
"""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accede.router.proxy.chunks import ChunkReader
from accede.router.proxy.heads import FIRST_UNIT, Malformed, Names, parse_request, parse_response


@pytest.mark.parametrize("name", [b"Content_Length", b"transfer_encoding", b"X_Request_Id", b"x_accede-arm"])
def test_a_name_that_becomes_another_behind_cgi_goes_no_further(name: bytes) -> None:
    head = parse_request(b"GET /p HTTP/1.1\r\nHost: x\r\n" + name + b": 5\r\nA_b: c\r\n\r\n", Names())
    assert head is not None
    assert (head.length, head.fields) == (0, b"Host: x\r\nA_b: c\r\n")


def test_a_unit_header_may_have_an_underscore() -> None:
    assert Names((b"user_id",))[b"User_Id"] == FIRST_UNIT


@pytest.mark.parametrize("spelling", [b"Chunked", b"CHUNKED", b"chunked\t", b"\tchunked"])
def test_the_coding_goes_on_in_its_plain_spelling_alone(spelling: bytes) -> None:
    data = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: " + spelling + b"\r\nA: chunked\r\n\r\n"
    head = parse_request(data, Names())
    assert head is not None
    assert head.fields == b"Host: x\r\nA: chunked\r\ntransfer-encoding: chunked\r\n"


@pytest.mark.parametrize("status", [b"200", b"204", b"304", b"103"])
def test_a_length_that_is_no_number_is_refused_even_where_no_body_follows(status: bytes) -> None:
    with pytest.raises(Malformed):
        parse_response(b"HTTP/1.1 " + status + b" A\r\nContent-Length: x\r\n\r\n", Names(), bodyless=True)


class _Collected:
    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.headed = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.headed = True


_pieces = st.sampled_from(
    [
        b"GET", b"POST", b" ", b"/", b"/p", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r",
        b"Host", b": ", b":", b"x", b"a-b", b"Content-Length", b"3", b"Transfer-Encoding", b"chunked",
        b"\t", b"\0", b"\x7f", b"\xe9", b",", b"Connection", b"close",
    ]
)  # fmt: skip


@given(st.lists(_pieces, max_size=12).map(b"".join))
@example(b"A: b\r\nC:\td \r\n")
def test_whatever_we_accept_llhttp_reads_the_same(fields: bytes) -> None:
    data = b"POST /p HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n"
    try:
        head = parse_request(data, Names())
    except Malformed:
        return
    if head is None or head.end != len(data):
        return
    seen = _Collected()
    parser = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        return
    assert seen.headed
    ours = [line.partition(b":") for line in data[: head.end - 4].split(b"\r\n")[1:]]
    assert [(name, value.strip(b" \t")) for name, value in seen.fields] == [
        (name, value.strip(b" \t")) for name, _, value in ours
    ]


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.lists(st.integers(1, 400), max_size=8),
    st.booleans(),
)
def test_chunks_read_the_same_however_they_are_cut(
    payloads: list[bytes], cuts: list[int], trailers: bool
) -> None:
    wire = b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in payloads)
    wire += b"0\r\n" + (b"A: b\r\n" if trailers else b"") + b"\r\n"
    data, at = wire + b"NEXT", 0
    reader = ChunkReader()
    passed = b""
    pieces: list[bytes] = []
    for cut in [*sorted(cuts), len(data)]:
        if at < min(cut, len(data)) and not reader.done:
            passed += reader.feed(data[at:cut], pieces)
            at = min(cut, len(data))
    assert reader.done
    assert passed == wire
    assert b"".join(pieces) == b"".join(payloads)
    assert reader.payload == len(b"".join(payloads))
    assert reader.rest + data[at:] == b"NEXT"
