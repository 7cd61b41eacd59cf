"""Open-loop load: `python -m accede.cli.demo.load '{…}'`. Requests leave when they are due, answered or not.

A closed loop would slow down with the servers and hide exactly what a rollout looks for. Arrivals are
Poisson; each request takes an idle keep-alive connection or opens one. Once a second, and at the end, the
process prints one JSON line with its totals.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from pathlib import Path
from typing import cast

import httptools
import msgspec

from ..processes import die_with_parent

_GIVE_UP = 10.0  # seconds after which an unanswered request counts as failed


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`bodies`: a file with one JSON body a line, drawn at random with replacement. `rate`: requests/s.

    `seconds`: how long; None until SIGTERM. `users`: draw a header x-user-id out of so many; 0 sends none.
    `most`: connections at once; beyond, a request counts as failed (the server is far behind).
    `closed`: to measure capacity, keep so many requests open instead, whatever `rate` says.
    """

    port: int
    path: str
    bodies: str
    rate: float
    seconds: float | None = None
    users: int = 0
    most: int = 512
    closed: int = 0
    host: str = "127.0.0.1"


class Totals(msgspec.Struct):
    """What has happened so far. `versions`: x-accede-version -> answers. Latency of the last second, in s."""

    at: float = 0.0
    sent: int = 0
    answered: int = 0
    refused: int = 0  # answered, with 4xx or 5xx
    failed: int = 0  # no answer: connection refused or lost, or too late
    open: int = 0
    p50: float = 0.0
    p95: float = 0.0
    statuses: dict[str, int] = {}
    versions: dict[str, int] = {}
    ended: bool = False


class _Connection(asyncio.Protocol):
    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._version = ""
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send(self, request: bytes, due: float) -> None:
        if self._transport is None:
            self._generator.fail()
            return
        self._due, self._version = due, ""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_GIVE_UP, self._transport.abort)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._transport is not None:
                self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-accede-version":
            self._version = value.decode("latin-1")

    def on_message_complete(self) -> None:
        if self._due is None or self._parser.get_status_code() < 200:  # noqa: PLR2004  (1xx is no answer)
            return
        due, self._due = self._due, None
        if self._timer is not None:
            self._timer.cancel()
        keep = self._parser.should_keep_alive()
        self._generator.answer(self._parser.get_status_code(), self._version, time.monotonic() - due)
        self._parser = httptools.HttpResponseParser(self)
        if keep:
            self._generator.idle.append(self)
        elif self._transport is not None:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        self._transport = None
        self._generator.connections -= 1
        if self in self._generator.idle:
            self._generator.idle.remove(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._due is not None:
            self._due = None
            self._generator.fail()


class Generator:
    """The load of one configuration; `totals` is live."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.totals = Totals()
        self.idle: list[_Connection] = []
        self.connections = 0
        self.ending = False
        self._latencies: list[float] = []
        self._chance = random.Random()  # noqa: S311  (which row is sent when)
        self._connecting: set[asyncio.Task[None]] = set()
        lines = Path(configuration.bodies).read_bytes().splitlines()
        self._requests = [self._request(body) for body in lines if body]

    def _request(self, body: bytes) -> bytes:
        head = (
            f"POST {self.configuration.path} HTTP/1.1\r\n"
            f"host: {self.configuration.host}:{self.configuration.port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        )
        return head.encode("latin-1") + b"\r\n" + body

    def _draw(self) -> bytes:
        request = self._chance.choice(self._requests)
        if not self.configuration.users:
            return request
        user = b"\r\nx-user-id: u%d\r\n\r\n" % self._chance.randrange(self.configuration.users)
        return request.replace(b"\r\n\r\n", user, 1)

    def answer(self, status: int, version: str, seconds: float) -> None:
        """Count an answer."""
        totals = self.totals
        totals.answered += 1
        totals.open -= 1
        self._latencies.append(seconds)
        totals.statuses[str(status)] = totals.statuses.get(str(status), 0) + 1
        if status >= 400:  # noqa: PLR2004
            totals.refused += 1
        totals.versions[version] = totals.versions.get(version, 0) + 1
        if self.configuration.closed and not self.ending:
            asyncio.get_running_loop().call_soon(self.launch, time.monotonic())

    def fail(self) -> None:
        """Count a request that got no answer."""
        self.totals.failed += 1
        self.totals.open -= 1

    def report(self, *, ended: bool = False) -> None:
        """Print the totals as one line."""
        ordered = sorted(self._latencies)
        if ordered:
            self.totals.p50 = ordered[len(ordered) // 2]
            self.totals.p95 = ordered[int(len(ordered) * 0.95)]
        self._latencies.clear()
        self.totals.at, self.totals.ended = time.time(), ended
        sys.stdout.write(msgspec.json.encode(self.totals).decode() + "\n")
        sys.stdout.flush()

    def launch(self, due: float) -> None:
        """Send one request on an idle connection, or on a new one."""
        self.totals.sent += 1
        self.totals.open += 1
        if self.idle:
            self.idle.pop().send(self._draw(), due)
        elif self.connections >= self.configuration.most:
            self.fail()
        else:
            self.connections += 1
            task = asyncio.get_running_loop().create_task(self._connect(due))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self), self.configuration.host, self.configuration.port
            )
        except OSError:
            self.connections -= 1
            self.fail()
            return
        connection.send(self._draw(), due)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` or the configured seconds are over, then wait for what is open; reports as it goes."""
        began = time.monotonic()
        due = began
        report_at = began + 1.0
        seconds = self.configuration.seconds
        if self.configuration.closed:
            for _ in range(self.configuration.closed):
                self.launch(began)
            await asyncio.wait({asyncio.get_running_loop().create_task(stop.wait())}, timeout=seconds)
            due = began + (seconds or 0.0)
            stop.set()
        while not stop.is_set() and (seconds is None or due < began + seconds):
            now = time.monotonic()
            if due > now:
                await asyncio.sleep(due - now)
            self.launch(due)
            due += self._chance.expovariate(self.configuration.rate)
            if now >= report_at:
                self.report()
                report_at = now + 1.0
        self.ending = True
        patience = time.monotonic() + _GIVE_UP
        while self.totals.open and time.monotonic() < patience:  # noqa: ASYNC110  (once, at the end)
            await asyncio.sleep(0.01)
        self.report(ended=True)


async def _main(configuration: Configuration) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Generator(configuration).run(stop)


def main() -> None:
    """Run the load that the first argument describes."""
    die_with_parent()
    asyncio.run(_main(msgspec.json.decode(sys.argv[1], type=Configuration)))


if __name__ == "__main__":
    main()
