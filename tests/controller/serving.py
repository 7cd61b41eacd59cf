"""The controller's API over a real socket, with scripted evidence and a clock of the test's own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn

from accede.controller.api.access import Access, LoopbackOnly
from accede.controller.api.app import Desk, application
from accede.controller.files import ServiceFiles
from accede.controller.loop.loop import Loop
from accede.controller.rollout.acting import Acts
from accede.controller.rollout.looking import Engine
from accede.store.evidence import WIRE, ArmCounts, Evidence
from accede.store.rollouts import Analysis, FrozenConstants
from accede.store.sqlite import SqliteStore


@dataclass
class Controller:
    client: httpx.Client
    store: SqliteStore
    loop: Loop
    acts: Acts
    now: float
    analysis: Analysis
    tokens: dict[str, str] = field(default_factory=dict[str, str])

    def rounds(self, count: int, every: float = 0.5) -> None:
        for _ in range(count):
            self.now += every
            self.loop.tick()

    def post(self, path: str, who: str = "", **body: Any) -> httpx.Response:
        """`who`: whose token it shows, where there are tokens."""
        headers = {"authorization": f"Bearer {self.tokens[who]}"} if who else {}
        return self.client.post(f"/api/v1/services/{path}", json={"actor": "anna", **body}, headers=headers)

    def start(self, who: str = "", policy: str = "careful") -> dict[str, Any]:
        answer = self.post("fraud/rollouts", who, candidate="43", policy=policy)
        assert answer.status_code == 201, answer.text
        self.baseline("fraud-1")
        found: dict[str, Any] = answer.json()
        return found

    def baseline(self, rollout: str) -> None:
        """Enough of stable to begin with."""
        arms = {"stable": ArmCounts(accounted=500)}
        self.store.publish_evidence(Evidence(WIRE, "fraud", rollout, 0, "r1:a", 0.0, 0.0, arms=arms))

    def rollout(self, who: str = "") -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.tokens[who]}"} if who else {}
        found: dict[str, Any] = self.client.get("/api/v1/services/fraud/rollout", headers=headers).json()
        return found


@contextmanager
def serving(
    folder: Path, files: dict[str, str], constants: FrozenConstants, analysis: Analysis,
    access: Access | None = None,
) -> Iterator[Controller]:  # fmt: skip
    """A controller over files, whose every look sees `analysis` until the test says otherwise."""
    services = folder / "services"
    services.mkdir()
    for name, text in files.items():
        (services / name).write_text(text)
    store = SqliteStore(folder / "accede.db")
    declared = ServiceFiles(services)

    held: list[Controller] = []

    def analyse(*arguments: Any) -> Analysis:
        return msgspec.structs.replace(held[0].analysis, at=arguments[-1])

    def clock() -> float:
        return held[0].now

    engine = Engine(analyse, lambda *_: constants, lambda *_: ({}, {}))
    loop = Loop(store, declared, engine, clock=clock)
    acts = Acts(store, declared, engine, clock=clock)
    desk = Desk(store, declared, acts, loop, clock, access or LoopbackOnly())
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = uvicorn.Server(uvicorn.Config(application(desk), log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=address, timeout=30.0) as client:
            parts = Controller(client, store, loop, acts, 1000.0, analysis)
            held.append(parts)
            deadline = time.monotonic() + 30
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.01)
            parts.rounds(1)
            yield parts
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        store.close()


def refused(answer: httpx.Response, code: int, kind: str) -> str:
    """The message of an error of that kind."""
    assert answer.status_code == code, answer.text
    error = answer.json()["error"]
    assert error["kind"] == kind
    assert error["exit_code"] in {1, 2}
    message: str = error["message"]
    return message
