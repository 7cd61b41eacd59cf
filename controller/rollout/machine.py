"""The state machine of a rollout: where it may stand, what moves it, and what one look decides.

Theory of operation
-------------------
A rollout begins in BASELINE: stable alone, epoch 0, until enough was seen to freeze scales and
thresholds. Then its policy's steps follow one another. Each opens an epoch: in SHADOW the candidate
gets copies, in CANARY it answers users. The end is PROMOTED (the candidate is the new stable),
ROLLED_BACK (the evidence, a clock or a router decided against it) or ABORTED (a person did).

A step `approve` opens no epoch: the traffic of the step before goes on, the phase is that traffic's, and
the rollout waits for people as other steps wait for requests. What voids an approval is looked at first at
every look, so that nothing goes on by one that is void.

`decide` looks at one moment and says what to do; it does nothing itself, and `apply` is the only
place where a record's phase changes. TRANSITIONS is all that may happen: what is not in it is refused.

Only positive evidence moves forward. `decide` opens the next step when the current one lacks nothing,
and promotes from the last canary only, with every gate proven. At one look the worst comes first:

    direct abort at a router > breaker, lapsed lease > proven harm > void approvals > a clock that ran out
    > harm that pauses > what cannot be measured > the end of time > promotion, next step

And nothing stands for ever; every state has a clock:
    BASELINE, SHADOW, CANARY   the step's deadline and the policy's max_duration: on_inconclusive
    an error hold              on_error.after, then its action; an error that comes back goes on with its
                               clock, until it had gone for as long as that
    PAUSED                     max_duration from the pause: rollback
An error hold stands over a running phase: traffic stays where it is, so that it can be seen whether
the error goes. A pause leaves traffic where it is too, which is why harm, a breaker, a lapsed lease and
an error's own clock still end it. Minima and deadlines do not count paused time; max_duration neither.

An operator's acts are the same transitions, checked in controller/rollout/operations.py.
"""

from __future__ import annotations

from typing import Final, Literal, assert_never

import msgspec

from ...errors import Conflict
from ...policies.policy import RolloutPolicy
from ...store.rollouts import Analysis, EpochRecord, Hold, Phase, RolloutRecord
from .actions import (
    Abort,
    Action,
    Advance,
    Approve,
    Ask,
    HoldError,
    Move,
    Note,
    Pause,
    Promote,
    Prove,
    Release,
    Resume,
    RollBack,
    Void,
)
from .approvals import asked
from .binding import newly_proven, proven, voided
from .conditions import failing, is_last, missing_to_advance, unmeasurable
from .signals import Look

Act = Literal["start", "advance", "promote", "rollback", "pause", "resume", "abort"]

_RUNNING: Final = (Phase.BASELINE, Phase.SHADOW, Phase.CANARY)

# (where it stands, what happens) -> where it may stand then. None: before the rollout exists.
TRANSITIONS: Final[dict[tuple[Phase | None, Act], tuple[Phase, ...]]] = {
    (None, "start"): (Phase.BASELINE,),
    (Phase.BASELINE, "advance"): (Phase.SHADOW, Phase.CANARY),
    (Phase.SHADOW, "advance"): (Phase.SHADOW, Phase.CANARY),
    (Phase.CANARY, "advance"): (Phase.CANARY,),
    (Phase.PAUSED, "advance"): (Phase.SHADOW, Phase.CANARY),  # an operator's promote
    (Phase.CANARY, "promote"): (Phase.PROMOTED,),
    (Phase.SHADOW, "promote"): (Phase.PROMOTED,),  # an operator's promote --full, as the next two
    (Phase.BASELINE, "promote"): (Phase.PROMOTED,),
    (Phase.PAUSED, "promote"): (Phase.PROMOTED,),
    **{(phase, "pause"): (Phase.PAUSED,) for phase in _RUNNING},
    (Phase.PAUSED, "resume"): _RUNNING,
    **{(phase, "rollback"): (Phase.ROLLED_BACK,) for phase in (*_RUNNING, Phase.PAUSED)},
    **{(phase, "abort"): (Phase.ABORTED,) for phase in (*_RUNNING, Phase.PAUSED)},
}


