"""Which gates of a policy a paired comparison of fixed requests can decide, and why not the others.

A gate that a rollout would decide in its canary only (`in: canary`) is decided on pairs here, where its
metric can be: the question is the same, and pairs are all there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...policies.metrics import metric_of, on_labels
from ...policies.policy import Baseline, Gate, RolloutPolicy, Step
from ...store.measurement import is_latency

_WHY: Final = {
    "client_disconnects": "no client waits here who could leave",
}
_LATENCY: Final = (
    "a rollout decides it in the canary, under real load; beside each other on this machine it is advice only"
)
_CANARY: Final = "only a canary can decide it"
_LABELS: Final = "needs the true outcomes: name a column with --label, or give each row a label"


@dataclass(frozen=True, slots=True)
class Undecided:
    """A gate that this check does not decide. `index`: in the policy."""

    index: int
    gate: Gate
    reason: str
    advisory: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """`policy`: the same with the gates that pairs decide, in one shadow step; `indices`: their places."""

    policy: RolloutPolicy
    indices: tuple[int, ...]
    undecided: tuple[Undecided, ...]


def split(policy: RolloutPolicy, baseline: int, *, labelled: bool) -> Split:
    """The part of a policy that pairs decide. `baseline`: rows of stable alone that freeze the constants.

    `labelled`: rows say what was true.
    """
    kept: list[Gate] = []
    indices: list[int] = []
    undecided: list[Undecided] = []
    for index, gate in enumerate(policy.gates):
        reason = _LABELS if on_labels(gate) and not labelled else _why_not(gate)
        if reason:
            undecided.append(Undecided(index, gate, reason, advisory=is_latency(gate.metric)))
            continue
        kept.append(gate.model_copy(update={"place": None}))
        indices.append(index)
    changed = {
        "gates": tuple(kept),
        "steps": (Step.model_validate({"shadow": 1.0, "until": "gates", "for": 0.0, "requests": 0}),),
        "baseline": Baseline.model_validate({"requests": max(1, baseline), "for": 0.0}),
    }
    return Split(policy.model_copy(update=changed), tuple(indices), tuple(undecided))


def _why_not(gate: Gate) -> str:
    """Why pairs cannot decide a gate, or ''."""
    if is_latency(gate.metric):
        return _LATENCY
    if gate.metric in _WHY:
        return _WHY[gate.metric]
    return "" if "shadow" in metric_of(gate).places else _CANARY
