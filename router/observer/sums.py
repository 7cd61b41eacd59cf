"""The sums of one epoch as flat lists: a cell per (arm, slice group), a pair cell per slice group.

Cells know nothing of exchanges; fold.py and pairing.py decide what is added. Flat lists and one shared
n per kind of metric, because a dict of (n, Σy, Σy²) per metric would cost more than the statistics need.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add
from typing import Final

from ...store.evidence import ArmKey, Series, SeriesKey
from ...store.measurement import CLUSTERS, LatencyThresholds
from .scores import Scores

ALL: Final = ("errors", "missing", "client_disconnects", "latency", "extraction", "mean", "bin", "selected")
PAIRED: Final = ("errors", "missing", "mean", "bin", "selected", "agreement")

Column = list[float]


def column(length: int) -> Column:
    """Zeros. Integers, which are exact and quick, until a fraction is added."""
    return [0] * length


def added(one: Column, other: Column) -> Column:
    """The sums of two columns."""
    return list(map(add, one, other))


class Ranks:
    """Thresholds of a plan in order: an exchange is over the first `rank` of them."""

    def __init__(self, thresholds: Sequence[LatencyThresholds], bins: int) -> None:
        self.edges = sorted({edge for one in thresholds for edge in (one.over, one.mid, one.far)})
        self.top = len(self.edges)
        self.of_bin = [sum(edge <= index for edge in self.edges) for index in range(bins)]
        place = {edge: index for index, edge in enumerate(self.edges)}
        self.names = [
            (f"{one.metric}.{name}", place[edge])
            for one in thresholds
            for name, edge in (("over", one.over), ("mid", one.mid), ("far", one.far))
        ]


class ArmCell:
    """One arm's sums in one slice group, for the metrics asked for (names of ALL, or one `latency.pNN`)."""

    __slots__ = (
        "bins", "bins2", "disconnects", "errors", "extraction", "extraction_n", "latencies", "mean", "mean2",
        "missing", "missing_n", "n", "over", "plain", "plain_bins", "plain_selected", "score_clusters",
        "score_n", "selected", "selected2",
    )  # fmt: skip

    def __init__(self, metrics: frozenset[str], ranks: Ranks, bins: int, score_clusters: int) -> None:
        self.n = column(CLUSTERS)
        self.errors = column(CLUSTERS) if "errors" in metrics else None
        self.disconnects = column(CLUSTERS) if "client_disconnects" in metrics else None
        self.latencies = [
            (name, place)
            for name, place in ranks.names
            if "latency" in metrics or name.rpartition(".")[0] in metrics
        ]
        self.over = column((ranks.top + 1) * CLUSTERS) if self.latencies else None
        self.missing_n = column(CLUSTERS)
        self.missing = column(CLUSTERS) if "missing" in metrics else None
        self.extraction_n = column(CLUSTERS)
        self.extraction = column(CLUSTERS) if "extraction" in metrics else None
        self.score_clusters = score_clusters
        self.score_n = column(score_clusters)
        self.mean = column(score_clusters) if "mean" in metrics else None
        self.mean2 = column(score_clusters)
        self.selected = column(score_clusters) if "selected" in metrics else None
        self.selected2 = column(score_clusters)
        self.bins = column(score_clusters * bins) if "bin" in metrics and bins else None
        self.bins2 = column(score_clusters * bins)
        # Of plain exchanges one count stands for several: it is added to the others for a snapshot.
        self.plain = column(CLUSTERS)
        self.plain_selected = column(score_clusters)
        self.plain_bins = column(score_clusters * bins)

    # The same as `add` for nearly all exchanges, at a third of its cost.
    def add_plain(
        self, at: int, rank: int, unit: int, y: float | None, selected: bool, place: int | None,  # noqa: FBT001
    ) -> None:  # fmt: skip
        """One accounted exchange with a whole answer, no error, and one prediction: see Scorer.plain."""
        self.plain[at] += 1
        self.score_n[unit] += 1
        if rank and self.over is not None:
            self.over[rank * CLUSTERS + at] += 1
        if y is not None and self.mean is not None:
            self.mean[unit] += y
            self.mean2[unit] += y * y
        if selected:
            self.plain_selected[unit] += 1
        if place is not None and self.bins is not None:
            self.plain_bins[place * self.score_clusters + unit] += 1

    # Called several times for every observation: keyword arguments would cost a tenth of all that is done.
    def add(
        self, at: int, rank: int, failed: bool, left: bool, missing: int, extracted: bool,  # noqa: FBT001
        unit: int, scores: Scores | None,
    ) -> None:  # fmt: skip
        """One accounted exchange, in time cluster `at` and cluster `unit` of its scores.

        An error or not, over the first `rank` thresholds, left by its client or not. `missing`: whether
        a usable prediction was (1, 0; -1: nothing is known). `extracted`: the answer should have had one.
        """
        self.n[at] += 1
        if rank and self.over is not None:
            self.over[rank * CLUSTERS + at] += 1
        if failed and self.errors is not None:
            self.errors[at] += 1
        if left and self.disconnects is not None:
            self.disconnects[at] += 1
        if missing >= 0:
            if self.missing is not None:
                self.missing_n[at] += 1
                self.missing[at] += missing
            if extracted and self.extraction is not None:
                self.extraction_n[at] += 1
                self.extraction[at] += missing
            if scores is not None:
                self.scores(unit, scores)

    def scores(self, cluster: int, scores: Scores) -> None:
        """One request's y of its predictions."""
        y, selected, bins = scores
        self.score_n[cluster] += 1
        if y is not None and self.mean is not None:
            self.mean[cluster] += y
            self.mean2[cluster] += y * y
        if selected and self.selected is not None:
            self.selected[cluster] += selected
            self.selected2[cluster] += selected * selected
        if bins is not None and self.bins is not None:
            if isinstance(bins, int):
                place = bins * self.score_clusters + cluster
                self.bins[place] += 1
                self.bins2[place] += 1
            else:
                for k, share in bins.items():
                    place = k * self.score_clusters + cluster
                    self.bins[place] += share
                    self.bins2[place] += share * share

    def series(self, into: dict[SeriesKey, Series], arm: ArmKey, group: str, bins: Sequence[str]) -> None:
        """Put every series that has an observation into `into`."""
        put = Put(into, arm, group)
        n = added(self.n, self.plain)
        put.events("errors", n, self.errors)
        put.events("client_disconnects", n, self.disconnects)
        if self.over is not None:
            put.over(self.latencies, n, self.over)
        if self.missing is not None:
            put.events("missing", added(self.missing_n, self.plain), self.missing)
        if self.extraction is not None:
            put.events("extraction", added(self.extraction_n, self.plain), self.extraction)
        put.sums("mean", self.score_n, self.mean, self.mean2)
        if self.selected is not None:
            once = self.plain_selected
            put.sums("selected", self.score_n, added(self.selected, once), added(self.selected2, once))
        if self.bins is not None:
            width = self.score_clusters
            for k, name in enumerate(bins):
                part = slice(k * width, (k + 1) * width)
                once = self.plain_bins[part]
                put.sums(name, self.score_n, added(self.bins[part], once), added(self.bins2[part], once))


