"""Whatever bytes come: one meaning however they are cut, the one of llhttp and h11, and an end."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from typing import Any

import h11
import httptools
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from accede.router.facts import Placed
from accede.router.proxy.chunks import ChunkReader
from accede.router.proxy.heads import (
    CHUNKED,
    UNTIL_CLOSE,
    Malformed,
    Names,
    RequestHead,
    grown,
    parse_request,
    parse_response,
)
from accede.store.routes import RouteReadiness
from tests.router.conftest import Connection, WorkerProcess, route
from tests.router.mutants import CHUNKS, CUTS, REQUESTS, RESPONSES, cut, mutants
from tests.router.raw_upstream import Canary, RawUpstream, Step

NEXT = b"GET /next HTTP/1.1\r\nHost: n\r\n\r\n"
NEXT_ANSWER = b"HTTP/1.1 299 Next\r\nContent-Length: 0\r\n\r\n"
METHODS = frozenset(
    (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH")
)  # llhttp knows a list
ROOM = 1 << 20
anything = st.one_of(mutants(REQUESTS), st.binary(max_size=80))
quick = settings(deadline=None, max_examples=300)


class Seen:
    """What llhttp reads: per message its target or status, and its body."""

    def __init__(self) -> None:
        self.messages: list[tuple[Any, bytes]] = []
        self.parser: Any = None
        self._url = self._body = b""

    def on_message_begin(self) -> None:
        self._url = self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        first = self._url or self.parser.get_status_code()
        self.messages.append((first, self._body))


def llhttp(data: bytes, kind: Any) -> list[tuple[Any, bytes]]:
    seen = Seen()
    seen.parser = kind(seen)
    seen.parser.feed_data(data)
    return seen.messages


def by_h11(data: bytes, role: Any) -> tuple[Any, bytes, bytes]:
    """First message's target or status, its body, and what is left behind it."""
    reader = h11.Connection(h11.SERVER if role is h11.CLIENT else h11.CLIENT, max_incomplete_event_size=ROOM)
    if role is h11.SERVER:
        reader.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        reader.send(h11.EndOfMessage())
    reader.receive_data(data)
    first: Any = None
    body = b""
    while True:
        event: Any = reader.next_event()
        if isinstance(event, h11.Request):
            first = bytes(event.target)
        elif isinstance(event, h11.Response):
            first = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return first, body, bytes(reader.trailing_data[0])
        else:
            assert isinstance(event, h11.InformationalResponse), event


def meaning(pieces: list[bytes]) -> object:
    """What the pieces come to, read one after another as a connection reads them."""
    buffer = b""
    try:
        for piece in pieces:
            known = len(buffer)
            buffer += piece
            if known and not grown(buffer, known):
                continue
            head = parse_request(buffer, Names((b"unit",)))
            if head is not None:
                return tuple(getattr(head, name) for name in RequestHead.__slots__)
    except Malformed:
        return "refused"
    return "incomplete"


@pytest.mark.interpreted
@given(anything, CUTS)
@example(REQUESTS[0].replace(b"\r\n\r\n", b"\r\nA: " + b"x" * 40000 + b"\r\n\r\n"), [100])
@quick
def test_a_request_head_means_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    ended = data + b"\r\n\r\n"  # before its end a bad head may be refused sooner or later
    assert meaning(cut(ended, cuts)) == meaning([ended])


@given(st.one_of(mutants(RESPONSES), st.binary(max_size=80)), st.integers(0, 120), st.booleans())
@quick
def test_a_response_head_means_the_same_however_it_is_cut(data: bytes, at: int, bodyless: bool) -> None:
    def read(piece: bytes) -> object:
        try:
            head = parse_response(piece, Names(), bodyless=bodyless)
        except Malformed:
            return "refused"
        return head and (head.line, head.fields, head.end, head.length, head.keep_alive, head.status)

    first, whole = read(data[:at]), read(data)
    assert first in (None, whole)


@given(anything)
@quick
def test_a_request_goes_on_as_llhttp_and_h11_read_it(data: bytes) -> None:
    try:
        head = parse_request(data, Names())
    except Malformed:
        return
    if head is None or head.upgrade or head.length > ROOM:
        return
    method, _, target = head.line.partition(b" ")
    if method not in METHODS or not target.startswith(b"/") or b"#" in target:
        return
    body, framed = b"x" * head.length, b"x" * head.length
    if head.length == CHUNKED:
        body, framed = b"abc", b"3\r\nabc\r\n0\r\n\r\n"
    wire = head.line + b" HTTP/1.1\r\n" + head.fields + b"\r\n" + framed + NEXT
    assert llhttp(wire, httptools.HttpRequestParser) == [(target, body), (b"/next", b"")]
    assert by_h11(wire, h11.CLIENT) == (target, body, NEXT)


