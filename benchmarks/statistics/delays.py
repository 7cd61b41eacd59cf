"""How long until a true harm is called, beside one test of a fixed size and beside everybody else.

Every setting is simulated twice: with the harm, for the delay, and without, for how often the same procedure
calls equals unequal in as many looks. A delay means nothing without the second number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from accede.controller.stats import arrays
from accede.controller.stats.tuning import RANDOMISED, mean_v_opt

from . import campaign, naive, ours, peers, scenes
from .naive import LEVEL, Alarms
from .results import Delay, Path
from .scenes import Counts, Floats

_POWER = 0.8
_FIXED = float(norm.isf(LEVEL) + norm.isf(1 - _POWER)) ** 2
"""(z_a + z_b)^2: information times the squared effect at which one test, read once, has 80% power."""

_MEAN = float(np.dot(scenes.STEADY, scenes.GRID))
SD = math.sqrt(float(np.dot(scenes.STEADY, (np.array(scenes.GRID) - _MEAN) ** 2)))

Called = dict[tuple[str, str], Alarms]
"""(method, kind): alarms, (R, L)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """``run(rng, runs, harm)`` gives alarms at every look; a look is ``per_look`` of ``unit``."""

    name: str
    seed: int
    unit: str
    per_look: float
    fixed: float
    run: Callable[[np.random.Generator, int, bool], Called]
    chunk: int = 250


def measure(setting: Setting, runs: int) -> list[Delay]:
    """Every procedure in the same runs."""
    first, alarmed = _first(setting, runs, harm=True), _first(setting, runs, harm=False)
    rows = [
        Delay(
            setting.name, method, kind, setting.unit, float((looks > 0).mean()),
            _quantile(looks, 0.5, setting.per_look), _quantile(looks, 0.9, setting.per_look),
            float((alarmed[method, kind] > 0).mean()), runs, setting.fixed,
        )
        for (method, kind), looks in first.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: ("ours", "peer", "as if independent", "naive").index(row.kind))


def _first(setting: Setting, runs: int, *, harm: bool) -> dict[tuple[str, str], NDArray[np.int64]]:
    """Number of the look (from 1) at which each run first raised an alarm; 0: never."""
    rng = np.random.default_rng([setting.seed, int(harm)])
    parts: dict[tuple[str, str], list[NDArray[np.int64]]] = {}
    done = 0
    while done < runs:
        now = min(setting.chunk, runs - done)
        for key, alarm in setting.run(rng, now, harm).items():
            parts.setdefault(key, []).append(np.where(alarm.any(axis=1), alarm.argmax(axis=1) + 1, 0))
        done += now
    return {key: np.concatenate(found) for key, found in parts.items()}


def _quantile(looks: NDArray[np.int64], share: float, per_look: float) -> float | None:
    """The look by which this share of all runs had called; None where fewer ever did."""
    number = math.ceil(share * looks.size)
    found = np.sort(looks[looks > 0])
    return float(found[number - 1]) * per_look if found.size >= number else None


def over(log_e: Floats) -> Alarms:
    """Where the E-value has reached 1/5%."""
    with np.errstate(invalid="ignore"):
        return np.asarray(log_e >= -math.log(LEVEL))


def _requests(
    requests: scenes.Requests, effect: float, planned: float, variance: float, fixed: float, *, counted: bool
) -> Callable[[np.random.Generator, int, bool], Called]:
    """P1 (or, ``counted``, P2) and all others on independent requests at equal arms."""

    def run(rng: np.random.Generator, runs: int, harm: bool) -> Called:  # noqa: FBT001 (a simulation's truth)
        counts = requests.draw(rng, runs, effect if harm else 0.0)
        if counted:
            x, n = counts.c[..., -1], counts.c[..., -1] + counts.s[..., -1]
            called: Called = {("P2 event counts", "ours"): over(ours.events(counts.pi, x, n, 1.0).harm)}
        else:
            e = ours.mean(ours.sums(counts), 0.0, variance, planned, LEVEL)
            called = {("P1 bounded mean", "ours"): over(e.harm)}
        last = round(peers.INFLATION * fixed / requests.requests)
        z, information = peers.scale(counts)
        for name, alarm in peers.alarms(z, information, gap=planned, most=last).items():
            called[name, "peer"] = alarm
        for name, alarm in naive.alarms(counts).items():
            called[name, "naive"] = alarm
        return called

    return run


def _pairs(
    looks: int, size: int, spread: float, effect: float, fixed: float
) -> Callable[[np.random.Generator, int, bool], Called]:
    """P4 and P3 on differences in [-1, 1] that are independent of each other; looks of ``size`` pairs."""
    grid = np.array([k / 20 - 1.0 for k in range(41)])
    shares = scenes.bell(np.array(0.0), spread, tuple(grid.tolist()))

    def run(rng: np.random.Generator, runs: int, harm: bool) -> Called:  # noqa: FBT001
        p = scenes.shifted(shares, grid, effect if harm else 0.0)
        drawn = rng.multinomial(np.full((runs, looks), size), p).astype(np.float64)
        so_far = np.cumsum(drawn, axis=1)
        n, total, squares = so_far.sum(axis=2), so_far @ grid, so_far @ grid**2
        e = ours.mean(ours.Sums(total, squares, n), 0.0, spread**2, effect, LEVEL, scale=1.0)
        batches = ours.between_batches(drawn.sum(axis=2), drawn @ grid, effect, LEVEL)
        called: Called = {
            ("P4 batches of pairs", "ours"): over(batches.harm),
            ("P3 paired mean", "ours"): over(e.harm),
        }
        with np.errstate(divide="ignore", invalid="ignore"):
            information = n / np.maximum(squares / n - (total / n) ** 2, 1e-12)
        z = total / n * np.sqrt(information)
        enough = n >= 10.0
        last = round(peers.INFLATION * fixed / size)
        for name, alarm in peers.alarms(z, information, gap=effect, most=last).items():
            called[name, "peer"] = alarm & enough
        above, below = so_far[..., grid > 1e-9].sum(axis=2), so_far[..., grid < -1e-9].sum(axis=2)
        for name, alarm in naive.pairs(n, total, squares, above, below).items():
            called[name, "naive"] = alarm & enough
        return called

    return run


