"""Pairs of one epoch: candidate minus stable on the same mirrored request.

A failed candidate side is missing and a disagreement, never dropped. Where stable failed, has no
prediction, or its client left, there is nothing to compare with: no prediction difference, no agreement.
Predictions are compared instance by instance; an instance only stable answered is a disagreement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...store.evidence import Series, SeriesKey
from ...store.measurement import CLUSTERS, MeasurementPlan
from ..facts import Ending, Pair
from .extract import Extractor, Groups, Prediction
from .scores import Scorer, Scores
from .sums import PAIRED, PairCell

_ANSWERED, _DISCONNECTED, _OPEN = Ending.ANSWERED, Ending.DISCONNECTED, Ending.OPEN


class PairSeen(NamedTuple):
    """What the bodies of a pair held: both sides' predictions, and the slice groups of the instances."""

    stable: list[Prediction]
    shadow: list[Prediction]
    groups: Groups


class PairFold:
    """The sums of pairs of one epoch."""

    def __init__(
        self,
        plan: MeasurementPlan,
        failed: Callable[[int, int], bool],
        extractor: Extractor | None,
        scorer: Scorer | None,
        slices: Sequence[tuple[frozenset[str], int]],
    ) -> None:
        self._batch = plan.batch
        self._failed = failed
        self._extractor = extractor
        self._scorer = scorer
        bins = len(scorer.bins) if scorer is not None else 0
        extraction = plan.extraction
        self._within = extraction.agree_within if extraction is not None else None
        everything = set(PAIRED)
        if extraction is None:
            everything = {"errors"}
        else:
            if extraction.type == "number" and self._within is None:
                everything.discard("agreement")
            if extraction.selected is None:
                everything.discard("selected")
            if scorer is not None and not scorer.means:
                everything.discard("mean")
        allowed = frozenset(everything)
        self._whole = PairCell(allowed, bins)
        self._groups = [
            [PairCell(metrics & allowed, bins) for _ in range(count)] for metrics, count in slices
        ]

    def read(self, pair: Pair) -> PairSeen | None:
        """Both sides' predictions; None where the bodies were not captured. Never raises."""
        extractor = self._extractor
        if extractor is None or pair.lost or not pair.request:
            return None
        try:
            stable: list[Prediction] = []
            shadow: list[Prediction] = []
            if not self._side_failed(pair.stable_ending, pair.stable_status):
                stable = extractor.predictions(pair.stable_response, pair.stable_encoding)
            if not self._side_failed(pair.shadow_ending, pair.shadow_status):
                shadow = extractor.predictions(pair.shadow_response, pair.shadow_encoding)
            instances, groups = extractor.groups(pair.request, pair.request_encoding)
            stable, groups = extractor.matched(stable, instances, groups)
            return PairSeen(stable, shadow, groups)
        except Exception:  # noqa: BLE001  (whatever a stranger's body did to the reader, the pair still counts)
            return PairSeen([], [], ())

    def _side_failed(self, ending: int, status: int) -> bool:
        return ending != _ANSWERED or self._failed(ending, status)

    def add(self, pair: Pair, seen: PairSeen | None) -> None:
        """Account one pair."""
        if pair.stable_ending in (_DISCONNECTED, _OPEN):
            return
        cluster = int(pair.assigned_at / self._batch) % CLUSTERS
        stable_failed = self._failed(pair.stable_ending, pair.stable_status)
        # A shadow has no client who could leave: whatever ended it without an answer is its failure.
        shadow_failed = self._failed(pair.shadow_ending, pair.shadow_status) or pair.shadow_ending in (
            _DISCONNECTED,
            _OPEN,
        )
        if self._whole.errors is not None:
            self._whole.errors.add(cluster, float(shadow_failed), float(stable_failed))
        if seen is None:
            return
        stable, shadow, groups = seen
        self._compare(self._whole, cluster, stable, shadow)
        for cells, group in zip(self._groups, groups, strict=False):
            for index in (group,) if isinstance(group, int) else set(group):
                cell = cells[index]
                if cell.errors is not None:
                    cell.errors.add(cluster, float(shadow_failed), float(stable_failed))
                if isinstance(group, int):
                    self._compare(cell, cluster, stable, shadow)
                else:
                    self._compare(cell, cluster, _part(stable, group, index), _part(shadow, group, index))

    def _compare(
        self, cell: PairCell, cluster: int, stable: Sequence[Prediction], shadow: Sequence[Prediction]
    ) -> None:
        """Predictions of the same instances. A side without any is empty."""
        if cell.missing is not None:
            cell.missing.add(
                cluster, float(_lacking(shadow, len(stable))), float(_lacking(stable, len(shadow)))
            )
        answered = [at for at, value in enumerate(stable) if value is not None]
        if not answered or self._scorer is None:
            return
        both = [at for at in answered if at < len(shadow) and shadow[at] is not None]
        if cell.agreement is not None:
            agreed = sum(self._agree(stable[at], shadow[at]) for at in both)
            cell.agree(cluster, agreed / len(answered))
        if not both:
            return
        ours = self._scorer.many([value for at in both if (value := stable[at]) is not None])
        theirs = self._scorer.many([value for at in both if (value := shadow[at]) is not None])
        if cell.mean is not None and ours.mean is not None and theirs.mean is not None:
            cell.mean.add(cluster, theirs.mean, ours.mean)
        if cell.selected is not None and ours.selected is not None and theirs.selected is not None:
            cell.selected.add(cluster, theirs.selected, ours.selected)
        if cell.bins is not None:
            cell.bins.add_shares(cluster, _shares(theirs), _shares(ours))

    def _agree(self, stable: Prediction, shadow: Prediction) -> bool:
        if isinstance(stable, float) and isinstance(shadow, float) and self._within is not None:
            return abs(stable - shadow) <= self._within
        return stable == shadow

    def series(
        self, into: dict[SeriesKey, Series], names: Sequence[Sequence[str]], bins: Sequence[str]
    ) -> None:
        """Put every series that has an observation into `into`."""
        self._whole.series(into, "", bins)
        for groups, cells in zip(names, self._groups, strict=True):
            for group, cell in zip(groups, cells, strict=True):
                cell.series(into, group, bins)


def _part(values: Sequence[Prediction], group: Sequence[int], index: int) -> list[Prediction]:
    return [value for value, at in zip(values, group, strict=False) if at == index]


def _lacking(values: Sequence[Prediction], expected: int) -> bool:
    return not values or len(values) < expected or None in values


def _shares(scores: Scores) -> dict[int, float]:
    if isinstance(scores.bins, int):
        return {scores.bins: 1}
    return scores.bins or {}
