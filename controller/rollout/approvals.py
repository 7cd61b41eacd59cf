"""Approvals: what a step asks of people, whose approval counts, and how many are missing. Pure.

What an approval binds to, and what makes it void, is in `binding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import Conflict
from ...policies.approve import Approve
from ...policies.policy import RolloutPolicy
from ...store.approvals import Approval
from ...store.rollouts import RolloutRecord


@dataclass(frozen=True, slots=True)
class Person:
    """Who approves. `known` False: a name that anybody could have given, without a token."""

    name: str
    groups: tuple[str, ...] = ()
    known: bool = True


def asked(record: RolloutRecord, policy: RolloutPolicy) -> Approve | None:
    """What the step at hand asks of people; None where it asks nothing."""
    return None if record.step is None else policy.steps[record.step].approve


def standing(record: RolloutRecord) -> tuple[Approval, ...]:
    """The approvals of the step at hand, as they are stored."""
    return tuple(one for one in record.approvals if one.step == record.step)


def missing(record: RolloutRecord, policy: RolloutPolicy, now: float) -> int:
    """How many more people have to approve; 0 where the step asks nobody."""
    step = asked(record, policy)
    if step is None:
        return 0
    return max(0, step.count - len({one.by for one in standing(record) if now < one.until}))


def lacking(record: RolloutRecord, policy: RolloutPolicy, now: float) -> tuple[str, ...]:
    """What the step at hand still waits for, in words."""
    step, more = asked(record, policy), missing(record, policy, now)
    if step is None or not more:
        return ()
    whose = f" of group {step.group}" if step.group else ""
    but = f", not of {record.started_by}, who started it" if step.not_starter else ""
    return (f"{more} more approval{'s' if more > 1 else ''}{whose}{but}",)


def require_people(policy: RolloutPolicy, starter: str, people: Sequence[Person]) -> None:
    """Refuse a rollout that nobody could ever approve, before it waits for them. `people`: all approvers.

    Raises Conflict naming the step and what it needs.
    """
    for number, step in enumerate(policy.steps, 1):
        if step.approve is None:
            continue
        fit = [one for one in people if not why_not(step.approve, starter, one)]
        if len(fit) < step.approve.count:
            there = f"the controller's tokens have {len(fit)} of them"
            if not all(one.known for one in people):
                there = "without tokens nobody can be told from anybody else"
            who = step.approve.who
            raise Conflict(
                f"step {number} of policy {policy.name!r} asks for approval by {who}, and {there}; "
                "make tokens of role approver (`accede token`), or change the step"
            )


def why_not(step: Approve, starter: str, person: Person) -> str:
    """Why somebody's approval does not count in a step, naming what is needed; '' where it does."""
    if not person.known and (step.group is not None or step.count > 1 or step.not_starter):
        return (
            f"asks for approval by {step.who}, and without tokens nobody can be told from anybody else; "
            "start the controller with --tokens FILE"
        )
    if step.group is not None and step.group not in person.groups:
        has = ", ".join(person.groups) or "none"
        return f"needs somebody of the group {step.group}; {person.name} has the groups: {has}"
    if step.not_starter and person.name == starter:
        return f"needs somebody else than {person.name}, who started the rollout"
    return ""
