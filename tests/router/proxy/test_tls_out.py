"""TLS towards model servers: verified by default, with files of one's own, renewed while it runs."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from accede.errors import WireError
from accede.router.facts import Ending, Placed
from accede.router.proxy.upstream_tls import ClientTls, Contexts
from accede.store.routes import Arm, ServiceRoute, UpstreamTls
from tests.router.conftest import (
    Connection,
    Observer,
    UpstreamProcess,
    WorkerProcess,
    exchange,
    post,
    route,
    wait_for,
)
from tests.router.proxy.test_readiness import OFTEN, ModelServer

Worker = Callable[..., WorkerProcess]


class Authority:
    """A CA of the test's own, and its files."""

    def __init__(self, directory: Path) -> None:
        self.ca = trustme.CA()
        self.directory = directory
        self.file = self.path("ca.pem")
        self.ca.cert_pem.write_to_path(self.file)

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def server(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names).configure_cert(context)
        return context

    def client(self, name: str) -> tuple[str, str]:
        """Files of a certificate and its key."""
        issued = self.ca.issue_cert(name)
        files = self.path(f"{name}.pem"), self.path(f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(files[0])
        issued.private_key_pem.write_to_path(files[1])
        return files


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def start_server() -> Iterator[Callable[..., ModelServer]]:
    started: list[ModelServer] = []

    def start(context: ssl.SSLContext, name: str = "model") -> ModelServer:
        started.append(ModelServer(name, {"/ping": (200, "")}, context))
        return started[-1]

    yield start
    for server in started:
        server.close()


Start = Callable[..., ModelServer]


def secured(url: str, *, generation: int = 1, **tls: Any) -> ServiceRoute:
    return route(
        url, arms=(Arm("stable", "42", (url,), 10_000, tls=UpstreamTls(**tls)),), generation=generation
    )  # fmt: skip


def refused_with(worker: WorkerProcess, *expected: str) -> None:
    """The worker's whole log is one line for each of `expected`, holding it and no certificate."""
    lines = worker.stop().splitlines()
    worker.errors = ""
    messages = [json.loads(line)["message"] for line in lines]
    assert len(messages) == len(expected), messages
    for message, words in zip(messages, expected, strict=True):
        assert words in message
        assert "BEGIN" not in message
        assert "trustme" not in message.lower()


def test_requests_and_answers_travel_over_tls_and_connections_are_kept(
    start_worker: Worker, start_server: Start, authority: Authority
) -> None:
    server = start_server(authority.server("127.0.0.1"))
    worker = start_worker(Placed(secured(server.url, ca=authority.file), 0))
    client = Connection(worker.port)
    for _ in range(5):
        client.send(post("/p", b"x" * 100_000))
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b'"model"')
    client.close()
    assert server.served == 5


def test_a_certificate_nobody_vouches_for_is_a_failed_connection(
    start_worker: Worker, start_server: Start, authority: Authority,
    start_observer: Callable[[WorkerProcess], Observer],
) -> None:  # fmt: skip
    server = start_server(authority.server("127.0.0.1"))
    worker = start_worker(Placed(secured(server.url), 0))
    observer = start_observer(worker)
    for _ in range(3):
        answer = exchange(worker.port, post("/p"))
        assert answer.status == 502
        assert b"version 42 of fraud cannot be reached" in answer.body
    assert {fact.ending for fact in observer.wait_facts(3)} == {int(Ending.CONNECT)}
    assert server.served == 0
    refused_with(worker, "version 42 of fraud: its certificate cannot be verified: ")  # once, not thrice


def test_verify_false_accepts_any_certificate(
    start_worker: Worker, start_server: Start, authority: Authority
) -> None:
    server = start_server(authority.server("elsewhere.example"))
    worker = start_worker(Placed(secured(server.url, verify=False), 0))
    assert exchange(worker.port, post("/p")).status == 200


def test_the_name_is_verified_and_can_be_another_than_the_urls(
    start_worker: Worker, start_server: Start, authority: Authority
) -> None:
    asked: list[str | None] = []
    context = authority.server("models.internal")
    context.sni_callback = lambda _end, name, _context: asked.append(name)
    server = start_server(context)
    worker = start_worker(Placed(secured(server.url, ca=authority.file), 0))
    assert exchange(worker.port, post("/p")).status == 502
    named = secured(server.url, generation=2, ca=authority.file, server_name="models.internal")
    worker.apply(Placed(named, 0))
    assert exchange(worker.port, post("/p")).status == 200
    assert asked[-1] == "models.internal"
    wrong = secured(server.url, generation=3, ca=authority.file, server_name="other.internal")
    worker.apply(Placed(wrong, 0))
    assert exchange(worker.port, post("/p")).status == 502
    refused_with(worker, "IP address mismatch", "'other.internal'")


