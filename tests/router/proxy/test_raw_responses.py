"""Response desync, byte by byte: what a broken or hostile upstream sends, and what clients may see of it.

After each case another request must get its own answer, and nobody ever sees the word STRAY.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator

import pytest

from accede.router.facts import Placed
from accede.router.proxy.chunks import LONGEST_TRAILERS
from accede.router.proxy.heads import MAX_FIELDS, MAX_HEAD
from accede.store.routes import RouteReadiness
from tests.router.conftest import Connection, WorkerProcess, exchange, route, wait_for
from tests.router.raw_upstream import Canary, RawUpstream, Script, Step, Wire

OK = b"HTTP/1.1 200 OK\r\n"
TE = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HELLO = b"5\r\nhello\r\n"
LAST = b"0\r\n\r\n"
STRAY = OK + b"Content-Length: 5\r\n\r\nSTRAY"
GET = b"GET"
_OURS = re.compile(rb"(?:x-request-id|x-accede-[a-z]+): [^\r]*\r\n")

# Nothing of these reaches the client but a 502 of ours.
REFUSED: dict[str, Script] = {
    # --- framing
    "CL then TE": [OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSTRAY"],
    "TE then CL": [OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nSTRAY"],
    "CL twice, equal": [OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "CL twice, different": [OK + b"Content-Length: 0\r\ncontent-length: 5\r\n\r\nSTRAY"],
    "CL list": [OK + b"Content-Length: 5, 5\r\n\r\nSTRAY"],
    "CL with plus": [OK + b"Content-Length: +5\r\n\r\nSTRAY"],
    "CL with minus": [OK + b"Content-Length: -5\r\n\r\nSTRAY"],
    "CL hexadecimal": [OK + b"Content-Length: 0x5\r\n\r\nSTRAY"],
    "CL empty": [OK + b"Content-Length:\r\n\r\nSTRAY"],
    "CL over 64 bits": [OK + b"Content-Length: 18446744073709551621\r\n\r\nSTRAY"],
    "CL with vertical tab": [OK + b"Content-Length: \x0b5\r\n\r\nSTRAY"],
    "CL named by Connection": [OK + b"Connection: content-length\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "TE gzip": [OK + b"Transfer-Encoding: gzip\r\n\r\nSTRAY", Step.CLOSE],
    "TE identity": [OK + b"Transfer-Encoding: identity\r\n\r\nSTRAY", Step.CLOSE],
    "TE gzip, chunked": [OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nSTRAY\r\n0\r\n\r\n"],
    "TE chunked, chunked": [OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nSTRAY\r\n0\r\n\r\n"],
    "TE twice": [OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSTRAY"],
    "TE empty": [OK + b"Transfer-Encoding:\r\n\r\nSTRAY", Step.CLOSE],
    "TE in 1.0": [b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSTRAY"],
    "TE folded": [OK + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nSTRAY"],
    "TE space before colon": [OK + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\nSTRAY"],
    # --- lines and fields
    "NUL in a value": [OK + b"A: b\0c\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "bare LF in a value": [OK + b"A: b\nSet-Cookie: STRAY\r\nContent-Length: 0\r\n\r\n"],
    "bare CR in a value": [OK + b"A: b\rSet-Cookie: STRAY\r\nContent-Length: 0\r\n\r\n"],
    "bare LF everywhere": [b"HTTP/1.1 200 OK\nContent-Length: 5\n\nSTRAY"],
    "control character in a value": [OK + b"A: b\x1bc\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "bare LF in the reason": [b"HTTP/1.1 200 OK\nA: STRAY\r\nContent-Length: 0\r\n\r\n"],
    "bare CR in the reason": [b"HTTP/1.1 200 OK\rA: STRAY\r\nContent-Length: 0\r\n\r\n"],
    "NUL in the reason": [b"HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "fold": [OK + b"A: b\r\n STRAY\r\nContent-Length: 0\r\n\r\n"],
    "empty name": [OK + b": STRAY\r\nContent-Length: 0\r\n\r\n"],
    "no colon": [OK + b"STRAY\r\nContent-Length: 0\r\n\r\n"],
    "space before colon": [OK + b"A : STRAY\r\nContent-Length: 0\r\n\r\n"],
    "leading space": [b" " + OK + b"Content-Length: 5\r\n\r\nSTRAY"],
    "leading empty line": [b"\r\n" + OK + b"Content-Length: 5\r\n\r\nSTRAY"],
    # --- status lines
    "no version": [b"200 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "version 2": [b"HTTP/2 200 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "version 1.2": [b"HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "small letters": [b"http/1.1 200 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "another protocol": [b"ICY 200 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "no status": [b"HTTP/1.1 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "status of two digits": [b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "status of four digits": [b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "status below 100": [b"HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "status with sign": [b"HTTP/1.1 +20 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "two spaces": [b"HTTP/1.1  200 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "tab": [b"HTTP/1.1\t200 OK\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "HTTP/0.9": [b"<html>STRAY</html>\r\n\r\n"],
    "another server's greeting": [b"SSH-2.0-STRAY\r\n", Step.CLOSE],
    "TLS alert": [b"\x15\x03\x01\x00\x02\x02\x28STRAY\r\n\r\n"],
    # --- sizes
    "head without an end": [OK + b"A: STRAY\r\n" * (MAX_HEAD // 10 + 1)],
    "long value": [OK + b"A: " + b"x" * MAX_HEAD + b"\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "too many fields": [OK + b"A: STRAY\r\n" * (MAX_FIELDS + 1) + b"Content-Length: 0\r\n\r\n"],
    "endless interim answers": [b"HTTP/1.1 100 Continue\r\n\r\n" * 5000 + STRAY],
    # --- the end comes too soon
    "closes unasked": [Step.CLOSE],
    "RST": [Step.RESET],
    "closes within the status line": [b"HTTP/1.1 2", Step.CLOSE],
    "closes within the head": [OK + b"Content-Length: 5\r\n", Step.CLOSE],
    "RST within the head": [OK + b"Content-Le", Step.RESET],
    "closes behind an interim answer": [b"HTTP/1.1 102 Processing\r\n\r\n", Step.CLOSE],
    # --- unasked
    "CL of a 304 no number": [b"HTTP/1.1 304 Not Modified\r\nContent-Length: STRAY\r\n\r\n"],
    "CL of a 204 no number": [b"HTTP/1.1 204 No Content\r\nContent-Length: 5, 5\r\n\r\nSTRAY"],
    "101 unasked": [b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nSTRAY"],
    "101 with a length": [b"HTTP/1.1 101 Switching Protocols\r\nContent-Length: 5\r\n\r\nSTRAY"],
    "1xx with both framings": [
        b"HTTP/1.1 103 A\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nSTRAY"
    ],
}  # fmt: skip

# The answer has begun, and breaks off: the client must be able to tell, and sees at most this much of it.
CUT: dict[str, tuple[Script, bytes]] = {
    "closes within the body": ([OK + b"Content-Length: 9\r\n\r\nhello", Step.CLOSE], b"hello"),
    "RST within the body": ([OK + b"Content-Length: 9\r\n\r\nhello", Step.RESET], b"hello"),
    "RST within a body until close": ([OK + b"\r\nhello", Step.RESET], b"5\r\nhello\r\n"),
    "closes within a chunk": ([TE + b"9\r\nhello", Step.CLOSE], b"9\r\nhello"),
    "closes behind a chunk": ([TE + HELLO, Step.CLOSE], HELLO),
    "closes within the trailers": ([TE + HELLO + b"0\r\nA: b\r\n", Step.CLOSE], HELLO + b"0\r\nA: b\r\n"),
    "bad size": ([TE + HELLO + b"zz\r\nSTRAY"], HELLO),
    "negative size": ([TE + b"-5\r\nSTRAY\r\n" + LAST], b""),
    "0x size": ([TE + b"0x5\r\nSTRAY\r\n" + LAST], b""),
    "no size": ([TE + b"\r\nSTRAY\r\n" + LAST], b""),
    "size ended by LF": ([TE + b"5\nSTRAY\r\n" + LAST], b""),
    "size over 64 bits": ([TE + b"10000000000000005\r\nSTRAY\r\n" + LAST], b""),
    "extension with LF": ([TE + b"5;a\nSTRAY\r\n" + LAST], b""),
    "chunk too long": ([TE + b"5\r\nhelloSTRAY\r\n" + LAST], b"5\r\nhello"),
    "no CRLF behind a chunk": ([TE + b"5\r\nhello0\r\n\r\nSTRAY"], b"5\r\nhello"),
    "bad trailer": ([TE + HELLO + b"0\r\nA STRAY\r\n\r\n"], HELLO + b"0\r\n"),
    "trailer Content-Length": ([TE + HELLO + b"0\r\nContent-Length: 5\r\n\r\nSTRAY"], HELLO + b"0\r\n"),
    "trailer Set-Cookie": ([TE + HELLO + b"0\r\nSet-Cookie: STRAY\r\n\r\n"], HELLO + b"0\r\n"),
    "trailer of ours": ([TE + HELLO + b"0\r\nx-accede-arm: STRAY\r\n\r\n"], HELLO + b"0\r\n"),
    "endless trailers": (
        [TE + b"0\r\n" + b"A: b\r\n" * (LONGEST_TRAILERS // 6 + 1)],
        b"0\r\n" + b"A: b\r\n" * (LONGEST_TRAILERS // 6 + 1),
    ),
}

SAID = OK + b"Content-Length: 5\r\n\r\nhello"
STREAMED = OK + b"transfer-encoding: chunked\r\n\r\n" + HELLO
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n"
UNCHANGED = b"HTTP/1.1 304 Not Modified\r\n"
STRAY_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n5\r\nSTRAY\r\n0\r\n\r\n"
# (method, script, what the client gets, whether the connection may be used again)
PASSED: dict[str, tuple[bytes, Script, bytes, bool]] = {
    "CL": (GET, [SAID], SAID, True),
    "CL in two pieces": (GET, [SAID[:-3], b"llo"], SAID, True),
    "CL 0": (GET, [OK + b"Content-Length: 0\r\n\r\n"], OK + b"Content-Length: 0\r\n\r\n", True),
    "TE": (GET, [TE + HELLO + LAST], STREAMED + LAST, True),
    "trailers": (GET, [TE + HELLO + b"0\r\nDigest: x\r\n\r\n"], STREAMED + b"0\r\nDigest: x\r\n\r\n", True),
    "until close": (GET, [OK + b"\r\nhello", Step.CLOSE], STREAMED + LAST, False),
    "1.0 until close": (GET, [b"HTTP/1.0 200 OK\r\n\r\nhello", Step.CLOSE], STREAMED + LAST, False),
    "1.0 with CL": (GET, [SAID.replace(b"/1.1", b"/1.0")], SAID, False),
    "no reason": (GET, [SAID.replace(b" OK", b"")], SAID.replace(b" OK", b""), True),
    "close": (GET, [OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello"], SAID, False),
    "too much": (GET, [SAID + b"STRAY"], SAID, False),
    "an empty line too much": (GET, [SAID + b"\r\n"], SAID, False),
    "twice": (GET, [SAID + STRAY], SAID, False),
    "too much behind two pieces": (GET, [SAID[:-3], b"lloSTRAY"], SAID, False),
    "too much behind chunks": (GET, [TE + HELLO + LAST + STRAY], STREAMED + LAST, False),
    "204": (GET, [NO_CONTENT + b"\r\n"], NO_CONTENT + b"\r\n", True),
    "204 with a body": (GET, [NO_CONTENT + b"Content-Length: 5\r\n\r\nSTRAY"], NO_CONTENT + b"\r\n", False),
    "204 with chunks": (GET, [NO_CONTENT + STRAY_CHUNKS], NO_CONTENT + b"\r\n", False),
    "204 with an announced body": (
        GET, [NO_CONTENT + b"Content-Length: 5\r\n\r\n"], NO_CONTENT + b"\r\n", False,
    ),
    "304": (GET, [UNCHANGED + b"\r\n"], UNCHANGED + b"\r\n", True),
    "304 with a body": (
        GET, [UNCHANGED + b"Content-Length: 5\r\n\r\nSTRAY"], UNCHANGED + b"Content-Length: 5\r\n\r\n", False,
    ),
    "HEAD": (b"HEAD", [SAID[:-5]], SAID[:-5], False),
    "HEAD without a length": (b"HEAD", [OK + b"\r\n"], OK + b"\r\n", True),
    "HEAD with a body": (b"HEAD", [SAID[:-5] + b"STRAY"], SAID[:-5], False),
    "HEAD with chunks": (b"HEAD", [OK + STRAY_CHUNKS], OK + b"\r\n", False),
    "interim with a body": (
        GET, [b"HTTP/1.1 103 A\r\nContent-Length: 5\r\n\r\n" + SAID], b"HTTP/1.1 103 A\r\n\r\n" + SAID, True,
    ),
    "some interim answers": (
        GET, [b"HTTP/1.1 102 P\r\n\r\n" * 3 + SAID], b"HTTP/1.1 102 P\r\n\r\n" * 3 + SAID, True,
    ),
    "fields of one hop": (
        GET,
        [
            OK + b"Connection: X-Hop\r\nX-Hop: STRAY\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n"
            b"Proxy-Connection: STRAY\r\nContent-Length: 5\r\n\r\nhello"
        ],
        SAID, True,
    ),
    "framing with underscores": (
        GET, [OK + b"Content_Length: 9\r\nTransfer_Encoding: STRAY\r\nContent-Length: 5\r\n\r\nhello"],
        SAID, True,
    ),
    "fields of ours": (
        GET,
        [
            OK + b"X-Accede-Arm: STRAY\r\nx_accede_version: STRAY\r\nX-Request-Id: STRAY\r\n"
            b"Content-Length: 5\r\n\r\nhello"
        ],
        SAID, True,
    ),
}  # fmt: skip


class Bench:
    """A worker before an upstream that misbehaves on demand."""

    def __init__(self, worker: WorkerProcess, upstream: RawUpstream) -> None:
        self.worker = worker
        self.upstream = upstream
        self.canary = Canary(worker.port)
        self._clients: list[Connection] = []

    def ask(self, method: bytes, target: bytes, *fields: bytes) -> Connection:
        """A client that has sent a request; its connection ends with the next one's."""
        self.disconnect()
        client = Connection(self.worker.port)
        self._clients.append(client)
        client.send(b"\r\n".join((method + b" " + target + b" HTTP/1.1", b"Host: x", *fields, b"", b"")))
        return client

    def disconnect(self) -> None:
        """Close the clients' connections."""
        while self._clients:
            self._clients.pop().close()

    def refresh(self) -> None:
        """Leave one idle connection in the pool, and no other."""
        for wire in self.upstream.wires:
            if not wire.ended:
                with contextlib.suppress(OSError):  # the worker was faster
                    wire.end.shutdown(2)
        wait_for(lambda: all(wire.ended for wire in self.upstream.wires))
        self.canary.sing()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    upstream = RawUpstream()
    worker = WorkerProcess(tmp_path_factory.mktemp("raw"))
    told = route(upstream.url, readiness=RouteReadiness(probe=False), side_effects="writes")
    worker.apply(Placed(told, 0))
    running = Bench(worker, upstream)
    yield running
    running.canary.close()
    running.disconnect()
    errors = worker.stop()
    upstream.close()
    assert errors == ""


