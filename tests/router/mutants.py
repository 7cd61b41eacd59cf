"""Hypothesis strategies: HTTP messages that are nearly right."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

CHUNKED = b'3;a="b"\r\nabc\r\n0\r\nDigest: x\r\n\r\n'
REQUESTS = (
    b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: x:80\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED,
    b"GET /p?a=b HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\r\n",
    b"GET http://x/p HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /p HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"HEAD /p HTTP/1.1\r\nHost: x\r\nX-Request-Id: a-b\r\n\r\n",
    b"POST /p HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: a/b\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nDigest: x\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.0 200 OK\r\n\r\nas long as it lasts",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 5\r\n\r\n',
    b"HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno",
)
CHUNKS = (
    b"5\r\nhello\r\n0\r\n\r\n",
    b'a;b=c;d="e"\r\n0123456789\r\n1\r\nx\r\n0;f\r\nDigest: x\r\nServer-Timing: y\r\n\r\n',
    b"0\r\n\r\n",
    b"1F\r\n0123456789012345678901234567890\r\n000\r\n\r\n",
)
PIECES = st.sampled_from(
    [
        b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b"\x0b", b"\x7f", b"\xa0", b"\xff", b":", b": ", b",",
        b";", b"=", b'"', b"\\", b"-", b"+", b"_", b"0", b"5", b"0x5", b"f" * 16, b"\r\n\r\n", b"\r\n ",
        b"0\r\n\r\n", b"Content-Length: 0\r\n", b"Content-Length: 7\r\n", b"content_length: 7\r\n", b"5, 5",
        b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"chunked", b"100", b"204",
        b"transfer-encoding:\tchunked \r\n", b"Host: x\r\n", b"Host: y\r\n", b"Connection: close\r\n",
        b"Connection: host\r\n", b"Upgrade: h2c\r\n", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"A: b\r\n",
        b"GET /p HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ]
)  # fmt: skip


@st.composite
def mutants(draw: st.DrawFn, messages: tuple[bytes, ...], most: int = 3) -> bytes:
    """A valid message with up to `most` edits: insert, remove, repeat, overwrite or cut short."""
    data = draw(st.sampled_from(messages))
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, len(data)))
        upto = min(len(data), at + draw(st.integers(0, 20)))
        match draw(st.integers(0, 4)):
            case 0:
                data = data[:at] + draw(PIECES) + data[at:]
            case 1:
                data = data[:at] + data[upto:]
            case 2:
                data = data[:upto] + data[at:upto] + data[upto:]
            case 3:
                data = data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[at + 1 :]
            case _:
                data = data[:at]
    return data


CUTS = st.lists(st.integers(1, 200), max_size=6).map(sorted)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces that end at `cuts`."""
    edges = [0, *[at for at in cuts if at < len(data)], len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]
