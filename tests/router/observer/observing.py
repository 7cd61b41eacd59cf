"""A real observer process beside a real worker."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from accede.router.facts import Placed, Table, encode_message
from accede.router.observer.process import ObserverConfig
from accede.store.evidence import Evidence
from accede.store.open import open_store
from tests.router.conftest import WorkerProcess


class Observing:
    """A real observer for a worker; the test plays the parent of both."""

    def __init__(self, worker: WorkerProcess, placed: Placed, store: Path) -> None:
        self.store = store
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(worker.observer_path))
        listener.listen()
        self.control, theirs = socket.socketpair()
        config = ObserverConfig("replica:boot", str(store), listener.fileno(), theirs.fileno())
        self.process = subprocess.Popen(
            [sys.executable, "-m", "accede.router.observer.process", msgspec.json.encode(config).decode()],
            pass_fds=(listener.fileno(), theirs.fileno()),
            stderr=subprocess.PIPE,
        )
        listener.close()
        theirs.close()
        self.control.sendall(encode_message(Table(1, (placed,))))

    def evidence(self) -> Evidence | None:
        store = open_store(str(self.store))
        try:
            return next(iter(store.evidence("fraud", "r1")), None)
        finally:
            store.close()

    def accounted(self) -> int:
        evidence = self.evidence()
        return 0 if evidence is None or "stable" not in evidence.arms else evidence.arms["stable"].accounted

    def peak(self) -> int:
        """The most memory that it ever had, in bytes."""
        (line,) = [
            line
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM:")
        ]
        return int(line.split()[1]) * 1024

    def end(self) -> str:
        self.control.close()
        _, said = self.process.communicate(timeout=20)
        assert self.process.returncode == 0
        return said.decode()
