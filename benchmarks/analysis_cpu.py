"""CPU of one controller's look at many rollouts: 500 rollouts of 20 gates over slices of 10 groups each.

Goal: 500 rollouts of 20 metrics by 10 slices within a second a look on one core.

A look analyses merged evidence that is in memory (`analyse`), at a glance as the loop does, or with all that
is told; decoding one source's evidence is measured beside it. `python -m benchmarks.analysis_cpu [rollouts]`
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np

from accede.controller.analysis import analyse
from accede.policies.policy import RolloutPolicy
from accede.store.evidence import (
    WIRE,
    ArmCounts,
    ArmKey,
    Evidence,
    MirrorCounts,
    Series,
    SeriesKey,
    decode_evidence,
    encode_evidence,
    merge,
)
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import EpochRecord, FrozenConstants, Phase, RolloutRecord

SLICES, GROUPS = 5, 10
SERIES = ("errors", "missing", "mean", "selected")
STEPS = ((1, "canary", 0.05), (2, "canary", 0.25), (3, "canary", 0.5))
NOW = 1e9
SEEDS = 5
ROLLOUTS = 500
GOAL = 1.0  # s of one core


def policy() -> RolloutPolicy:
    """Four metrics, each by five slices: 20 gates."""
    margins: dict[str, dict[str, Any]] = {
        "errors": {"max_increase": "0.5pp", "max_ratio": 1.5},
        "prediction.missing": {"max_increase": "0.5pp"},
        "prediction.mean": {"max_shift": "0.1sd"},
        "selection_rate": {"max_shift": "3pp"},
    }
    return RolloutPolicy.model_validate(
        {
            "format": "accede/v1", "kind": "RolloutPolicy", "name": "many",
            "steps": tuple({"canary": f"{weight:.0%}"} for _, _, weight in STEPS),
            "gates": tuple(
                {"metric": metric, "by": f"s{k}", "in": "canary", **margin}
                for metric, margin in margins.items()
                for k in range(SLICES)
            ),
        }
    )  # fmt: skip


def groups() -> list[str]:
    return [f"s{k}=g{g}" for k in range(SLICES) for g in range(GROUPS)]


def evidence(seed: int) -> dict[int, Evidence]:
    """A merged evidence per canary epoch: every series in every group."""
    draw = np.random.default_rng(seed)
    made: dict[int, Evidence] = {}
    for number, _, weight in STEPS:
        series: dict[SeriesKey, Series] = {}
        arms: tuple[tuple[ArmKey, float], ...] = (("candidate", weight), ("stable", 1 - weight))
        for arm, share in arms:
            for group in groups():
                n = draw.poisson(400 * share, CLUSTERS).astype(float)
                for metric, rate in (("errors", 0.01), ("missing", 0.001)):
                    y = draw.binomial(n.astype(int), rate).astype(float)
                    series[SeriesKey(arm, group, metric)] = Series(n.tolist(), y.tolist(), y.tolist())
                total, chosen = float(n.sum()), float(draw.binomial(int(n.sum()), 0.3))
                score = 0.4 * total + float(draw.normal()) * 0.15 * total**0.5
                series[SeriesKey(arm, group, "mean")] = Series([total], [score], [total * 0.1825])
                series[SeriesKey(arm, group, "selected")] = Series([total], [chosen], [chosen])
        counted: dict[str, ArmCounts] = {
            arm: ArmCounts(accounted=int(400 * share * CLUSTERS * GROUPS)) for arm, share in arms
        }
        made[number] = Evidence(
            wire=WIRE, service="s", rollout="r", epoch=number, source="*", published=NOW, watermark=NOW,
            arms=counted, mirror=MirrorCounts(), series=series,
        )  # fmt: skip
    return made


def record() -> RolloutRecord:
    epochs = (
        EpochRecord(0, None, "baseline", 0.0, 0.0, NOW - 4000),
        *(
            EpochRecord(number, number - 1, "canary", weight, 0.0, NOW - 3600 + 900 * number)
            for number, _, weight in STEPS
        ),
    )
    centres = {"errors": 0.01, "missing": 0.001, "mean": 0.4, "selected": 0.3}
    constants = FrozenConstants(
        limits=(0.0, 1.0),
        centres={f"{s}|{g}": centres[s] for s in SERIES for g in ("", *groups())},
        deviations={
            f"{s}|{g}": 0.15 if s == "mean" else (centres[s] * (1 - centres[s])) ** 0.5
            for s in SERIES
            for g in ("", *groups())
        },
        quantiles={},
        requests=10_000,
        groups=dict.fromkeys(groups(), 1 / GROUPS),
    )
    return RolloutRecord(
        wire="accede.rollout/1", id="r", service="s", version=3, stable="1", candidate="2",
        candidate_digest="",
        policy_name="many", policy_hash="", policy="", attempt=0, salt="", started_by="bench",
        started_at=NOW - 4000, phase=Phase.CANARY, phase_since=NOW - 900, step=2, step_since=NOW - 900,
        epoch=3, epochs=epochs, reason="", constants=constants,
    )  # fmt: skip


def cost(looks: int) -> tuple[float, float, float, int]:
    """ms of CPU of a look that tells nothing, of one that tells all, and of decoding one source's epochs."""
    given, seen = policy(), record()
    wires = [[encode_evidence(one) for one in evidence(seed).values()] for seed in range(SEEDS)]
    began = time.process_time()
    known = [{one.epoch: one for one in map(decode_evidence, wire)} for wire in wires]
    decoding = (time.process_time() - began) / SEEDS
    merged = [{epoch: merge([one]) or one for epoch, one in decoded.items()} for decoded in known]
    found = analyse(seen, given, merged[0], (), NOW + 1)
    spent: dict[bool, list[float]] = {True: [], False: []}
    for look in range(looks):
        for told, times in spent.items():
            began = time.process_time()
            analyse(seen, given, merged[look % SEEDS], (), NOW + 1, intervals=told, told=told)
            times.append(time.process_time() - began)
    cells = sum(len(verdict.findings) for verdict in found.verdicts)
    silent, full = (1e3 * statistics.median(spent[told]) for told in (False, True))
    return silent, full, 1e3 * decoding, cells


def main() -> None:
    looks = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    silent, full, decoding, cells = cost(looks)
    print(
        f"analysis: {cells} comparisons of 20 gates in 10 groups each, CPU of one look (median of {looks}):"
    )
    print(f"  {silent:.2f} ms when nothing is to be told, {full:.2f} ms with findings and intervals")
    print(f"  {decoding:.2f} ms to decode one router's evidence of three steps, where all of it is new")
    at_rest, at_work = (1e-3 * ROLLOUTS * each for each in (silent, full))
    print(f"  {ROLLOUTS} rollouts of 20 metrics by 10 slices: {at_rest:.2f} s of a core (goal {GOAL:g} s)")
    print(f"  {at_work:.2f} s if something were to be told of all of them")


if __name__ == "__main__":
    main()