class Difference:
    """Sums of one paired metric: n, Σd, Σd², and Σy, Σy² of the stable side. `width` of them side by side."""

    __slots__ = ("d", "d2", "n", "y", "y2")

    def __init__(self, width: int = 1) -> None:
        self.n = column(CLUSTERS)
        self.d = column(CLUSTERS * width)
        self.d2 = column(CLUSTERS * width)
        self.y = column(CLUSTERS * width)
        self.y2 = column(CLUSTERS * width)

    def add(self, cluster: int, candidate: float, stable: float) -> None:
        """One pair of y."""
        self.n[cluster] += 1
        d = candidate - stable
        if d:
            self.d[cluster] += d
            self.d2[cluster] += d * d
        if stable:
            self.y[cluster] += stable
            self.y2[cluster] += stable * stable

    def add_shares(self, cluster: int, candidate: dict[int, float], stable: dict[int, float]) -> None:
        """One pair of shares over all bins."""
        self.n[cluster] += 1
        for k, share in stable.items():
            place = k * CLUSTERS + cluster
            self.y[place] += share
            self.y2[place] += share * share
            self._shift(place, candidate.get(k, 0) - share)
        for k, share in candidate.items():
            if k not in stable:
                self._shift(k * CLUSTERS + cluster, share)

    def _shift(self, place: int, d: float) -> None:
        if d:
            self.d[place] += d
            self.d2[place] += d * d