@given(mutants(RESPONSES))
@quick
def test_an_answer_goes_on_as_llhttp_and_h11_read_it(data: bytes) -> None:
    try:
        head = parse_response(data, Names(), bodyless=False)
    except Malformed:
        return
    if head is None or head.status < 200 or head.length > ROOM:
        return
    body, framed, coding = b"x" * head.length, b"x" * head.length, b""
    if head.length in {CHUNKED, UNTIL_CLOSE}:
        body, framed, coding = b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"transfer-encoding: chunked\r\n"
    wire = b"HTTP/1.1 " + head.line + head.fields + coding + b"\r\n" + framed + NEXT_ANSWER
    assert llhttp(wire, httptools.HttpResponseParser) == [(head.status, body), (299, b"")]
    assert by_h11(wire, h11.SERVER) == (head.status, body, NEXT_ANSWER)


def followed(pieces: list[bytes]) -> tuple[object, ...]:
    """How a ChunkReader takes the pieces: content, what passed, and what lies behind."""
    reader = ChunkReader()
    content: list[bytes] = []
    passed = behind = b""
    for piece in pieces:
        if reader.done:
            behind += piece
            continue
        try:
            passed += reader.feed(piece, content)
        except Malformed:
            assert b"".join(pieces).startswith(passed)
            return ("refused",)
    if not reader.done:
        return ("incomplete", passed, b"".join(content))
    assert passed + reader.rest + behind == b"".join(pieces)
    assert reader.payload == sum(map(len, content))
    return ("done", passed, b"".join(content))


@given(st.one_of(mutants(CHUNKS), st.binary(max_size=60)), CUTS)
@example(b"1;a=" + b"x" * 4088 + b"\r\nx\r\n0\r\n\r\n", [4095])
@example(b"0\r\nA: " + b"x" * 4091 + b"\r\n\r\n", [4098])
@example(b"0\r\nA: " + b"x" * 4092 + b"\r\n\r\n", [4099])
@quick
def test_chunks_mean_the_same_however_they_are_cut_and_to_llhttp_and_h11(
    data: bytes, cuts: list[int]
) -> None:
    whole = followed([data])
    assert followed(cut(data, cuts)) == whole
    assert followed([data[at : at + 1] for at in range(len(data))]) == whole
    if whole[0] != "done":
        return
    _, passed, content = whole
    assert isinstance(passed, bytes)
    wire = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + passed + NEXT
    assert llhttp(wire, httptools.HttpRequestParser) == [(b"/p", content), (b"/next", b"")]
    assert by_h11(wire, h11.CLIENT) == (b"/p", content, NEXT)


# --- over real sockets


class Bench:
    """A worker that waits for nobody long, before an upstream that plays what it is told."""

    def __init__(self, worker: WorkerProcess, upstream: RawUpstream) -> None:
        self.worker = worker
        self.upstream = upstream
        self.canary = Canary(worker.port)
        self.count = 0

    def number(self) -> bytes:
        """A word for one exchange, that nothing else contains."""
        self.count += 1
        return b"t%06dt" % self.count

    def answers(self, requests: list[bytes]) -> list[bytes]:
        """Send each on a connection of its own, all at once; what each got until its end."""
        clients = [Connection(self.worker.port) for _ in requests]
        got = dict.fromkeys(range(len(clients)), b"")
        opened = {client.socket.fileno(): number for number, client in enumerate(clients)}
        try:
            for client, request in zip(clients, requests, strict=True):
                client.send(request)
            end = time.monotonic() + 15
            while opened:
                assert time.monotonic() < end, [requests[number] for number in opened.values()]
                for descriptor in select.select(list(opened), [], [], 1)[0]:
                    number = opened[descriptor]
                    if clients[number].more():
                        got[number] = clients[number].buffer
                    else:
                        del opened[descriptor]
        finally:
            for client in clients:
                client.close()
        return list(got.values())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    upstream = RawUpstream()
    worker = WorkerProcess(
        tmp_path_factory.mktemp("fuzz"), head_timeout=0.2, body_timeout=0.2, idle_timeout=0.4
    )
    told = route(
        upstream.url,
        readiness=RouteReadiness(probe=False),
        deadline=0.5,
        max_body=10_000,
        side_effects="writes",
    )
    worker.apply(Placed(told, 0))
    running = Bench(worker, upstream)
    yield running
    running.canary.close()
    errors = worker.stop()
    upstream.close()
    assert errors == ""
    assert upstream.confused == []


