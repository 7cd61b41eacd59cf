"""Addresses of servers: what they mean, what is refused, and that nothing of it is loaded or told."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from accede.errors import StoreError, UsageError
from accede.store.open import PASSWORD, SENTINEL_PASSWORD, keep_secret, open_store
from accede.store.redis.address import Address, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.store.servers import Server

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("redis://h", Address("single", (("h", 6379),))),
        ("valkey://h:1/3", Address("single", (("h", 1),), database=3)),
        ("redis://[::1]:7/0", Address("single", (("::1", 7),))),
        ("rediss://u:p%40@h", Address("single", (("h", 6379),), tls=True, user="u", password="p@")),
        ("redis+cluster://a,b:1", Address("cluster", (("a", 6379), ("b", 1)))),
        (
            "valkeys+sentinel://a,b:1/main/2?ca=/c.pem&prefix=x&replicas=2",
            Address(
                "sentinel", (("a", 26379), ("b", 1)), name="main", database=2, tls=True, ca="/c.pem",
                prefix="x", replicas=2, sentinel_tls=True,
            ),
        ),
        (
            "redis+sentinel://a/main?sentinel_user=s&sentinel_password=x%26y&sentinel_tls=yes&ca=/c.pem",
            Address(
                "sentinel", (("a", 26379),), name="main", ca="/c.pem", sentinel_user="s",
                sentinel_password="x&y", sentinel_tls=True,
            ),
        ),
        (
            "rediss+sentinel://a/main?sentinel_tls=no",
            Address("sentinel", (("a", 26379),), name="main", tls=True),
        ),
        ("unix:///run/redis.sock?database=1", Address("unix", path="/run/redis.sock", database=1)),
    ],
)  # fmt: skip
def test_what_addresses_mean(address: str, meant: Address) -> None:
    assert parse(address) == meant


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("redis://", "no host"),
        ("redis://h:99999", "port"),
        ("redis://h:x", "port"),
        ("redis://a,b", r"redis\+cluster"),
        ("redis://h/a", "database"),
        ("redis://h/0/1", "database"),
        ("redis://h?prefix={x}", "prefix"),
        ("redis://h?colour=red", "colour"),
        ("redis://h?prefix=", "prefix"),
        ("redis://h?replicas=-1", "replicas"),
        ("redis://h?ca=/c.pem", "rediss"),
        ("rediss://h?cert=/c.pem", "key"),
        ("redis://h#x", "%23"),
        ("redis+sentinel://h", "primary's name"),
        ("redis+cluster://h/1", "one database"),
        ("redis+moon://h", "sentinel"),
        ("unix://h/p", "three slashes"),
        ("redis://h?database=1", "unix"),
        ("redis+sentinel://a/main?sentinel_tls=maybe", "yes or no"),
        ("redis://h?sentinel_user=x", r"redis\+sentinel"),
    ],
)
def test_an_address_that_means_nothing_is_refused_by_name(address: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        open_store(address)
    with_secret = address.replace("://", f"://user:{SECRET}@", 1)
    for call in (open_store, keep_secret):
        with pytest.raises(UsageError) as caught:
            call(with_secret)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (f"redis://u:{SECRET}@h:1/0?prefix=x", "redis://u@h:1/0?prefix=x"),
        (f"redis://:{SECRET}@h", "redis://@h"),
        (f"redis+cluster://u:{SECRET}@a:1,b:2", "redis+cluster://u@a:1,b:2"),
        ("redis://h", "redis://h"),
        ("data", "data"),
        (
            f"redis+sentinel://u:{SECRET}@a:1/main?prefix=x&sentinel_password=o%26ther&sentinel_user=s",
            "redis+sentinel://u@a:1/main?prefix=x&sentinel_user=s",
        ),
        ("redis+sentinel://a/main?sentinel_password=o%26ther", "redis+sentinel://a/main"),
    ],
)
def test_a_password_is_taken_out_of_what_is_handed_on(
    given: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, "")
    monkeypatch.setenv(SENTINEL_PASSWORD, "")
    assert keep_secret(given) == kept
    assert os.environ[PASSWORD] == (SECRET if SECRET in given else "")
    assert os.environ[SENTINEL_PASSWORD] == ("o&ther" if "sentinel_password" in given else "")
    if "://" in given:
        assert parse(kept, os.environ[PASSWORD], os.environ[SENTINEL_PASSWORD]) == parse(given)


def test_a_password_may_stand_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def opened(address: Address) -> None:
        asked.append((address.password, address.sentinel_password))

    monkeypatch.setattr("accede.store.redis.store.RedisStore", opened)
    for name, text in ((PASSWORD, "one\n"), (SENTINEL_PASSWORD, "two\r\nmore")):
        monkeypatch.delenv(name, raising=False)
        (tmp_path / name).write_text(text)
        monkeypatch.setenv(f"{name}_FILE", str(tmp_path / name))
    open_store("redis+sentinel://a/main")
    open_store("redis://h")
    monkeypatch.setenv(PASSWORD, "three")  # the variable itself goes before
    open_store("redis+sentinel://a/main?sentinel_password=four")
    assert asked == [("one", "two"), ("one", ""), ("three", "four")]
    monkeypatch.setenv(f"{SENTINEL_PASSWORD}_FILE", str(tmp_path / "missing"))
    with pytest.raises(UsageError, match=r"ACCEDE_SENTINEL_PASSWORD_FILE names .*missing.*: No such file"):
        open_store("redis://h")


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    with pytest.raises(StoreError, match=r"store 127\.0\.0\.1:1 cannot be reached: check") as caught:
        open_store(f"redis://user:{SECRET}@127.0.0.1:1/0")
    assert SECRET not in repr(caught.value)


def test_a_full_server_that_throws_keys_away_is_refused(server_of: Callable[[str], Server]) -> None:
    server = server_of("valkey")
    with server.client() as client:
        client.config_set("maxmemory", "1gb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(StoreError, match=r"maxmemory-policy allkeys-lru.*noeviction"):
                open_store(f"redis://127.0.0.1:{server.port}")
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "0")


def test_nothing_of_the_client_is_loaded_without_such_an_address(tmp_path: Path) -> None:
    program = """
import sys
import accede.cli.main, accede.controller.process, accede.router.parent.process, accede.store.open
accede.store.open.open_store(sys.argv[1]).close()
print(sorted(name for name in sys.modules if name == "redis" or name.startswith("accede.store.redis")))
sys.modules["redis"] = None
try:
    accede.store.open.open_store("redis://h")
except Exception as problem:
    print(type(problem).__name__, problem)
"""
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    assert lines[0] == "[]"
    assert lines[1].startswith("UsageError")
    assert "accede[redis]" in lines[1]
