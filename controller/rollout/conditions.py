"""What one look at the evidence says about a rollout: what fails, what cannot be measured, what is missing.

Pure readings of (policy, analysis). A verdict counts only where its gate decides by the policy; a gate
without a verdict has not been measured, which is never taken for fine.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from ...policies.metrics import decides, deciding_places, on_labels
from ...policies.policy import Action, Gate, Place, RolloutPolicy, Step
from ...store.rollouts import Analysis, Outcome, RolloutRecord, Verdict
from ..analysis.per_policy import per_policy
from .approvals import lacking

# Told by the routers' reports, which the machine reads itself and answers faster.
_FROM_REPORTS = frozenset({"breaker", "unattended"})
_WORST_FIRST = (Outcome.ERROR, Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


def places(policy: RolloutPolicy, gate: Gate) -> tuple[Place, ...]:
    """Where the policy's steps can decide a gate."""
    return deciding_places(gate, policy.steps)


@per_policy
def _decided_in(policy: RolloutPolicy) -> tuple[tuple[Place, ...], ...]:
    """`places` of every gate; none where it is not required at all."""
    return tuple(() if gate.require == "nothing" else places(policy, gate) for gate in policy.gates)


def deciding(
    policy: RolloutPolicy, analysis: Analysis, outcomes: Container[Outcome] = _WORST_FIRST
) -> Iterator[tuple[Gate, Verdict]]:
    """Every verdict of these outcomes with a say: its gate decides in its place, and is required."""
    where = _decided_in(policy)
    for verdict in analysis.verdicts:
        if verdict.outcome not in outcomes:
            continue
        if 0 <= verdict.index < len(policy.gates) and verdict.place in where[verdict.index]:
            yield policy.gates[verdict.index], verdict


def failing(policy: RolloutPolicy, analysis: Analysis, action: Action) -> tuple[Verdict, ...]:
    """The verdicts that prove harm and whose gate answers with `action`."""
    return tuple(
        verdict
        for gate, verdict in deciding(policy, analysis, (Outcome.FAIL,))
        if (gate.on_fail or policy.on_fail) == action
    )


def unmeasurable(policy: RolloutPolicy, analysis: Analysis) -> tuple[str, ...]:
    """Why the evidence cannot be trusted or read; empty when it can."""
    broken = [
        check.reason
        for check in analysis.validity
        if check.outcome in {Outcome.ERROR, Outcome.FAIL} and check.check not in _FROM_REPORTS
    ]
    broken += [
        f"{verdict.gate}: {verdict.reason}" for _, verdict in deciding(policy, analysis, (Outcome.ERROR,))
    ]
    return tuple(broken)


def unproven(policy: RolloutPolicy, analysis: Analysis, step: Step) -> tuple[str, ...]:
    """The gates that need proof, that `step` can decide, and that are not proven in its place."""
    found = _by_gate(analysis)
    return tuple(
        _why_not(gate, found.get((index, step.place)))
        for index, gate in enumerate(policy.gates)
        if gate.require == "proof" and decides(gate, step) and not _passes(found.get((index, step.place)))
    )


def unready_to_promote(policy: RolloutPolicy, analysis: Analysis) -> tuple[str, ...]:
    """What keeps the last weight from being promoted, as far as gates go.

    A gate that decides in the canary must be proven over all weights and on the last one alone; one
    that only a shadow can decide must still be proven there.
    """
    missing: list[str] = []
    proofs, found = 0, _by_gate(analysis)
    for index, (gate, where) in enumerate(zip(policy.gates, _decided_in(policy), strict=True)):
        if not where:
            continue
        place: Place = "canary" if "canary" in where else "shadow"
        verdict = found.get((index, place))
        if gate.require == "no-harm":
            if verdict is None or verdict.outcome in {Outcome.FAIL, Outcome.ERROR}:
                missing.append(_why_not(gate, verdict))
            elif on_labels(gate) and _unlabelled(analysis, verdict):
                missing.append(f"{verdict.gate}: no harm can have been seen before labels are mature")
            continue
        proofs += 1
        if not _passes(verdict):
            missing.append(_why_not(gate, verdict))
        elif place == "canary" and verdict is not None and not verdict.proven_last_weight:
            missing.append(f"{verdict.gate}: proven over all weights, not yet on the last one alone")
    if not proofs:
        missing.append("no gate of the policy asks for proof, so nothing can prove the candidate")
    return tuple(missing)


