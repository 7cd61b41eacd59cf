"""Rounds over many real rollouts: read together, judged one by one, decided in the round that sees it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from accede.controller.analyse import analyse
from accede.controller.evidence.decoding import decode_evidence
from accede.controller.evidence.merging import merged
from accede.controller.files import ServiceFiles
from accede.controller.loop.loop import Loop
from accede.controller.loop.records import Records
from accede.controller.loop.rounds import AT_ONCE
from accede.controller.rollout.looking import policy_of, statistics
from accede.controller.rollout.routing import idle_route, rollout_route
from accede.errors import StoreError
from accede.policies.canonical import canonical, policy_hash
from accede.policies.load import parse_policy, parse_service
from accede.policies.policy import RolloutPolicy
from accede.store.evidence import WIRE, ArmCounts, ArmKey, Evidence, Series, SeriesKey
from accede.store.measurement import CLUSTERS
from accede.store.protocol import Commit
from accede.store.rollouts import EpochRecord, FrozenConstants, Outcome, Phase, RolloutRecord
from accede.store.sqlite import SqliteStore

NOW = 1.8e9
COUNT = AT_ONCE + 3

POLICY = """
format: accede/v1
kind: RolloutPolicy
name: many
batch: 5s
steps: [{canary: 50%, until: gates, for: 24h}]
gates:
  - {metric: errors, max_increase: 1pp}
  - {metric: prediction.mean, max_shift: 0.2sd}
"""

SERVICE = """
format: accede/v1
kind: ModelService
name: NAME
match: {path: /v1/models/NAME}
protocol: json
versions: {"1": {url: "http://a:1"}, "2": {url: "http://b:1"}}
stable: "1"
prediction: {path: score, type: number, range: [0, 1]}
"""

CONSTANTS = FrozenConstants(
    limits=(0.0, 1.0), centres={"errors|": 0.01, "mean|": 0.4}, deviations={"errors|": 0.1, "mean|": 0.15},
    quantiles={}, requests=10_000,
)  # fmt: skip


class Fleet:
    """Rollouts in their only step, whose evidence a test publishes."""

    def __init__(self, folder: Path) -> None:
        declared = folder / "services"
        declared.mkdir()
        self.names = [f"s{k:02}" for k in range(COUNT)]
        for name in self.names:
            (declared / f"{name}.yaml").write_text(SERVICE.replace("NAME", name))
        self.routers = SqliteStore(folder / "accede.db")
        self.store = SqliteStore(folder / "accede.db", decode=decode_evidence)
        self.now = NOW
        self.policy: RolloutPolicy = parse_policy(POLICY, "many.yaml")
        self.loop = Loop(self.store, ServiceFiles(declared), statistics(), clock=lambda: self.now)
        for name in self.names:
            self._open(name)

    def _open(self, name: str) -> None:
        service = parse_service(SERVICE.replace("NAME", name), "service.yaml")
        route = idle_route(service, "1", None)
        self.routers.commit(Commit(name, None, 0, route, 0))
        epochs = (
            EpochRecord(0, None, "baseline", 0.0, 0.0, NOW - 4000),
            EpochRecord(1, 0, "canary", 0.5, 0.0, NOW - 3600),
        )
        record = RolloutRecord(
            wire="accede.rollout/1", id=f"{name}-r", service=name, version=1, stable="1", candidate="2",
            candidate_digest="", policy_name="many", policy_hash=policy_hash(self.policy),
            policy=canonical(self.policy), attempt=0, salt="", started_by="a", started_at=NOW - 4000,
            phase=Phase.CANARY, phase_since=NOW - 3600, step=0, step_since=NOW - 3600, epoch=1, epochs=epochs,
            reason="", constants=CONSTANTS,
        )  # fmt: skip
        running = rollout_route(service, record, policy_of(record.policy), route)
        self.routers.commit(Commit(name, record, 0, running, route.generation))
        self.routers.renew(name, NOW)

    def publish(self, name: str, per_cluster: float, *, failing: float = 0.01) -> None:
        """Requests of each arm in every cluster; `failing`: share of the candidate's."""
        series: dict[SeriesKey, Series] = {}
        arms: tuple[tuple[ArmKey, float], ...] = (("candidate", failing), ("stable", 0.01))
        for arm, share in arms:
            n = [per_cluster] * CLUSTERS
            y = [float(round(per_cluster * share) + (k % 2)) for k in range(CLUSTERS)]
            total = per_cluster * CLUSTERS
            series[SeriesKey(arm, "", "errors")] = Series(n, y, y)
            series[SeriesKey(arm, "", "missing")] = Series(n, [0.0] * CLUSTERS, [0.0] * CLUSTERS)
            series[SeriesKey(arm, "", "mean")] = Series([total], [0.4 * total], [0.1825 * total])
        self.routers.publish_evidence(
            Evidence(
                wire=WIRE, service=name, rollout=f"{name}-r", epoch=1, source="r1", published=self.now,
                watermark=self.now, series=series,
                arms={arm: ArmCounts(accounted=int(per_cluster * CLUSTERS)) for arm, _ in arms},
            )
        )  # fmt: skip

    def tick(self) -> None:
        self.now += 5.0  # far beyond what any pace of looks asks for, however busy the machine
        self.loop.tick()

    def record(self, name: str) -> RolloutRecord:
        found = self.store.rollout(name)
        assert found is not None
        return found

    def crossed(self, name: str) -> bool:
        """Whether the reader finds harm in what is published now."""
        record = self.record(name)
        evidence = merged(self.routers.evidence(name, record.id))
        found = analyse(record, self.policy, evidence, (), self.now)
        return any(verdict.outcome is Outcome.FAIL for verdict in found.verdicts)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    with closing(made.store), closing(made.routers):
        yield made


