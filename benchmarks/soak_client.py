"""Full load that checks every answer: `python -m benchmarks.soak_client CONFIG`, a Tally a second as JSON.

Every connection asks as soon as it has its answer. Kinds of connections: `plain` (a service with stable
alone, its requests copied to a shadow), `stable` (a service with a canary, users that are stable's at every
weight) and `canary` (any user). What happens to the first two happened on stable.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import Coroutine, Iterator
from time import monotonic
from typing import Any

import msgspec
import uvloop
import xxhash

from .client import Connection, post
from .soak_upstream import check_of

PATIENCE = 20.0  # seconds for an answer; the router's own deadline is shorter
_LARGE = 97  # every so many requests one has a large body, and one a large answer
_RENEWED = 251  # after so many answers one connection is made anew: else a restarted worker gets none


class ClientConfig(msgspec.Struct, frozen=True):
    """`connections`: of each kind. `always`: stable's weight never goes below it (basis points)."""

    port: int
    connections: dict[str, int]
    always: int


class Tally(msgspec.Struct):
    """Totals so far, by kind. `reset`: (monotonic s, kind) of connections lost with a request in flight."""

    at: float = 0.0
    right: dict[str, int] = msgspec.field(default_factory=Counter)
    wrong: dict[str, int] = msgspec.field(default_factory=Counter)
    failed: dict[str, int] = msgspec.field(default_factory=Counter)  # "kind status"
    refused: int = 0
    reset: list[tuple[float, str]] = []
    slowest: float = 0.0  # of the last second


class _Asked(msgspec.Struct, gc=False):
    kind: str
    check: bytes
    answered: int


def _users(kind: str, always: int) -> Iterator[str]:
    """Users without end; of kind `stable` only those whom no weight gives to the candidate."""
    for number in itertools.count():
        user = f"u{number % 1_000_003}"
        if kind != "stable" or xxhash.xxh64_intdigest(user.encode()) % 10_000 < always:
            yield user


class _Load:
    def __init__(self, config: ClientConfig) -> None:
        self.config = config
        self.tally = Tally()
        self.users = {kind: _users(kind, config.always) for kind in config.connections}
        self.count = 0
        self.open: dict[Connection, str] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.stopping = False

    def ask(self, connection: Connection, kind: str) -> None:
        self.count += 1
        size = 150_000 if self.count % _LARGE == 0 else 300
        pad = b"q" * (200_000 if self.count % _LARGE == 50 else 250)
        path = b"/plain/predict" if kind == "plain" else b"/canary/predict"
        body = b'{"nonce": %d, "size": %d, "pad": "%b"}' % (self.count, size, pad)
        user = next(self.users[kind])
        connection.send(
            post(path.decode(), body, user), monotonic(), _Asked(kind, b'"%b"' % check_of(path, body), size)
        )

    def done(self, connection: Connection, status: int, head: bytes, body: bytes) -> None:  # noqa: ARG002
        asked = connection.what
        assert isinstance(asked, _Asked)
        tally = self.tally
        tally.slowest = max(tally.slowest, monotonic() - connection.since)
        if status != 200:
            tally.failed[f"{asked.kind} {status}"] += 1
        elif asked.check in body and len(body) > asked.answered:
            tally.right[asked.kind] += 1
        else:
            tally.wrong[asked.kind] += 1
        if self.stopping or self.count % _RENEWED == 0:
            connection.close()
        else:
            self.ask(connection, asked.kind)

    def lost(self, connection: Connection) -> None:
        kind = self.open.pop(connection)
        if connection.waiting:
            self.tally.reset.append((monotonic(), kind))
        if not self.stopping:
            self._own(self.connect(kind))

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def connect(self, kind: str) -> None:
        while not self.stopping:
            try:
                _, made = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self.done, self.lost), "127.0.0.1", self.config.port
                )
            except OSError:
                self.tally.refused += 1
                await asyncio.sleep(0.05)
                continue
            self.open[made] = kind
            self.ask(made, kind)
            return

    async def run(self) -> None:
        """Until standard input ends; then every request in flight gets its answer."""
        asked = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(asked), sys.stdin
        )
        for kind, count in self.config.connections.items():
            for _ in range(count):
                await self.connect(kind)
        while not asked.at_eof():
            try:
                async with asyncio.timeout(1.0):
                    await asked.read(1)
            except TimeoutError:
                pass
            self.overdue()
            self.tell()
        self.stopping = True
        until = monotonic() + PATIENCE
        while self.open and monotonic() < until:
            await asyncio.sleep(0.05)
            self.overdue()
        for kind in self.open.values():
            self.tally.failed[f"{kind} no answer"] += 1
        self.tell()

    def overdue(self) -> None:
        """Give up on what nobody answers: a failure, whoever's fault."""
        now = monotonic()
        for connection, kind in tuple(self.open.items()):
            if connection.waiting and now - connection.since > PATIENCE:
                self.tally.failed[f"{kind} no answer"] += 1
                connection.waiting = False
                connection.close()

    def tell(self) -> None:
        self.tally.at = monotonic()
        print(msgspec.json.encode(self.tally).decode(), flush=True)
        self.tally.slowest = 0.0


if __name__ == "__main__":
    uvloop.run(_Load(msgspec.json.decode(sys.argv[1].encode(), type=ClientConfig)).run())
