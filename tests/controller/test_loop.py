"""The loop over a real store: what one round writes, what two controllers and faults do to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from structlog.testing import capture_logs

from accede.controller.files import ServiceFiles
from accede.controller.loop.loop import Loop
from accede.controller.rollout.acting import Acts
from accede.controller.rollout.looking import Engine
from accede.controller.rollout.replay import replay, same
from accede.errors import Conflict, NotFound, StoreError
from accede.policies.policy import RolloutPolicy
from accede.policies.service import ModelService
from accede.store.evidence import WIRE, ArmCounts, Evidence
from accede.store.protocol import Store
from accede.store.rollouts import (
    Analysis,
    FrozenConstants,
    Outcome,
    Phase,
    ReplicaReport,
    RolloutRecord,
    Validity,
)
from accede.store.routes import ServiceRoute
from accede.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from .conftest import Story


@dataclass
class Script:
    """An engine whose verdicts a test sets, and a clock that it moves."""

    story: Story
    constants: FrozenConstants
    now: float = 1000.0
    analysis: Analysis | None = None
    fails: dict[str, Exception] = field(default_factory=dict)
    not_ready: str = ""
    looks: int = 0

    def analyse(
        self,
        record: RolloutRecord,
        policy: RolloutPolicy,
        evidence: Mapping[int, Evidence],
        reports: tuple[ReplicaReport, ...],
        now: float,
    ) -> Analysis:
        self.looks += 1
        if record.service in self.fails:
            raise self.fails[record.service]
        return msgspec.structs.replace(self.analysis or self.story.analysis(), at=now)

    def freeze(
        self, policy: RolloutPolicy, service: ModelService, baseline: Evidence
    ) -> FrozenConstants | NotYet:
        return NotYet(self.not_ready) if self.not_ready else self.constants

    def freeze_epoch(
        self, policy: RolloutPolicy, constants: FrozenConstants, previous: Evidence | None
    ) -> tuple[dict[str, float], dict[str, tuple[int, int, int]]]:
        return {"mean|": 0.4}, {"latency.p95": (400, 410, 420)}

    @property
    def engine(self) -> Engine:
        return Engine(self.analyse, self.freeze, self.freeze_epoch)


@dataclass(frozen=True)
class NotYet:
    reason: str


@dataclass
class House:
    """One controller's parts over a store on disk."""

    script: Script
    store: Store
    files: ServiceFiles
    loop: Loop
    acts: Acts

    def rounds(self, count: int, every: float = 0.25) -> None:
        for _ in range(count):
            self.script.now += every
            self.loop.tick()

    @property
    def record(self) -> RolloutRecord:
        record = self.store.rollout("fraud")
        assert record is not None
        return record

    @property
    def route(self) -> ServiceRoute:
        return next(route for route in self.store.routes().routes if route.service == "fraud")

    def traffic(self, epoch: int = 0, requests: int = 500) -> None:
        arms = {"stable": ArmCounts(accounted=requests)}
        now = self.script.now
        evidence = Evidence(WIRE, "fraud", self.record.id, epoch, "r1:a", now, now, arms=arms)
        self.store.publish_evidence(evidence)

    def reach(self, phase: Phase, rounds: int = 400) -> RolloutRecord:
        """Start, send traffic, and run until the phase is reached."""
        self.rounds(1)
        self.acts.start("fraud", "43", "anna", policy="careful")
        self.traffic()
        for _ in range(rounds):
            self.rounds(1)
            if self.record.phase is phase:
                return self.record
        raise AssertionError(f"never {phase}, but {self.record.phase}: {self.record.reason}")


@pytest.fixture
def directory(tmp_path: Path, declared_files: dict[str, str]) -> Path:
    services = tmp_path / "services"
    services.mkdir()
    for name, text in declared_files.items():
        (services / name).write_text(text)
    return services


