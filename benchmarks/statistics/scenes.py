"""Simulated traffic: what both arms of a rollout, or the pairs of a shadow, would have counted.

Shared by the campaigns of the slow tests and by `scripts/bench statistics`. Every function takes its random
generator, so a seed in the caller gives the same runs again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from accede.controller.stats.clusters import ClusterEpoch

Floats = NDArray[np.float64]

STEPS = (0.01, 0.05, 0.25, 0.5)
BATCH = 5.0
"""Seconds of a time cluster."""

STALLS = ((0.05, 60.0), (0.2, 20.0), (2.0, 300.0))
"""Seconds of a stall, and between stalls on average."""


# --- independent requests on a grid of outcomes ------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """R runs seen at L looks: new requests of each look per arm and outcome.

    ``pi`` candidate's share (L,), ``step`` number of the weight (L,), ``centre`` frozen centre of its epoch
    (L,), ``grid`` outcomes in [0, 1] (K,), ``c`` and ``s`` (R, L, K).
    """

    pi: Floats
    step: NDArray[np.int64]
    centre: Floats
    grid: Floats
    c: Floats
    s: Floats


@dataclass(frozen=True, slots=True)
class Requests:
    """Randomised requests. ``base``: stable's shares of outcomes, (K,), or (runs, looks, K) from its call."""

    grid: tuple[float, ...]
    base: tuple[float, ...] | Callable[[np.random.Generator, int, int], Floats]
    weights: tuple[float, ...] = (0.5,)
    looks: int = 100
    requests: int = 200  # of both arms, a look

    def draw(self, rng: np.random.Generator, runs: int, effect: float) -> Counts:
        """The candidate's mean lies exactly ``effect`` above stable's, whatever stable's is."""
        per = self.looks // len(self.weights)
        pi, step = np.repeat(self.weights, per), np.repeat(np.arange(len(self.weights)), per)
        grid = np.array(self.grid)
        stable: Floats = (
            np.broadcast_to(np.array(self.base), (1, pi.size, grid.size))
            if isinstance(self.base, tuple)
            else self.base(rng, runs, pi.size)
        )
        candidate = shifted(stable, grid, effect)
        n_c = rng.binomial(self.requests, pi, (runs, pi.size))
        shape = (runs, pi.size, grid.size)
        c = rng.multinomial(n_c, np.broadcast_to(candidate, shape)).astype(np.float64)
        s = rng.multinomial(self.requests - n_c, np.broadcast_to(stable, shape)).astype(np.float64)
        # The centre of an epoch is stable's mean of the epoch before, known when it opens.
        means = (stable @ grid).mean(axis=0)
        centre = np.array([means[max(0, k * per - 1)] for k in range(len(self.weights))])[step]
        return Counts(pi, step, centre, grid, c, s)


def shifted(shares: Floats, grid: Floats, effect: float) -> Floats:
    """Move the same part of every outcome one place up, so that the mean grows by exactly ``effect``."""
    if effect == 0.0:
        return shares
    rises = shares[..., :-1] * np.diff(grid)
    part = effect / rises.sum(axis=-1, keepdims=True)
    if (part > 1.0).any():
        msg = f"no room for an effect of {effect} between these outcomes"
        raise ValueError(msg)
    moved = part * shares[..., :-1]
    result = shares.copy()
    result[..., :-1] -= moved
    result[..., 1:] += moved
    return result


GRID = tuple(k / 20 for k in range(21))


def bell(centre: Floats, spread: float, grid: tuple[float, ...] = GRID) -> Floats:
    """Shares of a grid like a normal density around ``centre`` (any shape): one axis more."""
    shares = np.exp(-0.5 * ((np.array(grid) - centre[..., None]) / spread) ** 2)
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def drifting(rng: np.random.Generator, runs: int, looks: int) -> Floats:
    """Scores that climb over the day and swing with it, at a phase of its own in every run."""
    time = np.linspace(0, 1, looks)
    phase = rng.random((runs, 1)) * 2 * np.pi
    return bell(0.25 + 0.35 * time + 0.1 * np.sin(9 * time + phase), 0.12)


def remembering(rng: np.random.Generator, runs: int, looks: int) -> Floats:
    """Scores that follow a load which remembers 19 looks (AR(.9)); both arms meet the same load."""
    load = lfilter([math.sqrt(1 - 0.81)], [1.0, -0.9], rng.normal(size=(runs, looks)), axis=1)
    return bell(np.clip(0.45 + 0.1 * load, 0.1, 0.8), 0.12)


STEADY = tuple(bell(np.array(0.45), 0.18).tolist())
"""The same scores all the time."""

TIED = (0.9, 0.06, 0.04)
"""Nine of ten answers are the same value."""


