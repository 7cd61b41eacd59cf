"""From a decision to the one write that makes it true: record, route, audit entry and stored decision.

Pure: what was read comes in, a Commit goes out. Loop and operators' acts share it, so there is one way
in which a phase, a weight or a route changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from ...errors import Conflict
from ...policies.policy import RolloutPolicy
from ...policies.service import ModelService
from ...store.approvals import Approval
from ...store.evidence import Evidence, encode_evidence
from ...store.protocol import Commit
from ...store.rollouts import (
    Analysis,
    AuditEntry,
    Decision,
    EpochRecord,
    FrozenConstants,
    ReplicaReport,
    RolloutRecord,
    encode_record,
)
from ...store.routes import ServiceRoute
from ..analysis.length import batch_of
from .actions import Action, Advance, Approve, Ask, HoldError, Note, Prove, Release, Resume, Void
from .machine import apply
from .routing import ended_route, renewed_route, rollout_route

CONTROLLER: Final = "controller"  # the actor of everything the loop decides

EpochConstants = tuple[dict[str, float], dict[str, tuple[int, int, int]]]


class FreezeEpoch(Protocol):
    """Centres and latency thresholds of the epoch that opens, from the one before (analysis.freeze)."""

    def __call__(
        self, policy: RolloutPolicy, constants: FrozenConstants, previous: Evidence | None, /
    ) -> EpochConstants:
        """(centres, thresholds), frozen into the EpochRecord."""
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What was read of one rollout at one moment. `evidence`: epoch -> the sum over all sources.

    `service` None: its file is gone or cannot be read, so the rollout can end but not go on.
    """

    record: RolloutRecord
    route: ServiceRoute
    policy: RolloutPolicy
    service: ModelService | None
    evidence: Mapping[int, Evidence]
    reports: tuple[ReplicaReport, ...]
    analysis: Analysis | None = None


def change(seen: Seen, action: Action, now: float, actor: str, freeze_epoch: FreezeEpoch) -> Commit:
    """The write that performs one action. Raises Conflict where it is impossible."""
    before = seen.record
    epoch = _epoch(seen, action, now, freeze_epoch) if isinstance(action, Advance) else None
    record = apply(before, action, now, epoch)
    record = msgspec.structs.replace(record, analysis=seen.analysis or before.analysis)
    if isinstance(action, Note | Prove):
        return _commit(seen, record, None)
    entry = AuditEntry(
        at=now,
        service=before.service,
        rollout=before.id,
        actor=actor,
        act=action.act,
        reason=action.reason,
        detail=_detail(before, record),
    )
    if isinstance(action, Void):
        return _commit(seen, record, None, tuple(_void(entry, one, why) for one, why in action.approvals))
    if isinstance(action, Approve):
        entry = msgspec.structs.replace(entry, detail=entry.detail | _bound(action.approval))
    if isinstance(action, HoldError | Release):
        return _commit(seen, record, None, (entry,))
    decision = Decision(
        rollout=before.id, number=record.version, at=now, act=action.act, reason=action.reason,
        before=encode_record(before), analysis=seen.analysis,
        evidence=tuple(encode_evidence(part) for part in seen.evidence.values()),
        reports=tuple(encode_record(report) for report in seen.reports),
    )  # fmt: skip
    audit: tuple[AuditEntry, ...] = (entry,)
    if isinstance(action, Advance | Ask) and action.override is not None:
        audit = (entry, msgspec.structs.replace(entry, act="override", reason=action.override))
    return _commit(seen, record, _route(seen, record, action), audit, decision)


def _route(seen: Seen, record: RolloutRecord, action: Action) -> ServiceRoute | None:
    """The route an action puts in force; None where traffic stays as it is."""
    if record.phase.ended:
        return ended_route(record, seen.route)
    if isinstance(action, Advance):
        if seen.service is None:
            raise Conflict(
                f"service {record.service!r} has no readable file, so no step can open; restore it"
            )
        return rollout_route(seen.service, record, seen.policy, seen.route)
    if isinstance(action, Resume | Ask):
        return renewed_route(
            seen.route
        )  # a router that returned to stable by itself resumes by a decision only
    return None


def _epoch(seen: Seen, action: Advance, now: float, freeze_epoch: FreezeEpoch) -> EpochRecord:
    """The epoch that a step opens, its constants frozen from the epoch before."""
    constants = action.constants or seen.record.constants
    if constants is None:
        raise Conflict(f"rollout {seen.record.id}: the baseline has frozen nothing yet, so no step can open")
    step = seen.policy.steps[action.step]
    centres, thresholds = freeze_epoch(seen.policy, constants, seen.evidence.get(seen.record.epoch))
    shadow = step.shadow is not None
    return EpochRecord(
        epoch=seen.record.epoch + 1,
        step=action.step,
        place="shadow" if shadow else "canary",
        weight=0.0 if shadow else step.share,
        mirrored=step.share if shadow else 0.0,
        opened_at=now,
        centres=centres,
        thresholds=thresholds,
        mirror_back=step.mirror_back or 0.0,
        batch=batch_of(seen.policy, constants),
    )


def _detail(before: RolloutRecord, after: RolloutRecord) -> dict[str, str]:
    detail = {"phase": after.phase.value}
    if before.phase is not after.phase:
        detail["from"] = before.phase.value
    if after.step is not None:
        detail["step"] = str(after.step + 1)
    if after.override is not None and before.override is None:
        detail["override"] = after.override
    if after.hold is not None:
        detail |= {"hold": after.hold.kind, "until": f"{after.hold.until:.3f}", "then": after.hold.action}
    return detail


def _bound(one: Approval) -> dict[str, str]:
    """What an approval is bound to, for whoever audits it."""
    return {"group": one.group, "digest": one.digest, "versions": one.subject, "until": f"{one.until:.3f}"}


def _void(entry: AuditEntry, one: Approval, why: str) -> AuditEntry:
    """One entry per approval, so that each says whose it was and why it counts no more."""
    detail = entry.detail | {"by": one.by, "digest": one.digest}
    return msgspec.structs.replace(entry, reason=f"the approval of {one.by} is void: {why}", detail=detail)


def _commit(
    seen: Seen,
    record: RolloutRecord,
    route: ServiceRoute | None,
    audit: tuple[AuditEntry, ...] = (),
    decision: Decision | None = None,
) -> Commit:
    return Commit(
        service=record.service,
        record=record,
        expected_version=seen.record.version,
        route=route,
        expected_generation=seen.route.generation,
        audit=audit,
        decision=decision,
    )
