"""What arrives: whether the inputs of the randomised arms look alike, as they must.

Which arm a request gets is drawn without looking at it, so given an input the share of the candidate is its
weight, whatever the traffic does: the product of beta-binomial Bayes factors over the values of an input is
an E-value at every look (stats.distribution). Every router counts inputs in the order of assignment up to a
line before which all are in, so a slow arm does not look like another input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import exp, log
from typing import Final

from ...store.evidence import Evidence
from ...store.rollouts import EpochRecord, FrozenConstants, Outcome, RolloutRecord, Validity
from ..stats.distribution import ClassEpoch, equality_log_e
from ..stats.result import NotComputable

INPUTS_LEVEL: Final = 0.001
"""Of all inputs together, over the whole rollout."""


def inputs_alike(
    record: RolloutRecord, constants: FrozenConstants | None, evidence: Mapping[int, Evidence]
) -> Iterator[Validity]:
    """One check over all inputs; none where nothing was counted in both arms' epochs.

    Units that stay with their arm bring their inputs along request by request: they are not compared, which
    `controller.drifting` says where the drift of inputs is shown.
    """
    epochs = randomised(record)
    names = inputs_of([evidence[epoch.epoch] for epoch in epochs if epoch.epoch in evidence])
    if not names or (constants is not None and constants.sticky):
        return
    needed = log(len(names) / INPUTS_LEVEL)
    worst, told = float("-inf"), ""
    for name in names:
        value = equality_log_e(class_epochs(epochs, evidence, name))
        if isinstance(value, NotComputable):
            if value.reason != "no requests":
                yield Validity("inputs", Outcome.ERROR, f"input {name}: {value.reason}")
                return
        elif value > worst:
            worst, told = value, name
    if not told:
        return
    p = min(1.0, len(names) * exp(-max(worst, 0.0)))
    numbers = {"inputs": float(len(names)), "p": p}
    if worst >= needed:
        reason = (
            f"input {told} differs between the arms (p = {p:.2g}): requests are not assigned at random, or "
            "bodies of one arm are captured less often (see capture limits)"
        )
        yield Validity("inputs", Outcome.ERROR, reason, numbers)
    else:
        reason = f"the inputs of the arms look alike (p = {p:.2g})"
        yield Validity("inputs", Outcome.PASS, reason, numbers)


def randomised(record: RolloutRecord) -> list[EpochRecord]:
    """The epochs in which both arms answer users."""
    return [epoch for epoch in record.epochs if epoch.place == "canary" and 0.0 < epoch.weight < 1.0]


def inputs_of(evidence: Sequence[Evidence]) -> list[str]:
    """Names of the inputs that were counted, in order."""
    return sorted({key.partition("|")[2] for found in evidence for key in found.inputs})


def class_epochs(
    epochs: Sequence[EpochRecord], evidence: Mapping[int, Evidence], name: str
) -> list[ClassEpoch]:
    """Requests per value of an input and arm, epoch by epoch."""
    counted: list[ClassEpoch] = []
    for epoch in epochs:
        found = evidence.get(epoch.epoch)
        if found is None:
            continue
        ours, theirs = (found.inputs.get(f"{arm}|{name}", {}) for arm in ("candidate", "stable"))
        labels = sorted({*ours, *theirs})
        counted.append(
            ClassEpoch(
                epoch.weight,
                tuple(float(ours.get(label, 0)) for label in labels),
                tuple(float(theirs.get(label, 0)) for label in labels),
            )
        )
    return counted