@pytest.fixture
def house(tmp_path: Path, directory: Path, story: Story, constants: FrozenConstants) -> Iterator[House]:
    script = Script(story, constants)
    store = SqliteStore(tmp_path / "accede.db")
    files = ServiceFiles(directory)
    clock = lambda: script.now  # noqa: E731
    yield House(
        script,
        store,
        files,
        Loop(store, files, script.engine, clock=clock),
        Acts(store, files, script.engine, clock=clock),
    )
    store.close()


class TestAService:
    def test_one_the_store_does_not_know_gets_its_files_stable(self, house: House) -> None:
        house.rounds(1)
        assert house.route.stable.version == "42"
        assert house.route.generation == 1

    def test_once_known_the_store_is_the_truth(self, house: House, directory: Path) -> None:
        house.rounds(1)
        file = directory / "fraud.yaml"
        file.write_text(file.read_text().replace('stable: "42"', 'stable: "44"'))
        house.rounds(1, every=2.0)
        assert house.route.stable.version == "42"

    def test_a_changed_file_is_put_in_force(self, house: House, directory: Path) -> None:
        house.rounds(1)
        file = directory / "fraud.yaml"
        file.write_text(file.read_text().replace("8501", "8600"))
        house.rounds(1, every=2.0)
        assert house.route.stable.addresses == ("http://127.0.0.1:8600",)
        generation = house.route.generation
        house.rounds(8)
        assert house.route.generation == generation, "a file in force is not put in force again"

    def test_a_broken_file_changes_nothing_that_runs(self, house: House, directory: Path) -> None:
        house.reach(Phase.CANARY)
        (directory / "fraud.yaml").write_text("kind: [")
        house.rounds(400)
        assert house.record.phase is Phase.PROMOTED
        with pytest.raises(Conflict, match="gone or cannot be read"):
            house.acts.start("fraud", "44", "anna", policy="careful")

    def test_a_broken_file_affects_its_own_service_only(self, house: House, directory: Path) -> None:
        text = (directory / "fraud.yaml").read_text()
        (directory / "bad.yaml").write_text(text.replace("name: fraud", "name: 17"))
        other = text.replace("name: fraud", "name: other").replace("/v1/models/fraud", "/v1/models/other")
        (directory / "other.yaml").write_text(other)
        house.rounds(2, every=2.0)
        assert {route.service for route in house.store.routes().routes} == {"fraud", "other"}


