"""Users of a running installation: threads that ask without end, and remember every answer they got."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

PATIENCE = 10.0  # seconds a user waits for an answer
PAUSE = 0.02  # seconds between an answer and the next request


class Asked(NamedTuple):
    """One request. Times are monotonic seconds; `status` 0: no answer, and `problem` says why not.

    `fresh`: it was the first one on its connection, so nothing that died before can have been in its way.
    """

    sent: float
    done: float
    status: int
    arm: str
    version: str
    fresh: bool
    problem: str

    @property
    def failed(self) -> bool:
        return self.status != http.client.OK


class Clients:
    """So many users with a keep-alive connection each, from `start` until `stop`."""

    def __init__(self, port: int, path: str, users: int = 6) -> None:
        self.asked: list[Asked] = []
        self._port = port
        self._path = path
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(users)]

    def start(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> list[Asked]:
        """Everything that was asked, in the order of the answers."""
        self._ending.set()
        for thread in self._threads:
            thread.join(PATIENCE + 5)
            assert not thread.is_alive()
        return self.asked

    def since(self, moment: float) -> list[Asked]:
        """What was sent after a moment."""
        return [one for one in list(self.asked) if one.sent > moment]

    def failures(self, *, besides: Callable[[Asked], bool] = lambda one: False) -> list[Asked]:
        """What failed, without what a test expects to fail."""
        return [one for one in list(self.asked) if one.failed and not besides(one)]

    def _ask(self, number: int) -> None:
        chance = random.Random(number)
        link: http.client.HTTPConnection | None = None
        while not self._ending.is_set():
            row = {"x": chance.uniform(0.2, 0.8), "group": chance.choice("ab")}
            fresh = link is None
            link = link or http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
            status, arm, version, problem = 0, "", "", ""
            sent = time.monotonic()
            try:
                link.request("POST", self._path, json.dumps({"instances": [row]}))
                answer = link.getresponse()
                answer.read()
                status = answer.status
                arm = answer.getheader("x-accede-arm") or ""
                version = answer.getheader("x-accede-version") or ""
            except (OSError, http.client.HTTPException) as found:
                problem = repr(found)
                link.close()
                link = None
            self.asked.append(Asked(sent, time.monotonic(), status, arm, version, fresh, problem))
            self._ending.wait(PAUSE)
        if link is not None:
            link.close()
