"""How often is a procedure ever wrong while it is looked at? Exactly at its null, where that is worst.

A run is wrong towards harm if equals were ever called unequal to the candidate's disadvantage, and towards
safety if a candidate exactly at the margin was ever called within it. Every scene has a seed of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accede.controller.stats.clusters import ClusterEpoch

from . import naive, ours, peers, scenes
from .results import Rate
from .scenes import Counts, Floats

LEVELS = (0.05, 0.005)
_CHUNK = 250  # runs at once

Found = dict[tuple[str, str, str, float], NDArray[np.bool_]]
"""(method, kind, side, level): which runs were ever wrong."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is simulated, in words, and how: ``run(rng, runs)`` gives which of them were wrong."""

    about: str
    seed: int
    run: Callable[[np.random.Generator, int], Found]
    chunk: int = _CHUNK


def ever(log_e: Floats, level: float) -> NDArray[np.bool_]:
    """Runs (axis 0) whose E-value reached 1/level at any look."""
    with np.errstate(invalid="ignore"):
        return np.asarray((log_e >= -math.log(level)).any(axis=1))


def _naive(found: Found, side: str, alarms: Mapping[str, NDArray[np.bool_]]) -> None:
    for name, alarm in alarms.items():
        found[name, "naive", side, naive.LEVEL] = np.asarray(alarm.any(axis=1))


def per_request(
    requests: scenes.Requests, margin: float, *, ratio: float | None = None, valid_peers: bool = False
) -> Callable[[np.random.Generator, int], Found]:
    """P1 against an absolute margin; with ``ratio`` also P2 on the last outcome, at that relative risk."""

    def run(rng: np.random.Generator, runs: int) -> Found:
        found: Found = {}
        for side, effect in (("harm", 0.0), ("safe", margin)):
            counts = requests.draw(rng, runs, effect)
            variance = _variance(counts)
            for level in LEVELS:
                e = ours.mean(ours.sums(counts), effect, variance, margin, level)
                found["P1 bounded mean", "ours", side, level] = ever(getattr(e, side), level)
                if ratio is not None:
                    x, n = counts.c[..., -1], counts.c[..., -1] + counts.s[..., -1]
                    e = ours.events(counts.pi, x, n, 1.0 if side == "harm" else ratio)
                    found["P2 event counts", "ours", side, level] = ever(getattr(e, side), level)
            if side == "harm":
                _naive(found, side, naive.alarms(counts))
                if valid_peers:
                    for name, alarm in peers.alarms(*peers.scale(counts), gap=margin, most=None).items():
                        found[name, "peer", side, naive.LEVEL] = np.asarray(alarm.any(axis=1))
            else:
                _naive(found, side, naive.safe(counts, margin))
        return found

    return run


def _variance(counts: Counts) -> float:
    """Of stable's outcomes, as a warm-up would know it: here from the first look of all runs."""
    first = counts.s[:, 0].sum(axis=0)
    mean = first @ counts.grid / first.sum()
    return float(first @ (counts.grid - mean) ** 2 / first.sum())


def _binary(looks: list[list[ClusterEpoch]]) -> tuple[Floats, Floats]:
    """New requests of each look that were 0 and 1, (L, 2) per arm, from sums per cluster so far."""
    so_far = np.array([[a.sum() for e in seen[-1:] for a in (e.n_c, e.y_c, e.n_s, e.y_s)] for seen in looks])
    steps = np.array([len(seen) for seen in looks])
    new = np.concatenate(
        [np.diff(so_far[steps == k], axis=0, prepend=0.0) for k in dict.fromkeys(steps.tolist())]
    )
    n_c, y_c, n_s, y_s = new.T
    return np.stack((n_c - y_c, y_c), axis=1), np.stack((n_s - y_s, y_s), axis=1)