class TestARollout:
    def test_it_walks_from_its_start_to_promotion(self, house: House) -> None:
        house.reach(Phase.PROMOTED)
        decisions = house.store.decisions(house.record.id)
        assert [decision.act for decision in decisions] == ["advance", "advance", "advance", "promote"]
        assert [(arm.role, arm.version, arm.weight) for arm in house.route.arms] == [("stable", "43", 10_000)]
        acts = [entry.act for entry in house.store.audit("fraud")]
        assert acts == ["introduce", "start", "advance", "advance", "advance", "promote"]

    def test_each_epoch_carries_what_was_frozen_for_it(self, house: House) -> None:
        record = house.reach(Phase.SHADOW)
        assert record.constants == house.script.constants
        assert record.epochs[-1].thresholds == {"latency.p95": (400, 410, 420)}
        assert house.route.plan is not None
        assert house.route.plan.epoch == 1
        assert [threshold.over for threshold in house.route.plan.thresholds] == [400]
        assert house.route.mirrors[0].rate == 500_000

    def test_the_baseline_waits_while_nothing_can_be_frozen(self, house: House) -> None:
        house.script.not_ready = "too few answers"
        house.rounds(1)
        house.acts.start("fraud", "43", "anna", policy="careful")
        house.traffic()
        house.rounds(100)
        assert house.record.phase is Phase.BASELINE
        assert "too few answers" in house.record.reason

    def test_without_traffic_it_stays_inconclusive(self, house: House) -> None:
        house.rounds(1)
        house.acts.start("fraud", "43", "anna", policy="careful")
        house.rounds(400)
        assert house.record.phase is Phase.BASELINE
        assert "100 more requests" in house.record.reason

    def test_harm_takes_the_weight_back_in_the_same_write(self, house: House) -> None:
        house.reach(Phase.CANARY)
        house.script.analysis = house.script.story.analysis(odd={(0, "canary"): Outcome.FAIL})
        house.rounds(2)
        assert house.record.phase is Phase.ROLLED_BACK
        assert "errors" in house.record.reason
        assert [(arm.version, arm.weight) for arm in house.route.arms] == [("42", 10_000)]
        assert house.route.plan is None

    def test_every_decision_replays_to_the_same_analysis(self, house: House) -> None:
        house.reach(Phase.PROMOTED)
        decisions = house.store.decisions(house.record.id)
        assert decisions
        for decision in decisions:
            assert same(decision, house.script.analyse)
        house.script.analysis = house.script.story.analysis(requests=1)
        assert not same(decisions[-1], house.script.analyse)

    def test_the_replay_sees_the_stored_evidence_and_reports(self, house: House) -> None:
        house.store.publish_report(ReplicaReport(source="r1:a", replica="r1", at=1000.0))
        house.reach(Phase.SHADOW)
        (decision,) = house.store.decisions(house.record.id)
        seen: dict[str, Any] = {}

        def spy(record: RolloutRecord, policy: Any, evidence: Any, reports: Any, now: float) -> Analysis:
            seen.update(record=record, policy=policy, evidence=evidence, reports=reports, now=now)
            return house.script.story.analysis()

        replay(decision, spy)
        assert seen["record"].phase is Phase.BASELINE
        assert seen["policy"] == house.script.story.policy
        assert seen["evidence"][0].arms["stable"].accounted == 500
        assert [report.replica for report in seen["reports"]] == ["r1"]
        assert seen["now"] == decision.at

    def test_a_plain_look_is_stored_once_a_second_at_most(self, house: House) -> None:
        house.script.analysis = house.script.story.analysis(Outcome.INCONCLUSIVE)
        house.reach(Phase.SHADOW)
        version, looks = house.record.version, house.script.looks
        house.rounds(40)
        assert house.script.looks - looks > 20
        assert 5 <= house.record.version - version <= 11
        assert house.record.analysis is not None
        assert house.script.now - house.record.analysis.at <= 1.0

    def test_a_pause_for_a_reason_leaves_the_route_and_resuming_renews_it(self, house: House) -> None:
        house.reach(Phase.CANARY)
        generation = house.route.generation
        house.acts.pause("fraud", "anna", "lunch")
        assert house.route.generation == generation
        house.rounds(40)
        assert house.record.phase is Phase.PAUSED
        assert house.acts.resume("fraud", "anna").phase is Phase.CANARY
        assert house.route.generation == generation + 1

    def test_a_tripped_breaker_rolls_back_at_the_next_round(self, house: House) -> None:
        house.reach(Phase.CANARY)
        generation = house.route.generation
        report = ReplicaReport(
            source="r1:a", replica="r1", at=house.script.now, tripped={"fraud": generation}
        )
        house.store.publish_report(report)
        house.rounds(1)
        assert house.record.phase is Phase.ROLLED_BACK
        assert "breaker of router r1" in house.record.reason

    def test_a_direct_abort_is_reconciled(self, house: House) -> None:
        house.reach(Phase.CANARY)
        report = ReplicaReport(
            source="r1:a", replica="r1", at=house.script.now, direct={"fraud": "INC-81"},
            generations={"fraud": house.route.generation},
        )  # fmt: skip
        house.store.publish_report(report)
        house.rounds(1)
        assert house.record.phase is Phase.ABORTED
        assert "INC-81" in house.record.reason


