"""Requests whose framing two parsers could read differently never reach an upstream."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from accede.router.facts import Placed
from accede.router.proxy.chunks import ChunkReader
from accede.router.proxy.heads import MAX_FIELDS, MAX_HEAD, Malformed, Names, parse_request, parse_response
from tests.router.conftest import Connection, UpstreamProcess, WorkerProcess, exchange, post, route

POST = b"POST /p HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
REJECTED = {
    "both lengths": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "length list": (POST + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "signed length": (POST + b"Content-Length: +3\r\n\r\nabc", 400),
    "hex length": (POST + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "empty length": (POST + b"Content-Length:\r\n\r\n", 400),
    "huge length": (POST + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
    "space before colon": (POST + b"Content-Length : 3\r\n\r\nabc", 400),
    "obs-fold": (POST + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n", 400),
    "bare LF": (b"POST /p HTTP/1.1\nHost: x\n\n", 400),
    "bare LF in fields": (b"POST /p HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    "bare CR": (POST + b"A: b\rc\r\n\r\n", 400),
    "NUL": (POST + b"A: b\0c\r\n\r\n", 400),
    "no Host": (b"POST /p HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 400),
    "two Hosts": (POST + b"Host: x\r\n\r\n", 400),
    "strange Host": (b"POST /p HTTP/1.1\r\nHost: x/y@z\r\n\r\n", 400),
    "gzip coding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "chunked twice": (CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    "chunked for 1.0": (b"POST /p HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding with tab inside": (POST + b"Transfer-Encoding: x\tchunked\r\n\r\n", 501),
    "bad chunk size": (CHUNKED + b"\r\nzz\r\n", 400),
    "chunk size with sign": (CHUNKED + b"\r\n-1\r\n", 400),
    "long chunk": (CHUNKED + b"\r\n1\r\nab\r\n0\r\n\r\n", 400),
    "chunk bare LF": (CHUNKED + b"\r\n1\na\r\n", 400),
    "framing named by Connection": (POST + b"Connection: content-length\r\nContent-Length: 1\r\n\r\na", 400),
    "other version": (b"POST /p HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    "no target": (b"POST  HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "other authority": (b"POST http://a/p HTTP/1.1\r\nHost: b\r\n\r\n", 400),
    "tunnel": (b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n", 501),
    "websocket": (b"GET /p HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 501),
    "expectation": (POST + b"Expect: 200-maybe\r\n\r\n", 417),
    "long head": (b"GET /p HTTP/1.1\r\nHost: x\r\nA: " + b"x" * MAX_HEAD + b"\r\n\r\n", 431),
    "many fields": (b"GET /p HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * MAX_FIELDS + b"\r\n", 431),
    "declared too large": (POST + b"Content-Length: 2000\r\n\r\n", 413),
    "chunked too large": (CHUNKED + b"\r\n5dc\r\n" + b"x" * 1500, 413),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
}  # fmt: skip


@pytest.fixture(scope="module")
def worker(stable: UpstreamProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    running = WorkerProcess(tmp_path_factory.mktemp("strict"))
    running.apply(Placed(route(stable.url, max_body=1000), 0))
    yield running
    assert running.stop() == ""


@pytest.mark.parametrize("case", REJECTED)
def test_ambiguous_requests_are_refused_and_the_connection_ends(worker: WorkerProcess, case: str) -> None:
    data, status = REJECTED[case]
    client = Connection(worker.port)
    client.send(data)
    assert client.answer().status == status
    client.socket.shutdown(1)
    assert client.ended()
    client.close()


def test_nothing_hidden_behind_a_refused_request_is_served(
    start_worker: Callable[..., WorkerProcess], start_upstream: Callable[..., UpstreamProcess]
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url), 0))
    client = Connection(worker.port)
    client.send(REJECTED["both lengths"][0] + post("/p", b"smuggled"))
    assert client.answer().status == 400
    assert client.ended()
    client.close()
    exchange(worker.port, post("/p", b"honest"))
    assert [request["text"] for request in upstream.seen() if request["text"]] == ["honest"]


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\nA: b\n\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
    ],
)
def test_malformed_responses_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_response(data, Names(), bodyless=False)


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
