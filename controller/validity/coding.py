"""Whether answers come in a content coding that routers can undo.

One that they cannot (zstd, something of one's own) reads exactly like an answer without a prediction. Clients
may well understand it, so it proves no harm; nobody can measure it, and it holds until somebody changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ...store.evidence import Evidence
from ...store.rollouts import Outcome, RolloutRecord, Validity

_SHARE: Final = 0.01  # of an arm's answers, as of those without a prediction
_FEWEST: Final = 100


def coding(record: RolloutRecord, evidence: Mapping[int, Evidence]) -> Iterator[Validity]:
    """An error for the first arm whose answers cannot be read: in this epoch, or in all while it is young."""
    for arm in ("stable", "candidate"):
        answers = coded = 0
        for epoch in reversed(record.epochs):
            found = evidence.get(epoch.epoch)
            if found is None:
                continue
            counts = found.arms.get(arm)
            if counts is not None:
                answers += counts.accounted - counts.uncaptured - counts.bodies_lost
                coded += counts.undecodable
            if arm == "candidate":  # copies are answers of the candidate that no client sees
                answers += found.mirror.paired - found.mirror.lost
            if answers >= _FEWEST:
                break
        if answers >= _FEWEST and coded > _SHARE * answers:
            reason = (
                f"{min(1.0, coded / answers):.1%} of {arm}'s {answers} answers are in a content coding that "
                "the router cannot read, so their predictions are unknown, not missing: the router's log "
                "names it; let the model server send gzip, deflate, br or no coding"
            )
            numbers = {"answers": float(answers), "undecodable": float(coded)}
            yield Validity("coding", Outcome.ERROR, reason, numbers)
            return
