"""The length of a batch of time: chosen from stable's memory in epoch 0, held against that of pairs after.

A batch lasts at least ten autocorrelation times of what is analysed in it, or its verdicts wait. The memory
of stable's errors is known in epoch 0; that of differences between two versions only from the pairs
themselves, so it is measured again at every look.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Final

import numpy as np

from ..policies.policy import RolloutPolicy
from ..store.evidence import Evidence, SeriesKey
from .length import DEFAULT_BATCH
from .stats.autocorrelation import memory
from .stats.result import NotComputable
from .sums import PairEpoch, Sums, sums_of

LONGEST: Final = 60.0
"""Seconds; a longer batch must be asked for, since twenty of them are the least that anything needs."""

_FEWEST_EVENTS: Final = 10.0
_FEWEST_NEIGHBOURS: Final = 20
_BEYOND_CHANCE: Final = 3.0  # standard deviations


def chosen_batch(policy: RolloutPolicy, baseline: Evidence) -> float:
    """Seconds, to be frozen: as written, else what stable's errors in epoch 0 ask for, within bounds."""
    if policy.batch is not None:
        return policy.batch
    sums = sums_of(baseline, SeriesKey("stable", "", "errors"))
    if not isinstance(sums, Sums) or float(sums.y.sum()) < _FEWEST_EVENTS:
        return DEFAULT_BATCH
    got = memory(sums.n, sums.y, sums.square)
    if isinstance(got, NotComputable):
        return DEFAULT_BATCH
    return min(LONGEST, max(DEFAULT_BATCH, float(ceil(DEFAULT_BATCH * got.batches_needed))))


def too_short(epochs: Sequence[PairEpoch], batch: float) -> NotComputable | None:
    """Why batches of these pairs cannot be taken as independent; None where they can, or nothing varies."""
    got = memory(
        np.sum([epoch.pair.n for epoch in epochs], axis=0),
        np.sum([epoch.pair.y for epoch in epochs], axis=0),
        np.sum([epoch.pair.square for epoch in epochs], axis=0),
    )
    if isinstance(got, NotComputable) or got.batches_needed <= 1.0:
        return None
    seconds = (got.tau - 1.0) / got.per_batch * batch
    return NotComputable(
        f"what is compared on pairs is correlated over about {seconds:.3g} s, more than a tenth of a batch "
        f"of {batch:g} s, so batches are not independent: write `batch: {ceil(batch * got.batches_needed)}s` "
        "into the policy and start again"
    )


def too_short_apart(epochs: Sequence[PairEpoch], batch: float) -> NotComputable | None:
    """The same of two shares that are compared batch by batch (`stable`: the other one).

    What moves both cancels, so only the memory of their difference counts: whether neighbouring batches
    resemble each other in it. With few disagreements nothing is concluded from batches.
    """
    known = [(epoch.pair, epoch.stable) for epoch in epochs if epoch.stable is not None]
    if not known:
        return None
    sides = [
        (np.sum([both[at].n for both in known], axis=0), np.sum([both[at].y for both in known], axis=0))
        for at in (0, 1)
    ]
    seen = np.sum([n - y for n, y in sides], axis=0)  # disagreements
    few = min(float(seen.sum()), float(np.count_nonzero(seen > 0.0))) < _FEWEST_EVENTS
    if few or min(float(n.sum()) for n, _ in sides) <= 0.0:
        return None
    ours, theirs = ((y - float(y.sum() / n.sum()) * n) / float(n.sum()) for n, y in sides)
    apart, filled = ours - theirs, (sides[0][0] > 0.0) & (sides[1][0] > 0.0)
    apart = np.where(filled, apart, 0.0)
    neighbours = int(np.count_nonzero(filled & np.roll(filled, 1)))
    power = float(np.dot(apart, apart))
    if neighbours < _FEWEST_NEIGHBOURS or power <= 0.0:
        return None
    alike = float(np.dot(apart, np.roll(apart, 1))) / neighbours * int(np.count_nonzero(filled)) / power
    if alike <= _BEYOND_CHANCE / sqrt(neighbours):
        return None
    return NotComputable(
        f"how far the candidate diverges beyond stable is correlated between batches of {batch:g} s "
        f"({alike:.2f}), so they are not independent: write a longer `batch` into the policy and start again"
    )
