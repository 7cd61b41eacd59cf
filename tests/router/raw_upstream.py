"""An upstream that plays exact bytes and keeps exactly what it got, connection by connection."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
import threading
from collections.abc import Sequence
from enum import Enum

from tests.router.conftest import Connection, wait_for

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)", re.IGNORECASE)
_OUR_ID = re.compile(rb"x-request-id: [0-9a-f]{32}\r\n")


class Step(Enum):
    """What a script does besides sending bytes."""

    EARLY = "act before the request's body has come; only as the first step"
    GATE = "wait until the test opens the gate, and tell it when the next bytes have been sent"
    CLOSE = "close the connection"
    RESET = "close it with a RST"


Script = Sequence[bytes | Step]


class Wire:
    """One connection from the router. `received`: every byte so far; `ended`: the router closed it."""

    def __init__(self, end: socket.socket, lock: threading.Lock) -> None:
        self.end = end
        self.received = b""
        self.ended = False
        self._lock = lock
        self._read = 0

    def _more(self) -> bool:
        """Read once; bytes leave the kernel and reach `received` in one step (see RawUpstream.since)."""
        try:
            select.select([self.end], [], [])
            with self._lock:
                data = self.end.recv(1 << 16)
                self.received += data
                self.ended = self.ended or not data
        except (OSError, ValueError):
            self.ended = True
            return False
        return bool(data)

    def _until(self, mark: bytes, at: int) -> int:
        while (found := self.received.find(mark, at)) < 0:
            if not self._more():
                return -1
        return found + len(mark)

    def head(self) -> bytes | None:
        """The next request's head."""
        end = self._until(b"\r\n\r\n", self._read)
        if end < 0:
            return None
        head, self._read = self.received[self._read : end], end
        return head

    def body(self, head: bytes) -> bytes | None:
        """The body that belongs to `head`, framing included."""
        at = self._read
        if b"\r\ntransfer-encoding: chunked\r\n" in head.lower():
            while True:
                line = self._until(b"\r\n", at)
                if line < 0:
                    return None
                size = int(self.received[at : line - 2].split(b";")[0], 16)
                at = line + size + 2 if size else line
                if not size:
                    break
            while (line := self._until(b"\r\n", at)) - at > len(b"\r\n"):
                at = line
            at = line
            if at < 0:
                return None
        else:
            found = _LENGTH.search(head)
            at += int(found.group(1)) if found else 0
        while len(self.received) < at:
            if not self._more():
                return None
        body, self._read = self.received[self._read : at], at
        return body

    def reset(self) -> None:
        """Close with a RST."""
        self.end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class RawUpstream:
    """Plays `scripts[target]`, and otherwise answers with request line and body, as that client's own."""

    def __init__(self) -> None:
        self.scripts: dict[bytes, Script] = {}
        self.wires: list[Wire] = []
        self.confused: list[bytes] = []
        self.gate = threading.Event()
        self.sent = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:
                return
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = Wire(end, self._lock)
            self.wires.append(wire)
            thread = threading.Thread(target=self._serve, args=(wire,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, wire: Wire) -> None:
        try:
            while (head := wire.head()) is not None and self._answer(wire, head):
                pass
        except OSError:
            pass
        except (ValueError, IndexError):  # what a router sends on must be readable by the simplest reader
            self.confused.append(wire.received)
        with contextlib.suppress(OSError):
            wire.end.close()
        wire.ended = True

    def _answer(self, wire: Wire, head: bytes) -> bool:
        line = head.partition(b"\r\n")[0]
        script = self.scripts.get(line.split(b" ")[1])
        if script is None or Step.EARLY not in script:
            body = wire.body(head)
            if body is None:
                return False
            if script is None:
                echo = line + b"|" + body
                shown = b"" if line.startswith(b"HEAD ") else echo
                wire.end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(echo), shown))
                return True
        gated = False
        for step in script:
            if isinstance(step, bytes):
                wire.end.sendall(step)
                if gated:
                    self.sent.set()
            elif step is Step.GATE:
                gated = True
                self.gate.wait(15)
            elif step in {Step.CLOSE, Step.RESET}:
                if step is Step.RESET:
                    wire.reset()
                return False
        if Step.EARLY in script:
            return wire.body(head) is not None
        return True

    def script(self, target: bytes, *steps: bytes | Step) -> None:
        """What happens to the next requests for `target`."""
        self.gate.clear()
        self.sent.clear()
        self.scripts[target] = steps

    def mark(self) -> list[int]:
        """How much every connection has received by now, for `since`."""
        self._settle()
        return [len(wire.received) for wire in self.wires]

    def since(self, mark: list[int]) -> list[bytes]:
        """What arrived after `mark`, one item for each connection on which anything did.

        The ids the router makes up are left out.
        """
        self._settle()
        known = [*mark, *[0] * (len(self.wires) - len(mark))]
        found = [wire.received[at:] for wire, at in zip(self.wires, known, strict=True)]
        return [_OUR_ID.sub(b"", data) for data in found if data]

    def _settle(self) -> None:
        """Wait until no byte lies unread in the kernel."""

        def quiet() -> bool:
            with self._lock:
                ends = [wire.end for wire in self.wires if not wire.ended and wire.end.fileno() >= 0]
                try:
                    return not select.select(ends, [], [], 0)[0]
                except (OSError, ValueError):  # one of them closed meanwhile
                    return False

        wait_for(quiet)

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        for wire in self.wires:
            with contextlib.suppress(OSError):
                wire.end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)


def send_in(connection: Connection, data: bytes, cut: str) -> None:
    """Send `data` whole, or byte by byte in segments of their own. A refusal may close meanwhile."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        if cut == "whole":
            connection.send(data)
            return
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            connection.send(data[at : at + 1])


class Canary:
    """A client beside the attack, on a connection of its own: it must always get its own answers."""

    def __init__(self, port: int) -> None:
        self._connection = Connection(port)
        self._count = 0

    def sing(self) -> bytes:
        """Send a request and check its answer; the result is what the upstream got of it."""
        self._count += 1
        line = b"GET /p/canary-%d HTTP/1.1" % self._count
        sent = line + b"\r\nHost: canary\r\n\r\n"
        self._connection.send(sent)
        answer = self._connection.answer()
        assert (answer.status, answer.body) == (200, line + b"|")
        assert not self._connection.buffer
        return sent

    def close(self) -> None:
        """End its connection."""
        self._connection.close()
