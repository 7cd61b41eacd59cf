"""What an approval binds to, and what makes it void. Pure.

An approval binds to what one look saw: epoch, verdicts with their numbers, policy, addresses and cards of
both versions. Numbers move on with every request, so it stands while what they said does: it is void when a
gate that was proven during the step is not any more, when a gate fails or cannot be measured, when an
address or a card changes, and when it is too old. Another policy is another rollout, which has no approvals.
While a gate has lost its proof nothing is approved either, so it does not matter which of the two came
first: the approval or the evidence against it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Final

import msgspec

from ...policies.policy import RolloutPolicy
from ...policies.service import ModelService
from ...store.approvals import Approval, GateAt
from ...store.rollouts import Analysis, Outcome, RolloutRecord
from .approvals import standing
from .conditions import deciding

_HARM: Final = frozenset({Outcome.FAIL, Outcome.ERROR})


def proven(policy: RolloutPolicy, analysis: Analysis) -> tuple[GateAt, ...]:
    """The gates that pass at one look, in the policy's order."""
    found = [(GateAt(v.index, v.place), v.outcome) for _, v in deciding(policy, analysis)]
    passed = {one for one, outcome in found if outcome is Outcome.PASS}
    passed -= {one for one, outcome in found if outcome is not Outcome.PASS}
    return tuple(sorted(passed, key=lambda one: (one.index, one.place)))


def newly_proven(
    record: RolloutRecord, policy: RolloutPolicy, analysis: Analysis
) -> tuple[GateAt, ...] | None:
    """All gates proven during the step, where this look adds one; else None."""
    known = set(record.proven)
    added = tuple(one for one in proven(policy, analysis) if one not in known)
    return (*record.proven, *added) if added else None


def against(record: RolloutRecord, policy: RolloutPolicy, analysis: Analysis) -> str:
    """Why nothing can be approved at one look, naming the gate; '' where it can."""
    found = list(deciding(policy, analysis))
    for _, verdict in found:
        if verdict.outcome in _HARM:
            return f"{verdict.gate}: {verdict.reason}"
    passed = set(proven(policy, analysis))
    for one in record.proven:
        if one not in passed:
            lost = next((v for _, v in found if (v.index, v.place) == (one.index, one.place)), None)
            name = lost.gate if lost is not None else policy.gates[one.index].metric
            why = lost.reason if lost is not None else "not measured"
            return f"{name} was proven and is not any more: {why}"
    return ""


def voided(
    record: RolloutRecord, policy: RolloutPolicy, analysis: Analysis, subject: str, now: float
) -> Iterator[tuple[Approval, str]]:
    """The standing approvals that one look finds void, each with its reason.

    `subject`: of the versions as they are declared now, '' where that cannot be read: what cannot be
    compared is not void, and lets nothing go on either.
    """
    lost = against(record, policy, analysis)
    for one in standing(record):
        if now >= one.until:
            yield one, f"it was valid for {one.until - one.at:g} s"
        elif one.epoch != record.epoch:
            yield one, "it was given in another epoch"
        elif subject and one.subject != subject:
            yield one, f"an address or the card of version {record.stable} or {record.candidate} has changed"
        elif lost:
            yield one, lost


def subject_of(service: ModelService | None, record: RolloutRecord) -> str:
    """SHA-256 over all that the file declares of both versions; '' where it does not declare both."""
    versions = (record.stable, record.candidate)
    if service is None or not set(versions) <= set(service.versions):
        return ""
    declared = {name: service.versions[name].model_dump(mode="json") for name in versions}
    return _sha256(json.dumps(declared, sort_keys=True).encode())


def digest_of(record: RolloutRecord, analysis: Analysis, subject: str) -> str:
    """SHA-256 over what an approval binds to."""
    verdicts = msgspec.json.encode(analysis.verdicts)
    head = f"{record.id}\n{record.step}\n{record.epoch}\n{record.policy_hash}\n{subject}\n"
    return _sha256(head.encode() + verdicts)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
