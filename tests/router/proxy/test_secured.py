"""TLS of a client's connection by its bytes: records cut and joined anywhere, alerts, small buffers."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from accede.router.facts import Placed
from tests.router.conftest import Connection, UpstreamProcess, WorkerProcess, post, route
from tests.router.proxy.test_tls_in import NAME, Authority, Secured, authority

__all__ = ["authority"]  # a fixture
Worker = Callable[..., WorkerProcess]


class Records:
    """A client that decides which bytes of its records travel together."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.plain = Connection(port)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=NAME)

    def shake(self, send: Callable[[bytes], None]) -> None:
        """The handshake; `send` gets each flight."""
        while True:
            try:
                self.tls.do_handshake()
                send(self._outgoing.read())
                return
            except ssl.SSLWantReadError:
                if self._outgoing.pending:
                    send(self._outgoing.read())
                self.receive()

    def record(self, data: bytes) -> bytes:
        """`data` encrypted, for the caller to send."""
        self.tls.write(data)
        return self._outgoing.read()

    def receive(self) -> None:
        data = self.plain.socket.recv(1 << 16)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def read(self) -> bytes:
        """Some plaintext; b'' at a proper end."""
        while True:
            try:
                return self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                self.receive()

    def answer(self) -> bytes:
        """What comes until the answer's body is complete; echoes only."""
        got = b""
        while True:
            head, end, body = got.partition(b"\r\n\r\n")
            if end:
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                if len(body) >= length:
                    return body
            piece = self.read()
            assert piece
            got += piece


@pytest.fixture
def worker(start_worker: Worker, stable: UpstreamProcess, authority: Authority) -> WorkerProcess:
    return start_worker(Placed(route(stable.url), 0), tls=authority.issue())


@pytest.fixture
def records(worker: WorkerProcess, authority: Authority) -> Iterator[Records]:
    made = Records(worker.port, authority.trusting())
    yield made
    made.plain.close()


def singly(client: Records) -> Callable[[bytes], None]:
    def send(data: bytes) -> None:
        for at in range(len(data)):
            client.plain.send(data[at : at + 1])

    return send


def test_every_cut_between_bytes_is_a_fine_one(records: Records) -> None:
    records.shake(singly(records))
    singly(records)(records.record(post("/p", b"hello")))
    assert records.answer() == b"hello"


def test_a_request_may_come_with_the_end_of_the_handshake(records: Records) -> None:
    last: list[bytes] = []

    def send(flight: bytes) -> None:
        last.append(flight)
        if len(last) == 1:  # the hello; what is last waits for the request
            records.plain.send(flight)

    records.shake(send)
    records.plain.send(last[-1] + records.record(post("/p", b"hello")))
    assert records.answer() == b"hello"


def test_many_records_at_once_and_parts_of_the_next(records: Records) -> None:
    records.shake(records.plain.send)
    data = b"".join(records.record(post("/p", b"%d" % number)) for number in range(400))
    third = len(data) // 3
    for piece in (data[:third], data[third : 2 * third + 1], data[2 * third + 1 :]):
        records.plain.send(piece)
    got = b""
    while got.count(b"HTTP/1.1 200") < 400 or not got.endswith(b"399"):
        got += records.read()
    assert [b"\r\n\r\n%d" % number in got for number in range(400)] == [True] * 400


def test_a_record_that_was_tampered_with_ends_the_connection_with_an_alert(
    worker: WorkerProcess, records: Records
) -> None:
    records.shake(records.plain.send)
    records.plain.send(records.record(post("/p", b"hello")))
    assert records.answer() == b"hello"
    torn = bytearray(records.record(post("/p", b"bye")))
    torn[-1] ^= 1
    records.plain.send(bytes(torn))
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        records.read()
    cells = worker.counters.cells(0)
    assert (cells[0], cells[1]) == (1, 0)  # of the second request nothing was taken
    cells.release()


def test_a_handshake_that_cannot_succeed_is_told_why(worker: WorkerProcess) -> None:
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname = False
    stranger.verify_mode = ssl.CERT_NONE
    stranger.maximum_version = ssl.TLSVersion.TLSv1_2
    stranger.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # the certificate is of another kind
    client = Records(worker.port, stranger)
    with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
        client.shake(client.plain.send)
    client.plain.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="Python's ssl cannot ask for it")
def test_keys_that_change_are_no_trouble(worker: WorkerProcess, authority: Authority) -> None:
    """`openssl s_client` asks for new keys of both sides (RFC 8446 §4.6.3) when it is told K."""
    asked = ["openssl", "s_client", "-connect", f"127.0.0.1:{worker.port}", "-tls1_3", "-servername", NAME]
    client = subprocess.Popen(
        [*asked, "-CAfile", str(authority.ca_file)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
    )  # fmt: skip
    assert client.stdin is not None
    assert client.stdout is not None
    for number in range(3):
        client.stdin.write(b"K\n")
        client.stdin.flush()
        while b"KEYUPDATE" not in client.stdout.readline():
            assert client.poll() is None
        client.stdin.write(post("/p", b"hello %d" % number))
        client.stdin.flush()
        while b"hello %d" % number not in (said := client.stdout.read(1 << 16)):
            assert said
    client.stdin.close()
    client.stdout.close()
    assert client.wait(15) == 0


def test_buffers_do_not_keep_the_size_of_what_has_passed(worker: WorkerProcess, authority: Authority) -> None:
    """2 MiB each way over each of 30 connections that stay: a buffer as large as a read would be 300 KiB."""
    body = os.urandom(2 << 20)
    clients: list[Secured] = []
    figures = []
    for count in (5, 35):
        while len(clients) < count:
            client = Secured(worker.port, authority.trusting())
            client.send(post("/p", body))
            assert client.answer().body == body
            clients.append(client)
        figures.append(worker.rss())
    each = (figures[1] - figures[0]) / 30
    print(f"a used TLS connection: {each / 1024:.0f} KiB")
    assert each < 140 * 1024
    for client in clients:
        client.close()


def test_a_client_that_does_not_read_holds_the_answer_back_and_gets_it_whole(
    worker: WorkerProcess, authority: Authority
) -> None:
    client = Secured(worker.port, authority.trusting())
    client.send(post("/p", b"{}", "x-script: big") * 40)
    before = worker.rss()
    time.sleep(0.5)  # what would go on growing if nothing held it back
    assert worker.rss() - before < 24 << 20, "two or three answers and what the system keeps of them"
    for _ in range(40):
        assert client.answer().body == bytes(range(256)) * 4096
    client.close()