# --- time clusters: each arm has its own stalls ------------------------------------------------------------


def stalls(rng: np.random.Generator, duration: float, every: float, batches: int) -> Floats:
    """Seconds of each batch that one server stood still."""
    starts = np.sort(rng.random(rng.poisson(batches * BATCH / every)) * batches * BATCH)
    ends = np.minimum(starts + duration, np.append(starts[1:], np.inf))
    edges = (np.arange(batches + 1) * BATCH)[:, None]
    covered = (np.minimum(ends, edges) - np.minimum(starts, edges)).sum(axis=1)
    return np.asarray(np.diff(covered))


def time_cluster_run(
    rng: np.random.Generator,
    weights: tuple[float, ...],
    *,
    stall: tuple[float, float],
    rate: float,
    base: float,
    ratio: float,
    batches: int,
) -> Iterator[list[ClusterEpoch]]:
    """One rollout, seen every 30 s; events are independent ones plus all requests met by a stall.

    With ratio R the candidate's rate of either kind is R times stable's.
    """
    total = batches * len(weights)
    load = rate * BATCH * (1 + 0.5 * np.sin(np.arange(total) / 17 + rng.random() * 6))
    pi = np.repeat(weights, batches)
    arms: list[Floats] = []
    for share, worse in ((pi, ratio), (1 - pi, 1.0)):
        stopped = stalls(rng, stall[0], stall[1] / worse, total)
        struck = rng.poisson(load * share * stopped / BATCH)
        spared = rng.poisson(load * share * (1 - stopped / BATCH))
        arms += [struck + spared * 1.0, struck + rng.binomial(spared, base * worse) * 1.0]
    cluster = np.arange(total) % 128

    def epoch(weight: float, span: slice) -> ClusterEpoch:
        n_c, y_c, n_s, y_s = (np.bincount(cluster[span], a[span], 128).astype(np.float64) for a in arms)
        return ClusterEpoch(weight, n_c, y_c, n_s, y_s)

    closed: list[ClusterEpoch] = []
    for step, weight in enumerate(weights):
        here = slice(step * batches, (step + 1) * batches)
        for look in range(6, batches + 1, 6):
            yield [*closed, epoch(weight, slice(here.start, here.start + look))]
        closed.append(epoch(weight, here))


# --- sticky units: heavy users, who change arm as the weight grows -----------------------------------------


def sticky_run(
    rng: np.random.Generator, weights: tuple[float, ...], users: int, looks: int, effect: float = 0.0
) -> Iterator[list[ClusterEpoch]]:
    """One rollout, seen ``looks`` times at every weight. Users have habits and tastes of their own.

    Every answer of the candidate is turned from no to yes with a chance that raises the mean by ``effect``.
    """
    activity = np.minimum(rng.pareto(1.5, users) + 0.2, 20.0)
    liking = rng.beta(0.6, 1.4, users)
    drawn, cluster = rng.random(users), rng.integers(0, 128, users)
    closed: list[ClusterEpoch] = []
    for weight in weights:
        candidate = drawn < weight
        n = np.cumsum(rng.poisson(activity / 3, (looks, users)), axis=0)
        likes = np.where(candidate, liking + effect / 0.7 * (1 - liking), liking)  # 0.7: mean of 1 - liking
        y = np.cumsum(rng.binomial(np.diff(n, axis=0, prepend=0), likes), axis=0)
        epochs = []
        for look in range(looks):
            n_c, y_c, n_s, y_s = (
                np.bincount(cluster, values * arm, 128).astype(np.float64)
                for arm in (candidate, ~candidate)
                for values in (n[look], y[look])
            )
            epochs.append(ClusterEpoch(weight, n_c, y_c, n_s, y_s))
        for here in epochs:
            yield [*closed, here]
        closed.append(epochs[-1])


# --- paired differences that are alike for a while ---------------------------------------------------------


def correlated(rng: np.random.Generator, pairs: int) -> Floats:
    """Differences driven by an AR(.9) load, tau_int 19."""
    noise = rng.normal(size=pairs) * math.sqrt(1 - 0.81)
    return np.asarray(np.clip(0.2 * lfilter([1.0], [1.0, -0.9], noise), -1, 1))


def bursts(rng: np.random.Generator, pairs: int) -> Floats:
    """Discordant pairs of one sign in bursts of about 20, a hundred pairs apart."""
    sign = np.repeat(rng.choice([-1.0, 1.0], pairs // 20 + 1), 20)[:pairs]
    active = np.repeat(rng.random(pairs // 20 + 1) < 0.2, 20)[:pairs]
    return np.asarray(sign * active * (rng.random(pairs) < 0.9))
