"""The plan against simulation: the analysis' own reading of random evidence, asked again and again.

Each scenario draws evidence cluster by cluster, lets the product's methods read it at every look, and
compares the median of the deciding times with the plan's. The same runs give the 90 % / median ratio.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_ndtr

from accede.controller.analysis.cells import Cell
from accede.controller.analysis.methods import (
    Measured,
    paired_agreement,
    paired_differences,
    server_outcomes,
    unit_outcomes,
)
from accede.controller.analysis.sums import CanaryEpoch, PairEpoch, Sums
from accede.controller.plan.assumed import Given
from accede.controller.plan.deciding import LATE, MEDIAN, Planner, Question
from accede.controller.plan.forecast import luck_of
from accede.controller.plan.sources import traffic_of
from accede.controller.stats.mixture import normal_log
from accede.controller.stats.result import NotComputable
from accede.controller.stats.tuning import asymptotic_v_opt, rho
from accede.policies.load import parse_policy, parse_service
from tests.controller.plan.test_deciding import SERVICE

Floats = NDArray[np.float64]

G = 128
RATE = 10.0
BATCH = 5.0
RUNS = 500

POLICY = """
format: accede/v1
kind: RolloutPolicy
name: one
max_duration: 300d
steps:
  - {STEP, until: gates, for: 1s, requests: 1}
gates:
  - GATE