def gather(
    begin: Callable[[np.random.Generator], Iterator[list[ClusterEpoch]]],
    rng: np.random.Generator,
    runs: int,
    ratio: float = 1.0,
) -> tuple[ours.Clustered, Counts]:
    """Many runs of clustered traffic: P4's estimates, (R, L), and the same requests as if independent."""
    estimates: list[ours.Clustered] = []
    arms: list[tuple[Floats, Floats]] = []
    looks: list[list[ClusterEpoch]] = []
    for _ in range(runs):
        looks = list(begin(rng))
        estimates.append(ours.clustered(looks, ratio))
        arms.append(_binary(looks))
    stacked = ours.Clustered(*(np.stack(columns) for columns in zip(*estimates, strict=True)))
    c, s = (np.stack(each) for each in zip(*arms, strict=True))
    step = np.array([len(seen) - 1 for seen in looks])
    pi = np.array([seen[-1].pi for seen in looks])
    return stacked, Counts(pi, step, np.zeros(step.size), np.array([0.0, 1.0]), c, s)


def as_if_independent(counts: Counts, ratio: float) -> ours.Sides:
    """P2 on events that are not independent."""
    return ours.events(counts.pi, counts.c[..., 1], counts.c[..., 1] + counts.s[..., 1], ratio)


def stalling(
    stall: tuple[float, float], margin: float = 1.5, base: float = 0.01
) -> Callable[[np.random.Generator, int], Found]:
    """Time clusters at weights of 5, 25 and 50%, ten minutes each, a look every 30 s."""
    gap = 0.5 * (base + stall[0] / stall[1])

    def run(rng: np.random.Generator, runs: int) -> Found:
        found: Found = {}
        for side, ratio in (("harm", 1.0), ("safe", margin)):
            got, counts = gather(
                lambda rng, ratio=ratio: scenes.time_cluster_run(  # type: ignore[misc]
                    rng, (0.05, 0.25, 0.5), stall=stall, rate=40.0, base=base, ratio=ratio, batches=120
                ),
                rng, runs, ratio,
            )  # fmt: skip
            for level in LEVELS:
                e = ours.between_clusters(got, gap, level)
                found["P4 time clusters", "ours", side, level] = ever(getattr(e, side), level)
                e = as_if_independent(counts, ratio)
                found["P2 event counts", "as if independent", side, level] = ever(getattr(e, side), level)
            _naive(found, side, naive.alarms(counts) if side == "harm" else naive.safe(counts, 0.0, ratio))
        return found

    return run


