"""Seeded campaigns: how often does each procedure ever cross its threshold when its null is true?

Every scenario sits exactly on the null, where both errors are worst: "harm" counts runs that ever rejected
"effect <= null" and "safe" runs that ever rejected "effect >= null" (a false non-inferiority).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from accede.controller.stats import asymptotic, clusters, events
from accede.controller.stats.arrays import gamma_exponential_log
from accede.controller.stats.result import NotComputable
from accede.controller.stats.sample_ratio import StickyRatioEpoch, sticky_log_e
from accede.controller.stats.tuning import RANDOMISED, asymptotic_v_opt, mean_v_opt, rho
from benchmarks.statistics.scenes import STALLS, STEPS, bursts, correlated, sticky_run, time_cluster_run

Floats = NDArray[np.float64]
RUNS = 2000


class Tally:
    """Counts runs that raised each alarm, and judges the share."""

    def __init__(self) -> None:
        self.hits: dict[tuple[str, float], int] = {}
        self.runs = 0

    def add(self, found: Iterable[tuple[str, float]], seen: Iterable[tuple[str, float]]) -> None:
        self.runs += 1
        for key in seen:
            self.hits.setdefault(key, 0)
        for key in set(found):
            self.hits[key] += 1

    def judge(self, name: str) -> None:
        bad = []
        for (side, level), hits in self.hits.items():
            share, slack = hits / self.runs, 3 * math.sqrt(level * (1 - level) / self.runs)
            print(f"{name}: {side} at {level:g}: {hits} of {self.runs} runs, {share:.2%}")
            if share > level + slack:
                bad.append((side, level, share))
        assert self.runs > 0
        assert not bad, f"{name}: more false alarms than nominal: {bad}"


def keys(levels: Iterable[float]) -> list[tuple[str, float]]:
    return [(side, level) for level in levels for side in ("harm", "safe")]


# --- bounded mean, independent requests under drift and weight steps -------------------------------------


def bounded_mean(
    name: str,
    *,
    runs: int,
    seed: int,
    effect: float,
    requests: int,
    low: float,
    high: float,
    predictions: int = 1,
) -> None:
    """Look after every request. The base rate swings by an order of magnitude while the weight climbs.

    Several `predictions` of one request are nearly alike; its y is their mean.
    """
    rng = np.random.default_rng(seed)
    levels = (0.05, 0.005)
    time = np.linspace(0, 1, requests)
    base = low + (high - low) * (0.5 * time + 0.5 * np.sin(9 * time) ** 2)
    pi = np.repeat(STEPS, requests // len(STEPS))
    centre = np.repeat([low, *base[requests // 4 - 1 :: requests // 4][:3]], requests // len(STEPS))
    v_opt = {a: mean_v_opt(low * (1 - low), max(effect, 0.02), a, scale=RANDOMISED) for a in levels}
    tally = Tally()
    for _ in range(0, runs, 100):
        assigned = rng.random((100, requests)) < pi
        rate = base + effect * assigned
        if predictions > 1:
            y: Floats = rng.binomial(predictions, rng.beta(0.3 * rate, 0.3 * (1 - rate))) / predictions
        else:
            y = (rng.random((100, requests)) < rate).astype(np.float64)
        largest = np.maximum(pi, 1 - pi) * np.maximum(centre, 1 - centre)
        z = (assigned - pi) * (y - centre) / largest
        s = np.cumsum(z, axis=1) - effect * np.cumsum(pi * (1 - pi) / largest)
        q = np.cumsum(z * z, axis=1)
        crossed = {key: np.zeros(100, dtype=np.bool_) for key in keys(levels)}
        for (side, level), where in crossed.items():
            forward, threshold = s if side == "harm" else -s, -math.log(level)
            # log M never exceeds s^2/(2v): only such looks need the mixture itself
            near = np.nonzero((forward > 0) & (forward * forward >= 2 * threshold * q))
            value = gamma_exponential_log(forward[near], q[near], rho(v_opt[level], level))
            where[near[0][value >= threshold]] = True
        for row in range(100):
            tally.add([key for key, where in crossed.items() if where[row]], keys(levels))
    tally.judge(name)


def test_quick_bounded_mean_under_drift() -> None:
    bounded_mean("mean A/A, quick", runs=300, seed=1, effect=0.0, requests=4000, low=0.05, high=0.5)


@pytest.mark.slow
def test_bounded_mean_of_equals_under_drift_and_weight_steps() -> None:
    bounded_mean("mean A/A", runs=RUNS, seed=2, effect=0.0, requests=20_000, low=0.02, high=0.4)


@pytest.mark.slow
def test_bounded_mean_exactly_at_the_margin() -> None:
    bounded_mean("mean at margin", runs=RUNS, seed=3, effect=0.03, requests=20_000, low=0.02, high=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("effect", [0.0, 0.03])
def test_several_predictions_of_one_request_are_one_observation(effect: float) -> None:
    bounded_mean(
        f"mean of 8 predictions, effect {effect}",
        runs=RUNS, seed=12, effect=effect, requests=4000, low=0.05, high=0.4, predictions=8,
    )  # fmt: skip


# --- event counts ---------------------------------------------------------------------------------------


def event_counts(name: str, *, runs: int, seed: int, ratio: float, total: int) -> None:
    """Look after every event, over four weights; independent events, whatever the base rate did."""
    rng = np.random.default_rng(seed)
    levels = (0.05, 0.005)
    per = total // len(STEPS)
    theta = np.array([p * ratio / (p * ratio + 1 - p) for p in STEPS])
    tally = Tally()
    for _ in range(runs):
        x = np.cumsum(rng.random((len(STEPS), per)) < theta[:, None], axis=1)
        n = np.arange(1, per + 1)
        share = x / n
        # The likelihood ratio at each epoch's own best ratio bounds the mixture from above.
        with np.errstate(divide="ignore", invalid="ignore"):
            ceiling = np.nan_to_num(x * np.log(share / theta[:, None])) + np.nan_to_num(
                (n - x) * np.log((1 - share) / (1 - theta[:, None]))
            )
        before = np.concatenate(([0.0], np.cumsum(ceiling[:, -1])))
        found = set()
        for step, i in zip(*np.nonzero(ceiling + before[:-1, None] >= -math.log(max(levels))), strict=True):
            seen = [events.EventEpoch(STEPS[e], float(x[e, -1]), float(per)) for e in range(step)]
            seen.append(events.EventEpoch(STEPS[step], float(x[step, i]), float(i + 1)))
            for side, log_e in (
                ("harm", events.log_e_harm(seen, ratio)),
                ("safe", events.log_e_safe(seen, ratio)),
            ):
                assert isinstance(log_e, float)
                found |= {(side, level) for level in levels if log_e >= -math.log(level)}
        tally.add(found, keys(levels))
    tally.judge(name)


def test_quick_event_counts() -> None:
    event_counts("events A/A, quick", runs=200, seed=4, ratio=1.0, total=200)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_event_counts_exactly_at_the_ratio(ratio: float) -> None:
    event_counts(f"events RR {ratio}", runs=RUNS, seed=5, ratio=ratio, total=600)


# --- time clusters: each arm has its own stalls -----------------------------------------------------------


def cluster_alarms(
    seen: list[clusters.ClusterEpoch], levels: tuple[float, ...], gap: float, ratio: float = 1.0
) -> set[tuple[str, float]]:
    got = clusters.cluster_estimate(seen, ratio=ratio)
    found: set[tuple[str, float]] = set()
    if isinstance(got, NotComputable):
        return found
    for level in levels:
        v_opt = asymptotic_v_opt(gap, level)
        for side, log_e in (
            ("harm", got.log_e_harm(0.0, v_opt, level)),
            ("safe", got.log_e_safe(0.0, v_opt, level)),
        ):
            if not isinstance(log_e, NotComputable) and log_e >= -math.log(level):
                found.add((side, level))
    return found


def time_clusters(
    name: str,
    *,
    runs: int,
    seed: int,
    weights: tuple[float, ...] = (0.05, 0.25, 0.5),
    stall: tuple[float, float],
    base: float = 0.01,
    ratio: float = 1.0,
    rate: float = 40.0,
    batches: int = 120,
) -> None:
    rng = np.random.default_rng(seed)
    levels = (0.05, 0.005)
    gap = 0.5 * (base + stall[0] / stall[1])
    tally = Tally()
    for _ in range(runs):
        found: set[tuple[str, float]] = set()
        for seen in time_cluster_run(
            rng, weights, stall=stall, rate=rate, base=base, ratio=ratio, batches=batches
        ):
            found |= cluster_alarms(seen, levels, gap, ratio)
        tally.add(found, keys(levels))
    tally.judge(name)


@pytest.mark.slow
@pytest.mark.parametrize("stall", STALLS)
def test_time_clusters_of_equal_servers_that_stall(stall: tuple[float, float]) -> None:
    time_clusters(f"time clusters, stalls {stall}", runs=RUNS, seed=6, stall=stall)


@pytest.mark.slow
def test_time_clusters_exactly_at_the_ratio() -> None:
    time_clusters("time clusters at RR 1.5", runs=RUNS, seed=7, stall=(0.2, 20.0), ratio=1.5)


@pytest.mark.slow
def test_time_clusters_under_heavier_traffic() -> None:
    time_clusters("time clusters, 400/s", runs=RUNS, seed=8, stall=(0.2, 20.0), rate=400.0)


# --- sticky units: heavy users, who change arm as the weight grows -----------------------------------------


def sticky_users(
    name: str, *, runs: int, seed: int, weights: tuple[float, ...], users: int, looks: int
) -> None:
    rng = np.random.default_rng(seed)
    levels = (0.05, 0.005)
    tally, ratio = Tally(), Tally()
    for _ in range(runs):
        found: set[tuple[str, float]] = set()
        mismatch: set[tuple[str, float]] = set()
        for seen in sticky_run(rng, weights, users, looks):
            found |= cluster_alarms(seen, levels, 0.05)
            for level in levels:
                log_e = sticky_log_e([StickyRatioEpoch(e.pi, e.n_c, e.n_s) for e in seen], level)
                if not isinstance(log_e, NotComputable) and log_e >= -math.log(level):
                    mismatch.add(("mismatch", level))
        tally.add(found, keys(levels))
        ratio.add(mismatch, [("mismatch", level) for level in levels])
    tally.judge(name)
    ratio.judge(f"{name}, sample ratio")


@pytest.mark.slow
@pytest.mark.parametrize("weights", [(0.05, 0.25, 0.5), (0.5,)])
def test_sticky_heavy_users(weights: tuple[float, ...]) -> None:
    sticky_users(
        f"sticky users {weights}", runs=RUNS, seed=10, weights=weights, users=1500, looks=24 // len(weights)
    )


# --- paired differences that are alike for a while ---------------------------------------------------------


def paired_batches(
    name: str, draw: Callable[[np.random.Generator, int], Floats], *, runs: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    levels, size, batches = (0.05, 0.005), 200, 100
    tally = Tally()
    for _ in range(runs):
        d = draw(rng, size * batches).reshape(batches, size).sum(axis=1)
        n = np.full(batches, float(size))
        found: set[tuple[str, float]] = set()
        for k in range(10, batches + 1):
            got = clusters.batch_estimate(n[:k], d[:k])
            assert isinstance(got, clusters.BatchEstimate)
            if abs(got.estimate) < 1.5 * math.sqrt(got.variance):
                continue  # far from any threshold, whatever the tuning
            for level in levels:
                v_opt = asymptotic_v_opt(0.03, level)
                for side, test in (("harm", asymptotic.log_e_harm), ("safe", asymptotic.log_e_safe)):
                    log_e = test(got.estimate, got.variance, 0.0, v_opt=v_opt, level=level, df=got.df)
                    assert isinstance(log_e, float)
                    if log_e >= -math.log(level):
                        found.add((side, level))
        tally.add(found, keys(levels))
    tally.judge(name)


@pytest.mark.slow
@pytest.mark.parametrize("draw", [correlated, bursts])
def test_paired_differences_in_batches(draw: Callable[[np.random.Generator, int], Floats]) -> None:
    paired_batches(f"paired {draw.__name__}", draw, runs=RUNS, seed=11)
