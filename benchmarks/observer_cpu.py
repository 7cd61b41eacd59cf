"""CPU per observation in the observer: flush decoded, bodies read, sums added. Goal: at most 6 µs.

3 fields, 2 slices, 10 metrics, as the design counts them; also where predictions are remembered for labels
that come later, and what writing those to a store takes. `python -m benchmarks.observer_cpu [observations]`
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from accede.router.facts import Body, Fact, Flush, decode_flush, encode_flush
from accede.router.observer.inflow import Inflow
from accede.store.sqlite import SqliteStore

from .scene import plan, route
from .started import Failed

ROUNDS = 5
PER_FLUSH = 100


def flushes(count: int, slices: int, *, named: bool = False) -> list[bytes]:
    """Flushes as they come from a worker; `named`: with request ids."""
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
            body = Body(number, json.dumps(sent).encode(), json.dumps(answer).encode(), "", "")
            body.request_id = f"{draw.getrandbits(128):032x}" if named else ""
            bodies.append(body)
        flush = Flush(0, "b", 1e9, first + PER_FLUSH, 1e9, 0, 1e9, [], facts, bodies, [], [])
        made.append(encode_flush(flush)[4:])
    return made


def cost(count: int, *, slices: int, labels: bool = False) -> tuple[float, float]:
    """µs of CPU per observation, and ms per snapshot of one epoch's evidence; one round in this process."""
    data = flushes(count, slices, named=labels)
    measured = msgspec.structs.replace(plan(slices, sticky=False), labels=labels, label_keep=86_400.0)
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 20)  # as the observer does
    try:
        inflow = Inflow("replica:boot")
        inflow.place(0, route(1, 2, plan=measured))
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
    if labels and sum(len(part) for _, part in inflow.notebook.hand_out()) != count:
        raise Failed("the observer has not remembered every prediction")
    return each, snapshot


def writing(count: int) -> float:
    """µs of CPU per prediction that is written to a store, as the observer writes them."""
    inflow = Inflow("replica:boot")
    measured = msgspec.structs.replace(plan(2, sticky=False), labels=True, label_keep=86_400.0)
    inflow.place(0, route(1, 2, plan=measured))
    for flush in flushes(count, 2, named=True):
        inflow.take(decode_flush(flush), now=1e9)
    parts = list(inflow.notebook.hand_out())
    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "store.db")
        began = time.process_time()
        new = sum(store.labels.publish_predictions(service, part).new for service, part in parts)
        each = (time.process_time() - began) / count * 1e6
        store.close()
    if new != count:
        raise Failed("the store has not kept every prediction")
    return each


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    found = [(cost(count, slices=2), cost(count, slices=2, labels=True)) for _ in range(ROUNDS)]
    for told, several in zip(("", ", remembered for labels"), zip(*found, strict=True), strict=True):
        costs, snapshots = zip(*several, strict=True)
        print(
            f"observer: {statistics.median(costs):.2f} µs CPU per observation{told}"
            f" (median of {ROUNDS}, {count} each)"
        )
        print(f"observer: {statistics.median(snapshots):.2f} ms CPU per snapshot of one epoch{told}")
    each = statistics.median(writing(count) for _ in range(ROUNDS))
    print(f"observer: {each:.2f} µs CPU per prediction written to the store")


if __name__ == "__main__":
    main()
