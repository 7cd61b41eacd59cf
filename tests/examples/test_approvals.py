"""The example that waits for people: an owner before users see it, two of model risk at the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from accede.controller.rollout.approvals import Person, asked
from accede.controller.rollout.approving import approve
from accede.controller.rollout.binding import subject_of
from accede.controller.rollout.machine import decide
from accede.controller.rollout.operations import start
from accede.controller.rollout.performing import Seen, change
from accede.controller.rollout.routing import idle_route
from accede.controller.rollout.signals import Look
from accede.errors import Forbidden
from accede.policies.load import load_directory
from accede.policies.metrics import deciding_places
from accede.policies.policy import RolloutPolicy
from accede.store.evidence import Evidence
from accede.store.rollouts import Analysis, FrozenConstants, Outcome, Phase, Verdict

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "approvals"
OWNER = Person("ben", ("model-risk", "lending-owners"))
CONSTANTS = FrozenConstants(
    limits=(0.0, 1.0), centres={"mean|": 0.4}, deviations={"mean|": 0.2}, quantiles={"latency.p99": 0.05},
    requests=1000,
)  # fmt: skip


def freeze_epoch(
    policy: RolloutPolicy, constants: FrozenConstants, previous: Evidence | None
) -> tuple[dict[str, float], dict[str, tuple[int, int, int]]]:
    return {}, {"latency.p99": (1, 2, 3)}


def test_it_is_played_to_its_promotion() -> None:
    loaded = load_directory(FOLDER)
    (service,), (policy,) = loaded.services.values(), loaded.policies.values()
    verdicts = tuple(
        Verdict(gate.metric, index, place, Outcome.PASS, "is pass", proven_last_weight=True)
        for index, gate in enumerate(policy.gates)
        for place in deciding_places(gate, policy.steps)
    )
    now = 1000.0
    begun = start(service, policy, "8", idle_route(service, "7", None), (), "olga", now)
    record, route = begun.record, begun.route
    assert record is not None
    assert route is not None
    approvers = {
        1: [OWNER],
        4: [Person("carl", ("model-risk",)), OWNER],
    }
    stood: list[tuple[str, int | None]] = []
    for _ in range(100):
        now += 3600.0
        analysis = Analysis(now, verdicts, (), candidate_requests=9999, stable_requests=9999)
        seen = Seen(record, route, policy, service, {}, (), analysis)
        if asked(record, policy) is not None:
            for somebody in (Person("dora"), Person("olga", ("model-risk", "lending-owners"))):
                with pytest.raises(Forbidden):
                    approve(seen, somebody, "", now, freeze_epoch)
            commit = approve(seen, approvers[record.step or 0].pop(), "RISK-7", now, freeze_epoch)
            assert commit is not None
            record = commit.record or record
        look = Look(analysis, baseline_requests=9999, frozen=CONSTANTS, subject=subject_of(service, record))
        for action in decide(record, policy, look, now):
            commit = change(
                replace(seen, record=record, route=route), action, now, "controller", freeze_epoch
            )
            record, route = commit.record or record, commit.route or route
        stood.append((record.phase.value, record.step))
        if record.phase.ended:
            break
    assert record.phase is Phase.PROMOTED
    assert list(dict.fromkeys(stood)) == [
        ("shadow", 0), ("shadow", 1), ("canary", 2), ("canary", 3), ("canary", 4), ("promoted", 4),
    ]  # fmt: skip
    assert [(one.by, one.step, one.group) for one in record.approvals] == [
        ("ben", 1, "lending-owners"), ("ben", 4, "model-risk"), ("carl", 4, "model-risk"),
    ]  # fmt: skip
