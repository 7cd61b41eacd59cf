"""The rows of the design's table of goals. Each starts its own scene and gives its lines."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from . import controller_cpu, observer_cpu
from .machine import Places, memory
from .results import Goal, Line
from .sampling import (
    PREDICTION,
    REQUEST,
    Options,
    Sample,
    Samples,
    body,
    checked_split,
    interleaved,
    lines,
    sample,
    sample_kept,
    wrk_of,
)
from .scene import OURS, PEERS, Scene, Side, Work, mirrors, route
from .started import Failed, Group
from .steady import Steadied, SteadyConfig

Say = Callable[[str], None]
Row = Callable[[Options, Say], list[Line]]

LARGE = 2**20


@contextmanager
def scene(options: Options, *, large: int = 0) -> Iterator[Scene]:
    """Upstreams and a place for what the row starts; everything is ended afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Group(Path(folder), ahead=options.ahead) as group,
    ):
        Path(folder).chmod(0o755)  # nginx's workers are of a user of their own
        made = Scene(group, options.where, options.python)
        made.origin(body(PREDICTION), large)
        yield made


def _sides(made: Scene, work: Work) -> list[Side]:
    peers = [made.peer(name, work) for name in PEERS if not (work.mirror and name == "haproxy")]
    service = route(made.a, made.b, mirrors=mirrors(made.c) if work.mirror else ())
    return [*peers, made.router(service, tls=work.tls)]


def split(options: Options, say: Say) -> list[Line]:
    """CPU per request with split, sticky users and capture; memory afterwards; p99."""
    with scene(options) as made:
        sides = _sides(made, Work())
        wrk = wrk_of(made, made.folder)
        checked_split(sides, made, wrk, copies=0)
        samples = interleaved(
            options, sides, lambda side: sample(wrk, side, options.seconds, options.connections), say
        )
        found = lines("split", samples, (Goal("nginx", 1.8), Goal("envoy", 0.65)))
        found[0].title += ", split + sticky + capture"
        _goals(found, "p99", Goal("nginx", 3.5), Goal("envoy", 1.1))
        next(line for line in found if line.title == "p99").note = "closed loop: each waits for its answer"
        observing = [one.us_observer for one in samples[OURS]]
        found.append(Line("split", "CPU per request, our observer", "µs", {OURS: observing}))
        return [*found, *_memory(sides, options.rounds)]


def _memory(sides: list[Side], rounds: int) -> list[Line]:
    """PSS after the load; read once per round only so that every line has as many figures."""
    whole: dict[str, list[float]] = {}
    workers: dict[str, list[float]] = {}
    for side in sides:
        whole[side.name] = [memory(side.everything).pss / 2**20 for _ in range(rounds)]
        workers[side.name] = [memory(list(side.workers)).pss / 2**20 for _ in range(rounds)]
    return [
        Line("memory", "PSS, all processes with one worker", "MiB", whole, (Goal("envoy", 0.75),)),
        Line("memory", "PSS, the worker alone", "MiB", workers),
    ]


def _goals(found: list[Line], title: str, *goals: Goal) -> None:
    for line in found:
        if line.title == title:
            line.goals = goals


def mirror(options: Options, say: Say) -> list[Line]:
    """The same with every request copied once."""
    with scene(options) as made:
        sides = _sides(made, Work(mirror=True))
        wrk = wrk_of(made, made.folder)
        checked_split(sides, made, wrk, copies=1)
        before = made.upstream_requests()
        samples = interleaved(
            options, sides, lambda side: sample(wrk, side, options.seconds, options.connections), say
        )
        asked = sum(one.requests for taken in samples.values() for one in taken)
        copied = (made.upstream_requests() - before) / asked - 1
        found = lines("mirror", samples, (Goal("nginx", 0.7), Goal("envoy", 0.5)))
        found[0].title += ", split + sticky + capture + mirror"
        found[
            0
        ].note = f"copies per request, all proxies: {copied:.3f}; HAProxy mirrors through an agent only"
        return found


def latency(options: Options, say: Say) -> list[Line]:
    """What a proxy adds at one connection, against the upstream asked directly in the same round.

    Twice: the proxy on a core of its own, where waking another core is a large part of what every proxy
    adds; and everything on one core, where only the work is.
    """
    found = _latency(options, say, "")
    if options.pinned and options.where.proxy != options.where.rest:
        alone = msgspec.structs.replace(options, where=Places(options.where.proxy, options.where.proxy))
        found += _latency(alone, say, ", all on one core")
    return found


def _latency(options: Options, say: Say, where: str) -> list[Line]:
    with scene(options) as made:
        direct = Side("direct", made.a, (), {})
        sides = [direct, *_sides(made, Work())]
        wrk = wrk_of(made, made.folder)
        checked_split(sides[1:], made, wrk, copies=0)
        samples = interleaved(options, sides, lambda side: sample(wrk, side, options.seconds, 1), say)
    base = samples.pop("direct")
    added = {
        name: [one.p50 - without.p50 for one, without in zip(taken, base, strict=True)]
        for name, taken in samples.items()
    }
    straight = statistics.median(one.p50 for one in base)
    goals = (Goal("nginx", 1.5), Goal("envoy", 0.85))
    note = f"the upstream alone: p50 {straight:.0f} µs"
    tails = {name: [one.p99 for one in taken] for name, taken in samples.items()}
    return [
        Line("latency", f"added p50 at 1 connection{where}", "µs", added, goals, note),
        Line("latency", f"p99 at 1 connection{where}", "µs", tails),
    ]