def may_freeze(record: RolloutRecord, policy: RolloutPolicy, requests: int, now: float) -> bool:
    """True where the baseline's minima are met, so that constants can be frozen."""
    lasted = now - record.step_since - record.held_for
    return (
        record.phase is Phase.BASELINE
        and record.hold is None
        and requests >= policy.baseline.requests
        and lasted >= policy.baseline.duration
    )


def decide(  # noqa: PLR0911 (one return per case, in the order that the module describes)
    record: RolloutRecord, policy: RolloutPolicy, look: Look, now: float
) -> list[Action]:
    """What to do about one rollout at one moment, in order; never empty while it is open."""
    if record.phase.ended:
        return []
    against = _against(policy, look)
    if against is not None:
        return [against]
    about = _approvals(record, policy, look, now)
    if about is not None:
        return [about, *decide(apply(record, about, now), policy, look, now)]
    errors = unmeasurable(policy, look.analysis)
    if look.broken:
        errors = (look.broken, *errors)
    if record.hold is not None and record.hold.kind == "error" and _is_error_clock(record) and not errors:
        return [Release(), *decide(apply(record, Release(), now), policy, look, now)]
    if record.hold is not None and now >= record.hold.until:
        return [_expired(record.hold, policy, now)]
    if record.phase is not Phase.PAUSED:
        pausing = _pausing(policy, look, now)
        if pausing is not None:
            return [pausing]
    if errors:
        return [_error(record, policy, errors, now)]
    if record.phase is Phase.PAUSED:
        return [Note(record.reason)]
    return [_forward(record, policy, look, now)]


def _against(policy: RolloutPolicy, look: Look) -> Move | None:
    """What ends the rollout whatever else is true."""
    if look.signals.direct is not None:
        return Abort(look.signals.direct)
    if look.signals.tripped is not None:
        return RollBack(look.signals.tripped)
    if look.signals.lapsed is not None and policy.unattended.action == "rollback":
        return RollBack(look.signals.lapsed)
    harm = failing(policy, look.analysis, "rollback")
    if harm:
        return RollBack("; ".join(f"{verdict.gate}: {verdict.reason}" for verdict in harm))
    return None


def _approvals(record: RolloutRecord, policy: RolloutPolicy, look: Look, now: float) -> Void | Prove | None:
    """What a look changes about approvals: those that are void, then gates that are proven from now on."""
    if look.broken or asked(record, policy) is None:  # what was not looked at says nothing
        return None
    void = tuple(voided(record, policy, look.analysis, look.subject, now))
    if void:
        return Void(void)
    more = newly_proven(record, policy, look.analysis)
    return None if more is None else Prove(more)


def _pausing(policy: RolloutPolicy, look: Look, now: float) -> Pause | None:
    """What pauses a running rollout at once."""
    harm = failing(policy, look.analysis, "pause")
    if harm:
        reason = "; ".join(f"{verdict.gate}: {verdict.reason}" for verdict in harm)
        return Pause(paused_hold("gate", reason, policy, now))
    if look.signals.lapsed is not None:
        return Pause(paused_hold("unattended", look.signals.lapsed, policy, now))
    return None


def _is_error_clock(record: RolloutRecord) -> bool:
    """True where an error's own clock runs, not the clock of a pause that an error has led to."""
    return record.phase is not Phase.PAUSED or (record.hold is not None and record.hold.under is not None)


def _expired(hold: Hold, policy: RolloutPolicy, now: float) -> Move:
    """The answer to a clock that ran out."""
    lasted = f"after {hold.before + now - hold.since:.0f} s" + (" in all" if hold.before else "")
    if hold.action == "pause":
        return Pause(paused_hold(hold.kind, f"{hold.reason} ({lasted})", policy, now))
    return RollBack(f"nobody resolved the hold {lasted}: {hold.reason}")


def _error(record: RolloutRecord, policy: RolloutPolicy, errors: tuple[str, ...], now: float) -> Action:
    """Start the error's clock, or wait for the one that runs. An error while paused may end the pause."""
    reason = "cannot be measured: " + "; ".join(errors)
    clock = policy.on_error
    if record.hold is not None and (record.hold.kind == "error" or clock.action == "pause"):
        return Note(record.reason)
    # Else an error that goes now and then would hold for ever.
    back = record.calm_since is not None and now - record.calm_since < clock.after
    before = record.erred if back else 0.0
    until = now + max(0.0, clock.after - before)
    held = Hold(kind="error", reason=reason, since=now, until=until, action=clock.action, before=before)
    if record.hold is not None:
        until = min(record.hold.until, until)
        held = msgspec.structs.replace(held, until=until, action="rollback", under=record.hold)
    return HoldError(held)


