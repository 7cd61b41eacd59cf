"""A plan of a service: its file, its policy and what the store has measured of it. Nothing is written."""

from __future__ import annotations

from ...policies.load import require_pair
from ...policies.policy import RolloutPolicy
from ...policies.service import ModelService
from ...store.protocol import Store
from ..api.messages import PlanRequest
from ..evidence.merging import merged
from ..files import ServiceFiles
from .advice import advise
from .assumed import Given
from .planned import Plan
from .sources import Measured, baseline_of, traffic_of
from .timeline import plan


def plan_service(store: Store, files: ServiceFiles, name: str, request: PlanRequest) -> Plan:
    """Raises NotFound, Conflict, FileError (the policy does not fit), UsageError (a number does not)."""
    service = files.service(name)
    policy = files.policy(service, request.policy, request.policy_text, request.policy_file)
    return plan_of(service, policy, request.given, _measured(store, name))


def plan_of(service: ModelService, policy: RolloutPolicy, given: Given, measured: Measured | None) -> Plan:
    """A plan from values. Raises FileError, UsageError."""
    require_pair(service, policy)
    return plan(service.name, policy, traffic_of(policy, service, given, measured), advise)


def _measured(store: Store, service: str) -> Measured | None:
    """The newest rollout's baseline that has seen any traffic."""
    for record in reversed(store.rollouts(service)):
        found = baseline_of(record.id, record.epochs, merged(store.evidence(service, record.id)))
        if found is not None:
            return found
    return None
