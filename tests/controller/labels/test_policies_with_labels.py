"""Seeded campaigns over a whole policy with gates on outcomes: the real analysis and the real state machine.

Labels come minutes after their predictions, those of true cases later, some never. Predictions count once
they are mature, labels whenever they come. An equal candidate must be promoted, a worse one found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from accede.policies.load import parse_service
from accede.store.evidence import ArmKey, Evidence, SeriesKey
from accede.store.rollouts import Phase
from tests.controller.test_policies_simulated import Epoch, Floats, Traffic, World, at_most, campaign, told

MATURE = 600.0  # seconds
SERVICE = parse_service(
    """
format: accede/v1
kind: ModelService
name: credit
match: {path: /credit}
protocol: json
versions: {"1": {url: "http://a"}, "2": {url: "http://b"}}
stable: "1"
side_effects: none
prediction: {path: score, range: [0, 1], selected: ">= 0.5", agree_within: 0.05}
outcome: {type: binary}
slices: {sex: {path: sex, values: [female, male]}}
"""
)
LATE = {"labels": {"mature_after": "10m"}, "in": "canary"}
POLICY: dict[str, Any] = {
    "format": "accede/v1", "kind": "RolloutPolicy", "name": "with labels, scaled in time",
    "baseline": {"requests": 1000, "for": "60s"}, "batch": "5s", "max_duration": "6h",
    "steps": (
        {"canary": "10%", "for": "5m", "requests": 500},
        {"canary": "50%", "until": "gates", "for": "5m", "deadline": "5h"},
    ),
    "gates": (
        {"metric": "errors", "max_increase": "1pp", "max_ratio": 1.5},
        {"metric": "outcome.accuracy", "max_decrease": "3pp", **LATE},
        {"metric": "outcome.brier", "max_increase": 0.02, **LATE},
        {"metric": "outcome.recall", "max_decrease": "6pp", **LATE},
        {"metric": "outcome.calibration", "max_shift": 0.03, **LATE},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class LabelledWorld(World):
    """`noise`, `moved`: added to the candidate's probabilities. `inverted`: share of them turned round.

    `unlabelled`: share of what was not selected that never gets a label, beside a tenth of all.
    """

    rate: float = 20.0
    errors: float = 0.005
    stall: tuple[float, float] = (0.05, 60.0)
    noise: float = 0.0
    moved: float = 0.0
    inverted: float = 0.0
    unlabelled: float = 0.0


@dataclass
class LabelledEpoch(Epoch):
    """Predictions wait for their label: (when it counts and is mature, when it is there, arm, p, o) each."""

    waiting: list[tuple[Floats, Floats, NDArray[np.bool_], Floats, Floats]] = field(default_factory=list)

    def whole(self, key: SeriesKey) -> bool:
        return key.metric.startswith(("outcome.", "labelled")) or super().whole(key)

    def evidence(self, number: int, now: float, latency: Any) -> Evidence:
        kept = dict(self.series)
        if self.waiting:
            mature, there, ours, p, o = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
            counted = mature <= now
            known = counted & (there <= now)
            sides: tuple[tuple[ArmKey, NDArray[np.bool_]], ...] = (("candidate", ours), ("stable", ~ours))
            for arm, mine in sides:
                self._labels(arm, counted & mine, known & mine, p, o)
        found = super().evidence(number, now, latency)
        self.series = kept
        return found

    def _labels(
        self, arm: ArmKey, counted: NDArray[np.bool_], known: NDArray[np.bool_], p: Floats, o: Floats
    ) -> None:
        chosen = p >= 0.5
        right = (chosen == (o == 1.0)) * 1.0
        error = p - o
        for metric, among, y in (
            ("labelled", counted, known * 1.0),
            ("labelled.selected", counted & chosen, known * 1.0),
            ("outcome.accuracy", known, right),
            ("outcome.brier", known, error * error),
            ("outcome.recall", known & (o == 1.0), chosen * 1.0),
            ("outcome.calibration", known, (1.0 + error) / 2.0),
        ):
            n, total, square = float(among.sum()), float(y[among].sum()), float((y[among] ** 2).sum())
            if n:
                at = np.zeros(1, dtype=np.int64)
                self.add(arm, "", metric, at, *(np.array([v]) for v in (n, total, square)))


class LabelledTraffic(Traffic):
    """Both arms see cases of risk q; stable says q, and the candidate what its world makes of it."""

    world: LabelledWorld

    def __init__(self, world: World, batch: float, seed: int) -> None:
        super().__init__(world, batch, seed)
        self.service = SERVICE

    def epoch(self) -> Epoch:
        return LabelledEpoch()

    def block(self, into: Epoch, start: float, seconds: float, place: str, weight: float, step: int) -> None:
        super().block(into, start, seconds, place, weight, step)
        if place != "canary":
            return
        assert isinstance(into, LabelledEpoch)
        world, rng = self.world, self.rng
        size = int(rng.poisson(world.rate * seconds * float(self.swing(np.array([start]))[0])))
        at = start + seconds * rng.random(size)
        ours = rng.random(size) < weight
        drift = 0.3 * np.sin(at / self.period + self.phase)  # who comes changes over the day
        risk = rng.beta(1.2 * (1.0 + drift), 2.8, size)
        true = (rng.random(size) < risk) * 1.0
        said = risk + ours * (world.moved + world.noise * rng.normal(size=size))
        turned = ours & (rng.random(size) < world.inverted)
        said = np.clip(np.where(turned, 1.0 - said, said), 0.0, 1.0)
        delay = rng.exponential(np.where(true == 1.0, 500.0, 200.0))
        delay[rng.random(size) > 0.9] = np.inf  # never labelled
        delay[(said < 0.5) & (rng.random(size) < world.unlabelled)] = np.inf
        into.waiting.append((at + MATURE, at + delay, ours, said, true))


WORSE: dict[str, tuple[LabelledWorld, str]] = {
    "noisy": (LabelledWorld(noise=0.35), "outcome."),
    "a tenth turned round": (LabelledWorld(inverted=0.15), "outcome."),
    "too sure of true cases": (LabelledWorld(moved=0.12), "outcome."),
    "cautious, so that recall is lost": (LabelledWorld(moved=-0.12), "outcome."),
    "worse from the last weight on": (LabelledWorld(noise=0.4, from_step=1), "outcome."),
}


def judge_equal(runs: int, every: float, seed: int) -> None:
    phases = told("equal", campaign(POLICY, LabelledWorld(), runs, seed, every, LabelledTraffic))
    assert phases[Phase.ROLLED_BACK] / runs <= at_most(0.05, runs)
    assert phases[Phase.PROMOTED] / runs >= 0.95


def judge_worse(name: str, runs: int, every: float, seed: int) -> None:
    world, named = WORSE[name]
    ends = campaign(POLICY, world, runs, seed, every, LabelledTraffic)
    told(name, ends)
    found = [end for end in ends if end.phase is Phase.ROLLED_BACK and named in end.reason]
    assert len(found) / runs >= 0.95
    assert min(end.at for end in found) > MATURE


def test_quick_equal_candidates_are_promoted_and_not_before_their_labels() -> None:
    ends = campaign(POLICY, LabelledWorld(), 2, 31, 120.0, LabelledTraffic)
    assert all(end.phase is Phase.PROMOTED and end.at > MATURE for end in ends), ends


def test_quick_a_worse_candidate_is_rolled_back() -> None:
    judge_worse("noisy", runs=3, every=120.0, seed=32)


@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_labels_of_the_selected_alone_neither_promote_nor_roll_back(noise: float) -> None:
    short = POLICY | {"steps": (POLICY["steps"][0], POLICY["steps"][1] | {"deadline": "1h"})}
    world = LabelledWorld(noise=noise, unlabelled=0.97)
    (end,) = campaign(short, world, 1, 36, 300.0, LabelledTraffic)
    assert end.phase is Phase.PAUSED
    assert "selective labels" in end.reason


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_equal_candidates_are_promoted() -> None:
    judge_equal(runs=300, every=120.0, seed=33)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(WORSE))
def test_worse_candidates_are_rolled_back(name: str) -> None:
    judge_worse(name, runs=80, every=120.0, seed=34)
