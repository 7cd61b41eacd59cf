"""Seeded campaigns over whole policies: the real analysis and the real state machine on simulated traffic.

Traffic drifts, base rates drift with it, each server stalls by itself, the weight climbs from shadow over 5
and 25% to 50%, and the evidence is looked at all the time. How often is an equal candidate rolled back, one
exactly at a margin promoted, a harmful one caught? A policy's levels (5%) are over the whole rollout.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr

from accede.controller.analyse import analyse
from accede.controller.analysis.freeze import epoch_constants, freeze
from accede.controller.rollout.actions import Advance
from accede.controller.rollout.machine import apply, decide
from accede.controller.rollout.signals import Look
from accede.policies.policy import RolloutPolicy
from accede.policies.service import ModelService, Unit
from accede.store.evidence import ArmCounts, ArmKey, Evidence, MirrorCounts, Series, SeriesKey
from accede.store.histogram import BINS, edge, value_bin
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import EpochRecord, FrozenConstants, Phase, ReplicaReport, RolloutRecord

Floats = NDArray[Any]

SERVICE = ModelService.model_validate(
    {
        "format": "accede/v1", "kind": "ModelService", "name": "credit", "match": {"path": "/credit"},
        "protocol": "json", "versions": {"1": {"url": "http://a"}, "2": {"url": "http://b"}}, "stable": "1",
        "side_effects": "none",
        "prediction": {"path": "score", "range": (0.0, 1.0), "selected": ">= 0.5", "agree_within": 0.05},
        "slices": {"sex": {"path": "sex", "values": ("female", "male")}},
    }
)  # fmt: skip

STICKY = SERVICE.model_copy(update={"unit": Unit(header="x-user-id")})

GUARDED: dict[str, Any] = {
    "format": "accede/v1", "kind": "RolloutPolicy", "name": "guarded, scaled in time",
    "baseline": {"requests": 1000, "for": "30s"}, "batch": "5s", "max_duration": "1h",
    "steps": (
        {"shadow": "100%", "until": "gates", "for": "1m", "deadline": "10m"},
        {"canary": "5%", "for": "1m", "requests": 500},
        {"canary": "25%", "for": "1m", "requests": 500},
        {"canary": "50%", "until": "gates", "for": "1m", "deadline": "10m"},
    ),
    "gates": (
        {"metric": "errors", "max_increase": "0.5pp", "max_ratio": 1.5},
        {"metric": "latency.p95", "max_ratio": 1.2},
        {"metric": "prediction.mean", "max_shift": "0.1sd"},
        {"metric": "prediction.missing", "max_increase": "0.5pp"},
        {"metric": "prediction.agreement", "min": "90%"},
        {"metric": "selection_rate", "by": "sex", "max_shift": "3pp"},
    ),
}  # fmt: skip

DEMO: dict[str, Any] = {
    "format": "accede/v1", "kind": "RolloutPolicy", "name": "demo",
    "baseline": {"requests": 500, "for": "2s"}, "batch": "1s",
    "steps": (
        {"shadow": "100%", "until": "gates", "for": "3s", "deadline": "30s"},
        {"canary": "20%", "for": "3s", "requests": 200},
        {"canary": "50%", "until": "gates", "for": "20s", "deadline": "60s"},
    ),
    "gates": (
        {"metric": "errors", "max_increase": "1pp", "in": "canary"},
        {"metric": "latency.p95", "max_ratio": 1.5, "in": "canary"},
        {"metric": "prediction.mean", "max_shift": "0.15sd", "in": "shadow"},
        {"metric": "prediction.agreement", "min": "90%", "in": "shadow"},
        {"metric": "selection_rate", "by": "sex", "max_shift": "5pp", "in": "shadow"},
    ),
}  # fmt: skip


ACCOUNT_AFTER = 10.0  # seconds
LATENCY = 400  # some bin; only the number of answers matters here
SCORES = Counter(value_bin(y) for y in np.random.default_rng(1).normal(0.4, 0.15, 2000).clip(0, 1).tolist())


@dataclass(frozen=True)
class World:
    """Stable, and what the candidate does differently. Rates per request unless said; y in [0, 1]."""

    rate: float = 400.0  # requests per second
    drift: float = 0.4  # relative swing of traffic and of every base rate
    errors: float = 0.01
    stall: tuple[float, float] = (0.2, 20.0)  # seconds, every so many
    stall_errors: float = 0.1  # share of the requests met by a stall that fail
    spread: float = 0.4  # sd of the log latency
    mean: float = 0.4
    sd: float = 0.15
    selected: float = 0.3
    flips: float = 0.02  # share of pairs that differ in selection, either way
    noise: float = 0.03  # sd of the paired difference of scores
    agreement: float = 0.97
    error_ratio: float = 1.0
    error_extra: float = 0.0
    latency: float = 1.0  # factor on the candidate's latency, stalls included
    shift: float = 0.0  # of the mean score, in stable's frozen sd
    female: float = 0.0  # shift of the selection rate in sex=female
    from_step: int = 0  # the harm begins with this step
    hangs: float = 0.0  # share of the candidate's requests that never end
    users: int = 0  # sticky users, each with habits and a rate of requests of their own; 0: no units
    again: float = 0.0  # share of mirrored requests that stable is asked a second time


@dataclass
class Epoch:
    """Cumulative sums of one epoch."""

    series: dict[SeriesKey, list[Floats]] = field(default_factory=dict)
    arms: Counter[str] = field(default_factory=Counter)
    paired: int = 0
    backs: int = 0  # pairs of what was mirrored back
    answered: Counter[str] = field(default_factory=Counter)  # kept where requests hang, else empty
    hanging: list[tuple[float, int, float]] = field(default_factory=list)  # (since, cluster, requests)
    units: bool = False  # predictions are kept by cluster of users

    def account(self, now: float) -> None:
        """What has been open for long is accounted as it stands: no error, over every latency, no answer."""
        due = [one for one in self.hanging if one[0] <= now - ACCOUNT_AFTER]
        self.hanging = [one for one in self.hanging if one[0] > now - ACCOUNT_AFTER]
        for _, cluster, count in due:
            at, n, zero = np.array([cluster]), np.array([count]), np.array([0.0])
            self.arms["candidate"] += int(count)
            self.add("candidate", "", "errors", at, n, zero, zero)
            self.add("candidate", "", "missing", at, n, n, n)

    def add(
        self, arm: ArmKey, group: str, metric: str, clusters: NDArray[np.int64], *columns: Floats
    ) -> None:
        into = self.series.get(SeriesKey(arm, group, metric))
        if into is None:
            into = self.series[SeriesKey(arm, group, metric)] = [np.zeros(CLUSTERS) for _ in range(3)]
        for total, more in zip(into, columns, strict=True):
            np.add.at(total, clusters, more)

    def evidence(self, number: int, now: float, latency: Mapping[str, dict[int, int]]) -> Evidence:
        self.account(now)
        if self.answered:
            latency = {arm: {LATENCY: count} for arm, count in self.answered.items()}
        return Evidence(
            wire="", service="credit", rollout="r", epoch=number, source="*", published=now, watermark=now,
            arms={arm: ArmCounts(accounted=count) for arm, count in self.arms.items()},
            open={"candidate": int(sum(count for _, _, count in self.hanging))} if self.hanging else {},
            mirror=MirrorCounts(chosen=self.paired, sent=self.paired, paired=self.paired),
            series={
                key: Series(*(_column(c, whole=self.whole(key)) for c in sums))
                for key, sums in self.series.items()
            },
            latency=dict(latency), values=dict(SCORES) if number == 0 else {},
            back=MirrorCounts(chosen=self.backs, sent=self.backs, paired=self.backs),
        )  # fmt: skip

    def whole(self, key: SeriesKey) -> bool:
        return key.metric in {"mean", "selected"} and "pair" not in key.arm and not self.units


def _column(column: Floats, *, whole: bool) -> list[float]:
    return [float(column.sum())] if whole else column.tolist()


class Traffic:
    """Draws what the routers would have folded, block by block."""

    def __init__(self, world: World, batch: float, seed: int) -> None:
        self.world, self.batch = world, batch
        self.rng = np.random.default_rng(seed)
        self.phase = self.rng.random() * 6.0
        self.period = 60.0 + 240.0 * self.rng.random()
        self.thresholds: tuple[int, int, int] | None = None
        self.frozen_sd = world.sd
        self.habits: tuple[Floats, Floats, Floats, NDArray[np.int64], NDArray[np.bool_]] | None = None
        self.service = STICKY if world.users else SERVICE

    def epoch(self) -> Epoch:
        """A new one, without any traffic."""
        return Epoch()

    def swing(self, at: Floats) -> Floats:
        return 1.0 + self.world.drift * np.sin(at / self.period + self.phase)

    def block(self, into: Epoch, start: float, seconds: float, place: str, weight: float, step: int) -> None:
        """Add [start, start + seconds): whole batches."""
        count = round(seconds / self.batch)
        at = start + self.batch * np.arange(count)
        clusters = np.floor(at / self.batch + 1e-9).astype(np.int64) % CLUSTERS
        load = self.world.rate * self.batch * self.swing(at)
        harmful = step >= self.world.from_step
        if place == "canary" and self.world.users:
            self._users(into, seconds, weight, harmful)
        if place == "canary":
            shares: tuple[tuple[ArmKey, float], ...] = (("candidate", weight), ("stable", 1.0 - weight))
            for arm, share in shares:
                self._arm(
                    into,
                    arm,
                    clusters,
                    self.rng.poisson(load * share) * 1.0,
                    at,
                    harmful and arm == "candidate",
                )
            return
        n = self.rng.poisson(load) * 1.0
        self._arm(into, "stable", clusters, n, at, False)
        if place == "shadow":
            self._pairs(into, clusters, n, at, harmful)

    def back(self, into: Epoch, start: float, seconds: float, share: float, step: int) -> None:
        """Add the pairs of a share of all requests that the candidate served and stable got a copy of."""
        count = round(seconds / self.batch)
        at = start + self.batch * np.arange(count)
        clusters = np.floor(at / self.batch + 1e-9).astype(np.int64) % CLUSTERS
        n = self.rng.poisson(self.world.rate * self.batch * self.swing(at) * share) * 1.0
        before = into.paired
        self._pairs(into, clusters, n, at, step >= self.world.from_step)
        into.backs += into.paired - before
        into.paired = before

    def _stalled(self, at: Floats) -> Floats:
        """Share of each batch that one server stood still."""
        lasts, every = self.world.stall
        share: Floats = self.rng.poisson(self.batch / every, at.size) * lasts / self.batch
        return share.clip(0.0, 1.0)

    def _failures(self, n: Floats, struck: Floats, at: Floats, harmful: bool) -> Floats:
        world = self.world
        rate = world.errors * self.swing(1.7 * at)
        ratio = world.error_ratio if harmful else 1.0
        more = world.error_extra if harmful else 0.0
        free = self.rng.binomial((n - struck).astype(int), np.minimum(1.0, rate * ratio + more))
        return free + self.rng.binomial(struck.astype(int), min(1.0, world.stall_errors * ratio + more)) * 1.0

    def _arm(
        self, into: Epoch, arm: ArmKey, clusters: NDArray[np.int64], n: Floats, at: Floats, harmful: bool
    ) -> None:
        world, rng = self.world, self.rng
        if harmful and world.hangs:
            stuck = rng.binomial(n.astype(int), world.hangs) * 1.0
            into.hanging += [
                (when, int(k), float(m)) for when, k, m in zip(at, clusters, stuck, strict=True) if m
            ]
            n = n - stuck
        struck = rng.binomial(n.astype(int), self._stalled(at)) * 1.0
        failed = self._failures(n, struck, at, harmful)
        into.arms[arm] += int(n.sum())
        if world.hangs:
            into.answered[arm] += int((n - failed).sum())
        into.add(arm, "", "errors", clusters, n, failed, failed)
        into.add(arm, "", "missing", clusters, n, np.zeros_like(n), np.zeros_like(n))
        into.add(arm, "", "extraction", clusters, n, np.zeros_like(n), np.zeros_like(n))
        if self.thresholds is not None:
            factor = world.latency if harmful else 1.0
            left = (n - struck).astype(int)
            before = 1.0
            for name, place in zip(("over", "mid", "far"), self.thresholds, strict=True):
                share = self.beyond(edge(place) / factor)
                left = rng.binomial(left, share / before)
                before = share
                slow = left + struck
                into.add(arm, "", f"latency.p95.{name}", clusters, n, slow, slow)
        if world.users:
            return
        mean = world.mean * self.swing(1.3 * at) ** 0.5 + (world.shift * self.frozen_sd if harmful else 0.0)
        sums = n * mean + np.sqrt(n) * world.sd * rng.normal(size=n.size)
        into.add(arm, "", "mean", clusters, n, sums, n * (mean**2 + world.sd**2))
        chosen_rate = world.selected * self.swing(0.9 * at)
        women = rng.binomial(n.astype(int), 0.5)
        for group, members, more in (
            ("sex=female", women, world.female if harmful else 0.0),
            ("sex=male", n.astype(int) - women, 0.0),
        ):
            chosen = rng.binomial(members, np.clip(chosen_rate + more, 0.0, 1.0)) * 1.0
            into.add(arm, group, "selected", clusters, members * 1.0, chosen, chosen)

    def _users(self, into: Epoch, seconds: float, weight: float, harmful: bool) -> None:
        """Selections by user: a few make most requests, each has a rate of their own, and keeps their arm."""
        world, rng = self.world, self.rng
        if self.habits is None:
            activity = np.minimum(rng.pareto(1.5, world.users) + 0.2, 20.0)
            self.habits = (
                activity / activity.sum(), 0.05 + 0.8 * rng.beta(0.6, 1.4, world.users),
                rng.random(world.users), rng.integers(0, CLUSTERS, world.users),
                rng.random(world.users) < 0.5,
            )  # fmt: skip
        activity, liking, drawn, cluster, women = self.habits
        n = rng.poisson(activity * world.rate * seconds) * 1.0
        into.units = True
        sides: tuple[tuple[ArmKey, NDArray[np.bool_]], ...] = (
            ("candidate", drawn < weight), ("stable", drawn >= weight),
        )  # fmt: skip
        for arm, mine in sides:
            more = world.female if harmful and arm == "candidate" else 0.0
            into.add(arm, "", "requests", cluster[mine], n[mine], 0.0 * n[mine], 0.0 * n[mine])
            y = rng.binomial(n.astype(int), np.clip(liking + more * women, 0.0, 1.0)) * 1.0
            for group, members in (("", mine), ("sex=female", mine & women), ("sex=male", mine & ~women)):
                into.add(arm, group, "selected", cluster[members], n[members], y[members], y[members])

    def _pairs(self, into: Epoch, clusters: NDArray[np.int64], n: Floats, at: Floats, harmful: bool) -> None:
        world, rng = self.world, self.rng
        into.paired += int(n.sum())
        zero = np.zeros_like(n)
        sides = [
            self._failures(n, rng.binomial(n.astype(int), self._stalled(at)) * 1.0, at, side)
            for side in (harmful, False)
        ]
        into.add("pair", "", "errors", clusters, n, sides[0] - sides[1], sides[0] + sides[1])
        into.add("paired_stable", "", "errors", clusters, n, sides[1], sides[1])
        into.add("pair", "", "missing", clusters, n, zero, zero)
        into.add("paired_stable", "", "missing", clusters, n, zero, zero)
        shift = world.shift * self.frozen_sd if harmful else 0.0
        # A little noise is common to a batch: pairs of the same moment are not independent.
        common = shift + 0.003 * rng.normal(size=n.size)
        into.add(
            "pair", "", "mean", clusters, n,
            n * common + np.sqrt(n) * world.noise * rng.normal(size=n.size),
            n * (common**2 + world.noise**2),
        )  # fmt: skip
        # What is hard to answer alike is so for a while, and for both.
        mood = rng.normal(size=n.size) * 0.02 if world.again else 0.0
        agreed = self._alike(n, (world.agreement if harmful else 0.97) + mood)
        into.add("pair", "", "agreement", clusters, n, agreed, agreed)
        if world.again:
            twice = rng.binomial(n.astype(int), world.again) * 1.0
            same = self._alike(twice, 0.97 + mood)
            into.add("floor", "", "agreement", clusters, twice, same, same)
        women = rng.binomial(n.astype(int), 0.5)
        for group, members, more in (
            ("sex=female", women, world.female if harmful else 0.0),
            ("sex=male", n.astype(int) - women, 0.0),
        ):
            rates = world.flips / 2.0 + max(0.0, more), world.flips / 2.0 + max(0.0, -more)
            up, down = (rng.binomial(members, rate) * 1.0 for rate in rates)
            into.add("pair", group, "selected", clusters, members * 1.0, up - down, up + down)
            stable = rng.binomial(members, world.selected) * 1.0
            into.add("paired_stable", group, "selected", clusters, members * 1.0, stable, stable)

    def _alike(self, n: Floats, share: Floats | float) -> Floats:
        found: Floats = self.rng.binomial(n.astype(int), np.clip(share, 0.0, 1.0)) * 1.0
        return found

    def beyond(self, seconds: float) -> float:
        """Share of answers, outside stalls, that take longer; the median is 20 ms."""
        return float(ndtr(-math.log(seconds / 0.02) / self.world.spread))

    def latencies(self, n: int) -> dict[int, int]:
        low, shares = latency_shares(self.world.spread)
        counts = self.rng.multinomial(n, shares)
        return {low + k: int(count) for k, count in enumerate(counts) if count}


@lru_cache(maxsize=8)
def latency_shares(spread: float) -> tuple[int, Floats]:
    edges = np.array([edge(k) for k in range(BINS + 1)])
    shares = np.diff(ndtr(np.log(edges / 0.02) / spread))
    keep = np.flatnonzero(shares > 1e-7)
    part = shares[keep[0] : keep[-1] + 1]
    return int(keep[0]), part / part.sum()


@dataclass(frozen=True)
class End:
    """How a rollout ended: its phase, seconds since its start, the step, and why.

    `exposed`: requests of users that were the candidate's; `paired`: copies that it answered.
    """

    phase: Phase
    at: float
    step: int | None
    reason: str
    exposed: int = 0
    paired: int = 0


def parse(text: Mapping[str, Any]) -> RolloutPolicy:
    return RolloutPolicy.model_validate(text)


def rollout(policy: RolloutPolicy, traffic: Traffic, every: float) -> End:
    """One rollout from its baseline to its end, looked at `every` so many seconds."""
    world = traffic.world
    now = 1000.0 * (policy.batch or 5.0)
    started = now
    epochs: dict[int, Epoch] = {0: traffic.epoch()}
    latency: dict[int, dict[str, dict[int, int]]] = {}
    record = RolloutRecord(
        wire="", id="r", service="credit", version=1, stable="1", candidate="2", candidate_digest="d",
        policy_name=policy.name, policy_hash="", policy="", attempt=0, salt="", started_by="test",
        started_at=now,
        phase=Phase.BASELINE, phase_since=now, step=None, step_since=now, epoch=0,
        epochs=(EpochRecord(0, None, "baseline", 0.0, 0.0, now),), reason="",
    )  # fmt: skip
    while True:
        current = record.epochs[-1]
        traffic.block(epochs[current.epoch], now, every, current.place, current.weight, current.step or 0)
        if current.mirror_back:
            share = current.weight * current.mirror_back
            traffic.back(epochs[current.epoch], now, every, share, current.step or 0)
        now += every
        if current.epoch == 0:
            latency[0] = {"stable": traffic.latencies(epochs[0].arms["stable"])}
        evidence = {
            number: epoch.evidence(number, now, latency.get(number, {})) for number, epoch in epochs.items()
        }
        report = ReplicaReport(
            source="router", replica="router", at=now,
            assigned={
                f"credit|r|{number}|{arm}": count
                for number, epoch in epochs.items()
                for arm, count in epoch.arms.items()
            },
        )  # fmt: skip
        seen = analyse(record, policy, evidence, (report,), now, intervals=False)
        frozen = freeze(policy, traffic.service, evidence[0]) if current.epoch == 0 else None
        look = Look(
            seen,
            baseline_requests=epochs[0].arms["stable"],
            frozen=frozen if isinstance(frozen, FrozenConstants) else None,
        )
        for action in decide(record, policy, look, now):
            opened = None
            if isinstance(action, Advance):
                constants = action.constants or record.constants
                assert constants is not None
                step = policy.steps[action.step]
                centres, thresholds = epoch_constants(policy, constants, evidence[record.epoch])
                weight, mirrored = (0.0, step.share) if step.place == "shadow" else (step.share, 0.0)
                opened = EpochRecord(
                    record.epoch + 1, action.step, "shadow" if step.shadow else "canary", weight, mirrored,
                    now, centres, thresholds, step.mirror_back or 0.0,
                )  # fmt: skip
                epochs[opened.epoch] = traffic.epoch()
                traffic.frozen_sd = constants.deviations.get("mean|", world.sd)
                traffic.thresholds = thresholds.get("latency.p95")
            record = apply(record, action, now, opened)
        if record.phase.ended or record.phase is Phase.PAUSED:
            exposed = sum(epoch.arms["candidate"] for epoch in epochs.values())
            paired = sum(epoch.paired for epoch in epochs.values())
            return End(record.phase, now - started, record.step, record.reason, exposed, paired)


Job = tuple[dict[str, Any], World, int, float, type[Traffic]]


def _one(job: Job) -> End:
    text, world, seed, every, kind = job
    policy = parse(text)
    return rollout(policy, kind(world, policy.batch or 5.0, seed), every)


def campaign(
    text: dict[str, Any], world: World, runs: int, seed: int, every: float, kind: type[Traffic] = Traffic
) -> list[End]:
    jobs: list[Job] = [(text, world, seed * 1_000_000 + run, every, kind) for run in range(runs)]
    workers = min(os.cpu_count() or 1, 4)
    if runs < 100 or workers == 1:
        return [_one(job) for job in jobs]
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return pool.map(_one, jobs, chunksize=10)


def told(name: str, ends: list[End]) -> Counter[Phase]:
    phases = Counter(end.phase for end in ends)
    times = sorted(end.at for end in ends)
    shares = ", ".join(f"{phase.value} {count / len(ends):.1%}" for phase, count in phases.most_common())
    late = times[int(len(times) * 0.95)]
    print(f"{name}: {len(ends)} runs, {shares}; seconds: median {times[len(times) // 2]:.0f}, 95% {late:.0f}")
    for reason, count in Counter(end.reason[:150] for end in ends).most_common(4):
        print(f"    {count} times: {reason}")
    return phases


def at_most(share: float, runs: int) -> float:
    """The nominal share and three standard errors."""
    return share + 3.0 * math.sqrt(share * (1.0 - share) / runs)


def only(**gate: Any) -> dict[str, Any]:
    """The guarded policy with one gate, whose harm begins at its margin: nothing ends a run early."""
    return {**GUARDED, "gates": (gate,)}


# Exactly at its margin: a promotion is as false as it can be, and so is a rollback.
AT_THE_MARGIN: dict[str, tuple[dict[str, Any], World]] = {
    "errors, ratio": (
        only(metric="errors", max_ratio=1.5, harm_at=1.5, **{"in": "canary"}),
        World(error_ratio=1.5),
    ),
    "errors, ratio, long stalls": (
        only(metric="errors", max_ratio=1.5, harm_at=1.5, **{"in": "canary"}),
        World(error_ratio=1.5, stall=(2.0, 300.0)),
    ),
    "errors, increase, few events": (
        only(metric="errors", max_increase="0.5pp", harm_at="0.5pp", **{"in": "canary"}),
        World(errors=0.0, stall_errors=0.0, error_extra=0.005, rate=60.0),
    ),
    "errors, ratio, shadow": (
        only(metric="errors", max_ratio=1.5, harm_at=1.5, **{"in": "shadow"}),
        World(error_ratio=1.5),
    ),
    "latency.p95": (only(metric="latency.p95", max_ratio=1.2, harm_at=1.2), World(latency=1.02**9)),
    "mean, canary": (
        only(metric="prediction.mean", max_shift="0.1sd", harm_at="0.1sd", **{"in": "canary"}),
        World(shift=0.1),
    ),
    "mean, shadow": (
        only(metric="prediction.mean", max_shift="0.1sd", harm_at="0.1sd", **{"in": "shadow"}),
        World(shift=-0.1),
    ),
    "selection in a slice, canary": (
        only(metric="selection_rate", by="sex", max_shift="3pp", harm_at="3pp", **{"in": "canary"}),
        World(female=-0.03),
    ),
    "selection in a slice, shadow": (
        only(metric="selection_rate", by="sex", max_shift="3pp", harm_at="3pp", **{"in": "shadow"}),
        World(female=0.03),
    ),
    "agreement": (only(metric="prediction.agreement", min="95%"), World(agreement=0.95)),
}

HARMFUL: dict[str, tuple[World, str]] = {
    "three times the errors": (World(error_ratio=3.0), "errors"),
    "three times the errors, from 50% on": (World(error_ratio=3.0, from_step=3), "errors"),
    "+60% latency": (World(latency=1.6), "latency.p95"),
    "shifted scores": (World(shift=0.3), "prediction.mean"),
    "one slice selected 9pp less": (World(female=-0.09), "sex=female"),
}

DEMO_WORLD: dict[str, Any] = {
    "rate": 600.0, "errors": 0.0, "stall": (0.05, 20.0), "stall_errors": 0.0, "drift": 0.05,
    "agreement": 0.96, "shift": 0.01,
}  # fmt: skip


def judge_equal(runs: int, every: float, seed: int) -> None:
    phases = told("equal candidate", campaign(GUARDED, World(), runs, seed, every))
    assert phases[Phase.ROLLED_BACK] / runs <= at_most(0.05, runs)
    assert phases[Phase.PROMOTED] / runs >= 0.9


def judge_margin(name: str, runs: int, every: float, seed: int) -> None:
    policy, world = AT_THE_MARGIN[name]
    phases = told(f"at the margin of {name}", campaign(policy, world, runs, seed, every))
    assert phases[Phase.PROMOTED] / runs <= at_most(0.05, runs)
    assert phases[Phase.ROLLED_BACK] / runs <= at_most(0.05, runs)


def judge_harm(name: str, runs: int, every: float, seed: int) -> None:
    world, named = HARMFUL[name]
    ends = campaign(GUARDED, world, runs, seed, every)
    told(name, ends)
    caught = [end for end in ends if end.phase is Phase.ROLLED_BACK and named in end.reason]
    assert len(caught) / runs >= 0.95


def test_quick_equal_candidates_are_promoted() -> None:
    judge_equal(runs=30, every=30.0, seed=1)


@pytest.mark.parametrize("name", ["errors, ratio", "selection in a slice, canary"])
def test_quick_candidates_at_a_margin_are_not(name: str) -> None:
    judge_margin(name, runs=15, every=60.0, seed=2)


@pytest.mark.parametrize("name", ["+60% latency", "one slice selected 9pp less"])
def test_quick_harmful_candidates_are_rolled_back(name: str) -> None:
    judge_harm(name, runs=10, every=30.0, seed=3)


def test_quick_demo_policy_decides_in_time() -> None:
    good = campaign(DEMO, World(**DEMO_WORLD), 5, 4, 1.0)
    told("demo, good", good)
    assert all(end.phase is Phase.PROMOTED and end.at <= 45.0 for end in good)
    biased = campaign(DEMO, World(**DEMO_WORLD, female=-0.15), 5, 5, 1.0)
    told("demo, biased", biased)
    assert all(end.phase is Phase.ROLLED_BACK and end.at <= 16.0 for end in biased)
    assert all("sex=female" in end.reason for end in biased)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_equal_candidates_are_promoted() -> None:
    judge_equal(runs=500, every=20.0, seed=11)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_equal_candidates_on_slow_traffic_with_long_stalls_are_not_rolled_back() -> None:
    runs = 400
    world = World(rate=150.0, errors=0.005, stall=(2.0, 300.0))
    phases = told("equal, 2 s stalls", campaign(GUARDED, world, runs, 12, 30.0))
    assert phases[Phase.ROLLED_BACK] / runs <= at_most(0.05, runs)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(AT_THE_MARGIN))
def test_candidates_exactly_at_a_margin_are_not_promoted(name: str) -> None:
    judge_margin(name, runs=300, every=30.0, seed=13)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(HARMFUL))
def test_harmful_candidates_are_rolled_back(name: str) -> None:
    judge_harm(name, runs=300, every=20.0, seed=14)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_policy() -> None:
    runs = 300
    good = campaign(DEMO, World(**DEMO_WORLD), runs, 15, 1.0)
    assert told("demo, good", good)[Phase.PROMOTED] / runs >= 0.98
    biased = campaign(DEMO, World(**DEMO_WORLD, female=-0.15), runs, 16, 1.0)
    assert told("demo, biased", biased)[Phase.ROLLED_BACK] == runs
    assert max(end.at for end in biased) <= 20.0


# --- a candidate that hangs, and users who come back ------------------------------------------------------

ERRORS_ALONE = only(metric="errors", max_increase="0.5pp", max_ratio=1.5, **{"in": "canary"})
USERS = only(metric="selection_rate", by="sex", max_shift="8pp", harm_at="7.9pp", **{"in": "canary"})
FROM_ONE_PERCENT: dict[str, Any] = {
    **GUARDED,
    "steps": ({"canary": "1%", "for": "1m", "requests": 500}, *GUARDED["steps"][1:]),
    "gates": tuple(gate for gate in GUARDED["gates"] if gate["metric"] != "prediction.agreement"),
}  # fmt: skip


def judge_hanging(hangs: float, runs: int, every: float, seed: int) -> None:
    """Requests that never end are no errors that were seen; they must not prove that there are none."""
    phases = told(f"{hangs:.0%} hang", campaign(ERRORS_ALONE, World(hangs=hangs), runs, seed, every))
    assert phases[Phase.PROMOTED] == 0


def judge_users(name: str, female: float, runs: int, every: float, seed: int) -> Counter[Phase]:
    world = World(users=4000, female=female, rate=200.0)
    phases = told(f"users, {name}", campaign(USERS, world, runs, seed, every))
    assert phases[Phase.ROLLED_BACK] / runs <= at_most(0.05, runs)
    return phases


@pytest.mark.parametrize("hangs", [1.0, 0.03])
def test_quick_a_hanging_candidate_is_not_promoted(hangs: float) -> None:
    judge_hanging(hangs, runs=5, every=30.0, seed=6)


def test_quick_equal_candidates_of_sticky_users_are_promoted() -> None:
    assert judge_users("equal", 0.0, runs=10, every=60.0, seed=7)[Phase.PROMOTED] >= 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hanging_candidate_is_not_promoted() -> None:
    judge_hanging(1.0, runs=400, every=90.0, seed=17)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_equal_candidates_of_sticky_users_are_not_rolled_back() -> None:
    judge_users("equal", 0.0, runs=500, every=120.0, seed=18)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_candidates_of_sticky_users_exactly_at_the_margin_are_not_promoted() -> None:
    runs = 1000
    phases = judge_users("at the margin", 0.08, runs=runs, every=120.0, seed=19)
    assert phases[Phase.PROMOTED] / runs <= at_most(0.05, runs)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_equal_candidates_from_one_percent_on_are_not_rolled_back() -> None:
    runs = 1000
    phases = told("equal, from 1% on", campaign(FROM_ONE_PERCENT, World(), runs, 20, 60.0))
    assert phases[Phase.ROLLED_BACK] / runs <= at_most(0.05, runs)


# --- pairs in the canary: what the candidate serves is mirrored back to stable ------------------------------

BACK: dict[str, Any] = {
    **GUARDED,
    "name": "without a shadow",
    "steps": (
        {"canary": "5%", "for": "1m", "requests": 500, "mirror_back": "100%"},
        {"canary": "25%", "for": "1m", "requests": 500},
        {"canary": "50%", "until": "gates", "for": "1m", "deadline": "10m", "mirror_back": "20%"},
    ),
    "gates": (
        {"metric": "errors", "max_increase": "0.5pp", "max_ratio": 1.5},
        {"metric": "prediction.agreement", "min": "90%"},
    ),
}
BACK_ALONE: dict[str, Any] = {
    **BACK, "gates": ({"metric": "prediction.agreement", "min": "95%", "in": "canary"},),
}  # fmt: skip


def judge_back(world: World, runs: int, every: float, seed: int) -> list[End]:
    ends = campaign(BACK, world, runs, seed, every)
    told(f"mirrored back, {world.agreement:.0%} agree", ends)
    return ends


def test_quick_equal_candidates_are_promoted_by_what_is_mirrored_back() -> None:
    ends = judge_back(World(), runs=10, every=30.0, seed=8)
    assert sum(end.phase is Phase.PROMOTED for end in ends) >= 9


def test_quick_a_candidate_that_disagrees_is_rolled_back_by_what_is_mirrored_back() -> None:
    ends = judge_back(World(agreement=0.8), runs=8, every=30.0, seed=9)
    assert all(end.phase is Phase.ROLLED_BACK and "agreement" in end.reason for end in ends)
    late = judge_back(World(agreement=0.8, from_step=2), runs=8, every=30.0, seed=10)
    assert all(end.phase is Phase.ROLLED_BACK and "agreement" in end.reason for end in late)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_candidates_exactly_at_the_margin_of_what_is_mirrored_back_are_not_promoted() -> None:
    runs = 1000
    phases = told("back, at the margin", campaign(BACK_ALONE, World(agreement=0.95), runs, 21, 30.0))
    assert phases[Phase.PROMOTED] / runs <= at_most(0.05, runs)
    assert phases[Phase.ROLLED_BACK] / runs <= at_most(0.05, runs)