def sticky(weights: tuple[float, ...], margin: float = 0.05) -> Callable[[np.random.Generator, int], Found]:
    """Clusters of users, 24 looks in all."""

    def run(rng: np.random.Generator, runs: int) -> Found:
        found: Found = {}
        for side, effect in (("harm", 0.0), ("safe", margin)):
            got, counts = gather(
                lambda rng, effect=effect: scenes.sticky_run(rng, weights, 1500, 24 // len(weights), effect),  # type: ignore[misc]
                rng,
                runs,
            )
            for level in LEVELS:
                e = ours.between_clusters(got, margin, level, effect)
                found["P4 clusters of units", "ours", side, level] = ever(getattr(e, side), level)
                if side == "harm":
                    e = as_if_independent(counts, 1.0)
                    found["P2 event counts", "as if independent", side, level] = ever(e.harm, level)
            _naive(found, side, naive.alarms(counts) if side == "harm" else naive.safe(counts, margin))
        return found

    return run


def pairs(draw: Callable[[np.random.Generator, int], Floats]) -> Callable[[np.random.Generator, int], Found]:
    """Batches of 200 pairs, a look after each of 100. A mean difference of 0 is the null of both sides."""
    size, batches = 200, 100

    def run(rng: np.random.Generator, runs: int) -> Found:
        d = np.stack([draw(rng, size * batches).reshape(batches, size) for _ in range(runs)])
        total = d.sum(axis=2)
        n = np.full(total.shape, float(size))
        found: Found = {}
        so_far = [np.cumsum(v, axis=1) for v in (n, total, (d * d).sum(axis=2), (d > 0).sum(axis=2) * 1.0,
                                                 (d < 0).sum(axis=2) * 1.0)]  # fmt: skip
        for level in LEVELS:
            e = ours.between_batches(n, total, 0.03, level)
            plain = ours.mean(
                ours.Sums(so_far[1], so_far[2], so_far[0]), 0.0, float((d * d).mean()), 0.03, level, scale=1.0
            )
            for side in ("harm", "safe"):
                found["P4 batches of pairs", "ours", side, level] = ever(getattr(e, side), level)
                found["P1 bounded mean", "as if independent", side, level] = ever(getattr(plain, side), level)
        _naive(found, "harm", naive.pairs(*so_far))
        return found

    return run


_YES = (0.0, 1.0)
DRIFT = scenes.Requests(scenes.GRID, scenes.drifting, scenes.STEPS, 100, 1000)
SCENES: dict[str, Scene] = {
    "independent requests": Scene(
        "scores of one distribution, half of 20 000 requests each arm, a look every 100",
        1, per_request(scenes.Requests(scenes.GRID, scenes.STEADY, looks=200, requests=100), 0.02,
                       valid_peers=True),
    ),
    "drift and weight steps": Scene(
        "scores that climb and swing while the weight goes 1, 5, 25, 50%; 100 000 requests, 100 looks",
        2, per_request(DRIFT, 0.02),
    ),
    "autocorrelated load": Scene(
        "scores follow a load that remembers 19 looks, both arms meet the same; 20 000 requests, 100 looks",
        3, per_request(scenes.Requests(scenes.GRID, scenes.remembering), 0.02),
    ),
    "ties": Scene(
        "three outcomes, nine of ten answers the same; 20 000 requests, 100 looks",
        4, per_request(scenes.Requests((0.0, 0.5, 1.0), scenes.TIED), 0.02),
    ),
    "deterministic outputs": Scene(
        "every answer of an arm is the same; 20 000 requests, 100 looks",
        5, per_request(scenes.Requests((0.5, 0.53), (1.0, 0.0)), 0.03),
    ),
    "weight 1%": Scene(
        "scores of one distribution at a weight of 1%; 100 000 requests, 100 looks",
        6, per_request(scenes.Requests(scenes.GRID, scenes.STEADY, (0.01,), 100, 1000), 0.03),
    ),
    "slice of 2%": Scene(
        "selections (30%) in a slice of 2%: 20 requests a look, 200 looks, weights 25 and 50%",
        7, per_request(scenes.Requests(_YES, (0.7, 0.3), (0.25, 0.5), 200, 20), 0.06, ratio=1.2),
    ),
    "independent errors": Scene(
        "errors of 1%, each on its own; weights 5, 25, 50%; 60 000 requests, 120 looks",
        8, per_request(scenes.Requests(_YES, (0.99, 0.01), (0.05, 0.25, 0.5), 120, 500), 0.005, ratio=1.5),
    ),
    "sticky heavy users": Scene(
        "1 500 users with habits and tastes, who stay with their arm; weights 5, 25, 50%; 24 looks",
        9, sticky((0.05, 0.25, 0.5)), 50,
    ),
    "sticky heavy users at 50%": Scene("the same at one weight", 10, sticky((0.5,)), 50),
    **{
        f"stalls {1000 * stall[0]:.0f} ms / {stall[1]:.0f} s": Scene(
            f"equal servers, each with stalls of its own of {stall[0]:g} s every {stall[1]:g} s on average, "
            "errors of 1% beside; 40 requests a second, weights 5, 25, 50%, ten minutes each, "
            "a look every 30 s",
            11 + number, stalling(stall), 50,
        )
        for number, stall in enumerate(scenes.STALLS)
    },
    "pairs under autocorrelated load": Scene(
        "shadow pairs whose differences remember 19 pairs; 20 000 pairs, a look every batch of 200",
        14, pairs(scenes.correlated),
    ),
    "pairs that differ in bursts": Scene(
        "shadow pairs that differ in bursts of 20; 20 000 pairs, a look every batch of 200",
        15, pairs(scenes.bursts),
    ),
}  # fmt: skip


def measure(name: str, scene: Scene, runs: int) -> list[Rate]:
    """Every procedure in the same ``runs`` runs of one scene."""
    rng = np.random.default_rng(scene.seed)
    hits: dict[tuple[str, str, str, float], int] = {}
    done = 0
    while done < runs:
        now = min(scene.chunk, runs - done)
        for key, wrong in scene.run(rng, now).items():
            hits[key] = hits.get(key, 0) + int(wrong.sum())
        done += now
    return [Rate(name, *key, count, runs) for key, count in hits.items()]
