"""The router's tests run a real worker process between raw client sockets and real upstream processes.

The test plays the parent (control socket) and the observer (Unix socket).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from accede.router.counters import Counters
from accede.router.facts import (
    PAIR_SHADOW,
    Applied,
    Body,
    Drain,
    Fact,
    Flush,
    Message,
    MirrorTally,
    Pair,
    Placed,
    Table,
    Tripped,
    decode_flush,
    decode_message,
    encode_message,
)  # fmt: skip
from accede.router.proxy.worker import WorkerConfig
from accede.store.measurement import MeasurementPlan
from accede.store.routes import WIRE, Arm, RouteReadiness, ServiceRoute

HERE = Path(__file__).parent


def wait_for(ready: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Poll until `ready` gives something true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = ready()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError("it did not happen in time")


class UpstreamProcess:
    """A scripted model server."""

    def __init__(self, name: str, script: str = "echo", port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "scripted_upstream.py"), name, script],
            stdout=subprocess.PIPE,
            env={**os.environ, "UPSTREAM_PORT": str(port)},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def seen(self) -> list[dict[str, Any]]:
        """Every request so far; of a server that many tests share that may be very much."""
        return self._asked("_seen")

    def last(self) -> dict[str, Any]:
        """The latest request."""
        return self._asked("_last")[0]

    def _asked(self, path: str) -> list[dict[str, Any]]:
        answer = exchange(self.port, f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        found: list[dict[str, Any]] = json.loads(answer.body)
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Answer(msgspec.Struct):
    status_line: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes  # as on the wire
    raw: bytes

    @property
    def status(self) -> int:
        return int(self.status_line.split(b" ")[1])

    def field(self, name: str) -> str | None:
        found = [value for key, value in self.fields if key.lower() == name.encode()]
        assert len(found) <= 1, found
        return found[0].decode() if found else None


class Connection:
    """A raw client connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=15)
        self.buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def more(self) -> bool:
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self.buffer += data
        return bool(data)

    def answer(self, *, bodyless: bool = False) -> Answer:
        """The next answer, whole; raises EOFError if the connection ends before."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                raise EOFError(self.buffer)
        head, _, rest = self.buffer.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        pairs = [line.partition(b":") for line in lines[1:]]
        fields = [(name, value.strip()) for name, _, value in pairs]
        known = {name.lower(): value for name, value in fields}
        status = int(lines[0].split(b" ")[1])
        at = len(head) + 4
        if bodyless or status < 200 or status in (204, 304):
            end = at
        elif known.get(b"transfer-encoding") == b"chunked":
            end = self._chunked(at)
        elif b"content-length" in known:
            end = at + int(known[b"content-length"])
            while len(self.buffer) < end:
                if not self.more():
                    raise EOFError(self.buffer)
        else:
            while self.more():
                pass
            end = len(self.buffer)
        raw, self.buffer = self.buffer[:end], self.buffer[end:]
        del rest
        return Answer(lines[0], fields, raw[at:], raw)

    def _chunked(self, at: int) -> int:
        while True:
            while (line := self.buffer.find(b"\r\n", at)) < 0:
                if not self.more():
                    raise EOFError(self.buffer)
            size = int(self.buffer[at:line].split(b";")[0], 16)
            at = line + 2
            if size == 0:
                while True:
                    while (line := self.buffer.find(b"\r\n", at)) < 0:
                        if not self.more():
                            raise EOFError(self.buffer)
                    if line == at:
                        return at + 2
                    at = line + 2
            at += size + 2
            while len(self.buffer) < at:
                if not self.more():
                    raise EOFError(self.buffer)

    def ended(self) -> bool:
        """Whether the other side closes, without sending another byte."""
        assert self.buffer == b"", self.buffer
        return not self.more()

    def close(self) -> None:
        self.socket.close()


def dechunked(body: bytes) -> bytes:
    out, rest = b"", body
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if not length:
            return out
        out, rest = out + rest[:length], rest[length + 2 :]


def exchange(port: int, data: bytes, *, bodyless: bool = False) -> Answer:
    """One request on a connection of its own."""
    connection = Connection(port)
    try:
        connection.send(data)
        return connection.answer(bodyless=bodyless)
    finally:
        connection.close()


def post(path: str, body: bytes = b"{}", *fields: str, host: str = "models") -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


class Observer:
    """Plays the observer: keeps everything the worker reports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.flushes: list[Flush] = []
        self.reading = threading.Event()
        self.reading.set()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self._server.accept()
            except OSError:
                return
            self._open.append(end)
            threading.Thread(target=self._read, args=(end,), daemon=True).start()

    def _read(self, end: socket.socket) -> None:
        with end, end.makefile("rb") as stream, contextlib.suppress(OSError, ValueError):
            while self.reading.wait() and len(size := stream.read(4)) == 4:
                self.flushes.append(decode_flush(stream.read(int.from_bytes(size, "big"))))

    @property
    def facts(self) -> list[Fact]:
        return [fact for flush in list(self.flushes) for fact in flush.facts]

    @property
    def bodies(self) -> list[Body]:
        return [body for flush in list(self.flushes) for body in flush.bodies]

    @property
    def pairs(self) -> list[Pair]:
        return [pair for flush in list(self.flushes) for pair in flush.pairs]

    @property
    def tally(self) -> MirrorTally:
        return self.tally_of(PAIR_SHADOW)

    def tally_of(self, kind: int) -> MirrorTally:
        total = MirrorTally(0, 0, 0, 0, 0, 0, 0, kind)
        for flush in list(self.flushes):
            for tally in flush.mirrors:
                if tally.kind == kind:
                    for name in MirrorTally.__struct_fields__:
                        if name not in {"slot", "kind"}:
                            setattr(total, name, getattr(total, name) + getattr(tally, name))
        return total

    def wait_facts(self, count: int) -> list[Fact]:
        wait_for(lambda: len(self.facts) >= count)
        return self.facts

    def wait_pairs(self, count: int) -> list[Pair]:
        wait_for(lambda: len(self.pairs) >= count)
        return self.pairs

    def close(self) -> None:
        self._server.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def unexpected(errors: str) -> str:
    """What a worker wrote beside changes of its model servers, which the tests of these look at."""
    usual = (" is not ready, ", " is ready again", " is ejected for ", " gets requests again, ")
    return "".join(line for line in errors.splitlines(True) if not any(words in line for words in usual))