"""


def planner(step: str, gate: str, *, unit: str = "request", **given: float) -> Planner:
    service = parse_service(SERVICE.replace("UNIT", unit))
    policy = parse_policy(POLICY.replace("STEP", step).replace("GATE", gate))
    return Planner(policy, traffic_of(policy, service, Given.model_validate({"rate": RATE, **given}), None))


def planned(one: Planner, quantile: float) -> float:
    """Seconds until the first cell alone is proven; of a two-sided gate that is one direction."""
    asked = Question(one.cells[0], (), one.policy.steps[0], 0, quantile)
    return one.proven(asked, luck_of(quantile), 1e9).seconds


def decided(
    runs: int, seconds: float, looks: int, look: Callable[[int, float], float], needed: float
) -> Floats:
    """The first look of each run at which `look(run, time)` reaches what is needed; infinite: never."""
    times = np.geomspace(seconds / 12.0, seconds * 6.0, looks)
    found = np.full(runs, math.inf)
    for run in range(runs):
        for at in times:
            if look(run, float(at)) >= needed:
                found[run] = at
                break
    return found


def log_safe(got: Measured | NotComputable, cell: Cell, one: Planner, gap: float, null: float) -> float:
    if isinstance(got, NotComputable):
        return -math.inf
    if cell.direction == "down":
        got = got.mirrored()
    value = got.safe(null, gap, one.levels.safe)
    return -math.inf if isinstance(value, NotComputable) else value


def compare(one: Planner, times: Floats) -> None:
    median, late = planned(one, MEDIAN), planned(one, LATE)
    seen, seen_late = (float(np.quantile(times, q, method="lower")) for q in (0.5, 0.9))
    assert median == pytest.approx(seen, rel=0.2), (median, seen, late, seen_late)
    assert late == pytest.approx(seen_late, rel=0.25), (median, seen, late, seen_late)


class TestBrownian:
    """What every method is in the limit: a drifting path under the tuned one-sided mixture."""

    @pytest.mark.parametrize("level", [0.05, 0.01, 0.0025, 0.0005])
    def test_the_luck_of_a_quantile(self, level: float) -> None:
        rng = np.random.default_rng(25)
        v_opt = asymptotic_v_opt(1.0, level)
        precision = rho(v_opt, level)
        looks = 1500
        v = np.arange(1, looks + 1) * (6.0 * v_opt / looks)
        s = np.cumsum(rng.normal(v[0], math.sqrt(v[0]), (2000, looks)), axis=1)
        x = s / np.sqrt(v + precision)
        log_m = -0.5 * np.log1p(v / precision) + 0.5 * x * x + math.log(2.0) + log_ndtr(x)
        hit = log_m >= -math.log(level)
        times = np.where(hit.any(axis=1), v[hit.argmax(axis=1)], math.inf)
        for quantile in (0.5, 0.75, 0.9, 0.95):
            t = float(np.quantile(times, quantile))
            s_late = (
                t - (luck_of(quantile) + 0.17) * math.sqrt(t),
                t - (luck_of(quantile) - 0.17) * math.sqrt(t),
            )
            low, high = (normal_log(one, t, v_opt=v_opt, level=level) for one in s_late)
            assert low < -math.log(level) < high, quantile


@pytest.mark.parametrize(
    "pi", [0.25, *(pytest.param(pi, marks=pytest.mark.slow) for pi in (0.01, 0.05, 0.5))]
)
def test_a_bounded_mean(pi: float) -> None:
    rng = np.random.default_rng(26)
    one = planner(f"canary: {pi:.0%}", "{metric: prediction.mean, max_shift: 0.1sd}")
    cell = one.cells[0]
    guess = planned(one, MEDIAN)
    runs, looks = RUNS, 90
    times = np.geomspace(guess / 12.0, guess * 6.0, looks)
    n = np.diff(times * RATE, prepend=0.0)
    shape = (runs, looks)
    a, b = 0.5 * 5.25, 0.5 * 5.25  # Beta with mean .5 and sd .2
    sums = {}
    for arm, share in (("c", pi), ("s", 1.0 - pi)):
        count = rng.poisson(n * share, shape).astype(float)
        mean, var = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1.0))
        y = rng.normal(count * mean, np.sqrt(np.maximum(count * var, 1e-12)))
        sums[arm] = [np.cumsum(x, axis=1) for x in (count, y, y * 2 * mean + count * (var - mean**2))]
    seen = np.full(runs, math.inf)
    for run in range(runs):
        for at in range(looks):
            c, s = (Sums(*(np.array([x[run, at]]) for x in sums[arm])) for arm in ("c", "s"))
            got = unit_outcomes(
                [CanaryEpoch(0, pi, 0.5, c, s, 0.0, 0.0)], sticky=False, counted=False, variance=0.04
            )
            if log_safe(got, cell, one, 0.02, 0.02) >= -math.log(0.05):
                seen[run] = times[at]
                break
    compare(one, seen)


def by_cluster(
    rng: np.random.Generator, runs: int, times: Floats, rate: float, p: float
) -> tuple[Floats, Floats]:
    """Counts and events per run, look and time cluster, up to each look."""
    slots = np.floor(times[-1] / BATCH).astype(int) + 1
    count = rng.poisson(rate * BATCH, (runs, slots)).astype(float)
    return count, rng.binomial(count.astype(int), p).astype(float)


def until(data: Floats, run: int, seconds: float) -> Floats:
    """Cyclic sums of the clusters that were full by then, the last one in part."""
    full, part = divmod(seconds, BATCH)
    row = data[run, : int(full) + 1].copy()
    row[-1] = math.floor(row[-1] * part / BATCH)
    padded = np.zeros(-(-row.size // G) * G)
    padded[: row.size] = row
    total: Floats = padded.reshape(-1, G).sum(axis=0)
    return total


def sums_until(n: Floats, y: Floats, run: int, seconds: float) -> Sums:
    count, events = until(n, run, seconds), until(y, run, seconds)
    events = np.minimum(events, count)
    return Sums(count, events, events)


@pytest.mark.slow
@pytest.mark.parametrize(("pi", "p"), [(0.5, 0.01), (0.25, 0.05)])
def test_time_clusters(pi: float, p: float) -> None:
    rng = np.random.default_rng(27)
    one = planner(f"canary: {pi:.0%}", "{metric: errors, max_increase: 1pp}", error_rate=p)
    guess = planned(one, MEDIAN)
    runs, looks = RUNS, 70
    times = np.geomspace(guess / 12.0, guess * 6.0, looks)
    c = by_cluster(rng, runs, times, RATE * pi, p)
    s = by_cluster(rng, runs, times, RATE * (1.0 - pi), p)

    def look(run: int, at: float) -> float:
        epoch = CanaryEpoch(0, pi, p, sums_until(*c, run, at), sums_until(*s, run, at), 0.0, 0.0)
        return log_safe(server_outcomes([epoch]), one.cells[0], one, 0.01, 0.01)

    compare(one, decided(runs, guess, looks, look, -math.log(0.05)))


@pytest.mark.slow
def test_a_latency_quantile() -> None:
    rng = np.random.default_rng(28)
    one = planner("canary: 50%", "{metric: latency.p95, max_ratio: 1.2}")
    over, far = (one.traffic.slower("latency.p95", part) for part in ("over", "far"))
    assert over == pytest.approx(0.05)
    guess = planned(one, MEDIAN)
    runs, looks = RUNS, 70
    times = np.geomspace(guess / 12.0, guess * 6.0, looks)
    c = by_cluster(rng, runs, times, RATE / 2, far)
    s = by_cluster(rng, runs, times, RATE / 2, over)

    def look(run: int, at: float) -> float:
        epoch = CanaryEpoch(0, 0.5, over, sums_until(*c, run, at), sums_until(*s, run, at), 0.0, 0.0)
        return log_safe(server_outcomes([epoch], absolute=False), one.cells[0], one, 0.025, 0.0)

    compare(one, decided(runs, guess, looks, look, -math.log(0.05)))


def test_paired_batches() -> None:
    rng = np.random.default_rng(29)
    one = planner("shadow: 100%", "{metric: prediction.mean, max_shift: 0.03sd, in: shadow}", correlation=0.5)
    guess = planned(one, MEDIAN)
    runs, looks = RUNS, 70
    sd = 0.2  # of a difference at a correlation of a half
    slots = int(guess * 6.0 / BATCH) + 2
    n = rng.poisson(RATE * BATCH, (runs, slots)).astype(float)
    d = rng.normal(0.0, sd * np.sqrt(n))

    def look(run: int, at: float) -> float:
        slot = int(at / BATCH)
        rows = [np.zeros(-(-slot // G) * G) for _ in range(2)]
        for row, data in zip(rows, (n, d), strict=True):
            row[:slot] = data[run, :slot]
        count, total = (row.reshape(-1, G).sum(axis=0) for row in rows)
        pair = Sums(count, total, np.maximum(count * sd**2, total**2 / np.maximum(count, 1.0)))
        got = paired_differences([PairEpoch(0, 1.0, pair, None)], counted=False, autocorrelation=1.0)
        return log_safe(got, one.cells[0], one, 0.006, 0.006)

    compare(one, decided(runs, guess, looks, look, -math.log(0.05)))


def test_agreement_of_pairs() -> None:
    rng = np.random.default_rng(30)
    one = planner("shadow: 100%", "{metric: prediction.agreement, min: 95%}", agreement=0.965)
    guess = planned(one, MEDIAN)
    runs, looks = RUNS, 70
    times = np.geomspace(guess / 12.0, guess * 6.0, looks)
    agreed = by_cluster(rng, runs, times, RATE, 0.965)

    def look(run: int, at: float) -> float:
        epoch = PairEpoch(0, 1.0, sums_until(*agreed, run, at), None)
        got = paired_agreement([epoch], least=0.95, autocorrelation=1.0)
        return log_safe(got, one.cells[0], one, 0.05, 0.0)

    compare(one, decided(runs, guess, looks, look, -math.log(0.05)))


def test_sticky_users() -> None:
    rng = np.random.default_rng(31)
    users, pi, alike = 4000, 0.25, 0.3
    one = planner(
        "canary: 25%", "{metric: prediction.mean, max_shift: 0.1sd}",
        unit="{header: x-user, missing: stable}", units=float(users), within_unit=alike,
    )  # fmt: skip
    guess = planned(one, MEDIAN)
    runs, looks, sd = 100, 60, 0.2
    times = np.geomspace(guess / 12.0, guess * 6.0, looks)
    seen = np.full(runs, math.inf)
    for run in range(runs):
        cluster = rng.integers(G, size=users)
        candidate = rng.random(users) < pi
        level = rng.normal(0.5, sd * math.sqrt(alike), users)
        n = np.zeros(users)
        y = np.zeros(users)
        last = 0.0
        for at in times:
            more = rng.poisson((at - last) * RATE / users, users)
            n += more
            y += rng.normal(more * level, sd * math.sqrt(1.0 - alike) * np.sqrt(more))
            last = at
            arms: list[Sums] = []
            for who in (candidate, ~candidate):
                count, total, square = (
                    np.bincount(cluster[who], x[who], G).astype(float)
                    for x in (n, y, y * y / np.maximum(n, 1.0))
                )
                arms.append(Sums(count, np.clip(total, 0.0, count), square))
            epoch = CanaryEpoch(0, pi, 0.5, arms[0], arms[1], 0.0, 0.0)
            got = unit_outcomes([epoch], sticky=True, counted=False, variance=sd**2)
            if log_safe(got, one.cells[0], one, 0.02, 0.02) >= -math.log(0.05):
                seen[run] = at
                break
    compare(one, seen)
