"""A controller process that judges by script: python scripted.py DATA SERVICES PORT [KILL].

Every gate passes, so a rollout takes one step per look. KILL `before` or `after`: the process kills
itself right before or after the first commit that carries a decision.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from accede.controller.process import ControllerConfig, run_controller
from accede.controller.rollout.looking import Engine
from accede.policies.metrics import deciding_places
from accede.policies.policy import RolloutPolicy
from accede.policies.service import ModelService
from accede.store.evidence import Evidence
from accede.store.open import open_store
from accede.store.protocol import Commit, Store
from accede.store.rollouts import Analysis, FrozenConstants, Outcome, ReplicaReport, RolloutRecord, Verdict


def analyse(
    record: RolloutRecord,
    policy: RolloutPolicy,
    evidence: Mapping[int, Evidence],
    reports: tuple[ReplicaReport, ...],
    now: float,
) -> Analysis:
    verdicts = tuple(
        Verdict(gate.metric, index, place, Outcome.PASS, "is pass", proven_last_weight=True)
        for index, gate in enumerate(policy.gates)
        for place in deciding_places(gate, policy.steps)
    )
    return Analysis(now, verdicts, (), candidate_requests=1000, stable_requests=1000)


def freeze(policy: RolloutPolicy, service: ModelService, baseline: Evidence) -> FrozenConstants:
    return FrozenConstants(
        limits=(0.0, 1.0), centres={}, deviations={}, quantiles={}, requests=baseline.arms["stable"].accounted
    )


def freeze_epoch(
    policy: RolloutPolicy, constants: FrozenConstants, previous: Evidence | None
) -> tuple[dict[str, float], dict[str, tuple[int, int, int]]]:
    return {}, {}


class Dying:
    """A store whose process does not survive its first decision."""

    def __init__(self, store: Store, when: str) -> None:
        self._store = store
        self._when = when

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, change: Commit) -> None:
        fatal = change.decision is not None
        if fatal and self._when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        self._store.commit(change)
        if fatal and self._when == "after":
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    data, services, port, *kill = sys.argv[1:]

    def opening(address: str) -> Store:
        store = open_store(address)
        return cast("Store", Dying(store, kill[0])) if kill else store

    config = ControllerConfig(data=Path(data), services=Path(services), port=int(port))
    return run_controller(config, lambda: Engine(analyse, freeze, freeze_epoch), opening)


if __name__ == "__main__":
    sys.exit(main())
