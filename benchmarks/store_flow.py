"""Evidence as a router publishes it while requests come in, for what a store has to be told of it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from accede.router.facts import Body, Fact, Flush, Placed, Table
from accede.router.observer.inflow import Inflow
from accede.store.evidence import Evidence
from accede.store.measurement import Extraction, LatencyThresholds, MeasurementPlan, Selected, SlicePlan
from accede.store.routes import WIRE, Arm, ServiceRoute

EVERY = 0.5  # seconds between two publications of an epoch
BATCH = 5.0  # of a time cluster
_BEFORE = 640.0  # seconds of traffic before the first: every cluster of 128 is filled
_GROUPS = 10  # of a slice


def _route(service: str, slices: int, *, sticky: bool) -> ServiceRoute:
    named = tuple(
        SlicePlan(f"s{k}", f"instances[0].s{k}", tuple(f"g{one}" for one in range(_GROUPS)))
        for k in range(slices)
    )
    kept = tuple(one.name for one in named)
    plan = MeasurementPlan(
        rollout=f"{service}-1", epoch=1, stage="canary", batch=BATCH, account_after=10.0, sticky=sticky,
        extraction=Extraction("predictions[0].score", "number", Selected(">=", 0.5), 0.1, named),
        limits=(0.0, 1.0), edges=tuple(k / 10 for k in range(1, 10)),
        thresholds=tuple(LatencyThresholds(f"latency.{q}", 300, 305, 310) for q in ("p50", "p95", "p99")),
        sliced_metrics=dict.fromkeys(("errors", "latency.p95", "missing", "mean", "selected"), kept),
    )  # fmt: skip
    arms = (Arm("stable", "1", ("http://a",), 9000), Arm("candidate", "2", ("http://b",), 1000))
    return ServiceRoute(WIRE, service, 1, "/p", None, "kserve-v1", arms, plan=plan)


def publications(service: str, slices: int, rate: float, *, sticky: bool = False) -> Iterator[Evidence]:
    """What one router publishes every EVERY seconds of a canary with `rate` requests a second, for ever."""
    chance = random.Random(3)
    inflow = Inflow("router:boot-1")
    inflow.obey(Table(1, (Placed(_route(service, slices, sticky=sticky), 0),)), 0.0)
    asked = [
        json.dumps(
            {"instances": [{f"s{k}": f"g{chance.randrange(_GROUPS)}" for k in range(slices)}]}
        ).encode()
        for _ in range(500)
    ]
    number, now = 0, 1e9
    seconds = _BEFORE
    while True:
        for _ in range(int(seconds / EVERY)):
            facts: list[Fact] = []
            bodies: list[Body] = []
            for at in range(int(rate * EVERY)):
                number += 1
                arm, status = int(chance.random() < 0.1), 200 if chance.random() > 0.01 else 500
                assigned, latency = now + at / rate, chance.lognormvariate(-3, 1)
                facts.append(
                    Fact(number, 0, arm, arm, assigned, 0, status, latency, number, False, 1, 200, 60)
                )
                answer = json.dumps({"predictions": [{"score": chance.random()}]}).encode()
                bodies.append(Body(number, chance.choice(asked), answer, "", ""))
            now += EVERY
            inflow.take(Flush(0, "b", now, number + 1, now, 0, now, [], facts, bodies, [], []), now)
        yield from inflow.evidence(now)
        seconds = EVERY
