"""A real observer process; the test plays its parent and its workers."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from accede.router.facts import Applied, Placed, Table, decode_message, encode_message
from accede.router.observer.process import ObserverConfig
from accede.store.evidence import Evidence
from accede.store.measurement import Extraction, MeasurementPlan
from accede.store.open import open_store
from accede.store.routes import WIRE, Arm, ServiceRoute

PLAN = MeasurementPlan(
    rollout="r",
    epoch=1,
    stage="canary",
    extraction=Extraction("p", "number"),
    batch=1.0,
    account_after=10.0,
    limits=(0, 1),
)
ROUTE = ServiceRoute(
    wire=WIRE, service="s", generation=1, path="/", host=None, protocol="json",
    arms=(Arm("stable", "1", ("http://a",), 10_000),), plan=PLAN,
)  # fmt: skip


def poll(ready: Callable[[], Any], seconds: float = 15.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


class ObserverProcess:
    """An observer; the test plays parent and workers."""

    def __init__(self, folder: Path, store: Path, address: str = "") -> None:
        self.store = store
        self.path = str(folder / "o.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        self.control, theirs = socket.socketpair()
        self.control.settimeout(15)
        config = ObserverConfig("replica:boot", address or str(store), listener.fileno(), theirs.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-m", "accede.router.observer.process", msgspec.json.encode(config).decode()],
            pass_fds=(listener.fileno(), theirs.fileno()),
            stderr=subprocess.PIPE,
        )
        listener.close()
        theirs.close()
        self.workers: list[socket.socket] = []

    def obey(self, number: int = 1, route: ServiceRoute = ROUTE) -> None:
        self.control.sendall(encode_message(Table(number, (Placed(route, 0),))))
        size = self.control.recv(4, socket.MSG_WAITALL)
        data = self.control.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
        assert decode_message(data) == Applied(-1, number)

    def worker(self) -> socket.socket:
        one = socket.socket(socket.AF_UNIX)
        one.settimeout(15)
        one.connect(self.path)
        self.workers.append(one)
        return one

    def evidence(self) -> Evidence | None:
        store = open_store(str(self.store))
        try:
            return next(iter(store.evidence("s", "r")), None)
        finally:
            store.close()

    def accounted(self) -> int:
        evidence = self.evidence()
        return 0 if evidence is None or "stable" not in evidence.arms else evidence.arms["stable"].accounted

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said, after it was told or left to end."""
        _, said = self.process.communicate(timeout=20)
        return self.process.returncode, said.decode()
