"""One sample: CPU, throughput and latency of one side under load for some seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec

from .machine import Cpu, Places, cpu
from .results import Goal, Line
from .scene import Scene, Side
from .started import Failed
from .wrk import Loaded, Wrk

PREDICTION = b'{"predictions": [{"score": 0.5, "std": 0.1}], "served_by": "bench", "explanation": ['
REQUEST = b'{"instances": [{"age": 44, "sex": "female", "amount": 0.25}], "context": ['
_WARMING = 16  # connections
SIZE = 503  # bytes of every request's and answer's body, as in the design's table


def body(start: bytes) -> str:
    """JSON of SIZE bytes that begins with `start`."""
    numbers = b", ".join([b"0.1234567"] * ((SIZE - len(start) - 2) // 11))
    whole = start + numbers + b"]"
    return (whole + b" " * (SIZE - len(whole) - 1) + b"}").decode()


class Options(msgspec.Struct, frozen=True):
    """Of a run. `python`: runs the router."""

    rounds: int
    seconds: float
    connections: int
    pinned: bool
    python: str
    where: Places
    ahead: bool = False


class Sample(NamedTuple):
    """CPU in µs per request: of the workers, and of everything that belongs to the side."""

    us: float
    us_all: float
    us_observer: float
    kernel: float  # share of the workers' CPU
    busy: float  # cores that the workers used
    rate: float
    p50: float
    p99: float
    requests: int


def sample(wrk: Wrk, side: Side, seconds: float, connections: int) -> Sample:
    """Load `side` and account its CPU to the requests answered."""
    before = _spent(side)
    loaded = wrk.load(side.port, seconds, connections)
    return _sample(before, _spent(side), loaded.requests, loaded.us / 1e6, loaded)


def sample_kept(scene: Scene, wrk: Wrk, side: Side, seconds: float, connections: int) -> Sample:
    """The same under TLS, without the handshakes: CPU and requests between two moments under load.

    wrk opens its connections anew every time, and a handshake costs as much as dozens of requests; so the
    requests are those that the upstream counts.
    """
    with ThreadPoolExecutor(1) as threads:
        # wrk's seconds are whole; a second before is for the handshakes, and what is left over ends the load.
        loading = threads.submit(wrk.load, side.port, math.ceil(seconds) + 2, connections, tls=True)
        time.sleep(1.0)
        before, first, began = _spent(side), scene.upstream_requests(), time.monotonic()
        time.sleep(seconds)
        after, last, ended = _spent(side), scene.upstream_requests(), time.monotonic()
        loaded = loading.result()
    return _sample(before, after, last - first - 1, ended - began, loaded)  # 1: the page of figures itself


def _spent(side: Side) -> list[Cpu]:
    observer = [side.others["observer"]] if "observer" in side.others else []
    return [cpu(pids) for pids in (list(side.workers), observer, list(side.others.values()))]


def _sample(before: list[Cpu], after: list[Cpu], requests: int, seconds: float, loaded: Loaded) -> Sample:
    if requests < 1:
        raise Failed("no request was answered")
    spent = [end.total - start.total for start, end in zip(before, after, strict=True)]
    system = after[0].system - before[0].system
    ticks = system + after[0].user - before[0].user
    each = 1e6 / requests
    return Sample(
        us=spent[0] * each,
        us_all=(spent[0] + spent[2]) * each,
        us_observer=spent[1] * each,
        kernel=system / ticks if ticks else 0.0,
        busy=spent[0] / seconds,
        rate=requests / seconds,
        p50=loaded.p50,
        p99=loaded.p99,
        requests=requests,
    )


Samples = dict[str, list[Sample]]


def interleaved(
    options: Options, sides: Sequence[Side], take: Callable[[Side], Sample], say: Callable[[str], None]
) -> Samples:
    """`take` for every side, round by round; the order turns, so that nobody always runs after the same."""
    found: Samples = {side.name: [] for side in sides}
    for number in range(options.rounds):
        turned = [*sides[number % len(sides) :], *sides[: number % len(sides)]]
        for side in turned:
            found[side.name].append(take(side))
        last = ", ".join(
            f"{name} {values[-1].us:.1f} µs {values[-1].rate:.0f}/s" for name, values in found.items()
        )
        say(f"  round {number + 1}: {last}")
    return found


def lines(row: str, samples: Samples, goals: tuple[Goal, ...], *, per: str = "request") -> list[Line]:
    """The lines that every row of closed-loop load has."""

    def one(title: str, unit: str, field: str, goals: tuple[Goal, ...] = (), note: str = "") -> Line:
        values = {name: [float(getattr(s, field)) for s in taken] for name, taken in samples.items()}
        return Line(row, title, unit, values, goals, note)

    busy = one("cores busy with the proxy's workers", "cores", "busy")
    return [
        one(f"CPU per {per}", "µs", "us", goals),
        one(f"CPU per {per}, all processes", "µs", "us_all", note="ours: worker, observer and parent"),
        one("share of it in the kernel", "", "kernel"),
        busy,
        one("throughput", "1/s", "rate"),
        one("p50", "µs", "p50"),
        one("p99", "µs", "p99"),
    ]


def checked_split(sides: Sequence[Side], scene: Scene, wrk: Wrk, *, copies: int) -> None:
    """Warm every side up, and see that it sends upstream what the row is about.

    Raises Failed where answers and copies do not add up: a row that compares different work is worthless.
    """
    for side in sides:
        before = scene.upstream_requests()
        loaded = wrk.load(side.port, 1, _WARMING)
        # The page of figures counts itself, and what is on its way at the end has no answer yet.
        seen = scene.upstream_requests() - before
        expected = loaded.requests * (1 + copies)
        most = 1.05 * expected + (1 + _WARMING) * (1 + copies)
        if loaded.requests < 2 * _WARMING or not 0.98 * expected <= seen <= most:
            raise Failed(
                f"{side.name} sent {seen:.0f} requests upstream for {loaded.requests} answers, "
                f"expected {1 + copies} for each"
            )


def wrk_of(scene: Scene, folder: Path, path: str = "/p/predict", services: int = 1) -> Wrk:
    """Load of the usual body."""
    return Wrk(folder, scene.where.rest, body(REQUEST), path, services)