def test_the_router_shows_its_own_certificate_where_it_has_one(
    start_worker: Worker, start_server: Start, authority: Authority
) -> None:
    context = authority.server("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # where the server refuses within the handshake
    authority.ca.configure_trust(context)
    server = start_server(context)
    worker = start_worker(Placed(secured(server.url, ca=authority.file), 0))
    assert exchange(worker.port, post("/p")).status == 502
    certificate, key = authority.client("router.internal")
    shown = secured(server.url, generation=2, ca=authority.file, certificate=certificate, key=key)
    worker.apply(Placed(shown, 0))
    assert exchange(worker.port, post("/p")).status == 200
    refused_with(worker, "version 42 of fraud: no TLS handshake: ")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning")
def test_nothing_older_than_tls_1_2_is_spoken(
    start_worker: Worker, start_server: Start, authority: Authority
) -> None:
    context = authority.server("127.0.0.1")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    server = start_server(context)
    worker = start_worker(Placed(secured(server.url, verify=False), 0))
    assert exchange(worker.port, post("/p")).status == 502
    refused_with(worker, "no TLS handshake")


def test_a_handshake_that_never_ends_is_over_with_the_connect_timeout(start_worker: Worker) -> None:
    silent = socket.socket()
    silent.bind(("127.0.0.1", 0))
    silent.listen()
    url = f"https://127.0.0.1:{silent.getsockname()[1]}"
    worker = start_worker(Placed(secured(url, verify=False), 0), connect_timeout=0.3)
    assert exchange(worker.port, post("/p")).status == 502
    silent.close()


def test_plain_http_behind_an_https_url_is_a_failed_connection(
    start_worker: Worker, stable: UpstreamProcess
) -> None:
    url = stable.url.replace("http:", "https:")
    worker = start_worker(Placed(secured(url, verify=False), 0), connect_timeout=1.0)
    assert exchange(worker.port, post("/p")).status == 502
    worker.stop()
    worker.errors = ""  # what the server sends back decides whether it is a failed handshake or a timeout


def test_a_route_whose_files_cannot_be_used_is_refused_and_the_old_one_stays(
    start_worker: Worker, start_server: Start, authority: Authority
) -> None:
    server = start_server(authority.server("127.0.0.1"))
    worker = start_worker(Placed(secured(server.url, ca=authority.file), 0))
    assert exchange(worker.port, post("/p")).status == 200
    garbage = authority.path("garbage.pem")
    Path(garbage).write_text("no certificate")
    missing = authority.path("missing.pem")
    bad = [
        ({"ca": missing}, f"tls.ca '{missing}' cannot be read by the router: No such file or directory"),
        ({"ca": garbage}, f"tls.ca '{garbage}' holds no PEM certificate"),
        ({"ca": authority.file, "certificate": missing}, f"tls.certificate '{missing}' cannot be read"),
        ({"ca": authority.file, "certificate": garbage}, f"tls.certificate '{garbage}' hold no PEM"),
    ]
    for generation, (tls, _) in enumerate(bad, start=2):
        worker.apply(Placed(secured(server.url, generation=generation, **tls), 0))
        assert exchange(worker.port, post("/p")).status == 200
    refused_with(worker, *(f"fraud: {words}" for _, words in bad))


def test_changed_files_are_used_for_new_connections(
    start_worker: Worker, start_server: Start, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    old, new = Authority(tmp_path / "a"), Authority(tmp_path / "b")
    trusted = str(tmp_path / "trusted.pem")
    shutil.copy(old.file, trusted)
    server = start_server(new.server("127.0.0.1"))
    worker = start_worker(Placed(secured(server.url, ca=trusted), 0))
    assert exchange(worker.port, post("/p")).status == 502
    shutil.copy(new.file, trusted + ".new")
    Path(trusted + ".new").replace(trusted)
    wait_for(lambda: exchange(worker.port, post("/p")).status == 200)
    Path(trusted).write_text("broken")
    assert exchange(worker.port, post("/p")).status == 200  # what was read before stays in force
    refused_with(worker, "version 42 of fraud: its certificate cannot be verified")


def test_probes_verify_too(start_worker: Worker, start_server: Start, authority: Authority) -> None:
    server = start_server(authority.server("127.0.0.1"), "candidate")
    stable = start_server(authority.server("127.0.0.1"), "stable")

    def told(generation: int, **tls: Any) -> ServiceRoute:
        arms = (
            Arm("stable", "42", (stable.url,), 0, tls=UpstreamTls(ca=authority.file)),
            Arm("candidate", "43", (server.url,), 10_000, tls=UpstreamTls(**tls)),
        )
        return route(
            stable.url, arms=arms, generation=generation, protocol="mlflow", path="/", readiness=OFTEN
        )

    worker = start_worker(Placed(told(1), 0))
    assert exchange(worker.port, post("/invocations")).body == b'"stable"'
    worker.apply(Placed(told(2, ca=authority.file), 0))
    wait_for(lambda: exchange(worker.port, post("/invocations")).body == b'"candidate"')


# --- contexts


def test_settings_share_one_context_and_files_are_watched(authority: Authority) -> None:
    told: list[str] = []
    contexts = Contexts(told.append)
    settings = UpstreamTls(ca=authority.file)
    one = contexts.get(settings)
    assert contexts.get(UpstreamTls(ca=authority.file)) is one
    assert one.context.verify_mode is ssl.CERT_REQUIRED
    assert one.context.check_hostname
    assert one.context.minimum_version is ssl.TLSVersion.TLSv1_2
    first = one.context
    contexts.sweep(1000.0)
    assert one.context is first
    Path(authority.file).write_text("being written")
    for now in (1010.0, 1020.0, 1030.0, 1040.0):
        contexts.sweep(now)
    assert one.context is first
    assert len(told) == 1  # once, and only when it was as wrong a little later
    assert f"tls.ca '{authority.file}' holds no PEM certificate" in told[0]
    authority.ca.cert_pem.write_to_path(authority.file)
    contexts.sweep(1050.0)
    assert one.context is not first
    assert len(told) == 1
    contexts.retain(set())
    assert contexts.get(settings) is not one


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(authority: Authority) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    certificate, key = authority.client("router.internal")
    loaded = load_pem_private_key(Path(key).read_bytes(), None)
    Path(key).write_bytes(
        loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    done: list[str] = []

    def load() -> None:
        try:
            ClientTls(UpstreamTls(certificate=certificate, key=key))
        except WireError as problem:
            done.append(str(problem))

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(10)
    files = f"tls.certificate '{certificate}' and tls.key '{key}'"
    assert done == [f"{files} hold no PEM certificate and its private key without a passphrase"]
