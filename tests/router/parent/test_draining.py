"""The end of a whole router: open requests are finished, idle connections end, a second signal is obeyed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.router.conftest import Connection
from tests.router.parent.test_parent import RouterProcess, commit, poll, route, start
from tests.router.proxy.test_tunnel import RawServer, exactly, server, tunnel

__all__ = ["server", "start"]  # fixtures


def asked(script: str, more: str = "Content-Length: 2\r\n\r\n{}") -> bytes:
    return f"POST /p HTTP/1.1\r\nHost: x\r\nx-script: {script}\r\n{more}".encode()


def test_streams_and_uploads_are_finished_and_idle_connections_closed(
    start: Callable[..., RouterProcess], tmp_path: Path, stable: Any
) -> None:
    commit(tmp_path, route(stable.url, stable.url))
    router = start(drain=20.0).ready()
    port = router.port
    idle, stream, upload = Connection(port), Connection(port), Connection(port)
    idle.send(asked("echo"))
    assert idle.answer().status == 200
    stream.send(asked("sse=20"))  # two seconds
    while b"data: 0" not in stream.buffer:
        assert stream.more()
    upload.send(asked("echo", "Content-Length: 4\r\n\r\n{}"))
    poll(lambda: sum(router.report().assigned.values()) == 3)
    router.process.send_signal(signal.SIGTERM)
    assert idle.ended()
    upload.send(b"  ")
    assert upload.answer().status == 200
    assert b"data: 19" in stream.answer().body
    assert router.process.wait(20) == 0
    poll(lambda: router.accounted() == 3)
    for client in (idle, stream, upload):
        client.close()


def test_a_tunnel_outlives_new_routes_and_gets_the_whole_time_of_the_drain(
    start: Callable[..., RouterProcess], tmp_path: Path, server: RawServer, stable: Any
) -> None:
    commit(tmp_path, route(server.url, server.url, weight=0))
    router = start(drain=1.0).ready()
    client, end = tunnel(router, server)
    commit(tmp_path, route(stable.url, stable.url, generation=2))
    poll(lambda: router.status()["generations"] == {"s": 2})

    def passes(word: bytes) -> None:
        client.send(word)
        assert exactly(end, len(word)) == word
        end.sendall(word)
        assert exactly(client.socket, len(word)) == word

    passes(b"after new routes")
    router.process.send_signal(signal.SIGTERM)
    poll(lambda: any("drains" in line for line in router.said))
    passes(b"while it drains")
    client.socket.shutdown(socket.SHUT_WR)
    assert end.recv(1) == b""
    end.sendall(b"the other direction")
    assert exactly(client.socket, 19) == b"the other direction"
    assert client.ended()
    assert end.recv(1) == b""
    assert router.process.wait(20) == 0
    client.close()


def test_a_second_signal_waits_for_nobody(
    start: Callable[..., RouterProcess], tmp_path: Path, stable: Any
) -> None:
    commit(tmp_path, route(stable.url, stable.url))
    router = start(drain=60.0).ready()
    hanging = Connection(router.port)
    hanging.send(asked("hang"))
    poll(lambda: sum(router.report().assigned.values()) == 1)
    router.process.send_signal(signal.SIGTERM)
    poll(lambda: any("drains" in line for line in router.said))
    assert router.process.poll() is None
    began = time.monotonic()
    router.process.send_signal(signal.SIGTERM)
    assert router.process.wait(30) == 0
    assert time.monotonic() - began < 25, "its drain is a minute"
    assert not hanging.more()
    hanging.close()


def test_a_signal_while_children_are_started_again_ends_all_of_them(
    start: Callable[..., RouterProcess], tmp_path: Path, stable: Any
) -> None:
    commit(tmp_path, route(stable.url, stable.url))
    router = start(drain=5.0).ready()
    told = router.status()
    for child in (*told["workers"], told["observer"]):
        os.kill(child["pid"], signal.SIGKILL)
    poll(lambda: len([line for line in router.said if "started again" in line]) == 3)
    family = psutil.Process(router.process.pid).children(recursive=True)
    router.process.send_signal(signal.SIGTERM)
    assert router.process.wait(40) == 0
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert [line for line in router.said if "Traceback" in line] == []
