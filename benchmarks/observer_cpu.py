"""CPU per observation in the observer: flush decoded, bodies read, sums added. Goal: at most 6 µs.

3 fields, 2 slices, 10 metrics, as the design counts them. `python -m benchmarks.observer_cpu [observations]`
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

from .scene import plan, route
from .started import Failed

ROUNDS = 5
PER_FLUSH = 100


def flushes(count: int, slices: int) -> list[bytes]:
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
                        **{f"f{k}": draw.choice("xyz") for k in range(slices - 2)},
                    }
                ]
            }
            answer = {"predictions": [{"score": draw.random(), "std": 0.1}]}
            facts.append(Fact(number, 0, arm, arm, 1e9 + number / 1000, 0, 200, 0.004, -1, False, 1, 200, 60))
            bodies.append(Body(number, json.dumps(sent).encode(), json.dumps(answer).encode(), "", ""))
        flush = Flush(0, "b", 1e9, first + PER_FLUSH, 1e9, 0, 1e9, [], facts, bodies, [], [])
        made.append(encode_flush(flush)[4:])
    return made


def cost(count: int, *, slices: int) -> tuple[float, float]:
    """µs of CPU per observation, and ms per snapshot of one epoch's evidence; one round in this process."""
    data = flushes(count, slices)
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 20)  # as the observer does
    try:
        inflow = Inflow("replica:boot")
        inflow.place(0, route(1, 2, plan=plan(slices, sticky=False)))
        began = time.process_time()
        for flush in data:
            inflow.take(decode_flush(flush), now=1e9)
        each = (time.process_time() - began) / count * 1e6
        began = time.process_time()
        evidence = inflow.evidence(now=1e9 + 1)
        snapshot = (time.process_time() - began) * 1e3
    finally:
        gc.set_threshold(*before)
    if sum(arm.accounted for arm in evidence[0].arms.values()) != count:
        raise Failed("the observer has not accounted every observation")
    return each, snapshot


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    found = [cost(count, slices=2) for _ in range(ROUNDS)]
    costs, snapshots = zip(*found, strict=True)
    print(
        f"observer: {statistics.median(costs):.2f} µs CPU per observation (median of {ROUNDS}, {count} each)"
    )
    print(f"observer: {statistics.median(snapshots):.2f} ms CPU per snapshot of one epoch")


if __name__ == "__main__":
    main()