class PairCell:
    """The pairs' sums in one slice group, for the metrics asked for (names of PAIRED)."""

    __slots__ = ("agreed", "agreement", "agreement_n", "bins", "errors", "mean", "missing", "selected")

    def __init__(self, metrics: frozenset[str], bins: int) -> None:
        self.errors = Difference() if "errors" in metrics else None
        self.missing = Difference() if "missing" in metrics else None
        self.mean = Difference() if "mean" in metrics else None
        self.selected = Difference() if "selected" in metrics else None
        self.bins = Difference(bins) if "bin" in metrics and bins else None
        self.agreement_n = column(CLUSTERS)
        self.agreement = column(CLUSTERS) if "agreement" in metrics else None
        self.agreed = column(CLUSTERS)  # Σy²: shares of a batch are fractions

    def agree(self, cluster: int, share: float) -> None:
        """The share of one request's predictions in which both sides agree."""
        if self.agreement is not None:
            self.agreement_n[cluster] += 1
            if share:
                self.agreement[cluster] += share
                self.agreed[cluster] += share * share

    def series(self, into: dict[SeriesKey, Series], group: str, bins: Sequence[str]) -> None:
        """Put every series that has an observation into `into`, for `pair` and `paired_stable`."""
        pair, stable = Put(into, "pair", group), Put(into, "paired_stable", group)
        for name in ("errors", "missing", "mean", "selected"):
            sums: Difference | None = getattr(self, name)
            if sums is not None:
                pair.sums(name, sums.n, sums.d, sums.d2)
                stable.sums(name, sums.n, sums.y, sums.y2)
        if self.bins is not None:
            sums = self.bins
            for k, name in enumerate(bins):
                part = slice(k * CLUSTERS, (k + 1) * CLUSTERS)
                pair.sums(name, sums.n, sums.d[part], sums.d2[part])
                stable.sums(name, sums.n, sums.y[part], sums.y2[part])
        pair.sums("agreement", self.agreement_n, self.agreement, self.agreed)


class Put:
    """Series of one arm and slice group on their way into evidence; those without an observation stay out."""

    def __init__(self, into: dict[SeriesKey, Series], arm: ArmKey, group: str) -> None:
        self._into = into
        self._arm: ArmKey = arm
        self._group = group

    def events(self, metric: str, n: Column, y: Column | None) -> None:
        """A series whose y is 0 or 1."""
        self.sums(metric, n, y, y)

    def over(self, latencies: Sequence[tuple[str, int]], n: Column, over: Column) -> None:
        """The counts over thresholds, from counts by rank: see Ranks."""
        for name, place in latencies:
            rows = [over[at : at + CLUSTERS] for at in range((place + 1) * CLUSTERS, len(over), CLUSTERS)]
            self.events(name, n, [sum(several) for several in zip(*rows, strict=True)])

    def sums(self, metric: str, n: Column, y: Column | None, square: Column | None) -> None:
        """Any series: n, Σy, Σy²."""
        # Copies: the snapshot is encoded in another thread while the sums go on.
        if y is not None and square is not None and any(n):
            self._into[SeriesKey(self._arm, self._group, metric)] = Series(list(n), list(y), list(square))
