"""The rows with upstreams of their own: server-sent events, and shadows that are slow or hang."""

from __future__ import annotations

import sys
import time

import msgspec

from .machine import cpu, memory
from .results import Goal, Line
from .rows import Say, scene
from .sampling import Options, wrk_of
from .scene import OURS, PEERS, Scene, Side, Work, mirrors, route
from .started import Failed, free_port
from .streams import PERIOD, ReadConfig

_STREAMS = 64
_DELAYS = {"200 ms": 0.2, "hangs": -1.0}


def events(options: Options, say: Say) -> list[Line]:
    """CPU per event of 64 streams at the same pace for every proxy."""
    with scene(options) as made:
        made.a = made.b = port = free_port()
        server = made.group.start(
            "events", [sys.executable, "-m", "benchmarks.streams", "serve", str(port)], cores=made.where.rest
        )
        made.group.ready(server, port)
        sides = [made.peer(name, Work(stream=True)) for name in PEERS] + [made.router(route(port, port))]
        costs: dict[str, list[float]] = {side.name: [] for side in sides}
        whole: dict[str, list[float]] = {side.name: [] for side in sides}
        for number in range(options.rounds):
            for side in [*sides[number % len(sides) :], *sides[: number % len(sides)]]:
                worker, everything = _events(made, side, options.seconds)
                costs[side.name].append(worker)
                whole[side.name].append(everything)
            say("  " + ", ".join(f"{name} {taken[-1]:.1f} µs" for name, taken in costs.items()))
    note = f"{_STREAMS} streams, an event every {PERIOD * 1e3:.0f} ms on each"
    goals = (Goal("nginx", 1.3), Goal("envoy", 1.2))
    return [
        Line("events", "CPU per server-sent event", "µs", costs, goals, note),
        Line("events", "CPU per server-sent event, all processes", "µs", whole),
    ]


def _events(made: Scene, side: Side, seconds: float) -> tuple[float, float]:
    """µs per event: of the workers, of everything."""
    config = msgspec.json.encode(ReadConfig(side.port, _STREAMS)).decode()
    reader = made.group.start(
        "reader",
        [sys.executable, "-m", "benchmarks.streams", "read", config],
        cores=made.where.rest,
        talks=True,
    )
    assert reader.stdin is not None
    assert reader.stdout is not None

    def count() -> int:
        assert reader.stdin is not None
        assert reader.stdout is not None
        reader.stdin.write("\n")
        reader.stdin.flush()
        return int(reader.stdout.readline() or -1)

    def spent() -> tuple[float, float]:
        return cpu(list(side.workers)).total, cpu(side.everything).total

    until = time.monotonic() + 10
    while count() < 0:  # some stream has not begun
        if time.monotonic() > until:
            raise Failed(f"{side.name}: the streams did not begin")
        time.sleep(0.05)
    time.sleep(0.5)
    started, before = count(), spent()
    time.sleep(seconds)
    ended, after = count(), spent()
    made.group.end(reader)
    events = ended - started
    due = _STREAMS * seconds / PERIOD
    if started < 0 or ended < 0 or events < 0.9 * due:
        raise Failed(f"{side.name}: {events} events of {due:.0f} arrived, or a stream ended")
    return (after[0] - before[0]) / events * 1e6, (after[1] - before[1]) / events * 1e6


def shadow(options: Options, say: Say) -> list[Line]:
    """Our throughput with every request copied to a shadow that is slow or hangs, against none."""
    with scene(options) as made:
        sides = {"none": made.router(route(made.a, made.b), name="none")}
        for label, delay in _DELAYS.items():
            port = free_port()
            program = [sys.executable, "-m", "benchmarks.slow_upstream", str(port), str(delay)]
            made.group.ready(made.group.start("slow", program, cores=made.where.rest), port)
            sides[label] = made.router(
                route(made.a, made.b, mirrors=mirrors(port)), name=label.replace(" ", "")
            )
        wrk = wrk_of(made, made.folder)
        rates: dict[str, list[float]] = {label: [] for label in sides}
        errors = dict.fromkeys(sides, 0)
        grown: dict[str, list[float]] = {label: [] for label in sides}
        order = list(sides)
        for side in sides.values():
            wrk.load(side.port, 1, options.connections)
        for number in range(options.rounds):
            for label in [*order[number % 3 :], *order[: number % 3]]:
                loaded = wrk.load(sides[label].port, options.seconds, options.connections, failures=True)
                rates[label].append(loaded.rate)
                errors[label] += loaded.errors
                grown[label].append(memory(list(sides[label].workers)).rss / 2**20)
            say("  " + ", ".join(f"{label} {taken[-1]:.0f}/s" for label, taken in rates.items()))
    return [line for label in _DELAYS for line in _shadowed(label, rates, errors, grown)]


def _shadowed(
    label: str, rates: dict[str, list[float]], errors: dict[str, int], grown: dict[str, list[float]]
) -> list[Line]:
    what = f"a shadow that {'takes ' if label[0].isdigit() else ''}{label}"
    more = [with_it - without for with_it, without in zip(grown[label], grown["none"], strict=True)]
    return [
        Line(
            "shadow", f"throughput with {what}", "1/s", {"no shadow": rates["none"], OURS: rates[label]},
            (Goal("no shadow", 0.8, "at least"),),
        ),
        Line("shadow", f"client errors with {what}", "", {OURS: [float(errors[label])]}, (Goal("", 0.0),)),
        # 64 MiB is the mirrors' own bound on bytes in flight; each direction's copies have one.
        Line(
            "shadow", f"worker's RSS beyond that without a shadow, with {what}", "MiB", {OURS: more},
            (Goal("", 64.0),),
        ),
    ]  # fmt: skip
