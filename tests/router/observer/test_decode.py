"""Content codings undone: the same bytes back, bounded output whatever comes, and nothing guessed."""

from __future__ import annotations

import gzip
import resource
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.router.facts import Placed
from accede.router.observer.decode import MAX_DECODED, decoded, read_json, unreadable
from accede.router.paths import MISSING
from accede.store.evidence import SeriesKey
from accede.store.measurement import Extraction
from tests.router.conftest import WorkerProcess, exchange, plan, post, route, wait_for
from tests.router.observer.observing import Observing

brotli: Any = import_module("brotli")  # it has no types


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


def brotli_of(body: bytes) -> bytes:
    packed: bytes = brotli.compress(body, quality=1)
    return packed


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate ": raw_deflate,
    "br": brotli_of,
    "BR": brotli_of,
    "identity": bytes,
    "": bytes,
}


@pytest.mark.parametrize("coding", CODINGS)
@given(body=st.binary(max_size=300))
def test_every_known_coding_is_undone(coding: str, body: bytes) -> None:
    assert decoded(CODINGS[coding](body), coding) == body


def test_codings_are_undone_in_the_reverse_of_their_order() -> None:
    assert decoded(brotli_of(gzip.compress(b"1")), "gzip, br") == b"1"
    assert decoded(gzip.compress(b"1"), "identity,gzip") == b"1"
    assert decoded(gzip.compress(b"1") + gzip.compress(b"2"), "gzip") == b"12"
    assert read_json(brotli_of(b'{"a": NaN}'), "br") != MISSING


@pytest.mark.parametrize("coding", ["gzip", "deflate", "Deflate ", "br"])
def test_broken_cut_and_overlong_bodies_are_no_bodies(coding: str) -> None:
    whole = CODINGS[coding](b'{"a": 1}' * 50)
    for cut in range(1, len(whole)):
        assert decoded(whole[:cut], coding) is None
    if coding in {"gzip", "br"}:
        assert decoded(whole + b"x", coding) is None
    assert decoded(b"\xff" * 50, coding) is None


@pytest.mark.parametrize(
    "coding", ["zstd", "compress", "gzip, zstd", "dcb", "br;q=1", ",".join(["gzip"] * 5)]
)
def test_other_codings_are_unreadable_and_say_why(coding: str) -> None:
    assert decoded(gzip.compress(b"1"), coding) is None
    assert coding.count(",") > 3 or unreadable(coding).startswith("content-encoding ")


def test_a_strangers_coding_is_not_repeated() -> None:
    assert (
        unreadable("x" * 500)
        == unreadable("a\nb")
        == ("content-encoding an unknown coding: send gzip, deflate or br instead")
    )
    assert unreadable("gzip, br, identity") == ""


def bomb(coding: str, size: int) -> bytes:
    """Zeros, without ever holding them."""
    piece = bytes(2**20)
    if coding == "br":
        stream = brotli.Compressor(quality=5)
        return b"".join([stream.process(piece) for _ in range(size >> 20)]) + bytes(stream.finish())
    deflating = zlib.compressobj(wbits=31 if coding == "gzip" else 15)
    return b"".join([deflating.compress(piece) for _ in range(size >> 20)]) + deflating.flush()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_the_bound_is_exact(coding: str) -> None:
    exact = decoded(CODINGS[coding](bytes(MAX_DECODED)), coding)
    assert exact is not None
    assert len(exact) == MAX_DECODED
    assert decoded(CODINGS[coding](bytes(MAX_DECODED + 1)), coding) is None


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_bomb_is_not_unfolded(coding: str) -> None:
    body = bomb(coding, 128 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decoded(body, coding) is None
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 32 * 1024


class Answering(BaseHTTPRequestHandler):
    """A model server that answers with a file of `bodies`: /p/gzip sends bodies["gzip"] under that coding."""

    protocol_version = "HTTP/1.1"
    bodies: ClassVar[dict[str, bytes]] = {}

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        coding = self.path.removeprefix("/p/")
        body = self.bodies[coding]
        self.send_response(200)
        if coding != "plain":
            self.send_header("content-encoding", coding)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_bombs_through_worker_and_observer_cost_their_prediction_and_nothing_else(
    start_worker: Callable[..., WorkerProcess], upstream: str, tmp_path: Path
) -> None:
    bombs = {coding: bomb(coding, 64 * 2**20) for coding in ("gzip", "deflate", "br")}
    Answering.bodies = {**bombs, "plain": b'{"p": 0.5}', "zstd": b"(\xb5/\xfd"}
    one = Placed(route(upstream, plan=plan(extraction=Extraction("p", "number"), limits=(0.0, 1.0))), 0)
    worker = start_worker(one)
    observer = Observing(worker, one, tmp_path / "store")
    try:
        exchange(worker.port, post("/p/plain"))
        wait_for(lambda: observer.accounted() == 1)
        before = observer.peak()
        for coding, body in bombs.items():
            answer = exchange(worker.port, post(f"/p/{coding}"))
            assert answer.field("content-encoding") == coding
            assert answer.body == body  # clients get every byte as it came
        exchange(worker.port, post("/p/zstd"))
        exchange(worker.port, post("/p/plain"))
        wait_for(lambda: observer.accounted() == 6)
        grown = observer.peak() - before
    finally:
        worker.stop()
        said = observer.end()
    evidence = observer.evidence()
    assert evidence is not None
    assert sum(evidence.series[SeriesKey("stable", "", "missing")].sum) == 4
    assert sum(evidence.series[SeriesKey("stable", "", "mean")].sum) == 1.0
    assert evidence.arms["stable"].undecodable == 1  # zstd; a bomb's coding is known
    assert "content-encoding zstd: send gzip, deflate or br instead" in said
    assert grown < 48 * 2**20
