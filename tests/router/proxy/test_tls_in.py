"""TLS towards clients: what is offered, who is let in, and certificates that change while it runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from accede.errors import UsageError
from accede.router.facts import Placed
from accede.router.parent.process import RouterConfig
from accede.router.proxy.tls import Pem, TlsFiles, server_context
from tests.router.conftest import Connection, UpstreamProcess, WorkerProcess, post, route, wait_for

Worker = Callable[..., WorkerProcess]
NAME = "router.test"


class Authority:
    """A certificate authority, and the files of what it issues."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))

    def issue(self, name: str = NAME) -> TlsFiles:
        cert = self.ca.issue_cert(name)
        files = TlsFiles(str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key"))
        self.write(cert, files)
        return files

    def write(self, cert: trustme.LeafCert, files: TlsFiles) -> None:
        """As renewal programs do: written beside, then renamed."""
        for blobs, path in ((cert.cert_chain_pems, files.certificate), ([cert.private_key_pem], files.key)):
            beside = Path(path + ".new")
            beside.write_bytes(b"".join(blob.bytes() for blob in blobs))
            beside.replace(path)

    def trusting(self, client: TlsFiles | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context


class Secured(Connection):
    """A raw client connection over TLS."""

    def __init__(self, port: int, context: ssl.SSLContext, name: str = NAME) -> None:
        super().__init__(port)
        plain = self.socket
        try:
            self.tls = context.wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise
        self.socket = self.tls

    def serial(self) -> str:
        found = self.tls.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "tls"
    folder.mkdir()
    return Authority(folder)


def serial(port: int, authority: Authority) -> str:
    client = Secured(port, authority.trusting())
    try:
        return client.serial()
    finally:
        client.close()


def answered(port: int, context: ssl.SSLContext) -> bool:
    """Whether a request gets 200; in TLS 1.3 a refusal shows with the first read."""
    client: Secured | None = None
    try:
        client = Secured(port, context)
        client.send(post("/p"))
        return client.answer().status == 200
    except (OSError, EOFError):  # an SSLError is an OSError
        return False
    finally:
        if client is not None:
            client.close()


def test_requests_of_every_kind_are_served_over_tls(
    start_worker: Worker, stable: UpstreamProcess, authority: Authority
) -> None:
    worker = start_worker(Placed(route(stable.url), 0), tls=authority.issue())
    context = authority.trusting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = Secured(worker.port, context)
    assert client.tls.version() == "TLSv1.3"
    assert client.tls.selected_alpn_protocol() == "http/1.1"
    body = os.urandom(3 << 20)
    client.send(post("/p", body))
    assert client.answer().body == body
    client.send(post("/p", b"{}", "x-script: sse=2"))
    assert b"data: 1" in client.answer().body
    client.send(b"".join(post("/p", b"%d" % number) for number in range(30)))
    assert [client.answer().body for _ in range(30)] == [b"%d" % number for number in range(30)]
    client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert client.answer().body == b"abc"
    client.send(post("/p", b"bye", "Connection: close"))
    assert client.answer().body == b"bye"
    assert client.ended()  # a proper end: OpenSSL would raise without close_notify
    client.close()


def test_the_upstream_is_told_that_it_was_https(
    start_worker: Worker, start_upstream: Callable[..., UpstreamProcess], authority: Authority
) -> None:
    upstream = start_upstream("stable")
    worker = start_worker(Placed(route(upstream.url, forward_client="x-forwarded"), 0), tls=authority.issue())
    client = Secured(worker.port, authority.trusting())
    client.send(post("/p"))
    assert client.answer().status == 200
    assert upstream.last()["headers"]["x-forwarded-proto"] == "https"
    client.close()


@pytest.mark.parametrize(
    ("version", "taken"),
    [
        (ssl.TLSVersion.TLSv1_3, True),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_1, False),
    ],
)
def test_versions_from_1_2_on_are_spoken(
    start_worker: Worker, stable: UpstreamProcess, authority: Authority, version: ssl.TLSVersion, taken: bool
) -> None:
    worker = start_worker(Placed(route(stable.url), 0), tls=authority.issue())
    context = authority.trusting()
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with contextlib.suppress(ValueError):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
    if not taken:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            Secured(worker.port, context)
        return
    client = Secured(worker.port, context)
    client.send(post("/p", b"hello"))
    assert client.answer().body == b"hello"
    client.close()


def test_clients_need_a_certificate_of_the_named_authority(
    start_worker: Worker, stable: UpstreamProcess, authority: Authority, tmp_path: Path
) -> None:
    files = authority.issue()
    with_ca = TlsFiles(files.certificate, files.key, str(authority.ca_file))
    worker = start_worker(Placed(route(stable.url), 0), tls=with_ca)
    friend = Secured(worker.port, authority.trusting(authority.issue("friend.test")))
    friend.send(post("/p", b"hello"))
    assert friend.answer().body == b"hello"
    friend.close()
    (tmp_path / "else").mkdir()
    stranger = Authority(tmp_path / "else").issue("stranger.test")
    for context in (authority.trusting(), authority.trusting(stranger)):
        assert not answered(worker.port, context)
    cells = worker.counters.cells(0)
    assert (cells[0], cells[1]) == (1, 0)  # the friend's request alone was assigned
    cells.release()


def test_plain_http_and_noise_on_the_tls_port_are_closed_in_silence(
    start_worker: Worker, stable: UpstreamProcess, authority: Authority
) -> None:
    worker = start_worker(Placed(route(stable.url), 0), tls=authority.issue())
    for data in (post("/p"), b"\x16\x03\x01\x00\x05hello", b"\0" * 100, b"GET"):
        client = Connection(worker.port)
        client.send(data)
        if data == b"GET":
            client.socket.shutdown(socket.SHUT_WR)
        while client.more():
            pass
        assert not client.buffer.startswith(b"HTTP")
        client.close()
    reset = Connection(worker.port)
    reset.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    reset.close()
    assert serial(worker.port, authority)  # and the fixture sees that nothing was logged


def test_an_idle_connection_takes_a_bounded_amount_of_memory(
    start_worker: Worker, stable: UpstreamProcess, authority: Authority
) -> None:
    worker = start_worker(Placed(route(stable.url), 0), tls=authority.issue())
    context = authority.trusting()
    clients: list[Secured] = []
    figures = []
    for count in (50, 250):
        while len(clients) < count:
            client = Secured(worker.port, context)
            client.send(post("/p"))
            assert client.answer().status == 200
            clients.append(client)
        figures.append(worker.rss())
    each = (figures[1] - figures[0]) / 200
    print(f"one idle TLS connection: {each:.0f} bytes")
    assert each < 160 * 1024
    for client in clients:
        client.close()


def test_an_early_refusal_of_a_large_body_reaches_the_client(
    start_worker: Worker, stable: UpstreamProcess, authority: Authority
) -> None:
    """TLS has no half-close: the worker reads on, or a reset would overtake its answer."""
    worker = start_worker(Placed(route(stable.url, max_body=1000), 0), tls=authority.issue())
    client = Secured(worker.port, authority.trusting())
    with contextlib.suppress(OSError):
        client.send(b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000)
    assert client.answer().status == 413
    client.close()


def test_a_client_that_leaves_without_a_word_is_no_trouble(
    start_worker: Worker, stable: UpstreamProcess, authority: Authority
) -> None:
    worker = start_worker(Placed(route(stable.url), 0), tls=authority.issue())
    for script in ("slow=0.3", "sse=10", "big"):
        client = Secured(worker.port, authority.trusting())
        client.send(post("/p", b"{}", f"x-script: {script}"))
        os.close(client.tls.detach())
    client = Secured(worker.port, authority.trusting())
    client.send(post("/p", b"hello"))
    assert client.answer().body == b"hello"
    client.close()


class TestRenewal:
    def test_new_connections_see_the_new_certificate_and_old_ones_live_on(
        self, tmp_path: Path, stable: UpstreamProcess, authority: Authority
    ) -> None:
        files = authority.issue()
        worker = WorkerProcess(tmp_path, tls=files)
        worker.apply(Placed(route(stable.url), 0))
        old = Secured(worker.port, authority.trusting())
        first = old.serial()
        authority.write(authority.ca.issue_cert(NAME), files)
        wait_for(lambda: serial(worker.port, authority) != first)
        old.send(post("/p", b"still here"))
        assert old.answer().body == b"still here"
        old.close()
        assert "has put the new certificate in force" in worker.stop()

    def test_a_broken_one_keeps_the_old_says_so_once_and_the_next_good_one_counts(
        self, tmp_path: Path, stable: UpstreamProcess, authority: Authority
    ) -> None:
        files = authority.issue()
        worker = WorkerProcess(tmp_path, tls=files)
        worker.apply(Placed(route(stable.url), 0))
        first = serial(worker.port, authority)
        assert worker.process.stderr is not None
        Path(files.key).write_bytes(trustme.CA().issue_cert(NAME).private_key_pem.bytes())
        said = worker.process.stderr.readline().decode()
        assert "keeps the certificate it has" in said
        assert files.key in said
        assert "PRIVATE" not in said
        assert serial(worker.port, authority) == first
        authority.write(authority.ca.issue_cert(NAME), files)
        wait_for(lambda: serial(worker.port, authority) != first)
        assert worker.stop().count("keeps the certificate") == 0

    def test_an_authority_that_is_taken_away_lets_nobody_in_any_more(
        self, tmp_path: Path, stable: UpstreamProcess, authority: Authority
    ) -> None:
        files = authority.issue()
        clients = tmp_path / "clients.pem"
        shutil.copy(authority.ca_file, clients)
        worker = WorkerProcess(tmp_path, tls=TlsFiles(files.certificate, files.key, str(clients)))
        worker.apply(Placed(route(stable.url), 0))
        friend = authority.issue("friend.test")
        context = authority.trusting(friend)
        assert answered(worker.port, context)
        trustme.CA().cert_pem.write_to_path(str(clients))
        wait_for(lambda: not answered(worker.port, context))
        worker.stop()


class TestFilesThatCannotBeUsed:
    def broken(self, authority: Authority, what: str) -> tuple[TlsFiles, str]:
        good, other = authority.issue(), authority.issue("other.test")
        cert, key, ca = good.certificate, good.key, str(authority.ca_file)
        empty = authority.folder / "empty.pem"
        empty.write_text("nothing\n")
        torn = authority.folder / "torn.pem"
        torn.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        locked = authority.folder / "locked.key"
        what_it_is = "ENCRYPTED PRIVATE KEY-----"
        locked.write_text(f"-----BEGIN {what_it_is}\nAAAA\n-----END {what_it_is}\n")
        return {
            "no certificate file": (TlsFiles("/nowhere.pem", key), "--tls-cert"),
            "no key file": (TlsFiles(cert, "/nowhere.key"), "--tls-key"),
            "a folder": (TlsFiles(str(authority.folder), key), "--tls-cert"),
            "an empty certificate": (TlsFiles(str(empty), key), "--tls-cert"),
            "a torn certificate": (TlsFiles(str(torn), key), "--tls-cert"),
            "key and certificate swapped": (TlsFiles(key, cert), "--tls-cert"),
            "another key": (TlsFiles(cert, other.key), "--tls-key"),
            "a key with a passphrase": (TlsFiles(cert, str(locked)), "--tls-key"),
            "no authorities": (TlsFiles(cert, key, str(empty)), "--tls-client-ca"),
            "torn authorities": (TlsFiles(cert, key, str(torn)), "--tls-client-ca"),
            "fine": (TlsFiles(cert, key, ca), ""),
        }[what]

    @pytest.mark.parametrize(
        "what",
        [
            "no certificate file",
            "no key file",
            "a folder",
            "an empty certificate",
            "a torn certificate",
            "key and certificate swapped",
            "another key",
            "a key with a passphrase",
            "no authorities",
            "torn authorities",
        ],
    )
    def test_the_message_names_file_and_flag(self, authority: Authority, what: str) -> None:
        files, flag = self.broken(authority, what)
        with pytest.raises(UsageError) as refused:
            server_context(Pem.read(files), files)
        assert flag in str(refused.value)
        assert any(repr(path) in str(refused.value) for path in files.paths)
        assert refused.value.exit_code == 2

    def test_files_that_fit_are_taken(self, authority: Authority) -> None:
        files, _ = self.broken(authority, "fine")
        context = server_context(Pem.read(files), files)
        assert context.verify_mode == ssl.CERT_REQUIRED

    def test_a_router_does_not_start_with_them(self, authority: Authority, tmp_path: Path) -> None:
        files, _ = self.broken(authority, "another key")
        config = RouterConfig(
            "127.0.0.1", 0, 1, store=str(tmp_path), data=str(tmp_path), replica="r", tls=files
        )
        done = subprocess.run(
            [sys.executable, "-m", "accede.router", msgspec.json.encode(config).decode()],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2
        assert "does not belong to the certificate" in done.stderr
        assert "Traceback" not in done.stderr


def spare_of(pid: int) -> bytes:
    """What a parent keeps in memory for its workers."""
    found = b""
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # it may be closed while we look
            if "accede-tls" in str(one.readlink()):
                found += one.read_bytes()
    return found


def test_a_worker_that_starts_while_the_files_are_broken_serves_the_last_good_ones(
    tmp_path: Path, stable: UpstreamProcess, authority: Authority
) -> None:
    """With a whole router: the parent keeps them in memory for exactly that."""
    from accede.router.parent.admin import admin_call
    from accede.store.open import open_store
    from accede.store.protocol import Commit

    files = authority.issue()
    (tmp_path / "store").mkdir()
    store = open_store(str(tmp_path / "store"))
    config = RouterConfig(
        "127.0.0.1", 0, 1, store=str(tmp_path / "store"), data=str(tmp_path), replica="r", tls=files
    )
    errors = (tmp_path / "errors").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "accede.router", msgspec.json.encode(config).decode()], stderr=errors
    )
    try:
        one = route(stable.url)
        store.commit(Commit("fraud", None, 0, one, 0))
        admin = tmp_path / "router" / "admin.sock"

        def status() -> dict[str, Any]:
            with contextlib.suppress(Exception):
                return admin_call(admin, {"do": "status"})
            return {}

        wait_for(lambda: status().get("ready") and status().get("generations"))
        port = int(status()["listen"].rpartition(":")[2])
        first = serial(port, authority)
        authority.write(authority.ca.issue_cert(NAME), files)
        wait_for(lambda: serial(port, authority) != first)
        second = serial(port, authority)
        wait_for(lambda: Path(files.key).read_bytes() in spare_of(process.pid))
        Path(files.key).write_text("broken")
        wait_for(lambda: "broken" not in status()["tls"] and status()["tls"] != "ok")
        pid = status()["workers"][0]["pid"]
        os.kill(pid, 9)
        wait_for(lambda: status()["workers"][0]["pid"] not in {0, pid} and status()["ready"])
        assert serial(port, authority) == second
        assert "serves the certificate that was in force before" in (tmp_path / "errors").read_text()
    finally:
        process.terminate()
        process.wait(30)
        errors.close()
        store.close()
