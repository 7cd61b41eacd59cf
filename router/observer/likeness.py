"""How alike two answers to one request are: the share that agrees, and the mean absolute difference.

Kept for candidate and stable, and for stable with itself, so that a model which never answers twice the
same is judged against its own noise.
"""

from __future__ import annotations

from ...store.evidence import ArmKey, Series, SeriesKey
from ...store.measurement import CLUSTERS
from .sums import column


class Likeness:
    """Sums by time cluster for the series of one arm key: `agreement` and `missing`, `difference`."""

    __slots__ = ("_agreed", "_apart", "_arm", "_missing", "_named")

    def __init__(self, arm: ArmKey, *, agreement: bool, difference: bool, named: str = "agreement") -> None:
        self._arm: ArmKey = arm
        self._named = named
        self._agreed = Series(column(CLUSTERS), column(CLUSTERS), column(CLUSTERS)) if agreement else None
        self._apart = Series(column(CLUSTERS), column(CLUSTERS), column(CLUSTERS)) if difference else None
        self._missing = Series(column(CLUSTERS), column(CLUSTERS), column(CLUSTERS)) if agreement else None

    def agree(self, cluster: int, share: float) -> None:
        """The share of one request's instances in which both answers agree."""
        _add(self._agreed, cluster, share)

    def differ(self, cluster: int, difference: float) -> None:
        """The mean over one request's instances of |difference|, scaled to 0..1."""
        _add(self._apart, cluster, difference)

    def lack(self, cluster: int) -> None:
        """A request that was answered once and not a second time."""
        _add(self._missing, cluster, 1.0)

    def series(self, into: dict[SeriesKey, Series]) -> None:
        """Put every series that has an observation into `into`."""
        kept = ((self._named, self._agreed), ("difference", self._apart), ("missing", self._missing))
        for metric, sums in kept:
            if sums is not None and any(sums.n):
                # Copies: the snapshot is encoded in another thread while the sums go on.
                into[SeriesKey(self._arm, "", metric)] = Series(
                    list(sums.n), list(sums.sum), list(sums.square)
                )


def _add(sums: Series | None, cluster: int, y: float) -> None:
    if sums is not None:
        sums.n[cluster] += 1
        sums.sum[cluster] += y
        sums.square[cluster] += y * y
