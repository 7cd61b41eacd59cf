"""The port for orchestrators: what it says over the life of a router, and of strange requests."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accede.errors import PortInUse
from accede.router.parent.probes import Probes, State
from tests.router.parent.test_parent import RouterProcess, commit, poll, route, start

__all__ = ["start"]  # a fixture


def ask(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body else {}
    finally:
        connection.close()


def test_a_router_is_ready_with_routes_on_every_worker_until_it_drains(
    start: Callable[..., RouterProcess], tmp_path: Path, stable: Any, free_port: Callable[[], int]
) -> None:
    port = free_port()
    router = start(probes=("127.0.0.1", port), drain=20.0)
    poll(router.status)
    assert ask(port, "/healthz") == (200, {"ok": True, "reason": "", "store": "ok", "disk": "ok"})
    commit(tmp_path, route(stable.url, stable.url))
    poll(lambda: router.status()["generations"] == {"s": 1})
    poll(lambda: ask(port, "/readyz")[0] == 200)
    with socket.create_connection(("127.0.0.1", router.port)) as client:
        client.settimeout(10)
        head = b"POST /p HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n"
        client.sendall(head + b"{}")
        assert client.recv(15) == b"HTTP/1.1 200 OK", "a worker has the connection"
        client.sendall(head + b"{")  # keeps the drain open
        router.process.terminate()
        status, said = poll(lambda: (found := ask(port, "/readyz"))[0] == 503 and found)
        assert (status, said["ok"], said["reason"]) == (503, False, "it drains")
        assert ask(port, "/healthz")[0] == 200, "nobody kills what drains"
        client.sendall(b"}")
        answers = b""
        while more := client.recv(65536):
            answers += more
        assert answers.count(b"HTTP/1.1 200 OK") == 1
    assert router.end() == 0


class TestRequests:
    @pytest.fixture
    def port(self) -> Any:
        """Probes in a thread, unready for one reason."""
        started: list[tuple[asyncio.AbstractEventLoop, int]] = []
        ready = threading.Event()

        async def serve() -> None:
            probes = Probes.listening("127.0.0.1", 0, lambda: State(["no"], {}))
            await probes.open()
            started.append((asyncio.get_running_loop(), int(probes.address.rpartition(":")[2])))
            ready.set()
            stop.append(asyncio.Event())
            await stop[0].wait()
            probes.close()

        stop: list[asyncio.Event] = []
        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        assert ready.wait(10)
        yield started[0][1]
        started[0][0].call_soon_threadsafe(stop[0].set)
        thread.join(10)

    def test_reasons_methods_and_paths(self, port: int) -> None:
        assert ask(port, "/readyz?verbose=1") == (503, {"ok": False, "reason": "no"})
        assert ask(port, "/readyz", "HEAD") == (503, {})
        assert ask(port, "/healthz") == (200, {"ok": True, "reason": ""})
        assert ask(port, "/healthz", "POST")[0] == 405
        status, said = ask(port, "/secret-path")
        assert status == 404
        assert "secret" not in said["error"]

    @pytest.mark.parametrize("sent", [b"", b"\r\n\r\n", b"\x00\xff" * 9000, b"GET /healthz", b"GET\r\n\r\n"])
    def test_strange_bytes_end_their_own_connection(self, port: int, sent: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(10)
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while more := client.recv(65536):
                    answer += more
            except ConnectionResetError:
                pass  # closed with bytes of ours unread
        assert answer == b"" or answer.startswith(b"HTTP/1.1 404")
        assert ask(port, "/healthz")[0] == 200

    def test_many_that_say_nothing_keep_nobody_out_for_long(self, port: int) -> None:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(80)]
        try:
            for one in silent[70:]:
                one.settimeout(10)
                assert one.recv(1) == b"", "beyond the bound"
        finally:
            for one in silent:
                one.close()
        poll(lambda: _answers(port))


def _answers(port: int) -> bool:
    try:
        return ask(port, "/healthz")[0] == 200
    except (http.client.BadStatusLine, ConnectionError):
        return False


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortInUse, match="in use"):
        Probes.listening("127.0.0.1", taken.getsockname()[1], lambda: State([], {}))
