"""How much slower the candidate's answer to a copy was than stable's to the request, as differences of pairs.

The canary's question on the same requests: is the candidate over half the margin, or over the whole of it,
where stable is over its own frozen quantile? Advice only, since a shadow has a load and caches of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from ...store.evidence import Series, SeriesKey
from ...store.histogram import BINS, bin_of
from ...store.measurement import CLUSTERS, LatencyThresholds
from .replies import PREFIX
from .sums import Put, Ranks, column


class Slower:
    """Sums by time cluster for the latency thresholds of a plan."""

    __slots__ = ("_d", "_d2", "_moves", "_n", "_names", "_over", "_ranks", "_seen")

    def __init__(self, thresholds: Sequence[LatencyThresholds]) -> None:
        kept = [one for one in thresholds if not one.metric.startswith(PREFIX)]
        self._ranks = Ranks(kept, BINS)
        self._names = [one.metric for one in kept]
        place = dict(self._ranks.names)
        # By rank of both sides: the columns that a pair moves, and by how much. Most pairs move none.
        self._moves: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {}
        for theirs, ours in product(range(self._ranks.top + 1), repeat=2):
            apart = [
                (ours > place[f"{name}.{part}"]) - (theirs > place[f"{name}.over"])
                for name in self._names
                for part in ("mid", "far")
            ]
            self._moves[theirs, ours] = tuple((at, d) for at, d in enumerate(apart) if d)
        self._n = column(CLUSTERS)
        self._d = [column(CLUSTERS) for _ in range(2 * len(kept))]
        self._d2 = [column(CLUSTERS) for _ in range(2 * len(kept))]
        self._over = column((self._ranks.top + 1) * CLUSTERS)
        self._seen: dict[int, int] = {}

    def add(self, cluster: int, stable: float | None, candidate: float | None) -> None:
        """One pair, seconds; None is a failure, which is over every threshold as in the canary."""
        if not self._names:
            return
        of_bin, top = self._ranks.of_bin, self._ranks.top
        theirs = top if stable is None else of_bin[bin_of(stable)]
        ours = top
        if candidate is not None:
            found = bin_of(candidate)
            ours = of_bin[found]
            self._seen[found] = self._seen.get(found, 0) + 1
        self._n[cluster] += 1
        if theirs:
            self._over[theirs * CLUSTERS + cluster] += 1
        if theirs or ours:
            for at, d in self._moves[theirs, ours]:
                self._d[at][cluster] += d
                self._d2[at][cluster] += 1

    def histogram(self) -> dict[int, int]:
        """Times of the copies that were answered: {bin: count}."""
        return dict(self._seen)

    def series(self, into: dict[SeriesKey, Series]) -> None:
        """Put every series that has an observation into `into`, for `pair` and `paired_stable`."""
        pair, stable = Put(into, "pair", ""), Put(into, "paired_stable", "")
        places = dict(self._ranks.names)
        sums = zip(self._d, self._d2, strict=True)
        for name in self._names:
            over = places[f"{name}.over"]
            for part in ("mid", "far"):
                pair.sums(f"{name}.{part}", self._n, *next(sums))
                stable.over([(f"{name}.{part}", over)], self._n, self._over)
