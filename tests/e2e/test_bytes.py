"""Through the whole installation, with every request mirrored, bytes are what they are without it."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest

from accede.cli.processes import free_ports
from tests.e2e.conftest import NAME, PREDICT, Stage, eventually
from tests.router.conftest import Answer, Connection, UpstreamProcess, dechunked, exchange, post

POLICY = """
format: accede/v1
kind: RolloutPolicy
name: mirrored
baseline: {requests: 50, for: 200ms}
steps:
  - {shadow: 100%, for: 10m, requests: 10}
  - {canary: 50%, for: 10m, requests: 10}
gates:
  - {metric: errors, max_increase: 10pp, in: canary}
"""
OURS = {
    b"x-request-id",
    b"x-accede-version",
    b"x-accede-arm",
    b"connection",
    b"keep-alive",
    b"transfer-encoding",
}
WEIRD = b'{"instances": [[1, NaN, -Infinity]], "instances": [[2e400]],\t"x" : "\xc3\xa9\\u00e9"}'


def copied(shadow: UpstreamProcess) -> bool:
    """Whether a copy has come, which a probe of its readiness is not."""
    return any("x-accede-shadow" in request["headers"] for request in shadow.seen())


class Mirrored:
    """An installation whose rollout is in its shadow step: all that stable gets, the candidate gets too."""

    def __init__(self, stage: Stage, stable: UpstreamProcess, candidate: UpstreamProcess) -> None:
        self.port = stage.port
        self.stable = stable
        self.candidate = candidate

    def copies(self, name: str) -> int:
        """How many copies of requests with this x-script have reached the shadow."""
        return sum(request["headers"].get("x-script") == name for request in self.candidate.seen())

    def both(self, request: bytes) -> tuple[Answer, Answer]:
        """The same request to the model and to the proxy."""
        return exchange(self.stable.port, request), exchange(self.port, request)


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrored]:
    stage = Stage(tmp_path_factory.mktemp("installation"), lambda: free_ports(1)[0])
    upstreams: list[UpstreamProcess] = []
    try:
        for version in ("1", "2"):
            upstreams.append(UpstreamProcess(version))
            stage.models[version] = upstreams[-1].port
        stage.serve()
        stage.start(policy=POLICY)
        for _ in range(60):
            assert stage.ask().status_code == 200
        stage.until(lambda view: view["phase"] == "shadow")
        eventually(lambda: stage.ask().status_code == 200 and copied(upstreams[1]), 5, "copies at the shadow")
        yield Mirrored(stage, upstreams[0], upstreams[1])
        assert stage.status()["phase"] == "shadow"  # all that was seen here was mirrored
    finally:
        stage.close()
        for upstream in upstreams:
            upstream.kill()


def same(direct: Answer, proxied: Answer) -> None:
    """Status line, body and every header but ours; of chunked bodies their content."""
    chunked = direct.field("transfer-encoding") == "chunked"
    assert proxied.status_line == direct.status_line
    assert proxied.field("transfer-encoding") == direct.field("transfer-encoding")
    if chunked:
        assert dechunked(proxied.body) == dechunked(direct.body)
    else:
        assert proxied.body == direct.body

    def theirs(answer: Answer) -> list[tuple[bytes, bytes]]:
        return [(name, value) for name, value in answer.fields if name.lower() not in OURS]

    assert theirs(proxied) == theirs(direct)
    assert proxied.field("x-accede-version") == "1"
    assert proxied.field("x-accede-arm") == "stable"


@pytest.mark.parametrize("script", ["nan", "dup", "gzip", "chunked", "big", "status=422", "status=503"])
def test_answers_are_the_models_own(mirrored: Mirrored, script: str) -> None:
    same(*mirrored.both(post(PREDICT, WEIRD, f"x-script: {script}")))
    eventually(lambda: mirrored.copies(script), 5, "its copy at the shadow")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (WEIRD, "content-type: application/json"),
        (gzip.compress(WEIRD, mtime=0), "content-encoding: gzip"),
        (bytes(range(256)) * 4096, "content-type: application/octet-stream"),
    ],
    ids=["NaN and duplicate keys", "gzip", "1 MiB"],
)
def test_requests_arrive_as_they_were_sent_in_both_framings(
    mirrored: Mirrored, body: bytes, field: str
) -> None:
    direct, proxied = mirrored.both(post(PREDICT, body, field))
    assert proxied.body == body
    same(direct, proxied)
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + 5000]), body[at : at + 5000])
        for at in range(0, len(body), 5000)
    )
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: models\r\n{field}\r\nTransfer-Encoding: chunked\r\n\r\n"
    direct, proxied = mirrored.both(head.encode() + chunks + b"0\r\n\r\n")
    assert proxied.body == body
    same(direct, proxied)


def test_chunks_of_a_stream_come_as_they_are_written(mirrored: Mirrored) -> None:
    client = Connection(mirrored.port)
    client.send(post(PREDICT, b"{}", "x-script: sse=5"))
    for number in range(5):
        while b"data: %d\n\n\r\n" % number not in client.buffer:
            assert client.more()
        # The next one is written a tenth of a second later, so it is not here yet.
        assert b"data: %d" % (number + 1) not in client.buffer
    assert dechunked(client.answer().body) == b"".join(b"data: %d\n\n" % number for number in range(5))
    client.close()


def test_what_is_no_prediction_passes_too_and_is_not_copied(mirrored: Mirrored) -> None:
    same(
        *mirrored.both(f"GET /v1/models/{NAME} HTTP/1.1\r\nHost: models\r\nx-script: gzip=0\r\n\r\n".encode())
    )
    mirrored.both(post(PREDICT, b"{}", "x-script: status=418"))
    eventually(lambda: mirrored.copies("status=418"), 5, "the copy of a later prediction")
    assert mirrored.copies("gzip=0") == 0
