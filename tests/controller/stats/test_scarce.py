"""A candidate that selects nobody in a group: harm by what was due, and no false alarm from what is rare.

The campaigns sit exactly where harm begins, with few selections of which more come in look by look: of
independent requests, of users who are selected always or never, of batches in moods. Every look counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from accede.controller.stats import asymptotic
from accede.controller.stats.clusters import FEWEST_BATCHES
from accede.controller.stats.groups import PairedGroups, gap_growth, ratio_growth, shortfall
from accede.controller.stats.result import NotComputable
from accede.controller.stats.spread import Cell, GapEstimate
from accede.controller.stats.tuning import asymptotic_v_opt

Floats = NDArray[np.float64]
Measure = Callable[[Sequence[PairedGroups], float], GapEstimate | NotComputable]

RUNS = 2000
LEVELS = (0.05, 0.0025)  # of a gate alone, and of one of twenty pairs


def _shortfall(epochs: Sequence[PairedGroups], fewest: float) -> GapEstimate | NotComputable:
    return shortfall([(e.g_c, e.h_c) for e in epochs], 0.8, fewest=fewest, null=0.0)


def _not_worse(epochs: Sequence[PairedGroups], fewest: float) -> GapEstimate | NotComputable:
    return ratio_growth(epochs, fewest=fewest, null=0.5 * math.log(0.95))


def _gap(epochs: Sequence[PairedGroups], fewest: float, against: int = -1) -> GapEstimate | NotComputable:
    return gap_growth(epochs, against=1 if against > 0 else -1, fewest=fewest, null=0.03)


@dataclass(frozen=True)
class Scene:
    """Rates of groups g and h in both arms, at which harm begins. `up`: harm is a contrast above the null."""

    name: str
    measure: Measure
    null: float
    g_c: float
    g_s: float
    h_c: float
    h_s: float
    up: bool = False


SCENES = [
    Scene("four fifths", _shortfall, 0.0, 0.08, 0.1, 0.1, 0.1),
    Scene("not worse", _not_worse, 0.5 * math.log(0.95), 0.05 * math.sqrt(0.95), 0.05, 0.1, 0.1),
    Scene("gap", _gap, 0.03, 0.12, 0.12, 0.02, 0.05, up=True),
    Scene("reverse gap", partial(_gap, against=1), 0.03, 0.13, 0.05, 0.02, 0.13, up=True),
]


def harmful(scene: Scene, epochs: Sequence[PairedGroups], fewest: float = 20.0) -> set[float]:
    """The levels at which a look proves harm."""
    got = scene.measure(epochs, fewest)
    if isinstance(got, NotComputable) or got.variance <= 0.0:
        return set()
    side = asymptotic.log_e_harm if scene.up else asymptotic.log_e_safe
    found: set[float] = set()
    for level in LEVELS:
        v_opt = asymptotic_v_opt(0.03, level)
        value = side(got.estimate, got.variance, scene.null, v_opt=v_opt, level=level, df=got.df)
        if not isinstance(value, NotComputable) and value >= -math.log(level):
            found.add(level)
    return found


def counts(n: float, rates: tuple[float, float, float, float]) -> PairedGroups:
    """Equal arms, n of each cell, in the order of PairedGroups."""
    return PairedGroups(0.5, *(Cell.counts(n, round(n * rate)) for rate in rates))


# --- what is found, and what is not -------------------------------------------------------------------------


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_nobody_where_enough_were_due_is_harm(scene: Scene) -> None:
    nobody = (scene.g_c, scene.g_s, 0.0, scene.h_s) if scene.up else (0.0, scene.g_s, scene.h_c, scene.h_s)
    rates = {"reverse gap": (0.3, 0.05, 0.0, 0.13)}.get(scene.name, nobody)
    rates = {"gap": (0.15, 0.12, 0.0, 0.05)}.get(scene.name, rates)
    n = 20_000.0 if scene.name == "not worse" else 2000.0  # a logarithm is tuned to a twentieth
    assert harmful(scene, [counts(n, rates)]) == set(LEVELS)


def test_too_few_due_or_two_groups_without_are_no_harm() -> None:
    scene = SCENES[0]
    got = scene.measure([counts(300.0, (0.0, 0.1, 0.1, 0.1))], 20.0)  # 24 were due
    assert isinstance(got, NotComputable)
    assert "0 of 300" in got.reason
    assert isinstance(scene.measure([counts(5000.0, (0.0, 0.1, 0.0, 0.1))], 20.0), NotComputable)
    # Stable itself has too few: whatever the candidate does, there is nothing to hold it against.
    assert isinstance(SCENES[1].measure([counts(5000.0, (0.0, 0.0, 0.1, 0.1))], 20.0), NotComputable)


def test_all_of_a_group_selected_is_scarce_on_the_other_side() -> None:
    all_of_h = counts(500.0, (0.5, 0.5, 1.0, 0.5))
    got = _shortfall([all_of_h], 20.0)
    assert isinstance(got, GapEstimate)
    assert got.estimate == pytest.approx(0.5 - 0.8)
    assert harmful(SCENES[0], [all_of_h]) == set(LEVELS)


def test_the_variance_is_that_of_the_null() -> None:
    got = _shortfall([counts(2000.0, (0.0, 0.1, 0.1, 0.1))], 20.0)
    assert isinstance(got, GapEstimate)
    h = (201 / 2002) * (1 - 201 / 2002) / 1999  # one success and one failure more than were seen
    assert got.variance == pytest.approx(0.08 * 0.92 / 1999 + 0.64 * h, rel=1e-9)
    assert got.estimate == pytest.approx(-0.08)


def test_a_few_selections_more_are_less_harm() -> None:
    values = []
    for hits in range(10):
        epoch = PairedGroups(0.5, Cell.counts(1000.0, hits), *(Cell.counts(1000.0, 100.0) for _ in range(3)))
        got = _shortfall([epoch], 20.0)
        assert isinstance(got, GapEstimate)
        value = asymptotic.log_e_safe(
            got.estimate, got.variance, 0.0, v_opt=asymptotic_v_opt(0.03, 0.05), level=0.05, df=got.df
        )
        assert isinstance(value, float)
        values.append(value)
    assert values == sorted(values, reverse=True)


def test_without_a_null_it_is_refused_as_before() -> None:
    epoch = counts(5000.0, (0.0, 0.1, 0.1, 0.1))
    assert isinstance(shortfall([(epoch.g_c, epoch.h_c)], 0.8), NotComputable)
    assert isinstance(gap_growth([epoch]), NotComputable)


# --- false alarms exactly where harm begins -----------------------------------------------------------------


def judge(name: str, found: Sequence[set[float]]) -> None:
    runs = len(found)
    for level in LEVELS:
        share = sum(level in each for each in found) / runs
        print(f"{name}: harm at {level:g}: {share:.2%} of {runs} runs")
        assert share <= level + 3.0 * math.sqrt(level * (1.0 - level) / runs)


def requests(scene: Scene, rng: np.random.Generator) -> set[float]:
    """A group's requests in steps of 25, up to some 100 selections where harm begins."""
    rates = np.array((scene.g_c, scene.g_s, scene.h_c, scene.h_s))
    n = np.arange(1, 41) * 25.0 * 0.1 / max(0.02, min(scene.g_c, scene.h_c))
    hits = np.cumsum(rng.binomial(np.diff(n, prepend=0.0).astype(int)[:, None], rates), axis=0)
    total = np.cumsum(np.diff(n, prepend=0.0).astype(int)).astype(float)
    seen: set[float] = set()
    for at in range(3, 40, 3):
        cells = (Cell.counts(float(total[at]), float(y)) for y in hits[at])
        seen |= harmful(scene, [PairedGroups(0.5, *cells)])
    return seen


