"""Many rollouts in a real store: 200 cells each, in the last of three canary steps.

Files, routes, records and a router's report are what a controller finds. Evidence comes as routers publish
it, and is never the same twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from accede.controller.files import ServiceFiles
from accede.controller.rollout.looking import policy_of
from accede.controller.rollout.routing import idle_route, rollout_route
from accede.policies.canonical import canonical, policy_hash
from accede.store.evidence import WIRE, ArmCounts, ArmKey, Evidence, MirrorCounts, Series, SeriesKey
from accede.store.measurement import CLUSTERS
from accede.store.protocol import Commit
from accede.store.rollouts import EpochRecord, FrozenConstants, Phase, ReplicaReport, RolloutRecord
from accede.store.sqlite import SqliteStore

WEIGHTS: Final = (0.05, 0.25, 0.5)
EPOCHS: Final = len(WEIGHTS)
PER_SECOND: Final = 20.0  # requests of one service
BATCH: Final = 5.0  # s
SEEDS: Final = 5
START: Final = 1.8e9

_RATES: Final = {"errors": 0.01, "missing": 0.001}
_SPREAD: Final = 0.15


@dataclass(frozen=True)
class Shape:
    """What each service measures: four metrics and its `own`, by `slices` of ten groups each."""

    slices: int
    own: int

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(f"s{k}=g{g}" for k in range(self.slices) for g in range(10))

    @property
    def shares(self) -> tuple[str, ...]:
        return tuple(f"share{k}" for k in range(self.own // 2))

    @property
    def numbers(self) -> tuple[str, ...]:
        return tuple(f"number{k}" for k in range(self.own - self.own // 2))

    @property
    def events(self) -> dict[str, float]:
        """Series of events of single requests, with their rates."""
        return {"selected": 0.3, **{f"metrics.{name}": 0.1 for name in self.shares}}

    @property
    def amounts(self) -> tuple[str, ...]:
        """Series of values of single requests."""
        return ("mean", *(f"metrics.{name}" for name in self.numbers))


SHAPES: Final = {"20 metrics by 10 groups": Shape(1, 16), "4 metrics by 5 slices of 10 groups": Shape(5, 0)}


def policy_text(shape: Shape) -> str:
    """Each metric by each slice: 200 cells."""
    margins = {
        "errors": "max_increase: 0.5pp, max_ratio: 1.5", "prediction.missing": "max_increase: 0.5pp",
        "prediction.mean": "max_shift: 0.05sd", "selection_rate": "max_shift: 3pp",
        **{f"metrics.{name}": "max_shift: 3pp" for name in shape.shares},
        **{f"metrics.{name}": "max_shift: 0.05sd" for name in shape.numbers},
    }  # fmt: skip
    gates = [
        f"{{metric: {metric}, by: s{k}, {margin}}}"
        for metric, margin in margins.items()
        for k in range(shape.slices)
    ]
    steps = [f"{{canary: {weight:.0%}, for: 1h}}" for weight in WEIGHTS]
    steps[-1] = steps[-1].replace("for: 1h", "until: gates, for: 24h")
    return "\n".join(
        ("format: accede/v1", "kind: RolloutPolicy", "name: many", f"batch: {BATCH:g}s", "steps:",
         *(f"  - {step}" for step in steps), "gates:", *(f"  - {gate}" for gate in gates), "")
    )  # fmt: skip


def service_text(name: str, shape: Shape) -> str:
    """A service that declares all that the policy reads."""
    values = ", ".join(f"g{g}" for g in range(10))
    metrics = [f"  {one}: {{path: 'a.{one}', type: share}}" for one in shape.shares]
    metrics += [f"  {one}: {{path: 'a.{one}', type: number, range: [0, 1]}}" for one in shape.numbers]
    return "\n".join(
        ("format: accede/v1", "kind: ModelService", f"name: {name}", f"match: {{path: /v1/models/{name}}}",
         "protocol: json", "versions: {'1': {url: 'http://a:1'}, '2': {url: 'http://b:1'}}", "stable: '1'",
         "policy: many.yaml",
         "prediction: {path: score, type: number, range: [0, 1], selected: '>= 0.5'}", "slices:",
         *(f"  s{k}: {{path: 's{k}', values: [{values}]}}" for k in range(shape.slices)),
         *(("metrics:", *metrics) if metrics else ()), "")
    )  # fmt: skip


def constants(shape: Shape) -> FrozenConstants:
    """As a baseline of these services would freeze them."""
    rates = {**_RATES, **shape.events}
    centres = {**rates, **dict.fromkeys(shape.amounts, 0.4)}
    spread = {**{s: (p * (1 - p)) ** 0.5 for s, p in rates.items()}, **dict.fromkeys(shape.amounts, _SPREAD)}
    everywhere = ("", *shape.groups)
    return FrozenConstants(
        limits=(0.0, 1.0), quantiles={}, requests=100_000, edges=tuple(0.1 * k for k in range(1, 10)),
        centres={f"{s}|{g}": p for s, p in centres.items() for g in everywhere},
        deviations={f"{s}|{g}": p for s, p in spread.items() for g in everywhere},
        spans={f"metrics.{name}": 1.0 for name in shape.numbers},
        groups=dict.fromkeys(shape.groups, 0.1),
    )  # fmt: skip


def epochs() -> tuple[EpochRecord, ...]:
    """A baseline, two closed steps, and the one that goes on."""
    opened = [START - 3600.0 * (EPOCHS + 1 - k) for k in range(EPOCHS + 1)]
    return (
        EpochRecord(0, None, "baseline", 0.0, 0.0, opened[0]),
        *(EpochRecord(k + 1, k, "canary", weight, 0.0, opened[k + 1]) for k, weight in enumerate(WEIGHTS)),
    )


class _Sums:
    """One epoch's sums of one seed, which grow: as a router's observer keeps them."""

    def __init__(self, draw: np.random.Generator, shape: Shape, weight: float) -> None:
        self._draw = draw
        self._shape = shape
        self._weight = weight
        self.requests: dict[str, float] = {"candidate": 0.0, "stable": 0.0}
        self._by_time: dict[SeriesKey, list[np.ndarray[Any, Any]]] = {}
        self._whole: dict[SeriesKey, list[float]] = {}

    def add(self, clusters: np.ndarray[Any, Any], seconds: float) -> None:
        """Traffic of so many seconds in each of the time clusters named."""
        arms: tuple[tuple[ArmKey, float], ...] = (("candidate", self._weight), ("stable", 1 - self._weight))
        for arm, share in arms:
            for group in ("", *self._shape.groups):
                here = PER_SECOND * seconds * share * (0.1 if group else 1.0)
                n = self._draw.poisson(here, clusters.size)
                self._served(arm, group, clusters, n)
                if not group:
                    self.requests[arm] += float(n.sum())

    def _served(
        self, arm: ArmKey, group: str, clusters: np.ndarray[Any, Any], n: np.ndarray[Any, Any]
    ) -> None:
        draw, total = self._draw, int(n.sum())
        for series, rate in _RATES.items():
            key = SeriesKey(arm, group, series)
            have = self._by_time.setdefault(key, [np.zeros(CLUSTERS), np.zeros(CLUSTERS)])
            np.add.at(have[0], clusters, n)
            np.add.at(have[1], clusters, draw.binomial(n, rate))
        for series, rate in self._shape.events.items():
            y = float(draw.binomial(total, rate))
            self._more(SeriesKey(arm, group, series), total, y, y)
        for series in self._shape.amounts:
            y, more = (float(draw.normal()) * total**0.5 for _ in range(2))
            square = total * (0.16 + _SPREAD**2) + 0.01 * more  # as of real values, hardly ever whole
            self._more(SeriesKey(arm, group, series), total, 0.4 * total + _SPREAD * y, square)
        for name in self._shape.shares + self._shape.numbers:
            self._more(SeriesKey(arm, group, f"metrics.{name}.missing"), total, 0.0, 0.0)

    def _more(self, key: SeriesKey, n: float, y: float, square: float) -> None:
        have = self._whole.setdefault(key, [0.0, 0.0, 0.0])
        for k, more in enumerate((n, y, square)):
            have[k] += more

    def evidence(self, epoch: int) -> Evidence:
        """The sums so far, of no service yet."""
        series = {key: Series(n.tolist(), y.tolist(), y.tolist()) for key, (n, y) in self._by_time.items()}
        series |= {key: Series([n], [y], [square]) for key, (n, y, square) in self._whole.items()}
        each = float(self.requests["stable"] // CLUSTERS)
        nothing = [0.0] * CLUSTERS
        series[SeriesKey("stable", "", "extraction")] = Series([each] * CLUSTERS, nothing, nothing)
        latencies = {arm: _spread_out(int(total)) for arm, total in self.requests.items()}
        return Evidence(
            wire=WIRE, service="", rollout="", epoch=epoch, source="router-1", published=START,
            watermark=START, mirror=MirrorCounts(), series=series, latency=latencies,
            arms={arm: ArmCounts(accounted=int(total)) for arm, total in self.requests.items()},
        )  # fmt: skip


def _spread_out(requests: int) -> dict[int, int]:
    """A latency for each request, over a hundred bins."""
    each, more = divmod(requests, 100)
    return {150 + k: each + (k < more) for k in range(100)}


class Scene:
    """`rollouts` services under way in the store at `directory`."""

    def __init__(self, directory: Path, rollouts: int, shape: Shape) -> None:
        self.names = [f"service-{k:03}" for k in range(rollouts)]
        declared = directory / "services"
        declared.mkdir()
        (declared / "many.yaml").write_text(policy_text(shape))
        for name in self.names:
            (declared / f"{name}.yaml").write_text(service_text(name, shape))
        self.files = ServiceFiles(declared)
        if self.files.problems:
            raise RuntimeError(str(self.files.problems[0]))
        self.routers = SqliteStore(directory / "accede.db")
        self._open(constants(shape))
        self._draws = [np.random.default_rng(seed) for seed in range(SEEDS)]
        every = np.arange(CLUSTERS)
        self._sums: list[list[_Sums]] = []
        for draw in self._draws:
            grown = [_Sums(draw, shape, weight) for weight in WEIGHTS]
            for one in grown:
                one.add(every, 3600.0 / CLUSTERS)
            self._sums.append(grown)
        self._past = [[one.evidence(k + 1) for k, one in enumerate(sums)] for sums in self._sums]
        for number, name in enumerate(self.names):
            for past in self._past[number % SEEDS]:
                self._publish(name, past, START)
        self._report(START)

    def tick(self, now: float, share: float) -> None:
        """Traffic for `share` of the services up to `now`, published as a router does."""
        cluster = np.array([int(now // BATCH) % CLUSTERS])
        newest: list[Evidence] = []
        for sums in self._sums:
            sums[-1].add(cluster, 1.0)
            newest.append(sums[-1].evidence(EPOCHS))
        changed = round(share * len(self.names))
        first = int(now) * changed
        for k in range(first, first + changed):
            number = k % len(self.names)
            self._publish(self.names[number], newest[number % SEEDS], now)
        self._report(now)

    def _publish(self, name: str, evidence: Evidence, now: float) -> None:
        self.routers.publish_evidence(
            msgspec.structs.replace(
                evidence, service=name, rollout=f"{name}-r1", published=now, watermark=now
            )
        )

    def _report(self, now: float) -> None:
        assigned: dict[str, int] = {}
        for number, name in enumerate(self.names):
            for k, sums in enumerate(self._sums[number % SEEDS]):
                assigned |= {f"{name}|{name}-r1|{k + 1}|{arm}": int(n) for arm, n in sums.requests.items()}
        self.routers.publish_report(
            ReplicaReport(
                source="router-1", replica="router", at=now, assigned=assigned, finished=assigned,
                generations=dict.fromkeys(self.names, 2), workers=2,
            )
        )  # fmt: skip

    def _open(self, fixed: FrozenConstants) -> None:
        past = epochs()
        for name, service, route in self._idle():
            policy = self.files.policy(service, None, None, "policy")
            record = RolloutRecord(
                wire="accede.rollout/1", id=f"{name}-r1", service=name, version=1, stable="1", candidate="2",
                candidate_digest="", policy_name="many", policy_hash=policy_hash(policy),
                policy=canonical(policy), attempt=0, salt=name, started_by="benchmark",
                started_at=past[0].opened_at, phase=Phase.CANARY, phase_since=past[-1].opened_at,
                step=EPOCHS - 1, step_since=past[-1].opened_at, epoch=EPOCHS, epochs=past, reason="",
                constants=fixed,
            )  # fmt: skip
            running = rollout_route(service, record, policy_of(record.policy), route)
            self.routers.commit(Commit(name, record, 0, running, route.generation))
            self.routers.renew(name, START)

    def _idle(self) -> Iterator[tuple[str, Any, Any]]:
        for name in self.names:
            service = self.files.known[name]
            route = idle_route(service, service.stable, None)
            self.routers.commit(Commit(name, None, 0, route, 0))
            yield name, service, route
