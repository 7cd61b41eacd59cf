"""Latency in the shadow, as advice: the canary's question, asked of both answers to the same requests.

As in the canary the candidate's share over half the margin (harm) or over all of it (safety) is compared with
stable's share over its own frozen quantile; here as a difference within each pair, over batches of time. Each
gate is asked at the policy's whole levels, since advice shares no level with what decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import log

from ...policies.metrics import with_default_margins
from ...policies.policy import Gate, RolloutPolicy
from ...store.evidence import Evidence
from ...store.histogram import GAMMA
from ...store.rollouts import Advice, FrozenConstants, Outcome, RolloutRecord, Validity
from ..stats.result import NotComputable
from .batching import too_short
from .cells import quantile_of
from .comparison import Side
from .methods import Asymptotic, paired_differences
from .reading import Levels
from .sums import Broken, PairEpoch, View
from .wording import gate_text


def advised(policy: RolloutPolicy) -> tuple[tuple[int, Gate], ...]:
    """The gates of a policy that pairs have advice on, with their places in it. Of a stream's first token
    they have none: nobody waits for a copy's.
    """
    gates = [(index, with_default_margins(gate)) for index, gate in enumerate(policy.gates)]
    return tuple((index, gate) for index, gate in gates if gate.metric.startswith("latency."))


def advise(
    gates: Sequence[tuple[int, Gate]],
    record: RolloutRecord,
    constants: FrozenConstants,
    evidence: Mapping[int, Evidence],
    levels: Levels,
    validity: Sequence[Validity],
) -> tuple[Advice, ...]:
    """One for every gate of which a shadow has thresholds, over all epochs of the shadow.

    With too few pairs among the copies nothing is concluded from them.
    """
    bad = (check for check in validity if check.check == "coverage" and check.outcome is not Outcome.PASS)
    withheld = next((check.reason for check in bad), "")
    view = View(record, constants, evidence)
    shadows = [epoch for epoch, _, _ in view.epochs("shadow")]
    found: list[Advice] = []
    for index, gate in gates:
        known = [epoch.thresholds[gate.metric] for epoch in shadows if gate.metric in epoch.thresholds]
        if not known:
            continue
        over, _, far = known[-1]
        outcome, reason, pairs = _judged(gate.metric, view, constants, levels)
        if withheld and outcome is not Outcome.ERROR:
            outcome, reason = Outcome.INCONCLUSIVE, withheld
        factor = view.latency_factor(gate.metric, quantile_of(gate.metric), "shadow")
        found.append(
            Advice(index, gate_text(gate), outcome, reason, float(GAMMA ** (far - over)), factor, pairs)
        )
    return tuple(found)


def _judged(
    metric: str, view: View, constants: FrozenConstants, levels: Levels
) -> tuple[Outcome, str, float]:
    half, whole = (view.pairs("shadow", "", f"{metric}.{part}") for part in ("mid", "far"))
    for epochs in (half, whole):
        if isinstance(epochs, Broken):
            return Outcome.ERROR, epochs.reason, 0.0
    assert not isinstance(half, Broken) and not isinstance(whole, Broken)  # noqa: PT018, S101
    pairs = sum(float(epoch.pair.n.sum()) for epoch in half)
    if not pairs:
        return Outcome.INCONCLUSIVE, "no shadow observations yet", 0.0
    gap = (1.0 - quantile_of(metric)) / 2.0
    safe = _measured(whole, constants, beside_a_change=False)
    proof = safe if isinstance(safe, NotComputable) else safe.safe(0.0, gap, levels.safe)
    if not isinstance(proof, NotComputable) and proof >= -log(levels.safe):
        return Outcome.PASS, "within the margin here", pairs
    harm = _measured(half, constants, beside_a_change=True)
    found = harm if isinstance(harm, NotComputable) else harm.harm(0.0, gap, levels.harm)
    if not isinstance(found, NotComputable) and found >= -log(levels.harm):
        return Outcome.FAIL, "slower here, beyond half the margin", pairs
    unknown = next((one for one in (found, proof) if isinstance(one, NotComputable)), None)
    reason = unknown.reason if unknown is not None else "neither slower nor within the margin beyond doubt"
    return Outcome.INCONCLUSIVE, reason, pairs


def _measured(
    epochs: Sequence[PairEpoch], constants: FrozenConstants, *, beside_a_change: bool
) -> Asymptotic | NotComputable:
    """Over batches that are long enough; of few differences nothing is concluded, as in the canary."""
    measure = partial(paired_differences, counted=True, autocorrelation=1.0)
    unless = partial(too_short, batch=constants.batch, beside_a_change=beside_a_change)
    got = Side(epochs, measure, unless).look(len(epochs))
    if isinstance(got, Asymptotic | NotComputable):
        return got
    differ = sum(float(epoch.pair.square.sum()) for epoch in epochs)
    return NotComputable(f"only {differ:.0f} pairs differ so far, or in too few batches of time")
