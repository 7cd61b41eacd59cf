"""Somebody approves: who may, what it binds to, and the one write that keeps it. Pure, as `operations` is."""

from __future__ import annotations

from ...errors import Conflict, Forbidden
from ...policies.approve import Approve
from ...store.approvals import Approval
from ...store.protocol import Commit
from ...store.rollouts import Analysis, Phase
from . import actions
from .approvals import Person, asked, lacking, standing, why_not
from .binding import against, digest_of, subject_of, voided
from .conditions import unmeasurable
from .performing import FreezeEpoch, Seen, change


def approve(
    seen: Seen,
    person: Person,
    reason: str,
    now: float,
    freeze_epoch: FreezeEpoch,
    *,
    number: int | None = None,
) -> Commit | None:
    """Approve the step at hand, as it is seen at this look. None where this person's approval stands already.

    `number`: the step that is meant, from 1; an approval that comes again after the rollout went on must not
    count for the next step.

    Raises Forbidden (naming the group, or who it must not be) and Conflict (nothing waits for approval, or
    what is seen cannot be approved).
    """
    record = seen.record
    step = _waiting(seen, number)
    name = f"rollout {record.id}: step {(record.step or 0) + 1}"
    why = why_not(step, record.started_by, person)
    if why:
        raise Forbidden(f"{name} {why}")
    subject = subject_of(seen.service, record)
    if not subject:
        raise Conflict(
            f"{name}: the file of service {record.service!r} cannot be read, or names other versions"
        )
    analysis = _seen_well(seen, name)
    void = {one for one, _ in voided(record, seen.policy, analysis, subject, now)}
    if any(one.by == person.name for one in standing(record) if one not in void):
        return None
    approval = Approval(
        by=person.name, at=now, step=record.step or 0, group=step.group or "", epoch=record.epoch,
        number=record.version + 1, digest=digest_of(record, analysis, subject), subject=subject,
        until=now + step.valid_for, reason=reason,
    )  # fmt: skip
    whose = f" for {step.group}" if step.group else ""
    told = f"{name} is approved by {person.name}{whose}" + (f": {reason}" if reason else "")
    return change(seen, actions.Approve(approval, told), now, person.name, freeze_epoch)


def require_approvals(seen: Seen, now: float, *, to_end: bool) -> None:
    """Refuse to promote past a step `approve` that has not all of its approvals: nothing stands in for them.

    Raises Conflict with the way out.
    """
    record, policy = seen.record, seen.policy
    here = -1 if record.step is None else record.step
    if asked(record, policy) is not None:
        subject = subject_of(seen.service, record)
        analysis = seen.analysis or Analysis(at=now, verdicts=(), validity=())
        lack = [
            *lacking(record, policy, now),
            *(why for _, why in voided(record, policy, analysis, subject, now)),
        ]
        if not subject:
            lack.append(f"the file of service {record.service!r}, which cannot be read")
        if lack:
            raise Conflict(
                f"rollout {record.id}: step {here + 1} waits for {'; '.join(lack)}, and a promotion does not "
                f"stand in for approvals; `accede approve {record.service}`, or abort it"
            )
    later = next((n + 1 for n, one in enumerate(policy.steps) if n > here and one.approve is not None), None)
    if to_end and later is not None:
        raise Conflict(
            f"rollout {record.id}: step {later} has not been approved, and promote --full does not stand in "
            "for approvals; promote step by step, or abort it"
        )


def _waiting(seen: Seen, number: int | None) -> Approve:
    """What the step at hand asks of people."""
    record, policy = seen.record, seen.policy
    here = 0 if record.step is None else record.step + 1
    if number is not None and number != here and not record.phase.ended:
        at = f"in step {here}" if here else "in its baseline"
        raise Conflict(f"rollout {record.id} is {at}, so step {number} is not approved; look again")
    if record.phase.ended:
        raise Conflict(f"rollout {record.id} has ended: {record.phase.value}: {record.reason}")
    step = asked(record, policy)
    if step is None:
        coming = [n + 1 for n, one in enumerate(policy.steps) if n >= here and one.approve is not None]
        then = f"step {coming[0]} will" if coming else "its policy asks for none"
        raise Conflict(f"rollout {record.id} does not wait for approval now; {then}")
    if record.phase is Phase.PAUSED:
        raise Conflict(f"rollout {record.id} is paused ({record.reason}); resume it, then approve")
    return step


def _seen_well(seen: Seen, name: str) -> Analysis:
    """The look at hand, if it can be approved: all is measured, no gate fails or has lost its proof."""
    analysis = seen.analysis
    if analysis is None:
        raise Conflict(f"{name}: nothing has been measured")
    errors = unmeasurable(seen.policy, analysis)
    if errors:
        raise Conflict(f"{name} cannot be measured, so there is nothing to approve: {'; '.join(errors)}")
    lost = against(seen.record, seen.policy, analysis)
    if lost:
        raise Conflict(f"{name} cannot be approved as it is now seen: {lost}")
    return analysis
