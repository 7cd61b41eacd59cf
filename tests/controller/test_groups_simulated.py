"""Seeded campaigns of whole policies on gates between groups, ranks and classes.

Each run is a rollout of the canary alone: requests are drawn block by block, the real analysis and the real
state machine look at every block. Base rates drift, and differ between groups.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from accede.controller.analyse import analyse
from accede.controller.rollout.actions import Advance
from accede.controller.rollout.machine import apply, decide
from accede.controller.rollout.signals import Look
from accede.policies.policy import RolloutPolicy
from accede.store.evidence import ArmCounts, ArmKey, Evidence, Series, SeriesKey
from accede.store.rollouts import EpochRecord, FrozenConstants, Phase, RolloutRecord
from tests.controller.test_policies_simulated import at_most

GATES: dict[str, dict[str, Any]] = {
    "ratio": {"metric": "selection_ratio", "by": "sex", "min": 0.8},
    "ratio or not worse": {
        "metric": "selection_ratio", "by": "sex", "min": 0.8, "or": "not_worse_than_stable"
    },
    "gap": {"metric": "selection_gap", "by": "sex", "max_increase": "6pp"},
    "rank": {"metric": "prediction.rank", "max_shift": "0.1sd"},
    "class": {"metric": "class_share.no", "max_shift": "3pp"},
}  # fmt: skip
STEPS = ({"canary": "5%", "for": "1m"}, {"canary": "25%", "for": "1m"}, {"canary": "50%", "until": "gates"})
EVERY, RATE = 60.0, 150.0  # seconds between looks, requests per second
CONSTANTS = FrozenConstants(
    limits=(0.0, 1.0),
    centres={"selected|sex=a": 0.4, "selected|sex=b": 0.4, "rank|": 0.5, "bin.0|": 0.3},
    deviations={"rank|": 12**-0.5, "bin.0|": 0.3**0.5 * 0.7**0.5},
    quantiles={}, edges=(), requests=1000, classes=("no",), groups={"sex=a": 0.5, "sex=b": 0.5},
)  # fmt: skip


@dataclass(frozen=True)
class Harm:
    """What the candidate adds: to the selection of group a, to the rank (in sd), to the share of a class."""

    selected: float = 0.0
    rank: float = 0.0
    share: float = 0.0
    from_step: int = 0


def _policy(name: str) -> RolloutPolicy:
    return RolloutPolicy.model_validate(
        {
            "format": "accede/v1", "kind": "RolloutPolicy", "name": "p", "max_duration": "1h",
            "steps": STEPS, "gates": ({**GATES[name], "in": "canary"},),
        }
    )  # fmt: skip


def _block(into: Evidence, rng: np.random.Generator, weight: float, harm: Harm, swing: float) -> None:
    sides: tuple[tuple[ArmKey, float], ...] = (("candidate", weight), ("stable", 1.0 - weight))
    for arm, share in sides:
        ours = arm == "candidate"
        n = int(rng.poisson(RATE * EVERY * share))
        counts = into.arms.setdefault(arm, ArmCounts())
        counts.accounted += n
        women = int(rng.binomial(n, 0.5))
        for group, members, more in (("sex=a", women, ours * harm.selected), ("sex=b", n - women, 0.0)):
            hits = float(rng.binomial(members, 0.4 * swing + more))
            _add(into, SeriesKey(arm, group, "selected"), members, hits, hits)
        hits = float(rng.binomial(n, 0.3 * swing + ours * harm.share))
        _add(into, SeriesKey(arm, "", "bin.0"), n, hits, hits)
        ranks = np.clip(rng.random(n) + ours * harm.rank * 12**-0.5, 0.0, 1.0)
        _add(into, SeriesKey(arm, "", "rank"), n, float(ranks.sum()), float(ranks @ ranks))


def _add(into: Evidence, key: SeriesKey, *more: float) -> None:
    old = into.series.get(key, Series([0.0], [0.0], [0.0]))
    sums = (old.n[0] + more[0], old.sum[0] + more[1], old.square[0] + more[2])
    into.series[key] = Series([sums[0]], [sums[1]], [sums[2]])


def _rollout(policy: RolloutPolicy, harm: Harm, seed: int) -> tuple[Phase, int]:
    """How it ended, and how many requests the candidate had answered."""
    rng = np.random.default_rng(seed)
    phase, now = rng.random() * 6.0, 0.0
    first = (
        EpochRecord(0, None, "baseline", 0.0, 0.0, now),
        EpochRecord(1, 0, "canary", policy.steps[0].share, 0.0, now),
    )
    record = RolloutRecord(
        wire="", id="r", service="s", version=1, stable="1", candidate="2", candidate_digest="",
        policy_name="p", policy="", policy_hash="", attempt=0, salt="", started_by="", started_at=now,
        phase=Phase.CANARY, phase_since=now, step=0, step_since=now, epoch=1, epochs=first, reason="",
        constants=CONSTANTS,
    )  # fmt: skip
    evidence: dict[int, Evidence] = {}
    while not record.phase.ended and record.phase is not Phase.PAUSED:
        current = record.epochs[-1]
        if current.epoch not in evidence:
            evidence[current.epoch] = Evidence("", "s", "r", current.epoch, "*", now, now)
        met = harm if (current.step or 0) >= harm.from_step else Harm()
        _block(evidence[current.epoch], rng, current.weight, met, 1.0 + 0.2 * np.sin(now / 200.0 + phase))
        now += EVERY
        for found in evidence.values():
            found.published = found.watermark = now
        look = Look(analyse(record, policy, evidence, (), now, intervals=False, told=False))
        for action in decide(record, policy, look, now):
            opened = None
            if isinstance(action, Advance):
                weight = policy.steps[action.step].share
                opened = EpochRecord(record.epoch + 1, action.step, "canary", weight, 0.0, now)
            record = apply(record, action, now, opened)
    return record.phase, sum(found.arms["candidate"].accounted for found in evidence.values())


def _campaign(name: str, harm: Harm, runs: int, seed: int) -> Counter[Phase]:
    policy = _policy(name)
    ends = [_rollout(policy, harm, seed * 1_000_000 + run) for run in range(runs)]
    phases = Counter(phase for phase, _ in ends)
    exposed = sorted(count for _, count in ends)[runs // 2]
    print(f"{name}, {harm}: {runs} runs, {dict(phases)}; requests exposed, median {exposed}")
    return phases


HARMS = {
    "ratio": Harm(selected=-0.15),
    "ratio or not worse": Harm(selected=-0.15),
    "gap": Harm(selected=-0.12),
    "rank": Harm(rank=0.3),
    "class": Harm(share=0.08),
}


def _equal(name: str, runs: int) -> None:
    phases = _campaign(name, Harm(), runs, 31)
    assert phases[Phase.ROLLED_BACK] / runs <= at_most(0.05, runs)
    assert phases[Phase.PROMOTED] / runs >= 0.95


def _harmful(name: str, runs: int, from_step: int) -> None:
    harm = _since(HARMS[name], from_step)
    assert _campaign(name, harm, runs, 32)[Phase.ROLLED_BACK] / runs >= 0.95


def _since(harm: Harm, from_step: int) -> Harm:
    return Harm(harm.selected, harm.rank, harm.share, from_step)


@pytest.mark.parametrize("name", GATES)
def test_quick_policies_tell_equal_from_harmful(name: str) -> None:
    _equal(name, 5)
    _harmful(name, 5, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", GATES)
def test_equal_candidates_are_promoted(name: str) -> None:
    _equal(name, 500)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("from_step", [0, 2])
@pytest.mark.parametrize("name", GATES)
def test_harmful_candidates_are_rolled_back(name: str, from_step: int) -> None:
    _harmful(name, 300, from_step)
