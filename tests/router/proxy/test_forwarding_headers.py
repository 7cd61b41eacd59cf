"""What the router adds about the way of a message, and what it never touches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accede.router.facts import Placed
from accede.router.proxy.forwarding import Additions, Peer, peer_of
from accede.router.proxy.heads import Names, parse_request
from tests.router.conftest import UpstreamProcess, WorkerProcess, exchange, post, route

Worker = Callable[..., WorkerProcess]


def _sent(worker: WorkerProcess, upstream: UpstreamProcess, *fields: str) -> list[str]:
    assert exchange(worker.port, post("/p", b"{}", *fields, host="models:8080")).status == 200
    raw: list[str] = upstream.last()["raw"]
    return raw


def test_nothing_is_added_unless_asked_for(
    start_worker: Worker, start_upstream: Callable[..., UpstreamProcess]
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url), 0))
    given = ["X-Forwarded-For: 10.0.0.1", "Via: 1.1 edge", "Forwarded: for=10.0.0.1", "x-request-id: r1"]
    assert _sent(worker, upstream, *given) == ["Host: models:8080", "Content-Length: 2", *given]


def test_trace_context_passes_untouched(
    start_worker: Worker, start_upstream: Callable[..., UpstreamProcess]
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url, via=True, forward_client="x-forwarded"), 0))
    trace = [
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "tracestate: vendor=a,other=b",
        "Tracestate: third=c",
    ]
    sent = _sent(worker, upstream, *trace)
    assert [line for line in sent if line.lower().startswith("trace")] == trace


def test_x_forwarded_appends_the_client_and_names_host_and_scheme(
    start_worker: Worker, start_upstream: Callable[..., UpstreamProcess]
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url, forward_client="x-forwarded"), 0))
    assert [line for line in _sent(worker, upstream) if line.startswith("x-forwarded")] == [
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: models:8080",
        "x-forwarded-proto: http",
    ]
    given = ["X-Forwarded-For: 10.0.0.1, 10.0.0.2", "x-forwarded-for: 10.0.0.3", "X-Forwarded-Proto: https"]
    sent = [line for line in _sent(worker, upstream, *given) if line.lower().startswith("x-forwarded")]
    assert sent == [
        "X-Forwarded-Proto: https",
        "x-forwarded-for: 10.0.0.1, 10.0.0.2, 10.0.0.3, 127.0.0.1",
        "x-forwarded-host: models:8080",
    ]


def test_forwarded_is_one_list(start_worker: Worker, start_upstream: Callable[..., UpstreamProcess]) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url, forward_client="forwarded"), 0))
    sent = [line for line in _sent(worker, upstream, "Forwarded: for=10.0.0.1") if "orwarded" in line]
    assert sent == ['forwarded: for=10.0.0.1, for=127.0.0.1;host="models:8080";proto=http']


def test_via_is_added_both_ways(start_worker: Worker, start_upstream: Callable[..., UpstreamProcess]) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url, via=True), 0))
    assert "via: 1.0 edge, 1.1 accede" in _sent(worker, upstream, "Via: 1.0 edge")
    assert exchange(worker.port, post("/p")).field("via") == "1.1 accede"
    old = exchange(worker.port, b"POST /p HTTP/1.0\r\nHost: models\r\nContent-Length: 2\r\n\r\n{}")
    assert old.field("via") == "1.1 accede"  # as the upstream spoke, not the client
    assert "via: 1.0 accede" in upstream.last()["raw"]


@pytest.mark.parametrize(
    ("name", "node", "address"),
    [
        (("2001:db8::1", 4711, 0, 0), b'"[2001:db8::1]"', b"2001:db8::1"),
        (("fe80::1%eth0", 4711, 0, 2), b'"[fe80::1]"', b"fe80::1"),
        (("192.0.2.7", 4711), b"192.0.2.7", b"192.0.2.7"),
        ("", b"unknown", b"unknown"),
        (None, b"unknown", b"unknown"),
    ],
)
def test_addresses_are_written_as_rfc_7239_says(name: Any, node: bytes, address: bytes) -> None:
    class Transport:
        def get_extra_info(self, what: str) -> Any:
            return name if what == "peername" else object()

    peer = peer_of(Transport())  # type: ignore[arg-type]
    assert peer == Peer(address, node, b"https")
    head = parse_request(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", Names())
    assert head is not None
    added = Additions("forwarded", via=False).to_request(head, peer)
    assert added == b"Host: h\r\nforwarded: for=%b;host=h;proto=https\r\n" % node
