"""Operators' acts: what is asked, checked against the state, as the one write that performs it.

Pure, like the loop's decisions, and performed by the same code (`performing.change`). An act that the
state does not allow raises Conflict with the way out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from ...errors import Conflict, Forbidden, NotFound, UsageError
from ...policies.load import canonical, policy_hash, require_pair
from ...policies.policy import RolloutPolicy
from ...policies.service import ModelService, Version
from ...store.protocol import Commit
from ...store.rollouts import WIRE, Analysis, AuditEntry, EpochRecord, Outcome, Phase, RolloutRecord
from ...store.routes import ServiceRoute
from .actions import Abort, Advance, Pause, Promote, Resume
from .approving import require_approvals
from .conditions import deciding, failing, is_last, unmeasurable, unproven, unready_to_promote
from .machine import check, next_step, paused_hold
from .measuring import require_affordable
from .performing import FreezeEpoch, Seen, change
from .routing import rollout_route


def start(
    service: ModelService,
    policy: RolloutPolicy,
    candidate: str,
    route: ServiceRoute,
    earlier: Sequence[RolloutRecord],
    actor: str,
    now: float,
    reason: str = "",
) -> Commit:
    """Begin a rollout: the baseline opens, stable alone. `earlier`: all rollouts of the service.

    Raises NotFound (unknown version), Conflict (one is open, candidate is stable) and FileError (the
    policy does not fit the service).
    """
    running = next((record for record in earlier if not record.phase.ended), None)
    if running is not None:
        raise Conflict(
            f"service {service.name!r} already has the rollout {running.id} of {running.candidate!r}, "
            f"{running.phase.value}; abort it first"
        )
    stable = route.stable.version
    _known(service, candidate)
    if candidate == stable:
        raise Conflict(f"version {candidate!r} is already stable of service {service.name!r}; name another")
    require_pair(service, policy)
    digest = digest_of(service, candidate)
    rollout = f"{service.name}-{len(earlier) + 1}"
    require_affordable(policy, service, rollout)
    check(None, "start", Phase.BASELINE)
    why = f"rolling out {candidate!r} over {stable!r} by policy {policy.name!r}"
    why += f": {reason}" if reason else ""
    # What routers say about an earlier generation is not about this rollout.
    generation = route.generation + 1
    record = RolloutRecord(
        wire=WIRE,
        id=rollout,
        service=service.name,
        version=1,
        stable=stable,
        candidate=candidate,
        candidate_digest=digest,
        policy_name=policy.name,
        policy_hash=policy_hash(policy),
        policy=canonical(policy),
        attempt=sum(record.candidate_digest == digest for record in earlier),
        salt=f"{service.name}/{rollout}",
        started_by=actor,
        started_at=now,
        phase=Phase.BASELINE,
        phase_since=now,
        step=None,
        step_since=now,
        epoch=0,
        epochs=(EpochRecord(epoch=0, step=None, place="baseline", weight=0.0, mirrored=0.0, opened_at=now),),
        reason=why,
        generation=generation,
    )
    detail = {"candidate": candidate, "stable": stable, "digest": digest, "attempt": str(record.attempt)}
    detail |= {"policy": policy.name, "policy_hash": record.policy_hash}
    return Commit(
        service=service.name,
        record=record,
        expected_version=0,
        route=rollout_route(service, record, policy, route),
        expected_generation=route.generation,
        audit=(AuditEntry(now, service.name, rollout, actor, "start", why, detail),),
    )


def pause(seen: Seen, actor: str, reason: str, now: float, freeze_epoch: FreezeEpoch) -> Commit:
    """Stay, with traffic as it is. Raises Conflict where it already stands or has ended."""
    record = _open(seen)
    if record.phase is Phase.PAUSED:
        raise Conflict(f"rollout {record.id} is already paused: {record.reason}")
    why = f"paused by {actor}" + (f": {reason}" if reason else "")
    return change(seen, Pause(paused_hold("operator", why, seen.policy, now)), now, actor, freeze_epoch)


def resume(seen: Seen, actor: str, reason: str, now: float, freeze_epoch: FreezeEpoch) -> Commit:
    """Go on where it was paused. A deadline that passed before the pause starts anew.

    Raises Conflict where nothing is paused, or where it would pause again at once.
    """
    record = _open(seen)
    if record.phase is not Phase.PAUSED:
        raise Conflict(f"rollout {record.id} is {record.phase.value}, not paused")
    harm = failing(seen.policy, _analysis(seen), "pause")
    if harm:
        raise Conflict(
            f"rollout {record.id} would pause again: {harm[0].gate}: {harm[0].reason}; "
            "abort it, or promote --full with a reason"
        )
    if record.phase_since - record.started_at - record.held_total >= seen.policy.max_duration:
        raise Conflict(
            f"rollout {record.id} has used up its max_duration; abort it, or promote --full with a reason"
        )
    fresh = False
    if record.step is not None:
        deadline = seen.policy.steps[record.step].deadline
        fresh = deadline is not None and record.phase_since - record.step_since - record.held_for >= deadline
    why = f"resumed by {actor}" + (f": {reason}" if reason else "")
    return change(seen, Resume(why, fresh), now, actor, freeze_epoch)


def promote(
    seen: Seen, actor: str, reason: str, now: float, freeze_epoch: FreezeEpoch, *,
    full: bool = False, may_override: bool = True,
) -> Commit:  # fmt: skip
    """Go to the next step, or with `full` to the end, without waiting for minima.

    Past a gate that is not proven it is an override: it needs a reason and is kept as one. A proven
    harm is passed with `full` only, and missing approvals not at all. Raises Conflict, UsageError
    (the reason is missing), and Forbidden where it would be an override and `may_override` is False.
    """
    record = _open(seen)
    last = is_last(record, seen.policy)
    if not full and last and seen.policy.traffic(len(seen.policy.steps) - 1).place == "shadow":
        raise Conflict(
            f"rollout {record.id} is in its last step, a shadow; promote --full makes the candidate stable"
        )
    if not full and record.constants is None:
        raise Conflict(
            f"rollout {record.id} is in its baseline, which has to end by itself; or promote --full"
        )
    to_end = full or last
    require_approvals(seen, now, to_end=to_end)
    analysis = _analysis(seen)
    harm = [verdict for _, verdict in deciding(seen.policy, analysis, (Outcome.FAIL,))]
    if harm and not full:
        raise Conflict(
            f"rollout {record.id}: harm is proven ({harm[0].gate}: {harm[0].reason}); abort it, "
            "or promote --full with a reason"
        )
    unmet = _unmet(seen, analysis, to_end=to_end)
    override = None
    if unmet:
        if not may_override:
            raise Forbidden(
                f"rollout {record.id}: {len(unmet)} conditions are not met ({unmet[0]}); promoting past them "
                "is an override, which needs the role approver"
            )
        if not reason:
            raise UsageError(
                f"rollout {record.id}: {len(unmet)} conditions are not met ({unmet[0]}); "
                "give --reason to override them"
            )
        override = f"{actor}: {reason} (past {'; '.join(unmet)})"
    why = f"promoted by {actor}" + (f": {reason}" if reason else "")
    if to_end:
        return change(seen, Promote(why, override), now, actor, freeze_epoch)
    if record.step is None:
        return change(seen, Advance(0, why, override=override), now, actor, freeze_epoch)
    following = next_step(seen.policy, record.step + 1, why, analysis, override)
    return change(seen, following, now, actor, freeze_epoch)


def abort(seen: Seen, actor: str, reason: str, now: float, freeze_epoch: FreezeEpoch) -> Commit | None:
    """Stable alone at once, from any open phase. None where it is aborted already."""
    if seen.record.phase is Phase.ABORTED:
        return None
    _open(seen)
    why = f"aborted by {actor}" + (f": {reason}" if reason else "")
    return change(seen, Abort(why), now, actor, freeze_epoch)


def digest_of(service: ModelService, version: str) -> str:
    """What makes a candidate the same one again: its card's digest, else its name and addresses (sha256)."""
    declared = _known(service, version)
    digest = declared.card.get("digest")
    text = f"digest {digest}" if digest else f"version {version} {' '.join(declared.addresses)}"
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _unmet(seen: Seen, analysis: Analysis, *, to_end: bool) -> tuple[str, ...]:
    """Everything that an automatic advance would wait for, minima apart."""
    unmet = [*unmeasurable(seen.policy, analysis)]
    unmet += [
        f"{verdict.gate}: {verdict.reason}" for _, verdict in deciding(seen.policy, analysis, (Outcome.FAIL,))
    ]
    if to_end:
        unmet += unready_to_promote(seen.policy, analysis)
    elif seen.record.step is not None:
        unmet += unproven(seen.policy, analysis, seen.policy.traffic(seen.record.step))
    return tuple(dict.fromkeys(unmet))


def _analysis(seen: Seen) -> Analysis:
    """The look at hand, else the last one stored, else one that has measured nothing."""
    return seen.analysis or seen.record.analysis or Analysis(at=0.0, verdicts=(), validity=())


def _known(service: ModelService, version: str) -> Version:
    declared = service.versions.get(version)
    if declared is None:
        known = ", ".join(sorted(service.versions)) or "none"
        raise NotFound(f"service {service.name!r} has no version {version!r}; its file names: {known}")
    return declared


def _open(seen: Seen) -> RolloutRecord:
    if seen.record.phase.ended:
        how = seen.record.phase.value.replace("_", " ")
        raise Conflict(f"rollout {seen.record.id} has ended: {how}: {seen.record.reason}")
    return seen.record