def _rest(client: Connection) -> bytes:
    """Everything that still comes until the end."""
    while client.more():
        pass
    return client.buffer


def _ended(wire: Wire) -> Callable[[], bool]:
    return lambda: wire.ended


def _without_ours(data: bytes) -> bytes:
    return _OURS.sub(b"", data)


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_answer_is_ours_to_report(bench: Bench, case: str) -> None:
    bench.upstream.script(b"/p/case", *REFUSED[case])
    client = bench.ask(b"POST", b"/p/case", b"Content-Length: 0", b"Connection: close")
    answer = client.answer()
    while answer.status < 200:
        answer = client.answer()
    assert answer.status == 502
    assert b"STRAY" not in answer.raw + _rest(client)
    bench.canary.sing()


@pytest.mark.parametrize("case", CUT)
def test_an_answer_that_breaks_off_never_looks_complete(bench: Bench, case: str) -> None:
    script, right = CUT[case]
    bench.upstream.script(b"/p/case", *script)
    client = bench.ask(b"POST", b"/p/case", b"Content-Length: 0")
    with pytest.raises(EOFError):
        client.answer()
    head, _, body = client.buffer.partition(b"\r\n\r\n")
    assert head.startswith(OK.rstrip())
    assert right.startswith(body)
    assert b"STRAY" not in client.buffer
    bench.canary.sing()


