"""What clients get through the worker equals what they would get directly."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from accede.router.facts import Placed
from tests.router.conftest import Connection, UpstreamProcess, WorkerProcess, dechunked, exchange, post, route

OURS = {"x-request-id", "x-accede-version", "x-accede-arm"}
HOP = {"connection", "keep-alive", "transfer-encoding"}

Worker = Callable[..., WorkerProcess]


@pytest.mark.parametrize(
    "script",
    [
        "echo",
        "nan",
        "dup",
        "gzip",
        "big",
        "status=500",
        "status=404",
        "empty=204",
        "empty=304",
        "chunked",
        "sse=2",
    ],
)
def test_proxied_bytes_equal_direct_bytes(start_worker: Worker, stable: UpstreamProcess, script: str) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    request = post("/p/predict", b'{"instances": [[1, NaN]]}', f"x-script: {script}")
    direct, proxied = exchange(stable.port, request), exchange(worker.port, request)
    assert proxied.status_line == direct.status_line
    if "chunked" in script or "sse" in script:
        assert dechunked(proxied.body) == dechunked(direct.body)
    else:
        assert proxied.body == direct.body

    def theirs(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in fields if name.decode().lower() not in OURS | HOP]

    assert theirs(proxied.fields) == theirs(direct.fields)
    assert proxied.field("x-accede-version") == "42"
    assert proxied.field("x-accede-arm") == "stable"
    assert proxied.field("x-request-id")


def test_head_has_no_body_and_keeps_its_length(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    client = Connection(worker.port)
    for _ in range(2):
        client.send(b"HEAD /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        answer = client.answer(bodyless=True)
        assert answer.status == 200
        assert answer.field("content-length") == "3"
    client.close()


@pytest.mark.parametrize("size", [0, 1, 70_000, 1 << 20, 5 << 20])
def test_request_bodies_arrive_whole_in_both_framings(
    start_worker: Worker, stable: UpstreamProcess, size: int
) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    body = bytes(range(256)) * (size // 256) + b"z" * (size % 256)
    assert exchange(worker.port, post("/p", body)).body == body
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + 9999]), body[at : at + 9999]) for at in range(0, size, 9999)
    )
    head = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert exchange(worker.port, head + chunks + b"0\r\n\r\n").body == body


def test_a_chunked_body_in_single_bytes_is_understood(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    client = Connection(worker.port)
    data = b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    data += b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
    for at in range(len(data)):
        client.send(data[at : at + 1])
    assert client.answer().body == b"abcde"
    client.close()


def test_sse_chunks_come_one_by_one_in_time(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    client = Connection(worker.port)
    client.send(post("/p", b"{}", "x-script: sse=5"))
    seen: list[float] = []
    for number in range(5):
        while b"data: %d\n\n\r\n" % number not in client.buffer:
            assert client.more()
        assert b"data: %d" % (number + 1) not in client.buffer  # the next one has not been written yet
        seen.append(time.monotonic())
    assert seen == sorted(seen)
    client.answer()
    client.close()


def test_pipelined_requests_are_answered_in_order(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    client = Connection(worker.port)
    client.send(
        b"".join(
            post("/p", b"%d" % number, "x-script: slow=0.05" if not number else "a: b")
            for number in range(20)
        )
    )
    bodies = [client.answer().body for _ in range(20)]
    assert bodies == [b"ok", *(b"%d" % number for number in range(1, 20))]
    client.send(b"".join(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" for _ in range(3000)))
    assert {client.answer().status for _ in range(3000)} == {404}
    client.close()


def test_http_1_0_clients_are_served(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    client = Connection(worker.port)
    client.send(b"POST /p HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi")
    answer = client.answer()
    assert answer.body == b"hi"
    assert answer.field("connection") == "keep-alive"
    client.send(b"POST /p HTTP/1.0\r\nContent-Length: 2\r\nx-script: chunked\r\n\r\nhi")
    answer = client.answer()
    assert answer.body == b'{"predictions": [1, 2, 3]}'
    assert answer.field("transfer-encoding") is None
    assert client.ended()
    client.close()


def test_an_answer_until_close_becomes_chunked(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    client = Connection(worker.port)
    client.send(post("/p", b"{}", "x-script: until-close"))
    assert dechunked(client.answer().body) == b"as long as it lasts"
    client.send(post("/p", b"again"))
    assert client.answer().body == b"again"
    client.close()


def test_interim_answers_pass(start_worker: Worker, stable: UpstreamProcess) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    client = Connection(worker.port)
    client.send(post("/p", b"{}", "x-script: hints"))
    assert client.answer().status == 103
    assert client.answer().body == b"ok"
    client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert client.answer().status == 100
    client.send(b"abc")
    assert client.answer().body == b"abc"
    client.close()


def test_hop_by_hop_fields_and_spoofed_ones_stop_here(
    start_worker: Worker, start_upstream: Callable[..., UpstreamProcess]
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url), 0))
    fields = ("Connection: keep-alive, x-secret", "X-Secret: 1", "Keep-Alive: 5", "TE: trailers",
              "x-accede-shadow: 1",
              "Upgrade: h2c", "X-Kept: yes", "x-script: spoof", "x-request-id: mine-7")  # fmt: skip
    answer = exchange(worker.port, post("/p", b"{}", *fields))
    got = upstream.last()["headers"]
    assert got["x-kept"] == "yes"
    assert got["x-request-id"] == "mine-7"
    assert not {"connection", "x-secret", "keep-alive", "te", "x-accede-shadow", "upgrade"} & set(got)
    assert answer.field("x-request-id") == "mine-7"
    assert answer.field("x-accede-arm") == "stable"
    assert answer.field("x-hop") is None


def test_an_unusable_request_id_is_replaced_for_client_and_upstream(
    start_worker: Worker, start_upstream: Callable[..., UpstreamProcess]
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url), 0))
    made = []
    for fields in (
        ("x-request-id: a b",),
        ("x-request-id: a", "X-Request-Id: b"),
        (f"x-request-id: {'x' * 500}",),
        (),
    ):
        answer = exchange(worker.port, post("/p", b"{}", *fields))
        made.append(answer.field("x-request-id"))
        assert upstream.last()["headers"]["x-request-id"] == made[-1]
    assert len(set(made)) == 4


def test_unknown_services_are_named_and_no_table_is_503(
    start_worker: Worker, stable: UpstreamProcess
) -> None:
    worker = start_worker()
    assert exchange(worker.port, post("/p")).status == 503
    worker.apply(Placed(route(stable.url), 0))
    answer = exchange(worker.port, post("/px"))
    assert answer.status == 404
    assert b"fraud" in answer.body
    assert stable.url.encode() not in answer.body
    assert answer.field("x-request-id")


def test_an_early_answer_passes_and_the_connection_stays_usable(
    start_worker: Worker, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url), 0))
    client = Connection(worker.port)
    client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nx-script: early\r\nContent-Length: 10\r\n\r\n12345")
    assert client.answer().status == 403
    client.send(b"67890" + post("/p", b"next"))
    assert client.answer().body == b"next"
    client.close()


def test_large_answers_to_a_slow_client_are_held_back_not_gathered(
    start_worker: Worker, stable: UpstreamProcess
) -> None:
    worker = start_worker(Placed(route(stable.url, capture_response=1024), 0))
    exchange(worker.port, post("/p", b"{}", "x-script: big"))
    before = worker.rss()
    clients = [Connection(worker.port) for _ in range(60)]
    for client in clients:
        client.send(post("/p", b"{}", "x-script: big") * 4)
    assert clients[0].answer().status == 200  # all have had time to fill their buffers
    assert worker.rss() - before < 60 * 4 * (1 << 20) / 3
    for client in clients[1:]:
        assert len(client.answer().body) == 1 << 20
    for client in clients:
        client.close()
