"""Seeded campaigns for comparisons between groups: false harm and false safety exactly at the margin.

The effect sits on the null, where both errors are worst: "harm" counts runs that ever rejected "effect <=
null", "safe" runs that ever rejected "effect >= null". All runs look at the functions that decide, several
times in each epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from accede.controller.stats import asymptotic
from accede.controller.stats.clusters import FEWEST_BATCHES
from accede.controller.stats.groups import (
    PairedGroups,
    gap_growth,
    ratio_growth,
    shortfall,
)
from accede.controller.stats.result import NotComputable
from accede.controller.stats.spread import Cell, GapEstimate
from accede.controller.stats.tuning import asymptotic_v_opt

Floats = NDArray[np.float64]
Measure = Callable[[Sequence[PairedGroups]], GapEstimate | NotComputable]

RUNS = 2000
LEVELS = (0.05, 0.0025)  # of a promotion, and of one of twenty pairs
WEIGHTS = (0.01, 0.05, 0.25, 0.5)


@dataclass(frozen=True)
class Scene:
    """Rates of groups g and h in both arms, and how the effect between them is measured."""

    name: str
    measure: Measure
    null: float
    g_c: float
    g_s: float
    h_c: float
    h_s: float
    share: float = 0.3  # of requests that are g's; h has as much again
    planned: float = 0.03


def growth(name: str, margin: float, share: float = 0.3, base: tuple[float, float] = (0.3, 0.2)) -> Scene:
    """The gap grows by exactly the margin."""
    g, h = base
    return Scene(name, gap_growth, margin, g + margin, g, h, h, share)


def four_fifths(name: str, share: float = 0.3, rate: float = 0.4) -> Scene:
    """The candidate's ratio is exactly 0.8; stable's is 1."""

    def measure(epochs: Sequence[PairedGroups]) -> GapEstimate | NotComputable:
        return shortfall([(e.g_c, e.h_c) for e in epochs], 0.8)

    return Scene(name, measure, 0.0, 0.8 * rate, rate, rate, rate, share)


def not_worse(name: str) -> Scene:
    """The candidate's ratio is exactly 95% of stable's."""
    return Scene(name, ratio_growth, math.log(0.95), 0.95 * 0.3, 0.3, 0.4, 0.4, planned=0.05)


SCENES = [
    growth("gap, no growth", 0.0),
    growth("gap, at the margin", 0.03),
    growth("gap of a rare group", 0.03, share=0.02),
    growth("gap of rare selections", 0.0, base=(0.05, 0.04)),
    four_fifths("four fifths"),
    four_fifths("four fifths of a rare group", share=0.03, rate=0.2),
    not_worse("not worse than stable"),
]


def alarms(scene: Scene, epochs: Sequence[PairedGroups]) -> set[tuple[str, float]]:
    got = scene.measure(epochs)
    found: set[tuple[str, float]] = set()
    if isinstance(got, NotComputable) or got.variance <= 0.0:
        return found
    for level in LEVELS:
        v_opt = asymptotic_v_opt(scene.planned, level)
        for side, test in (("harm", asymptotic.log_e_harm), ("safe", asymptotic.log_e_safe)):
            value = test(got.estimate, got.variance, scene.null, v_opt=v_opt, level=level, df=got.df)
            if not isinstance(value, NotComputable) and value >= -math.log(level):
                found.add((side, level))
    return found


def judge(name: str, found: Sequence[set[tuple[str, float]]]) -> None:
    runs = len(found)
    bad = []
    for level in LEVELS:
        for side in ("harm", "safe"):
            hits = sum((side, level) in each for each in found)
            print(f"{name}: {side} at {level:g}: {hits} of {runs} runs, {hits / runs:.2%}")
            if hits / runs > level + 3 * math.sqrt(level * (1 - level) / runs):
                bad.append((side, level, hits))
    assert runs > 0
    assert not bad, f"{name}: more false alarms than nominal: {bad}"


# --- per request: independent units, drifting traffic, weights that grow -----------------------------------


def per_request(scene: Scene, *, runs: int, requests: int, looks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found: list[set[tuple[str, float]]] = []
    for _ in range(runs):
        seen: set[tuple[str, float]] = set()
        closed: list[PairedGroups] = []
        epochs: list[PairedGroups] = []
        drift = rng.uniform(0.8, 1.2, len(WEIGHTS))
        for weight, common in zip(WEIGHTS, drift, strict=True):
            # A group's requests of an epoch are split by the weight; a look sees a growing part of them.
            cells = []
            for rate_c, rate_s in ((scene.g_c, scene.g_s), (scene.h_c, scene.h_s)):
                # Where the effect is a ratio the traffic may change; a difference must stay what it is.
                moves = common if scene.measure is not gap_growth else 1.0
                n = rng.poisson(requests * scene.share / looks, looks)
                n_c = rng.binomial(n, weight)
                for each, rate in ((n_c, rate_c), (n - n_c, rate_s)):
                    y = rng.binomial(each, rate * moves)
                    cells.append((np.cumsum(each), np.cumsum(y)))
            for look in range(looks):
                here = PairedGroups(weight, *(Cell.counts(float(n[look]), float(y[look])) for n, y in cells))
                epochs = [*closed, here]
                seen |= alarms(scene, epochs)
            closed = epochs
        found.append(seen)
    judge(f"{scene.name}, per request", found)


def test_quick_gap_per_request() -> None:
    per_request(SCENES[1], runs=150, requests=4000, looks=6, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_groups_per_request(scene: Scene) -> None:
    per_request(scene, runs=RUNS, requests=8000, looks=6, seed=2)


# --- sticky: heavy users, who change arm as the weight grows; a user belongs to one group -------------------


def sticky(scene: Scene, *, runs: int, users: int, looks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    found: list[set[tuple[str, float]]] = []
    for _ in range(runs):
        activity = np.minimum(rng.pareto(1.5, users) + 0.2, 20.0)
        cluster, drawn = rng.integers(0, 128, users), rng.random(users)
        is_g = rng.random(users) < 0.5
        spread = rng.beta(2.0, 2.0, users)  # likes of a user: the mean of twice this is 1
        seen: set[tuple[str, float]] = set()
        closed: list[PairedGroups] = []
        epochs: list[PairedGroups] = []
        for weight in (0.25, 0.5):
            candidate = drawn < weight
            rate = np.where(
                is_g, np.where(candidate, scene.g_c, scene.g_s), np.where(candidate, scene.h_c, scene.h_s)
            )
            n = np.cumsum(rng.poisson(activity, (looks, users)), axis=0)
            each = np.diff(n, axis=0, prepend=0)
            y = np.cumsum(rng.binomial(each, np.minimum(1.0, 2.0 * spread * rate)), axis=0)
            members = [is_g & candidate, is_g & ~candidate, ~is_g & candidate, ~is_g & ~candidate]
            for look in range(looks):
                cells = []
                for member in members:
                    sums = [
                        np.bincount(cluster[member], values[look][member], 128).astype(np.float64)
                        for values in (n, y)
                    ]
                    cells.append(Cell(sums[0], sums[1], sums[1]))
                here = PairedGroups(weight, *cells)
                epochs = [*closed, here]
                seen |= alarms(scene, epochs)
            closed = epochs
        found.append(seen)
    judge(f"{scene.name}, sticky", found)


STICKY = [SCENES[0], growth("gap, at the margin", 0.03), four_fifths("four fifths"), not_worse("not worse")]


def test_quick_gap_of_sticky_users() -> None:
    sticky(STICKY[1], runs=60, users=1500, looks=4, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("scene", STICKY, ids=lambda scene: scene.name)
def test_groups_of_sticky_users(scene: Scene) -> None:
    sticky(scene, runs=RUNS, users=1500, looks=6, seed=4)


# --- pairs: both versions answer each request, in bursts that are alike ------------------------------------


def paired(scene: Scene, *, runs: int, batches: int, pairs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    measure = scene.measure

    def few(epochs: Sequence[PairedGroups]) -> GapEstimate | NotComputable:
        if measure is gap_growth:
            return gap_growth(epochs, fewest=FEWEST_BATCHES)
        return shortfall([(e.g_c, e.h_c) for e in epochs], 0.8, fewest=FEWEST_BATCHES)

    paired_scene = Scene(**{**{f: getattr(scene, f) for f in scene.__dataclass_fields__}, "measure": few})
    found: list[set[tuple[str, float]]] = []
    for _ in range(runs):
        sums = []
        for rate_c, rate_s in ((scene.g_c, scene.g_s), (scene.h_c, scene.h_s)):
            n = rng.poisson(pairs, batches)
            # A batch has its own mood: its outcomes are correlated, and both versions share it.
            mood = rng.uniform(0.5, 1.5, batches)
            y_s = rng.binomial(n, np.minimum(1.0, mood * rate_s))
            y_c = rng.binomial(n, np.minimum(1.0, mood * rate_c))
            sums += [(n, y_c), (n, y_s)]
        seen: set[tuple[str, float]] = set()
        for end in range(10, batches + 1, 2):
            whole = np.arange(batches) < end
            cells = []
            for n, y in sums:
                ones = (y * whole).astype(np.float64)
                cells.append(Cell((n * whole).astype(np.float64), ones, ones))
            seen |= alarms(paired_scene, [PairedGroups(0.5, *cells)])
        found.append(seen)
    judge(f"{scene.name}, pairs", found)


@pytest.mark.slow
@pytest.mark.parametrize("scene", [*SCENES[:2], SCENES[4]], ids=lambda scene: scene.name)
def test_groups_of_pairs(scene: Scene) -> None:
    paired(scene, runs=RUNS, batches=60, pairs=80, seed=5)