@pytest.mark.parametrize("case", PASSED)
def test_an_answer_passes_exactly_and_what_lies_behind_it_never(bench: Bench, case: str) -> None:
    method, script, expected, reused = PASSED[case]
    bench.refresh()
    before = len(bench.upstream.wires)
    bench.upstream.script(b"/p/case", *script)
    client = bench.ask(method, b"/p/case", b"Connection: close")
    got = _without_ours(_rest(client)).replace(b"connection: close\r\n", b"")
    assert got == expected
    bench.canary.sing()
    assert (len(bench.upstream.wires) == before) == reused


def test_an_answer_before_the_request_is_complete_takes_the_connection_with_it(bench: Bench) -> None:
    bench.refresh()
    before = len(bench.upstream.wires)
    bench.upstream.script(b"/p/case", Step.EARLY, b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
    client = bench.ask(b"POST", b"/p/case", b"Content-Length: 10")
    assert client.answer().body == b"no"
    client.send(b"0123456789GET /p/next HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.answer().body == b"GET /p/next HTTP/1.1|"
    bench.canary.sing()
    assert len(bench.upstream.wires) > before


def test_a_second_answer_on_an_idle_connection_ends_it(bench: Bench) -> None:
    bench.refresh()
    bench.upstream.script(b"/p/case", OK + b"Content-Length: 5\r\n\r\nhello", Step.GATE, STRAY)
    assert bench.ask(b"GET", b"/p/case").answer().body == b"hello"
    wire = bench.upstream.wires[-1]
    bench.upstream.gate.set()
    wait_for(lambda: wire.ended)
    bench.canary.sing()


def test_a_second_answer_that_waits_in_the_kernel_when_the_connection_is_wanted_again(bench: Bench) -> None:
    """The worker stands still while both come, the next request first: it must not take the stray answer."""
    for _ in range(20):
        bench.refresh()
        bench.upstream.script(b"/p/case", OK + b"Content-Length: 5\r\n\r\nhello", Step.GATE, STRAY)
        client = bench.ask(b"GET", b"/p/case")
        assert client.answer().body == b"hello"
        bench.worker.process.send_signal(signal.SIGSTOP)
        try:
            client.send(b"POST /p/mine HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            bench.upstream.gate.set()
            assert bench.upstream.sent.wait(10)
        finally:
            bench.worker.process.send_signal(signal.SIGCONT)
        assert client.answer().body == b"POST /p/mine HTTP/1.1|"


def test_a_connection_the_upstream_closed_meanwhile_is_not_used_again(bench: Bench) -> None:
    """Not even for a request that must not be sent twice, as long as the end waits in the kernel."""
    for _ in range(20):
        bench.refresh()
        bench.upstream.script(b"/p/case", OK + b"Content-Length: 5\r\n\r\nhello", Step.GATE, b"", Step.CLOSE)
        client = bench.ask(b"GET", b"/p/case")
        assert client.answer().body == b"hello"
        ended = _ended(bench.upstream.wires[-1])
        bench.worker.process.send_signal(signal.SIGSTOP)
        try:
            client.send(b"POST /p/mine HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            bench.upstream.gate.set()
            wait_for(ended)
        finally:
            bench.worker.process.send_signal(signal.SIGCONT)
        assert client.answer().body == b"POST /p/mine HTTP/1.1|"


def test_the_bytes_of_one_exchange_never_reach_another(bench: Bench) -> None:
    """Every broken answer once more, all at once on connections of their own, between honest requests."""
    names = [*REFUSED, *CUT, *PASSED]
    scripts = [
        *REFUSED.values(),
        *(script for script, _ in CUT.values()),
        *(case[1] for case in PASSED.values()),
    ]
    clients = []
    for number, (name, script) in enumerate(zip(names, scripts, strict=True)):
        bench.upstream.scripts[b"/p/all-%d" % number] = [
            step.replace(b"hello", b"he%03d" % number) if isinstance(step, bytes) else step for step in script
        ]
        if "endless" in name or name.startswith("HEAD"):
            continue
        client = Connection(bench.worker.port)
        client.send(b"GET /p/all-%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % number)
        clients.append((number, client))
        honest = exchange(bench.worker.port, b"GET /p/honest-%d HTTP/1.1\r\nHost: x\r\n\r\n" % number)
        assert honest.body == b"GET /p/honest-%d HTTP/1.1|" % number
    for number, client in clients:
        seen = _rest(client)
        assert set(re.findall(rb"he(\d{3})", seen)) <= {b"%03d" % number}
        assert b"honest" not in seen
        client.close()
    bench.canary.sing()