def users(scene: Scene, rng: np.random.Generator, count: int = 800) -> set[float]:
    """Users of unequal weight, who are nearly always or nearly never selected, in 128 clusters."""
    cluster, candidate = rng.integers(0, 128, count), rng.random(count) < 0.5
    is_g, activity = rng.random(count) < 0.5, np.minimum(rng.pareto(1.5, count) + 0.2, 20.0)
    rate = np.where(
        is_g, np.where(candidate, scene.g_c, scene.g_s), np.where(candidate, scene.h_c, scene.h_s)
    )
    likes = rng.beta(0.3 * rate, 0.3 * (1.0 - rate))
    seen: set[float] = set()
    n, y = np.zeros(count), np.zeros(count)
    members = [is_g & candidate, is_g & ~candidate, ~is_g & candidate, ~is_g & ~candidate]
    for _ in range(8):
        more = rng.poisson(activity / 2.0)
        n, y = n + more, y + rng.binomial(more, likes)
        cells = []
        for member in members:
            sums = [np.bincount(cluster[member], column[member], 128).astype(np.float64) for column in (n, y)]
            cells.append(Cell(sums[0], sums[1], sums[1]))
        seen |= harmful(scene, [PairedGroups(0.5, *cells)])
    return seen


def batches(scene: Scene, rng: np.random.Generator) -> set[float]:
    """Pairs in 128 batches of time, each with a mood that both versions share."""
    sums: list[tuple[Floats, Floats]] = []
    for rate_c, rate_s in ((scene.g_c, scene.g_s), (scene.h_c, scene.h_s)):
        n, mood = rng.poisson(8.0, 128).astype(float), rng.gamma(0.5, 2.0, 128)
        sums += [
            (n, rng.binomial(n.astype(int), np.minimum(1.0, mood * rate)).astype(float))
            for rate in (rate_c, rate_s)
        ]
    seen: set[float] = set()
    for end in (16, 24, 32, 48, 64, 80, 96, 128):
        known = np.arange(128) < end
        cells = (Cell(n * known, y * known, y * known) for n, y in sums)
        seen |= harmful(scene, [PairedGroups(0.5, *cells)], FEWEST_BATCHES)
    return seen


WORLDS = {"requests": requests, "users": users, "batches": batches}


def campaign(scene: Scene, world: str, runs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    judge(f"{scene.name}, {world}", [WORLDS[world](scene, rng) for _ in range(runs)])


@pytest.mark.parametrize("world", WORLDS)
def test_quick_no_false_alarm_where_harm_begins(world: str) -> None:
    campaign(SCENES[0], world, 40, 1)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_false_alarms_stay_at_their_level(scene: Scene, world: str) -> None:
    campaign(scene, world, RUNS, 2)