def well_formed(answer: bytes) -> None:
    """Nothing but whole answers, and at the end maybe one that broke off."""
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=ROOM)
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    reader.send(h11.EndOfMessage())
    if answer:  # nothing would mean the end to h11, before any answer
        reader.receive_data(answer)
    while (event := reader.next_event()) is not h11.NEED_DATA and event is not h11.PAUSED:
        if isinstance(event, h11.EndOfMessage):
            break


def attack_with_requests(bench: Bench, attacks: list[bytes]) -> None:
    words = [bench.number() for _ in attacks]
    sent = [attack.replace(b"/p", b"/p/" + word) for attack, word in zip(attacks, words, strict=True)]
    for answer, word, request in zip(bench.answers(sent), words, sent, strict=True):
        if not request.startswith(b"HEAD"):
            well_formed(answer)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
        assert not any(other in answer for other in words if other != word)
        assert b"canary" not in answer
    renewed(bench)


def attack_with_answers(bench: Bench, attacks: list[tuple[bytes, bool]]) -> None:
    words = [bench.number() for _ in attacks]
    for (attack, closes), word in zip(attacks, words, strict=True):
        steps = attack.replace(b"hello", word).replace(b"Content-Length: 5", b"Content-Length: 8")
        bench.upstream.scripts[b"/p/" + word] = (steps, Step.CLOSE) if closes else (steps,)
    sent = [
        b"POST /p/%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % word
        for word in words
    ]
    for answer, word in zip(bench.answers(sent), words, strict=True):
        well_formed(answer)
        assert answer.startswith(b"HTTP/1.1 ")
        assert not any(other in answer for other in words if other != word)
        assert b"canary" not in answer
        bench.upstream.scripts.pop(b"/p/" + word)
    renewed(bench)


def renewed(bench: Bench) -> None:
    """Clients beside the attack are served as ever."""
    bench.canary.close()
    bench.canary = Canary(bench.worker.port)
    bench.canary.sing()
    bench.canary.sing()


sockets = settings(
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
    print_blob=True,
)
many_requests = st.lists(mutants(REQUESTS), min_size=12, max_size=24)
many_answers = st.lists(st.tuples(mutants(RESPONSES), st.booleans()), min_size=12, max_size=24)


@given(many_requests)
@settings(sockets, max_examples=10, derandomize=True)
def test_any_request_gets_an_answer_or_an_end(bench: Bench, attacks: list[bytes]) -> None:
    attack_with_requests(bench, attacks)


@given(many_answers)
@settings(sockets, max_examples=10, derandomize=True)
def test_any_answer_gives_an_answer_or_an_end(bench: Bench, attacks: list[tuple[bytes, bool]]) -> None:
    attack_with_answers(bench, attacks)


@pytest.mark.slow
@pytest.mark.timeout(300)
class TestCampaign:
    @given(many_requests)
    @settings(sockets, max_examples=60)
    def test_any_request_gets_an_answer_or_an_end(self, bench: Bench, attacks: list[bytes]) -> None:
        attack_with_requests(bench, attacks)

    @given(many_answers)
    @settings(sockets, max_examples=60)
    def test_any_answer_gives_an_answer_or_an_end(
        self, bench: Bench, attacks: list[tuple[bytes, bool]]
    ) -> None:
        attack_with_answers(bench, attacks)

    @given(mutants(REQUESTS, 6), CUTS)
    @settings(deadline=None, max_examples=7000)
    def test_requests(self, data: bytes, cuts: list[int]) -> None:
        same: Any = test_a_request_head_means_the_same_however_it_is_cut
        same.hypothesis.inner_test(data, cuts)
        test_a_request_goes_on_as_llhttp_and_h11_read_it.hypothesis.inner_test(data)  # type: ignore[attr-defined]

    @given(mutants(RESPONSES, 6))
    @settings(deadline=None, max_examples=5000)
    def test_answers(self, data: bytes) -> None:
        test_an_answer_goes_on_as_llhttp_and_h11_read_it.hypothesis.inner_test(data)  # type: ignore[attr-defined]

    @given(mutants(CHUNKS, 6), CUTS)
    @settings(deadline=None, max_examples=7000)
    def test_chunks(self, data: bytes, cuts: list[int]) -> None:
        inner = test_chunks_mean_the_same_however_they_are_cut_and_to_llhttp_and_h11
        inner.hypothesis.inner_test(data, cuts)  # type: ignore[attr-defined]