class WorkerProcess:
    """A worker, with the test as its parent."""

    def __init__(self, directory: Path, *, descriptors: int | None = None, **config: Any) -> None:
        """`descriptors`: the most the process may have (RLIMIT_NOFILE), None: as we."""
        self.observer_path = directory / "observer.sock"
        self.counters_path = directory / "counters"
        self.counters = Counters(self.counters_path, 1, create=True)
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(1024)
        self.port = int(self.listener.getsockname()[1])
        self.control, theirs = socket.socketpair()
        self.control.settimeout(15)
        self.errors: str | None = None
        self.number = 0
        self.messages: list[Message] = []
        module = ["-m", "accede.router.proxy.worker"]
        if descriptors is not None:
            limited = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))"
            run = "runpy.run_module('accede.router.proxy.worker', run_name='__main__', alter_sys=True)"
            module = ["-c", f"import resource, runpy; {limited}; {run}"]
        told = WorkerConfig(
            worker=0, workers=1, boot="boot-1", listen=(self.listener.fileno(),), control=theirs.fileno(),
            observer=str(self.observer_path), counters=str(self.counters_path), **config,
        )  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, *module, msgspec.json.encode(told).decode()],
            pass_fds=(self.listener.fileno(), theirs.fileno()),
            stderr=subprocess.PIPE,
        )
        theirs.close()

    def apply(self, *placed: Placed) -> None:
        """Put a table in force and wait until it is."""
        self.number += 1
        self.control.sendall(encode_message(Table(self.number, placed)))
        while not (isinstance(message := self.next_message(), Applied) and message.number == self.number):
            pass

    def next_message(self) -> Message:
        def read(count: int) -> bytes:
            data = b""
            while len(data) < count:
                piece = self.control.recv(count - len(data))
                assert piece, "the worker closed its control socket"
                data += piece
            return data

        message = decode_message(read(int.from_bytes(read(4), "big")))
        self.messages.append(message)
        return message

    def tripped(self) -> Tripped:
        while not isinstance(message := self.next_message(), Tripped):
            pass
        return message

    def drain(self) -> None:
        self.control.sendall(encode_message(Drain()))

    def rss(self) -> int:
        """Resident memory in bytes."""
        with Path(f"/proc/{self.process.pid}/statm").open() as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> str:
        """End it and return what it wrote to standard error."""
        if self.errors is not None:
            return self.errors
        self.control.close()
        self.listener.close()
        try:
            _, errors = self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            _, errors = self.process.communicate()
            raise AssertionError(f"the worker did not drain: {errors.decode()}") from None
        self.counters.close()
        self.errors = str(errors.decode())
        return self.errors


