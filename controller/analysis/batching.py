"""The length of a batch of time: chosen from stable's memory in epoch 0, held against that of pairs after.

A batch lasts at least ten autocorrelation times of what is analysed in it, or its verdicts wait. The memory
of what stable's servers do (errors, answers without a prediction, clients who left, streams cut off) is known
in epoch 0; that of differences between two versions only from the pairs themselves, so it is measured again
at every look, for each statistic on what it compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final

import numpy as np

from ...policies.policy import RolloutPolicy
from ...store.evidence import Evidence, SeriesKey
from ..stats.autocorrelation import Memory, memory
from ..stats.result import NotComputable
from .gaps import Form
from .length import DEFAULT_BATCH
from .sums import PairEpoch, PairGroupsEpoch, Sums, sums_of

OF_THE_SERVER: Final = frozenset({"errors", "missing", "client_disconnects", "stream.truncated"})
"""Series that depend on the server's state, not only on the request: analysed over time clusters."""

LONGEST: Final = 60.0
"""Seconds; a longer batch must be asked for, since twenty of them are the least that anything needs."""

_FEWEST_EVENTS: Final = 10.0


def chosen_batch(policy: RolloutPolicy, baseline: Evidence) -> float:
    """Seconds, to be frozen: as written, else the longest that a series of stable's servers in epoch 0 asks
    for, within bounds.
    """
    if policy.batch is not None:
        return policy.batch
    return max(DEFAULT_BATCH, *(_asked_by(baseline, series) for series in sorted(OF_THE_SERVER)))


def _asked_by(baseline: Evidence, series: str) -> float:
    """Seconds, at most the longest; 0 where too few of them happened to tell."""
    sums = sums_of(baseline, SeriesKey("stable", "", series))
    if not isinstance(sums, Sums) or float(sums.y.sum()) < _FEWEST_EVENTS:
        return 0.0
    got = memory(sums.n, sums.y, sums.square)
    return (
        0.0
        if isinstance(got, NotComputable)
        else min(LONGEST, float(ceil(DEFAULT_BATCH * got.batches_needed)))
    )


def too_short(
    epochs: Sequence[PairEpoch], batch: float, *, beside_a_change: bool = False
) -> NotComputable | None:
    """Why batches of these pairs cannot be taken as independent; None where they can, or nothing varies.

    `beside_a_change`: where there seems to be a memory, one change of level is taken for none (see `memory`).
    Harm may be such a change; safety is never concluded from batches that are alike for whatever reason.
    """
    return _too_short(_sum([epoch.pair for epoch in epochs]), batch, beside_a_change=beside_a_change)


def groups_too_short(epochs: Sequence[PairGroupsEpoch], batch: float, *, form: Form) -> NotComputable | None:
    """The same of two groups compared with each other, of what a form of `gaps` contrasts in each."""
    for group in ([epoch.group for epoch in epochs], [epoch.against for epoch in epochs]):
        theirs = [epoch.stable for epoch in group if epoch.stable is not None]
        if not group or len(theirs) != len(group):
            return None  # the statistic itself says what is missing
        pair, stable = _sum([epoch.pair for epoch in group]), _sum(theirs)
        found = _too_short(_combined(pair, stable, *_parts(form, pair, stable)), batch)
        if found is not None:
            return found
    return None


def _parts(form: Form, pair: Sums, stable: Sums) -> tuple[float, float]:
    """How much of the candidate's y and of stable's a form's contrast holds in one group."""
    if form == "ratio":  # of logarithms: each relative to its rate
        ours, theirs = float(stable.y.sum() + pair.y.sum()), float(stable.y.sum())
        n = float(pair.n.sum())
        return (n / ours if ours > 0.0 else 0.0), (-n / theirs if theirs > 0.0 else 0.0)
    parts: dict[Form, tuple[float, float]] = {
        "gap": (1.0, -1.0), "reverse": (1.0, 1.0), "shortfall": (1.0, 0.0), "stable": (0.0, 1.0),
    }  # fmt: skip
    return parts[form]


def _combined(pair: Sums, stable: Sums, ours: float, theirs: float) -> Sums:
    """Sums of `ours` times the candidate's y plus `theirs` times stable's, of pairs of events.

    c = s + d, and for events the sum of s d is (sum of d - sum of d squared) / 2.
    """
    both = (pair.y - pair.square) / 2.0
    candidate = np.maximum(stable.square + 2.0 * both + pair.square, 0.0)
    product = stable.square + both
    square = ours**2 * candidate + 2.0 * ours * theirs * product + theirs**2 * stable.square
    return Sums(pair.n, ours * (stable.y + pair.y) + theirs * stable.y, np.maximum(square, 0.0))


def _sum(parts: Sequence[Sums]) -> Sums:
    return Sums(*(np.sum([getattr(part, name) for part in parts], axis=0) for name in ("n", "y", "square")))


def _too_short(sums: Sums, batch: float, *, beside_a_change: bool = False) -> NotComputable | None:
    got = memory(sums.n, sums.y, sums.square)
    if beside_a_change and isinstance(got, Memory) and got.batches_needed > 1.0:
        got = memory(sums.n, sums.y, sums.square, beside_a_change=True)
    if isinstance(got, NotComputable) or got.batches_needed <= 1.0:
        return None
    seconds = (got.tau - 1.0) / got.per_batch * batch
    return NotComputable(
        f"what is compared on pairs is correlated over about {seconds:.3g} s, more than a tenth of a batch "
        f"of {batch:g} s, so batches are not independent: write `batch: {ceil(batch * got.batches_needed)}s` "
        "into the policy and start again"
    )