def steady(options: Options, say: Say) -> list[Line]:
    """p99 at one fixed rate for all, half of what the slowest does in a closed loop; an open loop."""
    with scene(options) as made:
        sides = _sides(made, Work())
        wrk = wrk_of(made, made.folder)
        slowest = min(wrk.load(side.port, 2, options.connections).rate for side in sides)
        # The generator is Python as well: above some thousand a second it would measure itself.
        rate = min(6000.0, round(slowest / 2, -2))
        found: dict[str, list[Steadied]] = {side.name: [] for side in sides}
        for number in range(options.rounds):
            for side in [*sides[number % len(sides) :], *sides[: number % len(sides)]]:
                found[side.name].append(_steady(made, side, rate, options))
            say("  " + ", ".join(f"{name} p99 {taken[-1].p99:.0f} µs" for name, taken in found.items()))
    note = f"open loop at {rate:.0f}/s, 64 connections; counted from when a request was due"
    return [
        Line(
            "steady", f"{name} at a fixed rate", "µs", _values(found, name), (), note if name == "p50" else ""
        )
        for name in ("p50", "p99", "p999")
    ]


def _values(found: dict[str, list[Steadied]], name: str) -> dict[str, list[float]]:
    return {side: [float(getattr(one, name)) for one in taken] for side, taken in found.items()}


def _steady(made: Scene, side: Side, rate: float, options: Options) -> Steadied:
    config = SteadyConfig(side.port, rate, options.seconds, options.connections, body(REQUEST))
    process = made.group.start(
        "steady",
        [sys.executable, "-m", "benchmarks.steady", msgspec.json.encode(config).decode()],
        cores=made.where.rest,
        talks=True,
    )
    told, _ = process.communicate(timeout=options.seconds + 60)
    made.group.end(process)
    if process.returncode:
        raise Failed(f"the load at a fixed rate failed: {made.group.last_words(process)}")
    steadied = msgspec.json.decode(told.encode(), type=Steadied)
    if steadied.errors:
        raise Failed(f"{side.name}: {steadied.errors} of {steadied.requests} requests failed")
    return steadied


def large(options: Options, say: Say) -> list[Line]:
    """Answers of 1 MiB."""
    with scene(options, large=LARGE) as made:
        sides = _sides(made, Work())
        wrk = wrk_of(made, made.folder, "/p/large")
        samples = _warmed(
            options, sides, lambda side: sample(wrk, side, options.seconds, options.connections), say
        )
        found = lines("large", samples, (Goal("nginx", 1.3), Goal("envoy", 1.0)))
        found[0].title = "CPU per answer of 1 MiB"
        return found


def tls(options: Options, say: Say) -> list[Line]:
    """TLS 1.3 towards the client, connections kept alive, the same cipher and curve for all."""
    with scene(options) as made:
        made.certificate()
        sides = _sides(made, Work(tls=True))
        wrk = wrk_of(made, made.folder)
        samples = _warmed(
            options,
            sides,
            lambda side: sample_kept(made, wrk, side, options.seconds, options.connections),
            say,
        )
        found = lines("tls", samples, (Goal("nginx", 1.5), Goal("envoy", 0.6)))
        found[0].title += ", TLS 1.3 kept alive"
        found[0].note = "TLS_AES_128_GCM_SHA256, X25519; handshakes are not in it"
        return found


def _warmed(options: Options, sides: list[Side], take: Callable[[Side], Sample], say: Say) -> Samples:
    """Interleaved, after a first run of each that is not counted."""
    for side in sides:
        take(side)
    return interleaved(options, sides, take, say)


def observer(options: Options, say: Say) -> list[Line]:
    """CPU per observation in the process of analysis."""
    costs = [observer_cpu.cost(20_000, slices=2)[0] for _ in range(max(3, options.rounds))]
    say(f"  {', '.join(f'{cost:.2f}' for cost in costs)} µs")
    return [
        Line(
            "observer", "CPU per observation (3 fields, 2 slices, 10 metrics)", "µs", {OURS: costs},
            (Goal("", 6.0),),
        )
    ]  # fmt: skip


def analysis(options: Options, say: Say) -> list[Line]:
    """CPU of a controller's round over many rollouts whose evidence has all changed."""
    # One round shows only that it works; building 500 takes minutes.
    rollouts = controller_cpu.ROLLOUTS if options.rounds > 1 else 20
    found = controller_cpu.measured(controller_cpu.METRICS, rollouts, max(3, options.rounds))
    say(f"  {', '.join(f'{cost:.2f}' for cost in found.busy)} s")
    what = f"CPU of a tick over {rollouts} rollouts of {controller_cpu.METRICS}"
    return [Line("analysis", what, "s", {OURS: found.busy}, (Goal("", controller_cpu.GOAL),))]