def plan(**changes: Any) -> MeasurementPlan:
    settings: dict[str, Any] = {
        "rollout": "r1", "epoch": 1, "stage": "canary", "extraction": None, "batch": 1.0,
        "account_after": 10.0,
    }  # fmt: skip
    return MeasurementPlan(**{**settings, **changes})


def route(stable: str, candidate: str | None = None, weight: int = 0, **changes: Any) -> ServiceRoute:
    """A json service at /p with version 42, and 43 with `weight` where there is a candidate."""
    arms = [Arm("stable", "42", (stable,), 10_000 - weight)]
    if candidate is not None:
        arms.append(Arm("candidate", "43", (candidate,), weight))
    settings: dict[str, Any] = {
        "wire": WIRE, "service": "fraud", "generation": 1, "path": "/p", "host": None, "protocol": "json",
        "arms": tuple(arms), "plan": plan(), "side_effects": "none",
        "readiness": RouteReadiness(probe=False),
    }  # fmt: skip
    return ServiceRoute(**{**settings, **changes})


@pytest.fixture(scope="session")
def stable() -> Iterator[UpstreamProcess]:
    upstream = UpstreamProcess("stable")
    yield upstream
    upstream.kill()


@pytest.fixture(scope="session")
def candidate() -> Iterator[UpstreamProcess]:
    upstream = UpstreamProcess("candidate")
    yield upstream
    upstream.kill()


@pytest.fixture
def start_upstream() -> Iterator[Callable[..., UpstreamProcess]]:
    """Upstreams that live for one test."""
    started: list[UpstreamProcess] = []

    def start(name: str, script: str = "echo", port: int = 0) -> UpstreamProcess:
        started.append(UpstreamProcess(name, script, port))
        return started[-1]

    yield start
    for upstream in started:
        upstream.kill()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Workers that live for one test; each must drain cleanly and report no error."""
    started: list[WorkerProcess] = []

    def start(*placed: Placed, **config: Any) -> WorkerProcess:
        directory = tmp_path / str(len(started))
        directory.mkdir()
        worker = WorkerProcess(directory, **config)
        started.append(worker)
        if placed:
            worker.apply(*placed)
        return worker

    yield start
    for worker in started:
        errors = unexpected(worker.stop())
        assert not errors, errors
        assert worker.process.returncode == 0


@pytest.fixture
def start_observer() -> Iterator[Callable[[WorkerProcess], Observer]]:
    """An observer for a worker."""
    started: list[Observer] = []

    def start(worker: WorkerProcess) -> Observer:
        started.append(Observer(worker.observer_path))
        return started[-1]

    yield start
    for observer in started:
        observer.close()
