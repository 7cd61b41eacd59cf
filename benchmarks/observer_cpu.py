"""CPU per observation in the observer: flush decoded, bodies read, sums added. Goal: at most 6 µs.

3 fields, 2 slices, 10 metrics, as the design counts them. `python benchmarks/observer_cpu.py [observations]`
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
import time

from accede.router.facts import Body, Fact, Flush, decode_flush, encode_flush
from accede.router.observer.inflow import Inflow
from accede.store.measurement import Extraction, LatencyThresholds, MeasurementPlan, Selected, SlicePlan
from accede.store.routes import WIRE, Arm, ServiceRoute

ROUNDS = 5
PER_FLUSH = 100


def route() -> ServiceRoute:
    extraction = Extraction(
        path="predictions[0].score",
        type="number",
        selected=Selected(">=", 0.5),
        slices=(
            SlicePlan("sex", "instances[0].sex", values=("female", "male")),
            SlicePlan("age", "instances[0].age", bins=(0, 25, 40, 60)),
        ),
    )
    plan = MeasurementPlan(
        rollout="r",
        epoch=2,
        stage="canary",
        extraction=extraction,
        batch=5.0,
        account_after=10.0,
        limits=(0.0, 1.0),
        thresholds=tuple(LatencyThresholds(f"latency.p{q}", 300 + q, 305 + q, 310 + q) for q in (50, 95, 99)),
        edges=tuple(k / 10 for k in range(1, 10)),
        sliced_metrics={"selected": ("sex", "age"), "mean": ("sex", "age"), "missing": ("sex",)},
    )
    arms = (Arm("stable", "1", ("http://a",), 5000), Arm("candidate", "2", ("http://b",), 5000))
    return ServiceRoute(
        wire=WIRE, service="fraud", generation=1, path="/", host=None, protocol="json", arms=arms, plan=plan
    )


def flushes(count: int) -> list[bytes]:
    draw = random.Random(7)
    made: list[bytes] = []
    for first in range(0, count, PER_FLUSH):
        facts: list[Fact] = []
        bodies: list[Body] = []
        for number in range(first, first + PER_FLUSH):
            arm = draw.randrange(2)
            sent = {
                "instances": [
                    {
                        "age": draw.randrange(18, 90),
                        "sex": draw.choice(["female", "male"]),
                        "amount": draw.random(),
                    }
                ]
            }
            answer = {"predictions": [{"score": draw.random(), "std": 0.1}]}
            facts.append(Fact(number, 0, arm, arm, 1e9 + number / 1000, 0, 200, 0.004, -1, False, 1, 200, 60))
            bodies.append(Body(number, json.dumps(sent).encode(), json.dumps(answer).encode(), "", ""))
        flush = Flush(0, "b", 1e9, first + PER_FLUSH, 1e9, 0, 1e9, [], facts, bodies, [], [])
        made.append(encode_flush(flush)[4:])
    return made


def main() -> None:
    gc.set_threshold(100_000, 20, 20)  # as the observer does
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    data = flushes(count)
    costs: list[float] = []
    snapshot = 0.0
    for _ in range(ROUNDS):
        inflow = Inflow("replica:boot")
        inflow.place(0, route())
        began = time.process_time()
        for flush in data:
            inflow.take(decode_flush(flush), now=1e9)
        costs.append((time.process_time() - began) / count * 1e6)
        began = time.process_time()
        evidence = inflow.evidence(now=1e9 + 1)
        snapshot = time.process_time() - began
        assert sum(arm.accounted for arm in evidence[0].arms.values()) == count
    print(
        f"observer: {statistics.median(costs):.2f} µs CPU per observation (median of {ROUNDS}, {count} each)"
    )
    print(f"observer: {snapshot * 1e3:.2f} ms CPU per snapshot of one epoch")


if __name__ == "__main__":
    main()
