"""Load at a fixed rate: `python -m benchmarks.steady CONFIG` (JSON) prints one JSON line.

Requests fall due in ticks of one millisecond whether earlier ones were answered or not, and their latency
counts from the tick: a proxy that stalls is charged for all that fell due meanwhile, as by its users.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from time import perf_counter

import msgspec
import uvloop

from .client import Connection, post

TICK = 0.001
_PATIENCE = 5.0  # seconds for what is open at the end


class SteadyConfig(msgspec.Struct, frozen=True):
    """`rate`: requests per second over all connections."""

    port: int
    rate: float
    seconds: float
    connections: int
    body: str


class Steadied(msgspec.Struct, frozen=True):
    """Latencies in µs; `unanswered` and not 200 are `errors`."""

    requests: int
    errors: int
    p50: float
    p99: float
    p999: float
    behind: float  # of all, how many could not be sent in their own tick


class _Load:
    def __init__(self, config: SteadyConfig) -> None:
        self.config = config
        self.idle: deque[Connection] = deque()
        self.due: deque[float] = deque()
        self.latencies: list[float] = []
        self.errors = 0
        self.sent = 0
        self.behind = 0
        self.requests = [post("/p/predict", config.body.encode(), f"user-{k}") for k in range(1000)]

    def done(self, connection: Connection, status: int, head: bytes, body: bytes) -> None:  # noqa: ARG002
        self.latencies.append(perf_counter() - connection.since)
        self.errors += status != 200
        if self.due:
            self.behind += 1
            self.ask(connection, self.due.popleft())
        else:
            self.idle.append(connection)

    def lost(self, connection: Connection) -> None:
        self.errors += connection.waiting

    def ask(self, connection: Connection, since: float) -> None:
        self.sent += 1
        connection.send(self.requests[self.sent % 1000], since)

    async def run(self) -> Steadied:
        loop, config = asyncio.get_running_loop(), self.config
        for _ in range(config.connections):
            _, made = await loop.create_connection(
                lambda: Connection(self.done, self.lost), "127.0.0.1", config.port
            )
            self.idle.append(made)
        began, asked, tick = perf_counter(), 0, 0
        total = round(config.rate * config.seconds)
        while asked < total:
            tick += 1
            at = began + tick * TICK
            if (wait := at - perf_counter()) > 0:
                await asyncio.sleep(wait)
            should = min(total, int(tick * TICK * config.rate))
            for _ in range(should - asked):
                if self.idle:
                    self.ask(self.idle.popleft(), at)
                else:
                    self.due.append(at)
            asked = should
        until = perf_counter() + _PATIENCE
        while len(self.latencies) < total and perf_counter() < until:  # noqa: ASYNC110 (with a deadline)
            await asyncio.sleep(0.01)
        self.errors += total - len(self.latencies)
        found = sorted(self.latencies) or [float("nan")]

        def at_share(share: float) -> float:
            return found[min(len(found) - 1, int(share * len(found)))] * 1e6

        return Steadied(
            total, self.errors, at_share(0.5), at_share(0.99), at_share(0.999), self.behind / total
        )


def main() -> None:
    config = msgspec.json.decode(sys.argv[1].encode(), type=SteadyConfig)

    async def run() -> None:
        print(msgspec.json.encode(await _Load(config).run()).decode())

    uvloop.run(run())


if __name__ == "__main__":
    main()
