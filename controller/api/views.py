"""What the API shows: services and rollouts as a command prints them. Built from records, pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...policies.policy import RolloutPolicy
from ...policies.service import ModelService
from ...store.approvals import Approval
from ...store.evidence import Evidence
from ...store.rollouts import (
    Analysis,
    Decision,
    Phase,
    ReplicaReport,
    RolloutRecord,
)
from ...store.routes import WHOLE, ServiceRoute
from ..rollout.approvals import asked, missing
from ..rollout.conditions import missing_to_advance
from ..rollout.explain import why
from ..rollout.looking import policy_of
from ..rollout.measuring import baseline_requests
from .shown import (
    AddressView,
    ApprovalView,
    Controllers,
    DecisionLine,
    GateView,
    RolloutLine,
    RolloutView,
    ServiceView,
    StepView,
    Wanted,
)


def rollout_view(
    record: RolloutRecord,
    route: ServiceRoute | None,
    evidence: Mapping[int, Evidence],
    reports: Sequence[ReplicaReport],
    now: float,
    controllers: Controllers | None = None,
) -> RolloutView:
    """One rollout in full. `evidence`: epoch -> the sum over sources."""
    policy = policy_of(record.policy)
    analysis = record.analysis
    epoch = record.epochs[-1]
    here = evidence.get(record.epoch)
    ended = record.phase.ended
    return RolloutView(
        id=record.id,
        service=record.service,
        stable=record.stable,
        candidate=record.candidate,
        phase=record.phase,
        phase_since=record.phase_since,
        reason=record.reason,
        exit_code=exit_code(record),
        policy=record.policy_name,
        policy_hash=record.policy_hash,
        attempt=record.attempt,
        started_by=record.started_by,
        started_at=record.started_at,
        ended_at=record.ended_at,
        step=None if record.step is None else record.step + 1,
        steps=tuple(_step(index, policy, record) for index in range(len(policy.steps))),
        weight=_weight(record),
        mirrored=0.0 if ended else epoch.mirrored,
        needs=() if ended else _needs(record, policy, analysis, here, now),
        next_step=_next_step(record, policy),
        hold=record.hold,
        override=record.override,
        gates=tuple(GateView(why(verdict), verdict) for verdict in analysis.verdicts) if analysis else (),
        validity=analysis.validity if analysis else (),
        drift=analysis.drift if analysis else (),
        blame=analysis.blame if analysis else (),
        advice=analysis.advice if analysis else (),
        calibration=analysis.calibration if analysis else (),
        looked_at=analysis.at if analysis else None,
        candidate_requests=analysis.candidate_requests if analysis else 0,
        stable_requests=analysis.stable_requests if analysis else 0,
        mirror=here.mirror if here is not None and epoch.place == "shadow" else None,
        mirrored_back=0.0 if ended else epoch.mirror_back,
        back=here.back if here is not None and epoch.mirror_back > 0 else None,
        floor=here.floor if here is not None and here.floor.chosen else None,
        warm_up=here.mirror if here is not None and (here.mirror.warmed or here.mirror.held) else None,
        generation=route.generation if route is not None else 0,
        replicas=_generations(record.service, reports),
        admin_sockets=_admin_sockets(record.service, reports),
        addresses=() if ended else _addresses(record, reports),
        controllers=controllers,
        wanted=None if ended else _wanted(record, policy, now),
        approvals=tuple(_approval(one, record, policy, now) for one in record.approvals),
    )


def rollout_line(record: RolloutRecord) -> RolloutLine:
    """One rollout in a list."""
    steps = len(policy_of(record.policy).steps)
    return RolloutLine(
        id=record.id,
        service=record.service,
        stable=record.stable,
        candidate=record.candidate,
        policy=record.policy_name,
        phase=record.phase,
        step="baseline" if record.step is None else f"{record.step + 1}/{steps}",
        weight=_weight(record),
        reason=record.reason,
        started_by=record.started_by,
        started_at=record.started_at,
        ended_at=record.ended_at,
        exit_code=exit_code(record),
    )


def service_view(
    name: str,
    service: ModelService | None,
    route: ServiceRoute | None,
    record: RolloutRecord | None,
    reports: Sequence[ReplicaReport],
    problem: str | None,
) -> ServiceView:
    """One service, whether its file, its route or both are there."""
    return ServiceView(
        name=name,
        stable=route.stable.version if route is not None else None,
        stable_in_file=service.stable if service is not None else None,
        versions=tuple(service.versions) if service is not None else (),
        protocol=service.protocol if service is not None else route.protocol if route is not None else "",
        generation=route.generation if route is not None else 0,
        replicas=_generations(name, reports),
        admin_sockets=_admin_sockets(name, reports),
        rollout=rollout_line(record) if record is not None else None,
        problem=problem,
    )


def decision_lines(decisions: Sequence[Decision]) -> tuple[DecisionLine, ...]:
    """All decisions of a rollout, numbered from 1."""
    return tuple(
        DecisionLine(number, decision.at, decision.act, decision.reason)
        for number, decision in enumerate(decisions, start=1)
    )


def exit_code(record: RolloutRecord) -> int:
    """0 promoted, 3 rolled back or aborted, 4 paused or still undecided."""
    if record.phase is Phase.PROMOTED:
        return 0
    return 3 if record.phase.ended else 4


def _weight(record: RolloutRecord) -> float:
    if record.phase is Phase.PROMOTED:
        return 1.0
    return 0.0 if record.phase.ended else round(record.epochs[-1].weight * WHOLE) / WHOLE


def _needs(
    record: RolloutRecord, policy: RolloutPolicy, analysis: Analysis | None, here: Evidence | None, now: float
) -> tuple[str, ...]:
    if record.step is None:
        lacking = policy.baseline.requests - baseline_requests(here)
        return (f"{lacking} more requests of stable",) if lacking > 0 else ()
    nothing = Analysis(at=now, verdicts=(), validity=())
    return missing_to_advance(record, policy, analysis or nothing, now)


def _step(index: int, policy: RolloutPolicy, record: RolloutRecord) -> StepView:
    step = policy.steps[index]
    here = -1 if record.step is None else record.step
    done = index < here or record.phase is Phase.PROMOTED
    state = "done" if done else "now" if index == here and not record.phase.ended else "next"
    return StepView(
        number=index + 1,
        place=step.place,
        share=policy.traffic(index).share,
        state=state,
        text=step.text,
        seconds=step.least_seconds,
        requests=step.least_requests,
        deadline=step.deadline,
    )


def _wanted(record: RolloutRecord, policy: RolloutPolicy, now: float) -> Wanted | None:
    step = asked(record, policy)
    if step is None or record.step is None:
        return None
    ends = [record.started_at + record.held_total + policy.max_duration]
    deadline = policy.steps[record.step].deadline
    if deadline is not None:
        ends.append(record.step_since + record.held_for + deadline)
    return Wanted(
        step.group, step.count, step.not_starter, step.valid_for, missing(record, policy, now), min(ends),
        policy.on_inconclusive,
    )  # fmt: skip


def _approval(one: Approval, record: RolloutRecord, policy: RolloutPolicy, now: float) -> ApprovalView:
    waits = asked(record, policy) is not None and not record.phase.ended
    counts = waits and one.step == record.step and now < one.until
    return ApprovalView(one.by, one.at, one.step + 1, one.group, one.until, one.digest, one.reason, counts)


def _next_step(record: RolloutRecord, policy: RolloutPolicy) -> str:
    following = 0 if record.step is None else record.step + 1
    if record.phase.ended:
        return ""
    if following < len(policy.steps):
        return policy.steps[following].text
    last = policy.traffic(len(policy.steps) - 1)
    return "promotion" if last.place == "canary" else "an operator's promote --full"


def _generations(service: str, reports: Sequence[ReplicaReport]) -> dict[str, int]:
    return {name: report.generations[service] for name, report in _replicas(service, reports).items()}


def _admin_sockets(service: str, reports: Sequence[ReplicaReport]) -> dict[str, str]:
    named = {name: report.admin_socket for name, report in _replicas(service, reports).items()}
    return {name: socket for name, socket in named.items() if socket}


def _addresses(record: RolloutRecord, reports: Sequence[ReplicaReport]) -> tuple[AddressView, ...]:
    """What routers leave out of the two versions at hand."""
    return tuple(
        AddressView(name, one.version, one.address, one.unready, one.ejected, report.workers)
        for name, report in _replicas(record.service, reports).items()
        for one in report.addresses
        if one.service == record.service and one.version in {record.stable, record.candidate}
    )


def _replicas(service: str, reports: Sequence[ReplicaReport]) -> dict[str, ReplicaReport]:
    """The newest report of each router that knows the service, by name."""
    newest = {
        report.replica: report
        for report in sorted(reports, key=lambda report: report.at)
        if service in report.generations
    }
    return dict(sorted(newest.items()))
