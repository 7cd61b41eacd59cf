"""What a source publishes is no larger than the plan was said to need, whatever the plan asks for."""

from __future__ import annotations

import json
import random
from itertools import product
from typing import Any

import msgspec
import pytest

from accede.router.facts import Body, Ending, Fact, Pair, Placed, Table
from accede.router.observer.inflow import Inflow
from accede.store.evidence import Evidence, Series, decode_evidence, encode_evidence
from accede.store.measurement import (
    CLUSTERS,
    Extraction,
    InputPlan,
    LatencyThresholds,
    MeasurementPlan,
    RankTable,
    Selected,
    SlicePlan,
    ValuePlan,
    estimated_bytes,
)
from accede.store.routes import WIRE, Arm, ServiceRoute
from tests.router.observer.test_inflow import flush

GROUPS = ("f", "m", "x")
PARTS = (SlicePlan("sex", "sex", GROUPS), SlicePlan("age", "age", bins=(0.0, 30.0, 60.0)))
SLICES = (*PARTS, SlicePlan("sex_age", "", cross=PARTS))
LABELS = tuple(f"label{k}" for k in range(20))
KEPT = ("sex", "age", "sex_age")
SLICED = dict.fromkeys(("errors", "latency.p95", "missing", "mean", "selected", "agreement", "bin"), KEPT)
LATENCIES = tuple(LatencyThresholds(f"latency.{q}", 400, 405, 410) for q in ("p50", "p95", "p99"))
FIRSTS = tuple(LatencyThresholds(f"stream.first_token.{q}", 400, 405, 410) for q in ("p50", "p95"))
INPUTS = (
    InputPlan("amount", "amount"),
    InputPlan("parts", "age", range=(0.0, 90.0)),
    InputPlan("sex", "sex", "category", values=GROUPS),
)
BASE = MeasurementPlan("r", 3, "canary", None, 1.0, 10.0, thresholds=LATENCIES)


def number(**changes: Any) -> MeasurementPlan:
    extraction = Extraction("p[*]", "number", Selected(">=", 0.5), 0.1, SLICES)
    plan = msgspec.structs.replace(
        BASE, extraction=extraction, limits=(0.0, 1.0), edges=tuple(k / 10 for k in range(1, 10)),
        sliced_metrics=SLICED,
    )  # fmt: skip
    return msgspec.structs.replace(plan, **changes)


def told(**changes: Any) -> MeasurementPlan:
    extraction = Extraction(
        "p[*].y", "number", None, 0.1, SLICES,
        tuple(ValuePlan(f"m{k}", "p[*].y") for k in range(16)), "p[*].y", "why",
    )  # fmt: skip
    ranks = RankTable((0.5,), (0.25, 0.75))
    sliced = {**SLICED, "metrics.m0": KEPT, "metrics.m1": KEPT}
    return number(extraction=extraction, ranks=ranks, **{"sliced_metrics": sliced, **changes})


def label(**changes: Any) -> MeasurementPlan:
    extraction = Extraction("p[*]", "label", Selected("==", LABELS[0]), None, SLICES)
    plan = msgspec.structs.replace(BASE, extraction=extraction, classes=LABELS, sliced_metrics=SLICED)
    return msgspec.structs.replace(plan, **changes)


def text(**changes: Any) -> MeasurementPlan:
    plan = msgspec.structs.replace(
        BASE, extraction=Extraction("", "text", slices=SLICES), streams=True, tokens=300.0,
        thresholds=(*LATENCIES, *FIRSTS), sliced_metrics={"missing": KEPT, "agreement": KEPT},
    )  # fmt: skip
    return msgspec.structs.replace(plan, **changes)


EVERYTHING = {"back": True, "floor": True, "inputs": INPUTS}


def asked(random_: random.Random) -> bytes:
    said = {
        "sex": random_.choice(GROUPS), "age": random_.randrange(90), "amount": random_.lognormvariate(3, 4),
        "stream": True,
    }  # fmt: skip
    return json.dumps(said).encode()


