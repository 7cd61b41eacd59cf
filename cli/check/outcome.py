"""What a check has found, as one record: what the table, JSON, JUnit, Markdown and the page all show."""

from __future__ import annotations

from math import fsum
from typing import Final, Literal

import msgspec

from ...controller.analysis.wording import gate_text
from ...controller.rollout.conditions import failing, unmeasurable, unready_to_promote
from ...policies.policy import RolloutPolicy
from ...store.evidence import Evidence, SeriesKey
from ...store.rollouts import Advice, Analysis, Finding, FrozenConstants, Outcome, Validity
from .gates import Split, Undecided

State = Literal["complete", "timed out", "interrupted"]
PROVEN, ERROR, FAILED, INCONCLUSIVE, TIMED_OUT, INTERRUPTED = 0, 1, 3, 4, 5, 130
_WORDS: Final = {
    PROVEN: "passed",
    ERROR: "error",
    FAILED: "failed",
    INCONCLUSIVE: "inconclusive",
    TIMED_OUT: "timed out",
    INTERRUPTED: "interrupted",
}


class GateOutcome(msgspec.Struct, frozen=True):
    """One gate of the policy. `decided` False: pairs cannot decide it; `advisory`: but they say something."""

    index: int
    gate: str
    decided: bool
    outcome: Outcome
    reason: str
    require: str
    advisory: bool = False
    findings: tuple[Finding, ...] = ()


class Share(msgspec.Struct, frozen=True):
    """One bin or class of the predictions: its share in each version's answers to the same requests."""

    label: str
    stable: float
    candidate: float


class Outcomes(msgspec.Struct, frozen=True):
    """A whole check. `pairs`: rows that both versions were asked; `baseline`: rows of stable alone."""

    service: str
    policy: str
    stable: str
    candidate: str
    verdict: str
    reason: str
    exit_code: int
    state: State
    rows: int
    baseline: int
    pairs: int
    blocks: int
    seed: int
    seconds: float
    gates: tuple[GateOutcome, ...]
    validity: tuple[Validity, ...]
    notes: tuple[str, ...]
    distribution: tuple[Share, ...] = ()


class Run(msgspec.Struct, frozen=True):
    """How the rows were gone through."""

    stable: str
    candidate: str
    state: State
    rows: int
    baseline: int
    pairs: int
    blocks: int
    seed: int
    seconds: float
    notes: tuple[str, ...] = ()


def judged(
    service: str, policy: RolloutPolicy, parts: Split, run: Run, analysis: Analysis | None, problem: str,
    advice: list[Advice], shares: tuple[Share, ...], *, require_all: bool,
) -> Outcomes:  # fmt: skip
    """Put together. `analysis` None: nothing was frozen; `problem`: why, '' where there was too little."""
    gates = [*_decided(parts, analysis, problem), *_undecided(parts.undecided, advice)]
    gates.sort(key=lambda gate: gate.index)
    code, reason = _verdict(parts, run, analysis, problem, require_all=require_all)
    return Outcomes(
        service, policy.name, run.stable, run.candidate, _WORDS[code], reason, code, run.state, run.rows,
        run.baseline, run.pairs, run.blocks, run.seed, run.seconds, tuple(gates),
        analysis.validity if analysis is not None else (), run.notes, shares,
    )  # fmt: skip


def _decided(parts: Split, analysis: Analysis | None, problem: str) -> list[GateOutcome]:
    verdicts = {} if analysis is None else {verdict.index: verdict for verdict in analysis.verdicts}
    found: list[GateOutcome] = []
    for place, (index, gate) in enumerate(zip(parts.indices, parts.policy.gates, strict=True)):
        verdict = verdicts.get(place)
        if verdict is not None:
            outcome, reason, findings = verdict.outcome, verdict.reason, verdict.findings
        elif problem:
            outcome, reason, findings = Outcome.ERROR, problem, ()
        else:
            outcome, reason, findings = Outcome.INCONCLUSIVE, "not measured", ()
        found.append(
            GateOutcome(index, gate_text(gate), True, outcome, reason, gate.require, False, findings)
        )
    return found


def _undecided(undecided: tuple[Undecided, ...], advice: list[Advice]) -> list[GateOutcome]:
    said = {one.index: one for one in advice}
    found: list[GateOutcome] = []
    for one in undecided:
        told = said.get(one.index) if one.advisory else None
        reason = one.reason
        findings: tuple[Finding, ...] = ()
        if told is not None:
            reason = f"advice: {told.reason}. Not decided: {one.reason}"
            findings = (
                Finding(
                    one.gate.metric, "", told.outcome, told.reason, "ratio", "×", estimate=told.factor,
                    margin=told.margin, n_stable=told.pairs, n_candidate=told.pairs,
                ),
            )  # fmt: skip
        found.append(
            GateOutcome(
                one.index, gate_text(one.gate), False, Outcome.INCONCLUSIVE, reason, one.gate.require,
                one.advisory, findings,
            )
        )  # fmt: skip
    return found


def _verdict(
    parts: Split, run: Run, analysis: Analysis | None, problem: str, *, require_all: bool
) -> tuple[int, str]:
    policy = parts.policy
    if analysis is not None:
        harm = (*failing(policy, analysis, "rollback"), *failing(policy, analysis, "pause"))
        if harm:
            return FAILED, "; ".join(f"{verdict.gate}: {verdict.reason}" for verdict in harm)
    if run.state == "interrupted":
        return INTERRUPTED, f"interrupted after {run.pairs} of {run.rows - run.baseline} pairs"
    if problem:
        return ERROR, f"cannot be measured: {problem}"
    if analysis is not None and (errors := unmeasurable(policy, analysis)):
        return ERROR, "cannot be measured: " + "; ".join(errors)
    if run.state == "timed out":
        return TIMED_OUT, f"--timeout ended it after {run.pairs} of {run.rows - run.baseline} pairs"
    if analysis is None:
        return INCONCLUSIVE, "too few rows to learn what is normal for stable"
    missing = [*unready_to_promote(policy, analysis)]
    missing += [check.reason for check in analysis.validity if check.outcome is Outcome.INCONCLUSIVE]
    if require_all:
        missing += [
            f"{gate_text(one.gate)}: not decided ({one.reason})"
            for one in parts.undecided
            if one.gate.require != "nothing"
        ]
    if missing:
        return INCONCLUSIVE, "; ".join(dict.fromkeys(missing))
    left = len(parts.undecided)
    return PROVEN, "every gate that pairs can decide is proven" + (
        f"; {left} are not decided" if left else ""
    )


def shares_of(constants: FrozenConstants | None, shadow: Evidence | None) -> tuple[Share, ...]:
    """Shares of the bins or classes, where a gate keeps them."""
    if constants is None or shadow is None:
        return ()
    if constants.classes:
        names = [*((f"bin.{k}", label) for k, label in enumerate(constants.classes)), ("bin.other", "other")]
    else:
        count = len(constants.edges) + 1 if constants.edges else 0
        names = [(f"bin.{k}", f"bin {k + 1} of {count}") for k in range(count)]
    found: list[Share] = []
    for series, label in names:
        theirs = shadow.series.get(SeriesKey("paired_stable", "", series))
        apart = shadow.series.get(SeriesKey("pair", "", series))
        if theirs is not None and apart is not None and any(theirs.n):
            stable = fsum(theirs.sum) / fsum(theirs.n)
            found.append(Share(label, stable, stable + fsum(apart.sum) / fsum(apart.n)))
    return tuple(found)