class TestActs:
    def test_an_abort_is_in_force_when_it_returns(self, house: House) -> None:
        house.reach(Phase.CANARY)
        record = house.acts.abort("fraud", "anna", "INC-81")
        assert record.phase is Phase.ABORTED
        assert [(arm.version, arm.weight) for arm in house.route.arms] == [("42", 10_000)]
        assert house.acts.abort("fraud", "anna", "again").version == record.version

    def test_nothing_is_half_started(self, house: House) -> None:
        house.rounds(1)
        with pytest.raises(NotFound, match="no version '99'"):
            house.acts.start("fraud", "99", "anna", policy="careful")
        assert house.store.rollout("fraud") is None
        assert house.route.plan is None

    def test_a_start_renews_the_lease_first(self, house: House) -> None:
        house.rounds(1)
        house.script.now += 5000.0
        house.acts.start("fraud", "43", "anna", policy="careful")
        assert house.store.routes().leases["fraud"] == house.script.now

    def test_an_unknown_service_is_named_with_those_known(self, house: House) -> None:
        house.rounds(1)
        with pytest.raises(NotFound, match="there are: fraud"):
            house.acts.abort("frodo", "anna")
        with pytest.raises(NotFound, match="has no rollout"):
            house.acts.abort("fraud", "anna")


class TestLeases:
    def test_they_are_renewed_while_rounds_succeed(self, house: House) -> None:
        house.rounds(40)
        assert house.script.now - house.store.routes().leases["fraud"] <= 1.25

    def test_a_service_that_cannot_be_looked_after_loses_its_lease_and_is_held(self, house: House) -> None:
        house.reach(Phase.CANARY)
        house.script.fails["fraud"] = ZeroDivisionError("a secret value")
        lease = house.store.routes().leases["fraud"]
        house.rounds(20)
        assert house.store.routes().leases["fraud"] <= lease + 1.0
        assert house.record.hold is not None
        assert house.record.hold.kind == "error"
        assert "ZeroDivisionError" in house.record.hold.reason
        assert "secret" not in house.record.hold.reason
        house.rounds(240)
        assert house.record.phase is Phase.ROLLED_BACK

    def test_its_clock_is_not_started_anew_by_every_failing_round(self, house: House) -> None:
        house.reach(Phase.CANARY)
        house.script.fails["fraud"] = ZeroDivisionError()
        house.rounds(2)
        first = house.record.hold
        house.rounds(20)
        assert house.record.hold == first

    def test_when_it_works_again_it_goes_on(self, house: House) -> None:
        house.reach(Phase.CANARY)
        house.script.fails["fraud"] = ZeroDivisionError()
        house.rounds(4)
        house.script.fails.clear()
        house.rounds(400)
        assert house.record.phase is Phase.PROMOTED

    def test_one_services_fault_is_not_anothers(self, house: House, directory: Path) -> None:
        text = (directory / "fraud.yaml").read_text()
        other = text.replace("name: fraud", "name: other").replace("/v1/models/fraud", "/v1/models/other")
        (directory / "other.yaml").write_text(other)
        house.rounds(2, every=2.0)
        house.acts.start("other", "43", "anna", policy="careful")
        house.script.fails["other"] = RuntimeError()
        house.reach(Phase.PROMOTED)
        record = house.store.rollout("other")
        assert record is not None
        assert record.phase is Phase.ROLLED_BACK


