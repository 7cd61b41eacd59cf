"""What a candidate really changes, computed over the whole data set before any traffic flows.

Clients draw rows at random with replacement, so these are the values the rollout estimates. A `good`
candidate must be good by these numbers, not by our word.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import AccedeError
from ...policies.policy import RolloutPolicy
from .models import SELECTED_FROM, Data, Recipe, scores, train

_SHARE_OF_MARGIN = 0.25  # a good candidate stays below a quarter of every margin


@dataclass(frozen=True, slots=True)
class Truth:
    """Candidate against stable. Rates and shifts in 0..1, `mean_shift` in sd of stable's score.

    `selection_shift`: of each group of sex. `rows`: how many rows each group has.
    """

    mean_shift: float
    agreement: float
    selection_shift: dict[str, float]
    rows: dict[str, int]

    def sentence(self) -> str:
        """The numbers in one line."""
        shifts = ", ".join(
            f"sex={group} {shift * 100:+.2f} pp ({self.rows[group]} rows)"
            for group, shift in self.selection_shift.items()
        )
        return (
            f"true shift of the selection rate: {shifts}; of the mean score: {self.mean_shift:+.3f} sd; "
            f"agreement {self.agreement:.1%}"
        )


def truth_of(stable: Recipe, candidate: Recipe, agree_within: float, data: Data) -> Truth:
    """What a candidate changes on the whole data set."""
    before = scores(stable, train(stable, data), data.features)
    after = scores(candidate, train(candidate, data), data.features)
    sexes = data.sex
    groups = sorted(set(sexes.tolist()))
    selected = (after >= SELECTED_FROM).astype(float) - (before >= SELECTED_FROM)
    return Truth(
        mean_shift=float((after - before).mean() / before.std()),
        agreement=float((abs(after - before) <= agree_within).mean()),
        selection_shift={group: float(selected[sexes == group].mean()) for group in groups},
        rows={group: int((sexes == group).sum()) for group in groups},
    )


def require_good(truth: Truth, policy: RolloutPolicy) -> str:
    """Check that a candidate shifts each group by less than a quarter of every margin; says so in a line.

    Raises AccedeError where it does not: then the demo would show nothing about a good candidate.
    """
    for gate in policy.gates:
        if gate.max_shift is None:
            continue
        margin = gate.max_shift.value
        shifts = (
            truth.selection_shift
            if gate.metric == "selection_rate"
            else {"all": truth.mean_shift}
            if gate.metric == "prediction.mean" and gate.max_shift.unit == "sd"
            else {}
        )
        for group, shift in shifts.items():
            if abs(shift) >= margin * _SHARE_OF_MARGIN:
                raise AccedeError(
                    f"the demo's good candidate shifts {gate.metric} of {group} by {shift:+.4f}, more than a "
                    f"quarter of the margin {margin:g}; it would prove nothing"
                )
    return f"every shift is below {_SHARE_OF_MARGIN:.0%} of its margin"
