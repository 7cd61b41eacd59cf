"""Folding what is mature into the evidence of an open rollout: the shell around `joining`.

The number of the fold is read before the sums are, and written with them: whoever folded in between makes the
write stale, and the next round begins anew. Nothing is kept in memory between rounds.
"""

from __future__ import annotations

from typing import Final

from ...errors import StaleWrite
from ...policies.metrics import on_labels
from ...policies.policy import RolloutPolicy
from ...store.evidence import LABELS
from ...store.measurement import MeasurementPlan
from ...store.protocol import Store
from ...store.rollouts import FrozenConstants
from ..analysis.per_policy import per_policy
from .joining import LABELLED, Meaning, fold

AT_ONCE: Final = 2000  # rows of a fold; about a tenth of a second


@per_policy
def reads_labels(policy: RolloutPolicy) -> bool:
    """True where a gate needs to know what turned out to be true."""
    return any(on_labels(gate) for gate in policy.gates)


def mature_after(policy: RolloutPolicy) -> float:
    """Seconds after which a prediction counts as one whose label would be known: the longest of all gates."""
    gates = [gate for gate in policy.gates if on_labels(gate)]
    return max((gate.labels.mature_after for gate in gates if gate.labels is not None), default=0.0)


def meaning_of(
    policy: RolloutPolicy, plan: MeasurementPlan, constants: FrozenConstants | None
) -> Meaning | None:
    """How values and labels are read, as it was when the rollout began; None where nothing is remembered.

    In the baseline limits may be unknown. Then outcomes are numbers, whose one metric needs none: a service
    with binary outcomes declares its range.
    """
    extraction = plan.extraction
    if plan.outcome is None or extraction is None:
        return None
    limits = constants.limits if constants is not None else plan.limits
    gates = [gate for gate in policy.gates if on_labels(gate)]
    sliced: dict[str, tuple[str, ...]] = {}
    for gate in gates:
        if gate.by is not None:
            for series in (gate.metric, LABELLED):
                sliced[series] = tuple(dict.fromkeys((*sliced.get(series, ()), gate.by)))
    return Meaning(
        outcome=plan.outcome, wanted=frozenset(gate.metric for gate in gates), limits=limits,
        selected=extraction.selected, agree_within=extraction.agree_within, sticky=plan.sticky, sliced=sliced,
    )  # fmt: skip


def fold_mature(store: Store, service: str, rollout: str, meaning: Meaning, before: float, now: float) -> int:
    """Fold at most AT_ONCE predictions assigned before; how many. 0 where somebody else folded meanwhile."""
    due = store.labels.due(service, rollout, before, AT_ONCE)
    if not due.rows:
        return 0
    held = [one for one in store.evidence(service, rollout) if one.source == LABELS]
    marked, sums = fold(service, due.rows, held, meaning, now)
    try:
        store.labels.fold(service, rollout, due.number, marked, sums)
    except StaleWrite:
        return 0
    return len(marked)