def answered(plan: MeasurementPlan, random_: random.Random) -> bytes:
    assert plan.extraction is not None
    if plan.streams:
        words = "".join(
            f'data: {{"choices": [{{"index": 0, "delta": {{"content": "w{k} "}}}}]}}\n\n'
            for k in range(random_.randrange(1, 4))
        )
        usage = random_.randrange(1, 300)
        end = "" if random_.random() < 0.1 else "data: [DONE]\n\n"
        told = f'data: {{"choices": [], "usage": {{"completion_tokens": {usage}}}}}\n\n'
        return f"{words}{told}{end}".encode()
    if plan.ranks is not None:
        said = [{"y": random_.random()} for _ in range(random_.randrange(1, 4))]
        return json.dumps({"p": said, "why": [random_.random() for _ in range(5)]}).encode()
    of = (lambda: random_.choice(LABELS)) if plan.classes else random_.random
    return json.dumps({"p": [of() for _ in range(random_.randrange(1, 4))]}).encode()


def filled(plan: MeasurementPlan) -> Evidence:
    """Everything that an epoch of the plan can hold, in every cluster, with counts as of weeks."""
    arms = (Arm("stable", "1", ("http://a",), 5000), Arm("candidate", "2", ("http://b",), 5000))
    protocol = "openai" if plan.streams else "json"
    route = ServiceRoute(
        wire=WIRE, service="s", generation=1, path="/", host=None, protocol=protocol, arms=arms, plan=plan
    )
    inflow = Inflow("replica:boot")
    inflow.obey(Table(1, (Placed(route, 0),)), 0.0)
    random_ = random.Random(7)
    facts: list[Fact] = []
    bodies: list[Body] = []
    pairs: list[Pair] = []
    endings = (*(Ending.ANSWERED,) * 12, Ending.TIMEOUT, Ending.TRUNCATED, Ending.DISCONNECTED, Ending.OPEN)
    arms_of = (0,) if plan.stage == "shadow" else (0, 1)
    kinds = [0] * (plan.stage == "shadow") + [1] * plan.back + [2] * plan.floor
    for at, (cluster, arm, _) in enumerate(product(range(CLUSTERS), arms_of, range(12)), start=1):
        ending = random_.choice(endings)
        latency = random_.lognormvariate(-2, 3)
        facts.append(
            Fact(
                at, 0, arm, arm, cluster * plan.batch, ending, 200, latency, random_.randrange(CLUSTERS),
                False, 1, 10, 10, latency / 2,
            )
        )  # fmt: skip
        bodies.append(Body(at, asked(random_), answered(plan, random_), "", ""))
        for kind in kinds:
            pairs.append(
                Pair(
                    len(pairs) + 1, 0, cluster * plan.batch, Ending.ANSWERED,
                    random_.choice((200, 200, 500)), 0.1, Ending.ANSWERED, random_.choice((200, 200, 500)),
                    0.1, False, asked(random_), answered(plan, random_), answered(plan, random_), "", "", "",
                    kind,
                )
            )  # fmt: skip
    told = flush(facts=facts, bodies=bodies, pairs=pairs, line=len(facts) + 1, pair_line=len(pairs) + 1)
    inflow.take(told, 1.0)
    (evidence,) = inflow.evidence(2.0)
    for key, sums in evidence.series.items():
        evidence.series[key] = Series([n * 100_000 + 1 for n in sums.n], sums.sum, sums.square)
    return evidence


@pytest.mark.parametrize(
    "plan",
    [
        number(),
        number(sticky=True, inputs=INPUTS),
        number(**EVERYTHING),
        number(stage="shadow", floor=True),
        told(),
        told(sticky=True, **EVERYTHING),
        told(stage="shadow", floor=True),
        label(),
        label(sticky=True, **EVERYTHING),
        label(stage="shadow", floor=True),
        text(),
        text(sticky=True, **EVERYTHING),
        text(stage="shadow", floor=True),
    ],
)
def test_evidence_is_no_larger_than_its_plan_was_said_to_need(plan: MeasurementPlan) -> None:
    evidence = filled(plan)
    data = encode_evidence(evidence)
    assert decode_evidence(data) == evidence
    assert {key.arm for key in evidence.series} >= {"floor"} if plan.floor and not plan.streams else True
    assert len(data) <= estimated_bytes(plan)