def missing_minima(
    record: RolloutRecord, policy: RolloutPolicy, analysis: Analysis, now: float
) -> tuple[str, ...]:
    """What the current step still lacks of its minima of time and requests. Paused time does not count."""
    if record.step is None:
        return ("the baseline is not frozen",)
    step = policy.steps[record.step]
    lasted = now - record.step_since - record.held_for
    missing: list[str] = []
    if lasted < step.least_seconds:
        missing.append(f"{_seconds(step.least_seconds - lasted)} more of this step")
    if analysis.candidate_requests < step.least_requests:
        kind = "pairs" if step.place == "shadow" else "candidate requests"
        missing.append(f"{step.least_requests - analysis.candidate_requests} more {kind}")
    return tuple(missing)


def missing_to_advance(
    record: RolloutRecord, policy: RolloutPolicy, analysis: Analysis, now: float
) -> tuple[str, ...]:
    """Everything that keeps the current step from being done; empty when it is done.

    For the last step that means promotion (canary) or the end of what a shadow can prove. What a step
    `approve` can measure is what the step before it could.
    """
    if record.step is None:
        return ("the baseline is not frozen",)
    step = policy.traffic(record.step)
    missing = [*missing_minima(record, policy, analysis, now), *lacking(record, policy, now)]
    missing += [
        check.reason
        for check in analysis.validity
        if check.outcome is not Outcome.PASS
        and check.check not in _FROM_REPORTS
        # Poor coverage keeps the gates on those pairs from passing by itself; a step without them goes on.
        and not (check.check == "coverage" and step.place == "canary")
        and not (check.check == "back_coverage" and step.mirror_back is None)
        # Nor does a step without gates on labels wait for labels.
        and not (check.check == "labels" and not _reads_labels(record, policy, step))
    ]
    missing += [
        f"{verdict.gate}: {verdict.reason}"
        for _, verdict in deciding(policy, analysis, (Outcome.FAIL, Outcome.ERROR))
    ]
    if step.place == "canary" and is_last(record, policy):
        missing += unready_to_promote(policy, analysis)
    elif policy.steps[record.step].until_gates or is_last(record, policy):
        missing += unproven(policy, analysis, step)
    return tuple(dict.fromkeys(missing))


def _reads_labels(record: RolloutRecord, policy: RolloutPolicy, step: Step) -> bool:
    """Whether a step's end rests on labels; that of the last one is the promotion, which rests on all."""
    return any(
        on_labels(gate) and gate.require != "nothing" and (is_last(record, policy) or decides(gate, step))
        for gate in policy.gates
    )


def is_last(record: RolloutRecord, policy: RolloutPolicy) -> bool:
    """True in the policy's last step."""
    return record.step == len(policy.steps) - 1


def _unlabelled(analysis: Analysis, verdict: Verdict) -> bool:
    """Whether harm could not be seen yet: labels come late, however many requests there were."""
    seen = any(check.check == "labels" for check in analysis.validity)
    # A glance has no findings: it cannot promote, and a look in full will tell.
    return not seen or (bool(verdict.findings) and not any(one.n_candidate for one in verdict.findings))


def _by_gate(analysis: Analysis) -> dict[tuple[int, str], Verdict]:
    """The verdict of each gate in each place, the worst where there are several. None: not measured."""
    found: dict[tuple[int, str], Verdict] = {}
    for verdict in analysis.verdicts:
        key = verdict.index, verdict.place
        before = found.get(key)
        if before is None or _WORST_FIRST.index(verdict.outcome) < _WORST_FIRST.index(before.outcome):
            found[key] = verdict
    return found


def _passes(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.outcome is Outcome.PASS


def _why_not(gate: Gate, verdict: Verdict | None) -> str:
    if verdict is None:
        return f"{gate.metric}{f' by {gate.by}' if gate.by else ''}: not measured yet"
    return f"{verdict.gate}: {verdict.reason}"


def _seconds(duration: float) -> str:
    """A duration as it is read: 12 s, 4 min, 3 h."""
    if duration < 120:  # noqa: PLR2004  (below two minutes seconds are what one waits for)
        return f"{max(1, round(duration))} s"
    if duration < 7200:  # noqa: PLR2004
        return f"{round(duration / 60)} min"
    return f"{round(duration / 3600)} h"
