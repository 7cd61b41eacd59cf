"""Whether the bodies that gates read are a fair sample of both arms.

Bodies are dropped first where room is short, and those above the capture limit are never read. What is left
tells of all requests only if the arms lose alike: a candidate whose answers are too long to be read would
otherwise be judged by its short ones. Both must lose alike within each epoch (controller.apart).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ...policies.metrics import on_pairs
from ...policies.policy import Gate, RolloutPolicy
from ...store.evidence import ArmCounts, Evidence
from ...store.rollouts import FrozenConstants, Outcome, RolloutRecord, Validity
from ..analysis.per_policy import per_policy
from ..stats.apart import FEWEST, Apart, apart
from .arrivals import randomised

_FROM_ANSWERS: Final = (
    "prediction.",
    "selection_",
    "class_share.",
    "metrics.",
    "uncertainty.",
    "explanation.",
)
_LOST_GAP: Final = 0.005  # of bodies dropped for want of room; as for requests
_UNREAD_GAP: Final = 0.02  # of bodies that are not there for any reason; as for missing values


def reads_bodies(gate: Gate) -> bool:
    """True where a gate needs what is in answers, or in requests: slices come from there."""
    return gate.metric.startswith(_FROM_ANSWERS) or gate.by is not None


def needs_bodies(gate: Gate, place: str) -> bool:
    """True where the bodies of users' requests decide a gate; pairs have a coverage of their own."""
    return place == "canary" and reads_bodies(gate) and not on_pairs(gate, "canary")


def bodies(
    record: RolloutRecord,
    policy: RolloutPolicy,
    constants: FrozenConstants | None,
    evidence: Mapping[int, Evidence],
) -> Iterator[Validity]:
    """One check over all epochs in which both arms answer users; none where no gate reads bodies there."""
    if not _read(policy):
        return
    arms = [
        (_counts(found, "candidate"), _counts(found, "stable"))
        for epoch in randomised(record)
        if (found := evidence.get(epoch.epoch)) is not None
    ]
    wanted = sum(_wanted(counts) for both in arms for counts in both)
    lost = sum(counts.bodies_lost for both in arms for counts in both)
    if wanted <= 0:
        return
    numbers = {
        "lost_candidate": float(sum(candidate.bodies_lost for candidate, _ in arms)),
        "lost_stable": float(sum(stable.bodies_lost for _, stable in arms)),
        "uncaptured_candidate": float(sum(candidate.uncaptured for candidate, _ in arms)),
        "uncaptured_stable": float(sum(stable.uncaptured for _, stable in arms)),
    }
    dropped = apart(((c.bodies_lost, _wanted(c)), (s.bodies_lost, _wanted(s))) for c, s in arms)
    unread = apart(((_unread(c), _analysed(c)), (_unread(s), _analysed(s))) for c, s in arms)
    least = constants.min_coverage if constants is not None else 0.0
    way_out = "give routers more room (workers, a smaller capture.sample)"
    if dropped.beyond(_LOST_GAP):
        reason = (
            f"bodies are lost for want of room {_more(dropped)}, so those left do not tell of all: {way_out}"
        )
        yield Validity("bodies", Outcome.ERROR, reason, numbers)
    elif unread.beyond(_UNREAD_GAP):
        reason = (
            f"bodies are not read {_more(unread)}, so those left do not tell of all: its answers may be "
            "longer than capture.response; raise it"
        )
        yield Validity("bodies", Outcome.INCONCLUSIVE, reason, numbers)
    elif lost >= FEWEST and lost > (1.0 - least) * wanted:
        reason = (
            f"{lost / wanted:.1%} of the bodies to be read were lost for want of room, at most "
            f"{1.0 - least:.0%} may be: {way_out}"
        )
        yield Validity("bodies", Outcome.INCONCLUSIVE, reason, numbers)
    else:
        yield Validity(
            "bodies", Outcome.PASS, f"{lost / wanted:.2%} of the bodies to be read were lost", numbers
        )


@per_policy
def _read(policy: RolloutPolicy) -> bool:
    return any(needs_bodies(gate, "canary") for gate in policy.gates)


def _counts(found: Evidence, arm: str) -> ArmCounts:
    return found.arms.get(arm) or ArmCounts()


def _analysed(counts: ArmCounts) -> int:
    return counts.accounted - counts.unassignable


def _wanted(counts: ArmCounts) -> int:
    """Exchanges whose bodies should be there: of the sample, and within the limit of size."""
    return _analysed(counts) - counts.uncaptured


def _unread(counts: ArmCounts) -> int:
    return counts.bodies_lost + counts.uncaptured


def _more(gap: Apart) -> str:
    arm, other = ("candidate", "stable") if gap.gap > 0.0 else ("stable", "candidate")
    return f"more often of {arm} than of {other}, by {abs(gap.gap):.1%} of requests"