def _forward(  # noqa: PLR0911 (one return per case, in the order that the module describes)
    record: RolloutRecord, policy: RolloutPolicy, look: Look, now: float
) -> Action:
    """The next step, the end of time, or what is waited for."""
    over = now - record.started_at - record.held_total >= policy.max_duration
    if record.phase is Phase.BASELINE:
        lacking = _missing_baseline(record, policy, look, now)
        if over:
            return _inconclusive(policy, f"max_duration is over in the baseline: {_list(lacking)}", now)
        if look.frozen is not None and not lacking:
            return Advance(0, "the baseline is frozen", look.frozen)
        return Note("baseline: waiting for " + ("; ".join(lacking) or look.not_ready or "the constants"))
    step = policy.steps[record.step or 0]
    canary = policy.traffic(record.step or 0).place == "canary"
    missing = missing_to_advance(record, policy, look.analysis, now)
    if step.approve is not None and not look.subject:
        missing = (*missing, f"the file of service {record.service!r}, which cannot be read")
    name = f"step {(record.step or 0) + 1} of {len(policy.steps)}"
    if not missing and is_last(record, policy) and canary:
        return Promote("every gate is proven over all weights and on the last one")
    if over:
        return _inconclusive(policy, f"max_duration is over in {name}: {_list(missing)}", now)
    if not missing and is_last(record, policy):
        reason = "the policy's last shadow step is done and every gate is proven; `promote --full` or abort"
        return Pause(paused_hold("finished", reason, policy, now))
    if not missing:
        return next_step(policy, (record.step or 0) + 1, f"{name} is done", look.analysis)
    if step.deadline is not None and now - record.step_since - record.held_for >= step.deadline:
        return _inconclusive(policy, f"the deadline of {name} has passed: {_list(missing)}", now)
    return Note(f"{name}: waiting for {_list(missing)}")


def next_step(
    policy: RolloutPolicy, number: int, reason: str, analysis: Analysis, override: str | None = None
) -> Advance | Ask:
    """What opens step `number`, which is not the first."""
    if policy.steps[number].approve is None:
        return Advance(number, reason, override=override)
    return Ask(number, reason, proven(policy, analysis), override)


def _missing_baseline(
    record: RolloutRecord, policy: RolloutPolicy, look: Look, now: float
) -> tuple[str, ...]:
    missing: list[str] = []
    lasted = now - record.step_since - record.held_for
    if look.baseline_requests < policy.baseline.requests:
        missing.append(f"{policy.baseline.requests - look.baseline_requests} more requests of stable")
    if lasted < policy.baseline.duration:
        missing.append(f"{policy.baseline.duration - lasted:.0f} s more")
    return tuple(missing)


def _inconclusive(policy: RolloutPolicy, reason: str, now: float) -> Move:
    if policy.on_inconclusive == "rollback":
        return RollBack(f"inconclusive, {reason}")
    return Pause(paused_hold("inconclusive", f"inconclusive, {reason}", policy, now))


def _list(missing: tuple[str, ...]) -> str:
    return "; ".join(missing) or "nothing"


def paused_hold(
    kind: Literal["operator", "inconclusive", "gate", "error", "unattended", "finished"],
    reason: str,
    policy: RolloutPolicy,
    now: float,
) -> Hold:
    """The hold of a pause: it ends in a rollback after `max_duration` (docs/decisions/0003)."""
    return Hold(kind=kind, reason=reason, since=now, until=now + policy.max_duration, action="rollback")


def check(before: Phase | None, act: Act, after: Phase) -> None:
    """Refuse what the table does not know. Raises Conflict naming both phases."""
    if after not in TRANSITIONS.get((before, act), ()):
        stands = "does not exist" if before is None else f"is {before.value}"
        raise Conflict(f"the rollout {stands}: {act} to {after.value} is not possible")


