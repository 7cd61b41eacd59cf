"""Divergence: how much more often candidate and stable disagree than stable does with itself.

Both shares are of pairs of the same batches of time, so whatever moves both cancels or counts once. Batches
that resemble their neighbours in the difference are refused where that is seen; short of that the variance is
the largest between batches and between blocks of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..stats.autocorrelation import blocked_variance, resembles_neighbours
from ..stats.clusters import (
    FEWEST_EFFECTIVE_CLUSTERS,
    FEWEST_EVENTS,
    ClusterEpoch,
    cluster_estimate,
    effective_number,
)
from ..stats.mean import paired_statistic
from ..stats.result import NotComputable
from .methods import FEWEST_BATCHES_THAT_DIFFER, Asymptotic, Measured, bounded, pooled
from .sums import Floats, PairEpoch, Sums

DIVERGENCE: Final = "P4 batches of pairs against stable's own (asymptotic)"


def paired_divergence(epochs: Sequence[PairEpoch], *, autocorrelation: float) -> Measured | NotComputable:
    """Disagreement of candidate and stable less that of stable with itself, on pairs of the same batches.

    `stable` of an epoch: stable asked twice. Both are shares of their own pairs in the same batches of time,
    so a batch is one observation of their difference, however the two move together. With few disagreements
    stable's own count as none, which is safe: what is proven about the whole holds for what is beyond.
    """
    known = [(epoch.pair, epoch.stable) for epoch in epochs if epoch.stable is not None]
    pairs, again = (float(sum(side[at].n.sum() for side in known)) for at in (0, 1))
    if not again:
        return NotComputable("stable has not been asked twice yet, so its own noise is not known")
    got = cluster_estimate([_divergence(pair, floor) for pair, floor in known])
    if isinstance(got, NotComputable):
        return got
    noise = effective_number(np.sum([floor.n for _, floor in known], axis=0))
    if noise < FEWEST_EFFECTIVE_CLUSTERS:
        return NotComputable(
            f"stable was asked twice in {noise:.0f} effective batches, at least "
            f"{FEWEST_EFFECTIVE_CLUSTERS:g} are needed"
        )
    both = np.sum([(pair.n - pair.y) + (floor.n - floor.y) for pair, floor in known], axis=0)
    if got.few_events or int(np.count_nonzero(both > 0.0)) < FEWEST_BATCHES_THAT_DIFFER:
        apart = pooled([Sums(p.n, p.n - p.y, p.n - 2.0 * p.y + p.square) for p, _ in known])
        n, d, square = (float(part.sum()) for part in (apart.n, apart.y, apart.square))
        few = bounded(paired_statistic(n, d, square, n / autocorrelation), n)
        return few if isinstance(few, NotComputable) else replace(few, harmless=True)
    sides = by_batch(epochs)
    blocked, blocks = blocked_variance(sides.influence[sides.filled])
    df = min(got.df, noise - 1.0, blocks - 1.0 if blocked > got.variance else inf)
    variance = max(got.variance, blocked)
    return Asymptotic(got.estimate, variance, df, DIVERGENCE, pairs, again, got.expected_c)


class Apart(NamedTuple):
    """Two shares by batch: n and y of both sides, and the influence on their difference where `filled`."""

    each: tuple[tuple[Floats, Floats], tuple[Floats, Floats]]
    influence: Floats
    filled: NDArray[np.bool_]


def by_batch(epochs: Sequence[PairEpoch]) -> Apart:
    """Candidate and stable beside stable with itself, over epochs."""
    known = [(epoch.pair, epoch.stable) for epoch in epochs if epoch.stable is not None]
    both = pooled([pair for pair, _ in known]), pooled([floor for _, floor in known])
    each = (both[0].n, both[0].y), (both[1].n, both[1].y)
    filled = (each[0][0] > 0.0) & (each[1][0] > 0.0)
    ours, theirs = (
        (y - float(y.sum()) / max(float(n.sum()), 1.0) * n) / max(float(n.sum()), 1.0) for n, y in each
    )
    return Apart(each, np.where(filled, ours - theirs, 0.0), filled)


def _divergence(pair: Sums, floor: Sums) -> ClusterEpoch:
    n = float(pair.n.sum() + floor.n.sum())
    share = float(pair.n.sum()) / n if n > 0.0 else 0.0
    return ClusterEpoch(share, pair.n, pair.n - pair.y, floor.n, floor.n - floor.y)


def too_short_apart(epochs: Sequence[PairEpoch], batch: float) -> NotComputable | None:
    """The same of two shares that are compared batch by batch (`stable`: the other one).

    What moves both cancels, so only the memory of their difference counts: whether neighbouring batches
    resemble each other in it. With few disagreements nothing is concluded from batches.
    """
    known = [epoch for epoch in epochs if epoch.stable is not None]
    if not known:
        return None
    sides = by_batch(known)
    seen = np.sum([n - y for n, y in sides.each], axis=0)  # disagreements
    few = min(float(seen.sum()), float(np.count_nonzero(seen > 0.0))) < FEWEST_EVENTS
    if few or min(float(n.sum()) for n, _ in sides.each) <= 0.0:
        return None
    alike = resembles_neighbours(sides.influence, sides.filled)
    if alike is None:
        return None
    return NotComputable(
        f"how far the candidate diverges beyond stable is correlated between batches of {batch:g} s "
        f"({alike:.2f}), so they are not independent: write a longer `batch` into the policy and start again"
    )