class TestTwoControllers:
    def test_they_decide_each_step_once(self, house: House) -> None:
        clock = lambda: house.script.now  # noqa: E731
        rival = Loop(house.store, house.files, house.script.engine, clock=clock)
        house.rounds(1)
        house.acts.start("fraud", "43", "anna", policy="careful")
        house.traffic()
        for _ in range(400):
            house.rounds(1)
            rival.tick()
        decisions = house.store.decisions(house.record.id)
        assert [decision.act for decision in decisions] == ["advance", "advance", "advance", "promote"]

    def test_a_lost_race_is_read_again(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        house.reach(Phase.CANARY)
        read = house.store.rollout
        stale = read("fraud")
        house.rounds(8)  # a newer version is stored
        calls: list[int] = []

        def once_stale(service: str) -> RolloutRecord | None:
            calls.append(1)
            return stale if len(calls) == 1 else read(service)

        monkeypatch.setattr(house.store, "rollout", once_stale)
        assert house.acts.abort("fraud", "anna").phase is Phase.ABORTED
        assert len(calls) == 2


def test_a_new_controller_goes_on_where_the_last_one_stood(
    house: House, tmp_path: Path, directory: Path
) -> None:
    """Every round another controller with nothing but the store: no step is repeated or skipped."""
    house.rounds(1)
    house.acts.start("fraud", "43", "anna", policy="careful")
    house.traffic()
    for _ in range(400):
        house.script.now += 0.25
        Loop(house.store, house.files, house.script.engine, clock=lambda: house.script.now).tick()
        Loop(house.store, house.files, house.script.engine, clock=lambda: house.script.now).tick()
    assert house.record.phase is Phase.PROMOTED
    assert [epoch.epoch for epoch in house.record.epochs] == [0, 1, 2, 3]
    assert len(house.store.decisions(house.record.id)) == 4


def test_a_controller_started_with_a_broken_file_holds_the_clocks(
    house: House, directory: Path, constants: FrozenConstants
) -> None:
    """Without its file a rollout cannot open a step; it waits in an error hold, whose clock ends it."""
    house.reach(Phase.SHADOW)
    (directory / "fraud.yaml").write_text("kind: [")
    files = ServiceFiles(directory)
    loop = Loop(house.store, files, house.script.engine, clock=lambda: house.script.now)
    for _ in range(400):
        house.script.now += 0.5
        loop.tick()
    assert house.record.phase is Phase.ROLLED_BACK
    assert "no readable file" in house.record.reason


def test_lost_evidence_holds_and_is_told(house: House) -> None:
    house.reach(Phase.CANARY)
    lost = Validity(check="loss", outcome=Outcome.ERROR, reason="2% lost")
    house.script.analysis = house.script.story.analysis(validity=(lost,))
    house.rounds(2)
    assert house.record.hold is not None
    assert "2% lost" in house.record.reason
    house.script.analysis = None
    house.rounds(400)
    assert house.record.phase is Phase.PROMOTED
    acts = [entry.act for entry in house.store.audit("fraud")]
    assert acts.count("hold") == acts.count("release") == 1


def test_a_store_that_is_gone_ends_the_round_not_the_loop(house: House) -> None:
    house.rounds(1)
    beat = house.loop.beat
    house.store.close()
    with pytest.raises(StoreError):
        house.loop.tick()
    assert house.loop.beat == beat


def test_a_store_that_forgets_nothing_is_told_and_ends_no_round(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def refused(now: float, limit: int) -> int:
        tried.append(now)
        raise StoreError("the disk is full")

    monkeypatch.setattr(house.store.labels, "expire", refused)
    house.rounds(1)
    beat = house.loop.beat
    with capture_logs() as logs:
        house.rounds(100)
    assert house.loop.beat is not None
    assert beat is not None
    assert house.loop.beat > beat
    assert 2 <= len(tried) <= 4  # every ten seconds, not at every round
    told = [one for one in logs if one.get("what") == "old predictions and labels"]
    assert [one["reason"] for one in told] == ["the disk is full"] * (len(tried) - 1)


def test_a_look_that_is_not_stored_is_a_glance_until_something_is_due(house: House) -> None:
    """Between two stored looks nothing is told; what a decision stores is always told in full."""
    glanced: list[float] = []

    def glance(*seen: Any) -> Analysis:
        glanced.append(seen[-1])
        found = house.script.analysis or house.script.story.analysis()
        silent = tuple(msgspec.structs.replace(verdict, reason="") for verdict in found.verdicts)
        return msgspec.structs.replace(found, at=seen[-1], verdicts=silent)

    house.loop.reconciler.engine = replace(house.script.engine, glance=glance)
    house.acts.start("fraud", "43", "anna")
    house.traffic()
    house.rounds(2)
    looked = house.script.looks
    house.rounds(8)
    assert len(glanced) >= 4
    assert house.script.looks - looked <= 4  # about every second in full
    house.script.analysis = house.script.story.analysis(odd={(0, "canary"): Outcome.FAIL})
    house.script.now += 30.0
    house.rounds(200)
    assert house.record.phase.ended or house.record.analysis is not None
    assert house.record.analysis is not None
    assert all(verdict.reason for verdict in house.record.analysis.verdicts)
