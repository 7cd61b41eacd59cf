"""TLS handshakes that are slow, many or asked for again, and ends that only TLS has: bounded, and quiet."""

from __future__ import annotations

import resource
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from accede.router.facts import Ending, Placed
from tests.router.conftest import (
    Connection,
    Observer,
    UpstreamProcess,
    WorkerProcess,
    post,
    route,
    wait_for,
)
from tests.router.proxy.test_client_limits import cpu
from tests.router.proxy.test_tls_in import NAME, Authority, Secured, answered, authority, serial

__all__ = ["authority"]  # a fixture

Worker = Callable[..., WorkerProcess]
MIB = 2**20
OWN = 40  # descriptors of a worker beside its connections


def descriptors(worker: WorkerProcess) -> int:
    return len(list(Path(f"/proc/{worker.process.pid}/fd").iterdir()))


class Half:
    """A client whose TLS the test drives: what is to be sent, and when, is its own choice."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=NAME)

    def hello(self) -> bytes:
        """Its first message."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._out.read()

    def connect(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.socket.sendall(self.hello())
        while True:
            self._in.write(self.socket.recv(65536))
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                continue
            break
        self.push()

    def say_goodbye(self) -> None:
        """Encrypt a close_notify; `push` sends it."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()

    def push(self) -> None:
        self.socket.sendall(self._out.read())

    def rest(self) -> bytes:
        """All that comes until the connection ends."""
        got = b""
        while data := self.socket.recv(65536):
            self._in.write(data)
            try:
                while more := self.tls.read(65536):
                    got += more
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                pass
        self.socket.close()
        return got


def test_a_handshake_that_does_not_come_is_cut(
    start_worker: Worker, stable: UpstreamProcess, authority: Authority
) -> None:
    worker = start_worker(Placed(route(stable.url), 0), tls=authority.issue(), head_timeout=0.5)
    clients = [Connection(worker.port) for _ in range(30)]
    for client in clients[:15]:
        client.send(b"\x16\x03\x01")
    for client in clients:
        assert client.ended()
        client.close()
    assert serial(worker.port, authority)


@pytest.mark.parametrize(("connections", "most"), [(8192, 512), (32, 34)])
def test_clients_that_are_slow_in_their_handshake_make_room_for_others(
    start_worker: Worker, stable: UpstreamProcess, authority: Authority, connections: int, most: int
) -> None:
    worker = start_worker(Placed(route(stable.url), 0), tls=authority.issue(), connections=connections)
    context = authority.trusting()
    early = Secured(worker.port, context)
    before, began = worker.rss(), time.monotonic()
    hello = Half(context).hello()
    slow = [Connection(worker.port) for _ in range(700)]
    for at, client in enumerate(slow[::2]):
        try:
            client.send(hello[: at % len(hello)])
        except OSError:  # cut already: where there are few places
            assert connections == 32
    wait_for(lambda: answered(worker.port, context))
    assert time.monotonic() - began < 5, "their own time is ten seconds"
    early.send(post("/p", b"still"))
    assert early.answer().body == b"still"
    assert descriptors(worker) <= most + OWN
    assert worker.rss() - before < 64 * MIB
    assert sum(1 for client in slow if not _cut(client)) <= 700 - 189, "who waits in line is let in meanwhile"
    for client in (early, *slow):
        client.close()


def _cut(client: Connection) -> bool:
    client.socket.setblocking(False)
    try:
        return client.socket.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_without_a_descriptor_left_newcomers_wait_and_nothing_spins(
    start_worker: Worker, stable: UpstreamProcess, authority: Authority
) -> None:
    worker = start_worker(Placed(route(stable.url), 0), tls=authority.issue())
    context = authority.trusting()
    early = Secured(worker.port, context)
    early.send(post("/p"))
    assert early.answer().status == 200
    limits = resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (descriptors(worker), limits[1]))
    waiting = [Connection(worker.port) for _ in range(3)]
    before = cpu(worker)
    time.sleep(0.5)  # nothing happens: what a spinning worker would use up
    assert cpu(worker) - before < 0.2
    early.send(post("/p", b"still"))
    assert early.answer().body == b"still"
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, limits)
    assert serial(worker.port, authority)
    for client in (early, *waiting):
        client.close()


@pytest.mark.parametrize("when", ["with the request", "before the answer", "after the answer"])
def test_a_client_that_says_goodbye_has_left_and_nobody_complains(
    start_worker: Worker, start_observer: Callable[[WorkerProcess], Observer], stable: UpstreamProcess,
    authority: Authority, when: str,
) -> None:  # fmt: skip
    """A close_notify ends the connection, as FIN does without TLS. The fixture sees an empty log."""
    worker = start_worker(Placed(route(stable.url), 0), tls=authority.issue())
    observer = start_observer(worker)
    client = Half(authority.trusting())
    client.connect(worker.port)
    answers = when == "after the answer"
    client.tls.write(post("/p", b"{}", "x-script: echo" if answers else "x-script: hang"))
    if when == "with the request":
        client.say_goodbye()
    client.push()
    if when != "with the request":
        if answers:
            observer.wait_facts(1)
        else:
            wait_for(lambda: sum(worker.counters.cells(0)[:2]) == 1)
        client.say_goodbye()
        client.push()
    assert client.rest().startswith(b"HTTP/1.1 200 OK" if answers else b"")
    (fact,) = observer.wait_facts(1)
    assert fact.ending == (Ending.ANSWERED if answers else Ending.DISCONNECTED)
    assert serial(worker.port, authority)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="Python's ssl cannot ask for it")
def test_a_client_that_wants_to_negotiate_again_is_refused(
    start_worker: Worker, stable: UpstreamProcess, authority: Authority
) -> None:
    worker = start_worker(Placed(route(stable.url), 0), tls=authority.issue())
    client = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{worker.port}", "-tls1_2", "-servername", NAME,
         "-CAfile", str(authority.ca_file)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert client.stdin is not None
    assert client.stdout is not None
    while b"Verify return code" not in client.stdout.readline():
        assert client.poll() is None
    client.stdin.write(b"R\n")
    client.stdin.flush()
    said = client.communicate(timeout=15)[0]
    assert b"RENEGOTIATING" in said
    assert b"no renegotiation" in said
    assert client.returncode != 0
    assert serial(worker.port, authority)