@pytest.mark.slow
def test_harm_is_decided_in_the_round_that_sees_it(fleet: Fleet) -> None:
    harmed = {fleet.names[1]: 3, fleet.names[AT_ONCE - 1]: 6, fleet.names[-1]: 9}
    decided: dict[str, int] = {}
    due: dict[str, int] = {}
    for tick in range(14):
        for name in fleet.names:
            if name not in decided:
                begun = tick - harmed.get(name, 99)
                fleet.publish(name, 40.0 + tick, failing=0.01 + 0.06 * max(0, begun + 1))
        for name in harmed:
            if name not in due and fleet.crossed(name):
                due[name] = tick
        fleet.tick()
        for name in harmed:
            if name not in decided and fleet.record(name).phase is Phase.ROLLED_BACK:
                decided[name] = tick
    assert decided == due
    assert set(decided) == set(harmed)
    assert not fleet.loop.problems
    for name in set(fleet.names) - set(harmed):
        assert fleet.record(name).phase is Phase.CANARY
        lease = fleet.store.routes().leases[name]
        assert lease == fleet.now


def test_what_is_broken_for_one_is_broken_for_one(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in fleet.names:
        fleet.publish(name, 50.0)
    fleet.tick()
    bad = fleet.names[5]
    with fleet.routers._writing("NORMAL") as connection:
        row = (bad, f"{bad}-r", 1, "r1", b"nonsense")
        connection.execute("INSERT OR REPLACE INTO evidence VALUES (?, ?, ?, ?, ?)", row)
    for _ in range(3):
        fleet.tick()
    assert set(fleet.loop.problems) == {bad}
    assert fleet.record(bad).hold is not None
    assert all(fleet.record(name).hold is None for name in fleet.names if name != bad)

    def failing(_looks: Any) -> None:
        raise RuntimeError

    reconciler = fleet.loop.reconciler
    monkeypatch.setattr(reconciler, "engine", replace(reconciler.engine, prepare=failing))
    fleet.publish(bad, 51.0)
    for _ in range(3):
        fleet.tick()
    assert not fleet.loop.problems  # each is looked at alone, and comes to the same
    assert all(fleet.record(name).hold is None for name in fleet.names)


def test_a_record_that_somebody_wrote_is_read_anew(fleet: Fleet) -> None:
    records, name = Records(fleet.store), fleet.names[0]
    records.look([name])
    first = records.newest(name)
    assert first is not None
    assert records.newest(name) is first
    full = fleet.record(name)
    changed = msgspec.structs.replace(full, version=2, reason="by hand")
    fleet.routers.commit(Commit(name, changed, 1, None, 2))
    assert records.newest(name) is first
    records.look([name, "nobody"])
    later = records.newest(name)
    assert later is not None
    assert (later.version, later.reason, later.analysis) == (2, "by hand", None)
    records.keep([])
    assert records.newest(name) is not later
    assert records.newest("nobody") is None


def test_what_the_store_cannot_read_or_renew_is_said_of_those_alone(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in fleet.names:
        fleet.publish(name, 50.0)
    fleet.tick()
    store, gone = fleet.store, StoreError("a page of it is damaged")
    one, two, three = fleet.names[2], fleet.names[3], fleet.names[-1]
    newest, evidence, renew = store.newest_of, store.evidence_of, store.renew_all
    monkeypatch.setattr(store, "newest_of", lambda names: {**newest(names), one: gone})
    monkeypatch.setattr(store, "evidence_of", lambda found: {**evidence(found), two: gone})
    monkeypatch.setattr(
        store, "renew_all", lambda names, now: renew(set(names) - {three}, now) or {three: "x"}
    )
    fleet.tick()
    assert set(fleet.loop.problems) == {one, two, three}
    leases = store.routes().leases
    assert {name for name in fleet.names if leases[name] < fleet.now} == {one, two, three}
    assert all(fleet.record(name).hold is None for name in fleet.names)  # what has no lease needs no hold

    monkeypatch.undo()
    fleet.tick()
    assert not fleet.loop.problems
    for method in ("newest_of", "evidence_of", "renew_all"):
        monkeypatch.setattr(store, method, _refusing)
        before = store.routes().leases
        fleet.tick()
        assert set(fleet.loop.problems) == set(fleet.names)
        assert store.routes().leases == before
        monkeypatch.undo()
        fleet.tick()
        assert not fleet.loop.problems


def _refusing(*_arguments: Any) -> Any:
    raise StoreError("the disk is full")
