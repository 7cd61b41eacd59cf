"""TLS with users, Sentinels, and a Cluster of several nodes: real ones, each with what goes wrong there."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import pytest
import redis
import trustme

from accede.errors import StoreError
from accede.store.open import PASSWORD, SENTINEL_PASSWORD, open_store
from accede.store.protocol import Store
from tests.store.servers import PATIENCE, VALKEY, Server, free_port, redis_7

if TYPE_CHECKING:
    from tests.store.conftest import Records

SECRET = "hunter2"
SENTINEL_SECRET = "hunter3"
# What docs/several-machines.md tells to grant.
SENTINEL_RIGHTS = ("+auth", "+hello", "+ping", "+sentinel|masters")
RIGHTS = (
    "~accede:* &accede:* -@all +@read +@write +@scripting +@pubsub +@connection +info +time +wait +cluster"
)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    folder = tmp_path / "certificates"
    folder.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("127.0.0.1").cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made = authority.issue_cert("127.0.0.1")
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    made.private_key_pem.write_to_path(folder / "key.pem")
    return folder


@pytest.fixture
def guarded(tmp_path: Path, certificates: Path) -> Iterator[Server]:
    """A server that speaks TLS alone and knows one user. Debian's: the wheel's has no TLS."""
    port = free_port()
    server = Server(
        tmp_path / "guarded", program=redis_7(), port=port,
        options=(
            "--port", "0", "--tls-port", str(port), "--tls-cert-file", str(certificates / "cert.pem"),
            "--tls-key-file", str(certificates / "key.pem"),
            "--tls-ca-cert-file", str(certificates / "ca.pem"),
            "--tls-auth-clients", "optional", "--user", "default", "off",
            "--user", "accede", "on", f">{SECRET}", *RIGHTS.split(),
        ),
    )  # fmt: skip
    yield server
    server.end()


@pytest.mark.slow
def test_a_user_with_the_documented_rights_over_tls(
    guarded: Server, certificates: Path, records: Records
) -> None:
    address = f"rediss://accede:{SECRET}@127.0.0.1:{guarded.port}?ca={certificates / 'ca.pem'}"
    store = open_store(address)
    reader = open_store(address)
    reader.wait(0.01)
    assert store.claim("me", 5.0).mine
    store.commit(records.commit())
    store.publish_evidence(records.evidence())
    store.publish_report(records.report())
    assert store.close_sources("fraud", "r1", {"a/1"}) == 1
    assert store.labels.expire(1.0, 10) == 0
    assert store.leadership().leader is not None
    assert store.forget_reports(store.reports()) == 1
    assert store.forget_ended("fraud", 1e12, 10) == 0
    store.resign("me")
    assert reader.routes().routes == (records.route(),)
    assert reader.decisions("r1") == (records.decision(),)
    for one in (store, reader):
        one.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda a: a.replace(SECRET, "wrong"), "refuses this user or password: check both"),
        (lambda a: a.replace(f"accede:{SECRET}@", ""), "(wants a password|refuses this user)"),
        (lambda a: a.partition("?")[0], "does not agree on TLS with this client: check"),
        (lambda a: a.replace("rediss", "redis").partition("?")[0], "cannot be reached: check"),
        (lambda a: a + "&prefix=other", "does not let this user do what a store needs"),
    ],
)
def test_what_is_wrong_with_tls_or_the_user_is_said_without_the_secret(
    guarded: Server, certificates: Path, change: Callable[[str], str], found: str
) -> None:
    address = f"rediss://accede:{SECRET}@127.0.0.1:{guarded.port}?ca={certificates / 'ca.pem'}"
    with pytest.raises(StoreError, match=found) as caught:
        open_store(change(address))
    assert SECRET not in str(caught.value)
    assert str(guarded.port) in str(caught.value)


@pytest.mark.slow
def test_sentinels_name_the_new_primary_after_the_first_has_died(tmp_path: Path, records: Records) -> None:
    primary = Server(tmp_path / "primary")
    replica = Server(tmp_path / "replica", options=("--replicaof", f"127.0.0.1 {primary.port}"))
    replica.until(lambda client: client.info("replication")["master_link_status"] == "up")
    file, port = tmp_path / "sentinel.conf", free_port()
    file.write_text(
        f"port {port}\nsentinel monitor main 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
    )
    program = shutil.which("redis-sentinel")
    command = [program, str(file)] if program else [str(VALKEY), str(file), "--sentinel"]
    watching = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    store: Store | None = None
    try:
        address = f"redis+sentinel://127.0.0.1:{port}/main"
        until = monotonic() + PATIENCE
        while store is None:
            try:
                store = open_store(address)
            except StoreError:
                assert monotonic() < until, "the Sentinel does not answer"
                sleep(0.05)
        with pytest.raises(StoreError, match=r"other at sentinel .*has no primary that its Sentinels know"):
            open_store(address.replace("main", "other"))
        # The Sentinel has to know of the replica before the primary dies.
        sentinel = redis_at(port)
        while not sentinel.sentinel_slaves("main"):
            sleep(0.1)
        store.commit(records.commit())
        primary.kill()
        version, refusals = 2, 0
        until = monotonic() + PATIENCE * 2
        while version < 4:
            try:
                store.commit(records.commit(version=version))
                version += 1
            except StoreError:
                refusals += 1
                assert monotonic() < until, "no new primary"
                sleep(0.1)
        assert refusals
        assert [decision.number for decision in store.decisions("r1")] == [1, 2, 3]
        with replica.client() as client:
            assert client.hget("accede:{fraud}:head", "generation") == b"3"
    finally:
        watching.kill()
        watching.wait()
        for one in (primary, replica):
            one.end()
        if store is not None:
            store.close()


def redis_at(port: int) -> Any:
    return redis.Redis(port=port)


@pytest.fixture
def guarded_sentinel(tmp_path: Path, certificates: Path) -> Iterator[int]:
    """A Sentinel over TLS alone, with a user and passwords, of a primary with a password of its own."""
    program = redis_7()
    primary = Server(tmp_path / "primary", program=program, options=("--requirepass", SECRET))
    file, port = tmp_path / "sentinel.conf", free_port()
    file.write_text(
        f"port 0\ntls-port {port}\ntls-cert-file {certificates / 'cert.pem'}\n"
        f"tls-key-file {certificates / 'key.pem'}\ntls-ca-cert-file {certificates / 'ca.pem'}\n"
        "tls-auth-clients optional\n"
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\nsentinel auth-pass main {SECRET}\n"
        "requirepass other-secret\n"
        f"user watcher on >{SENTINEL_SECRET} allchannels -@all {' '.join(SENTINEL_RIGHTS)}\n"
    )
    watching = subprocess.Popen([str(program), str(file), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        until = monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except OSError:
                assert monotonic() < until, "the Sentinel does not listen"
            sleep(0.05)
        yield port
    finally:
        watching.kill()
        watching.wait()
        primary.end()


@pytest.mark.slow
def test_sentinels_with_a_user_a_password_and_tls(
    guarded_sentinel: int, certificates: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, SECRET)
    monkeypatch.setenv(SENTINEL_PASSWORD, SENTINEL_SECRET)
    options = f"ca={certificates / 'ca.pem'}&sentinel_tls=yes"
    address = f"redis+sentinel://127.0.0.1:{guarded_sentinel}/main?{options}"
    store: Store | None = None
    until = monotonic() + PATIENCE
    while store is None:  # a Sentinel that has just begun does not know yet that its primary is there
        try:
            store = open_store(f"{address}&sentinel_user=watcher")
        except StoreError:
            assert monotonic() < until
            sleep(0.1)
    store.commit(records.commit())
    assert store.routes().routes == (records.route(),)
    store.close()
    monkeypatch.setenv(SENTINEL_PASSWORD, "other-secret")
    open_store(address).close()  # the default user's
    for secret, user in (("wrong", "watcher"), ("", "watcher"), ("wrong", "")):
        monkeypatch.setenv(SENTINEL_PASSWORD, secret)
        with pytest.raises(StoreError, match=r"has Sentinels that want another user or password") as refused:
            open_store(f"{address}&sentinel_user={user}" if user else address)
        assert "ACCEDE_SENTINEL_PASSWORD" in str(refused.value)
        assert secret == "" or secret not in str(refused.value)
    monkeypatch.setenv(SENTINEL_PASSWORD, SENTINEL_SECRET)
    with pytest.raises(StoreError, match=r"at sentinel .*: "):
        open_store(address.partition("?")[0])  # without TLS


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[Server]]:
    """Three primaries with a third of the slots each, of which the first has a replica."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1500")
    nodes = [Server(tmp_path / f"node{index}", options=options) for index in range(4)]
    try:
        for index, node in enumerate(nodes[:3]):
            with node.client() as client:
                client.execute_command(
                    "CLUSTER ADDSLOTSRANGE", 16384 * index // 3, 16384 * (index + 1) // 3 - 1
                )
                if index:
                    client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
        with nodes[3].client() as client:
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port)
        for node in nodes:
            node.until(lambda client: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
            node.until(lambda client: client.execute_command("CLUSTER INFO")["cluster_known_nodes"] == "4")
        with nodes[0].client() as client:
            first = client.execute_command("CLUSTER MYID")
        nodes[3].until(lambda client: client.execute_command("CLUSTER REPLICATE", first) in {True, b"OK"})
        nodes[3].until(lambda client: client.info("replication")["master_link_status"] == "up")
        yield nodes
    finally:
        for node in nodes:
            node.end()


@pytest.mark.slow
def test_services_on_several_nodes_of_a_cluster_one_of_which_fails_over(
    cluster: list[Server], records: Records
) -> None:
    address = f"redis+cluster://127.0.0.1:{cluster[1].port},127.0.0.1:{cluster[2].port}"
    store = open_store(address)
    names = [f"service-{number}" for number in range(12)]
    for name in names:
        store.commit(records.commit(name, rollout=f"{name}-1"))
        store.publish_evidence(records.evidence(service=name, rollout=f"{name}-1"))
    held = []
    for node in cluster[:3]:
        with node.client() as client:
            held.append(sum(b":head" in key for key in client.keys("*")))
    assert sum(held) == len(names)
    assert all(held), held
    assert sorted(route.service for route in store.routes().routes) == sorted(names)
    assert [entry.service for entry in store.audit()] == names
    listener = open_store(address)
    listener.wait(0.01)
    began = monotonic()
    store.commit(records.commit(names[0], 2, rollout=f"{names[0]}-1"))
    listener.wait(10.0)  # announced by whichever node, heard on any
    assert monotonic() - began < 5.0

    cluster[0].signal(signal.SIGSTOP)
    written, until = {names[0]: 2, **dict.fromkeys(names[1:], 1)}, monotonic() + 40.0
    while any(version < 3 for version in written.values()):
        assert monotonic() < until, written
        for name, version in written.items():
            if version < 3:
                try:
                    store.commit(records.commit(name, version + 1, rollout=f"{name}-1"))
                    written[name] = version + 1
                except StoreError:
                    record = None
                    try:
                        record = store.rollout(name)
                    except StoreError:
                        continue
                    written[name] = record.version if record is not None else version
    cluster[0].end()
    for name in names:
        assert [one.number for one in store.decisions(f"{name}-1")] == [1, 2, 3]
        assert len(store.evidence(name, f"{name}-1")) == 1
    for one in (store, listener):
        one.close()