def apply(
    record: RolloutRecord, action: Action, now: float, epoch: EpochRecord | None = None
) -> RolloutRecord:
    """The record after an action, one version later. `epoch`: the one that an Advance opens.

    Raises Conflict where TRANSITIONS does not allow it.
    """
    match action:
        case Advance():
            if epoch is None:
                raise Conflict("a step cannot open without its epoch")
            after = Phase.SHADOW if epoch.place == "shadow" else Phase.CANARY
            return _moved(
                record, "advance", after, action.reason, now, step=action.step, step_since=now, held_for=0.0,
                epoch=epoch.epoch, epochs=(*record.epochs, epoch), paused_from=None, proven=(),
                constants=action.constants or record.constants, override=action.override or record.override,
            )  # fmt: skip
        case Ask():
            after = Phase.SHADOW if record.epochs[-1].place == "shadow" else Phase.CANARY
            return _moved(
                record, "advance", after, action.reason, now, step=action.step, step_since=now, held_for=0.0,
                paused_from=None, proven=action.proven, override=action.override or record.override,
            )  # fmt: skip
        case Promote():
            override = action.override or record.override
            return _moved(
                record, "promote", Phase.PROMOTED, action.reason, now, ended_at=now, override=override
            )
        case RollBack():
            return _moved(record, "rollback", Phase.ROLLED_BACK, action.reason, now, ended_at=now)
        case Abort():
            return _moved(record, "abort", Phase.ABORTED, action.reason, now, ended_at=now)
        case Pause():
            paused = {"hold": action.hold, "paused_from": record.phase}
            return _moved(record, "pause", Phase.PAUSED, action.reason, now, **paused)
        case Resume():
            since = now if action.fresh else record.step_since
            held = 0.0 if action.fresh else record.held_for + now - record.phase_since
            after = record.paused_from or Phase.PAUSED
            clock = {"paused_from": None, "step_since": since, "held_for": held, "calm_since": None}
            return _moved(record, "resume", after, action.reason, now, **clock)
        case _:
            return _staying(record, action, now)


def _staying(
    record: RolloutRecord, action: HoldError | Release | Approve | Void | Prove | Note, now: float
) -> RolloutRecord:
    """After what changes no phase."""
    match action:
        case HoldError():
            return _next(record, hold=action.hold, reason=action.reason)
        case Release():
            if record.hold is None:
                return _next(record, reason=action.reason)
            under, erred = record.hold.under, record.hold.before + now - record.hold.since
            reason = under.reason if under is not None else action.reason
            return _next(record, hold=under, reason=reason, erred=erred, calm_since=now)
        case Approve(approval=new):
            others = (one for one in record.approvals if (one.by, one.step) != (new.by, new.step))
            return _next(record, approvals=(*others, new), reason=action.reason)
        case Void():
            gone = {one for one, _ in action.approvals}
            kept = tuple(one for one in record.approvals if one not in gone)
            return _next(record, approvals=kept, reason=action.reason)
        case Prove():
            return _next(record, proven=action.proven)
        case Note():
            return _next(record, reason=action.reason)
        case _:
            assert_never(action)


def _moved(
    record: RolloutRecord, act: Act, after: Phase, reason: str, now: float, **changes: object
) -> RolloutRecord:
    check(record.phase, act, after)
    paused = now - record.phase_since if record.phase is Phase.PAUSED else 0.0
    state: dict[str, object] = {
        "phase": after,
        "phase_since": now,
        "reason": reason,
        "hold": None,
        "held_total": record.held_total + paused,
    }
    return _next(record, **(state | changes))


def _next(record: RolloutRecord, **changes: object) -> RolloutRecord:
    return msgspec.structs.replace(record, version=record.version + 1, **changes)


def diagram() -> str:
    """The table as a Mermaid state diagram, as the README shows it."""
    lines = ["stateDiagram-v2"]
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, act), targets in TRANSITIONS.items():
        for after in targets:
            source = "[*]" if before is None else before.value
            arrows.setdefault((source, after.value), []).append(act)
    lines += [f"    {source} --> {after}: {', '.join(acts)}" for (source, after), acts in arrows.items()]
    lines += [f"    {phase.value} --> [*]" for phase in Phase if phase.ended]
    return "\n".join(lines) + "\n"
