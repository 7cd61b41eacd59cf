"""Many rollouts in a real store: what a controller finds of them, and what routers publish.

Files, routes, records and a router's report are those of a real fleet. Evidence comes as routers publish
it, and is never the same twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from accede.controller.files import ServiceFiles
from accede.controller.rollout.looking import policy_of
from accede.controller.rollout.routing import idle_route, rollout_route
from accede.policies.canonical import canonical, policy_hash
from accede.store.evidence import Evidence
from accede.store.measurement import CLUSTERS
from accede.store.protocol import Commit
from accede.store.rollouts import FrozenConstants, ReplicaReport, RolloutRecord
from accede.store.sqlite import SqliteStore

from .controller_shape import BATCH, START, Shape, constants, policy_text, service_text
from .controller_sums import Mirrored, Randomised, Sums

SEEDS: Final = 5


class Scene:
    """`rollouts` services under way in the store at `directory`."""

    def __init__(self, directory: Path, rollouts: int, shape: Shape) -> None:
        self.names = [f"service-{k:03}" for k in range(rollouts)]
        self.shape = shape
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
        self._sums: list[list[Sums]] = []
        for draw in self._draws:
            grown: list[Sums] = [
                Randomised(draw, shape, weight) if weight else Mirrored(draw, shape)
                for weight in shape.weights
            ]
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
            newest.append(sums[-1].evidence(len(sums)))
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
        past = self.shape.epochs
        for name, service, route in self._idle():
            policy = self.files.policy(service, None, None, "policy")
            record = RolloutRecord(
                wire="accede.rollout/1", id=f"{name}-r1", service=name, version=1, stable="1", candidate="2",
                candidate_digest="", policy_name="many", policy_hash=policy_hash(policy),
                policy=canonical(policy), attempt=0, salt=name, started_by="benchmark",
                started_at=past[0].opened_at, phase=self.shape.phase, phase_since=past[-1].opened_at,
                step=past[-1].step or 0, step_since=past[-1].opened_at, epoch=past[-1].epoch, epochs=past,
                reason="",
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
