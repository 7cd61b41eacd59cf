"""Our cost against a number: of services, of slices, of workers."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from . import observer_cpu
from .machine import places
from .results import Curve
from .rows import Say, scene
from .sampling import Options, Sample, interleaved, sample, wrk_of
from .scene import Side, route
from .wrk import Wrk

SERVICES = (1, 10, 100, 1000)
SLICES = (0, 2, 10, 20)  # 20: the most that fit into the evidence's bound with 10 metrics
WORKERS = (1, 2)


def services(options: Options, say: Say) -> list[Curve]:
    """CPU per request with so many services in the table, all of them asked in turn."""
    with scene(options) as made:
        sides: list[Side] = []
        load: dict[str, Wrk] = {}
        for count in SERVICES:
            routes = [route(made.a, made.b, service=f"m{k}", path=f"/s{k}") for k in range(count)]
            sides.append(made.router(*routes, name=f"of{count}"))
            load[f"of{count}"] = wrk_of(made, made.folder, "/s@/predict", count)
        for side in sides:
            load[side.name].load(side.port, 2, options.connections)
        found = interleaved(
            options,
            sides,
            lambda side: sample(load[side.name], side, options.seconds, options.connections),
            say,
        )
    by = {count: found[f"of{count}"] for count in SERVICES}
    return [
        _curve("services", "CPU per request and the number of services", "services", "us", by),
        _curve(
            "services-observer",
            "observer's CPU per request and the number of services",
            "services",
            "us_observer",
            by,
        ),
    ]


def workers(options: Options, say: Say) -> list[Curve]:
    """CPU per request with one and two workers, on all cores."""
    free = msgspec.structs.replace(options, pinned=False, where=places(pinned=False))
    with scene(free) as made:
        sides = [made.router(route(made.a, made.b), name=f"of{count}", workers=count) for count in WORKERS]
        wrk = wrk_of(made, made.folder)
        for side in sides:
            wrk.load(side.port, 1, options.connections)
        found = interleaved(
            free, sides, lambda side: sample(wrk, side, options.seconds, options.connections), say
        )
    by = {count: found[f"of{count}"] for count in WORKERS}
    return [
        _curve("workers", "CPU per request and the number of workers", "workers", "us", by),
        _curve("workers-throughput", "throughput and the number of workers", "workers", "rate", by),
    ]


def slices(options: Options, say: Say) -> list[Curve]:
    """CPU per observation in the analysis, with so many slices."""
    found: dict[int, list[float]] = {count: [] for count in SLICES}
    for _ in range(options.rounds):
        for count, costs in found.items():
            costs.append(observer_cpu.cost(10_000, slices=count)[0])
        say("  " + ", ".join(f"{count} slices {costs[-1]:.2f} µs" for count, costs in found.items()))
    points = tuple((float(count), tuple(costs)) for count, costs in found.items())
    return [Curve("slices", "CPU per observation and the number of slices", "slices", "µs", points)]


def _curve(name: str, title: str, x: str, field: str, by: Mapping[int, list[Sample]]) -> Curve:
    points = tuple(
        (float(count), tuple(float(getattr(s, field)) for s in taken)) for count, taken in by.items()
    )
    return Curve(name, title, x, "1/s" if field == "rate" else "µs", points)