def _stalls(
    looks: int, stall: tuple[float, float], base: float, ratio: float
) -> Callable[[np.random.Generator, int, bool], Called]:
    """P4 on time clusters at equal arms, a look every 30 s; the rest as if requests were independent."""
    gap = (ratio - 1) * (base + stall[0] / stall[1])

    def run(rng: np.random.Generator, runs: int, harm: bool) -> Called:  # noqa: FBT001
        got, counts = campaign.gather(
            lambda rng: scenes.time_cluster_run(
                rng, (0.5,), stall=stall, rate=40.0, base=base, ratio=ratio if harm else 1.0,
                batches=6 * looks,
            ),
            rng, runs,
        )  # fmt: skip
        called: Called = {
            ("P4 time clusters", "ours"): over(ours.between_clusters(got, gap, LEVEL).harm),
            ("P2 event counts", "as if independent"): over(campaign.as_if_independent(counts, 1.0).harm),
        }
        for name, alarm in naive.alarms(counts).items():
            called[name, "naive"] = alarm
        return called

    return run


def _fixed_proportions(p: float, q: float) -> float:
    """Requests of both arms together, equal arms, one-sided."""
    middle = (p + q) / 2
    root = norm.isf(LEVEL) * math.sqrt(2 * middle * (1 - middle)) + norm.isf(1 - _POWER) * math.sqrt(
        p * (1 - p) + q * (1 - q)
    )
    return 2 * float(root / (q - p)) ** 2


def fixed_time(stall: tuple[float, float], base: float, ratio: float, looks: int) -> float:
    """Seconds at which one test of P4's own estimate, read once, has 80% power: from its mean variance."""
    rng = np.random.default_rng(99)
    got, _ = campaign.gather(
        lambda rng: scenes.time_cluster_run(
            rng, (0.5,), stall=stall, rate=40.0, base=base, ratio=ratio, batches=6 * looks
        ),
        rng, 200,
    )  # fmt: skip
    effect, variance = float(got.estimate[:, -1].mean()), float(got.variance[:, -1].mean())
    return _FIXED * variance / effect**2 * looks * 30.0


_BINARY = scenes.Requests((0.0, 1.0), (0.99, 0.01), looks=300, requests=36)
_SCORES = scenes.Requests(scenes.GRID, scenes.STEADY, looks=300, requests=25)
_SCORE_SIZE = 4 * _FIXED / 0.01
_ERROR_SIZE = _fixed_proportions(0.01, 0.02)
_PAIR_SIZE = _FIXED / 0.01


def settings() -> list[Setting]:
    """All of them; some are prepared by a small simulation."""
    stall, looks = (0.2, 20.0), 80
    return [
        Setting(
            "score +0.1 sd, equal arms", 21, "requests", 25, _SCORE_SIZE,
            _requests(_SCORES, 0.1 * SD, 0.1 * SD, SD**2, _SCORE_SIZE, counted=False),
        ),
        Setting(
            "score +0.2 sd where 0.1 sd was planned", 22, "requests", 25, _SCORE_SIZE,
            _requests(_SCORES, 0.2 * SD, 0.1 * SD, SD**2, _SCORE_SIZE, counted=False),
        ),
        Setting(
            "errors 1% -> 2%, independent, equal arms", 23, "requests", 36, _ERROR_SIZE,
            _requests(_BINARY, 0.01, 0.01, 0.0099, _ERROR_SIZE, counted=True),
        ),
        Setting(
            "score +0.1 sd in pairs (correlation 0.5)", 24, "pairs", 5, _PAIR_SIZE,
            _pairs(375, 5, SD, 0.1 * SD, _PAIR_SIZE),
        ),
        Setting(
            "score +0.1 sd in pairs (correlation 0.9)", 25, "pairs", 2, _PAIR_SIZE / 5,
            _pairs(375, 2, SD * 0.2**0.5, 0.1 * SD, _PAIR_SIZE / 5),
        ),
        Setting(
            "errors and stalls doubled (200 ms / 20 s, errors 1%), equal arms", 26, "s", 30.0,
            fixed_time(stall, 0.01, 2.0, looks), _stalls(looks, stall, 0.01, 2.0), 50,
        ),
    ]  # fmt: skip


def paths() -> list[Path]:
    """One run of equals and one of a harmful candidate, through drift and weight steps: P1's interval."""
    made: list[Path] = []
    requests = replace(campaign.DRIFT, looks=200, requests=500)
    for name, seed, effect in (("no difference", 31, 0.0), ("a harm of 0.03", 32, 0.03)):
        counts = requests.draw(np.random.default_rng(seed), 1, effect)
        made.append(Path(name, effect, _interval(counts)))
    return made


def _interval(counts: Counts) -> list[tuple[float, float, float, float]]:
    seen = ours.sums(counts)
    precision = arrays.rho(mean_v_opt(0.015, 0.02, LEVEL, scale=RANDOMISED), LEVEL)
    reach = arrays.gamma_exponential_bound(seen.q[0], precision, LEVEL)
    n = np.cumsum((counts.c + counts.s).sum(axis=2)[0])
    low, middle, high = ((seen.s[0] + shift) / seen.w[0] for shift in (-reach, 0.0, reach))
    rows = np.stack((n, low, middle, high), axis=1)[9:]
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in rows]
