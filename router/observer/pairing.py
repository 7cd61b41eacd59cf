"""Pairs of one epoch: candidate minus stable on the same mirrored request, whichever of them served it.

A failed candidate side is missing and a disagreement, never dropped. Where stable failed, has no
prediction, or its client left, there is nothing to compare with: no prediction difference, no agreement.
Still open at `account_after` is too late on either side: copies end there.
Predictions are compared instance by instance; an instance only stable answered is a disagreement. Where
stable was asked twice (the noise floor), only instances that it answered both times say how alike its answers
are; requests whose second answer had none are counted beside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import NamedTuple

from ...store.evidence import Series, SeriesKey
from ...store.measurement import CLUSTERS, MeasurementPlan
from ..facts import PAIR_BACK, PAIR_FLOOR, PAIR_SHADOW, Ending, Pair
from .asides import Aside, Stated
from .extract import Extractor, Groups, Prediction
from .extras import Columns, Extras, Shift, part
from .likeness import Likeness
from .ranks import Importance, rank_agreement
from .replies import ReplyFold, Told, sides_of
from .scores import Scorer, Scores
from .slower import Slower
from .sums import PAIRED, PairCell
from .unscored import compared

_ANSWERED, _DISCONNECTED, _OPEN = Ending.ANSWERED, Ending.DISCONNECTED, Ending.OPEN
_TIMEOUT = Ending.TIMEOUT

Explained = Sequence[Importance | None]


class PairSeen(NamedTuple):
    """What the bodies of a pair held: both sides' predictions, and the slice groups of the instances.

    `told`: what else both sides told, where the protocol tells more. `more`: the extras of stable and shadow.
    `explained`: their explanations. `stated`: how sure both are.
    """

    stable: list[Prediction]
    shadow: list[Prediction]
    groups: Groups
    told: tuple[Told, Told] | None = None
    more: tuple[Columns, Columns] = ((), ())
    explained: tuple[Explained, Explained] = ((), ())
    stated: tuple[Sequence[Stated | None], Sequence[Stated | None]] = ((), ())


class PairFold:
    """The sums of pairs of one epoch."""

    def __init__(
        self,
        plan: MeasurementPlan,
        failed: Callable[[int, int], bool],
        extractor: Extractor | None,
        scorer: Scorer | None,
        slices: Sequence[tuple[frozenset[str], int]],
        replies: ReplyFold | None = None,
        extras: Extras | None = None,
    ) -> None:
        self._extras = extras if extras is not None and extras.names else None
        self._names = extras.names if extras is not None else ()
        self._shifts = [Shift() for _ in self._names]
        self._explained = Likeness("pair", agreement=True, difference=False, named="explanation")
        self._group_shifts = [
            [[(at, Shift()) for at, name in enumerate(self._names) if name in metrics] for _ in range(count)]
            for metrics, count in slices
        ]
        self._replies = replies
        self._slower = Slower(plan.thresholds)
        self._batch = plan.batch
        self._failed = failed
        self._extractor = extractor
        self._scorer = scorer
        bins = len(scorer.bins) if scorer is not None else 0
        extraction = plan.extraction
        within = extraction.agree_within if extraction is not None else None
        kind = extraction.type if extraction is not None else "label"
        self._within = within if kind == "number" else None
        self._vectors_within = within if kind == "vector" else None
        everything = set(PAIRED)
        if extraction is None:
            everything = {"errors"}
        else:
            if kind in {"number", "vector"} and within is None:
                everything.discard("agreement")
            if extraction.selected is None:
                everything.discard("selected")
            if scorer is not None and not scorer.means:
                everything.discard("mean")
        allowed = frozenset(everything)
        self._whole = PairCell(allowed, bins)
        means = scorer is not None and scorer.means
        self._floor = Likeness("floor", agreement="agreement" in allowed, difference=means)
        self._between = Likeness("pair", agreement=False, difference=means)
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
            told: tuple[Told, Told] | None = None
            if extractor.replies is not None:
                found = sides_of(extractor.replies, pair, self._failed)
                stable, shadow, told = extractor.read(found[0]), extractor.read(found[1]), found[2]
            elif not self._side_failed(pair.stable_ending, pair.stable_status):
                stable = extractor.predictions(pair.stable_response, pair.stable_encoding, pair.stable_head)
            if told is None and not self._side_failed(pair.shadow_ending, pair.shadow_status):
                shadow = extractor.predictions(pair.shadow_response, pair.shadow_encoding, pair.shadow_head)
            instances, groups = extractor.groups(pair.request, pair.request_encoding, pair.request_head)
            stable, groups = extractor.matched(stable, instances, groups)
            more, ours, theirs = self._asides(extractor, pair, stable, shadow)
            if self._vectors_within is not None:
                stable, shadow = compared(stable, shadow, self._vectors_within)
            explained, stated = (ours.explanation, theirs.explanation), (ours.uncertainty, theirs.uncertainty)
            return PairSeen(stable, shadow, groups, told, more, explained, stated)
        except Exception:  # noqa: BLE001  (whatever a stranger's body did to the reader, the pair still counts)
            return PairSeen([], [], ())

    def _asides(
        self, extractor: Extractor, pair: Pair, stable: list[Prediction], shadow: list[Prediction]
    ) -> tuple[tuple[Columns, Columns], Aside, Aside]:
        """The extras of both sides and what else their answers tell; a side that failed tells nothing."""
        ours = theirs = Aside()
        if extractor.asides.wanted:
            read = extractor.asides.read
            if not self._side_failed(pair.stable_ending, pair.stable_status):
                ours = read(pair.stable_response, pair.stable_encoding, pair.stable_head)
            if not self._side_failed(pair.shadow_ending, pair.shadow_status):
                theirs = read(pair.shadow_response, pair.shadow_encoding, pair.shadow_head)
        more: tuple[Columns, Columns] = ((), ())
        if self._extras is not None:
            more = self._extras.columns(stable, ours), self._extras.columns(shadow, theirs)
        return more, ours, theirs

    def _side_failed(self, ending: int, status: int) -> bool:
        return ending != _ANSWERED or self._failed(ending, status)

    def add(self, pair: Pair, seen: PairSeen | None) -> None:
        """Account one pair."""
        if pair.stable_ending == _DISCONNECTED:
            return
        if pair.kind == PAIR_BACK and pair.shadow_ending == _DISCONNECTED:  # here it is the client who left
            return
        cluster = int(pair.assigned_at / self._batch) % CLUSTERS
        if pair.kind == PAIR_FLOOR:
            if seen is not None:
                self._twice(cluster, seen.stable, seen.shadow)
            return
        stable_failed = self._failed(_in_time(pair.stable_ending), pair.stable_status)
        # A shadow has no client who could leave: whatever ended it without an answer is its failure.
        shadow_failed = pair.shadow_ending == _DISCONNECTED or self._failed(
            _in_time(pair.shadow_ending), pair.shadow_status
        )
        if seen is not None and seen.told is not None and self._replies is not None:
            stable_failed, shadow_failed = (
                failed or told.failed
                for failed, told in zip((stable_failed, shadow_failed), seen.told, strict=True)
            )
            self._replies.add_pair(cluster, *seen.told)
        if self._whole.errors is not None:
            self._whole.errors.add(cluster, float(shadow_failed), float(stable_failed))
        if pair.kind == PAIR_SHADOW:
            self._slower.add(
                cluster,
                None if stable_failed else pair.stable_latency,
                None if shadow_failed else pair.shadow_latency,
            )
        if seen is None:
            return
        self._tell(cluster, seen)
        self._compare(self._whole, cluster, seen.stable, seen.shadow)
        self._alike(self._between, cluster, seen.stable, seen.shadow)
        self._by_group(cluster, seen, float(shadow_failed), float(stable_failed))

    def _by_group(self, cluster: int, seen: PairSeen, shadow_failed: float, stable_failed: float) -> None:
        stable, shadow = seen.stable, seen.shadow
        for cells, group in zip(self._groups, seen.groups, strict=False):
            for index in (group,) if isinstance(group, int) else set(group):
                cell = cells[index]
                if cell.errors is not None:
                    cell.errors.add(cluster, shadow_failed, stable_failed)
                if isinstance(group, int):
                    self._compare(cell, cluster, stable, shadow)
                else:
                    self._compare(cell, cluster, _part(stable, group, index), _part(shadow, group, index))

    def _tell(self, cluster: int, seen: PairSeen) -> None:
        """Extras of both sides, and how alike their explanations are: what only stable explained is not."""
        shares = [
            0.0 if theirs is None else rank_agreement(ours, theirs)
            for ours, theirs in zip_longest(*seen.explained)
            if ours is not None
        ]
        if shares:
            self._explained.agree(cluster, sum(shares) / len(shares))
        ours, theirs = seen.more
        if not ours:
            return
        for at, shift in enumerate(self._shifts):
            shift.add(cluster, ours[at], theirs[at])
        for cells, group in zip(self._group_shifts, seen.groups, strict=False):
            for index in (group,) if isinstance(group, int) else set(group):
                within = None if isinstance(group, int) else group
                for at, shift in cells[index]:
                    shift.add(cluster, part(ours[at], within, index), part(theirs[at], within, index))

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

    def _twice(self, cluster: int, stable: Sequence[Prediction], again: Sequence[Prediction]) -> None:
        """Stable's two answers."""
        self._alike(self._floor, cluster, stable, again)
        if any(value is not None for value in stable) and all(value is None for value in again):
            self._floor.lack(cluster)

    def _alike(
        self, likeness: Likeness, cluster: int, one: Sequence[Prediction], other: Sequence[Prediction]
    ) -> None:
        """How alike two answers are, over the instances that both hold."""
        scorer = self._scorer
        both = [(a, b) for a, b in zip(one, other, strict=False) if a is not None and b is not None]
        if not both or scorer is None:
            return
        likeness.agree(cluster, sum(self._agree(a, b) for a, b in both) / len(both))
        numbers = [(a, b) for a, b in both if isinstance(a, float) and isinstance(b, float)]
        if numbers:
            apart = sum(abs((scorer.plain(a)[0] or 0.0) - (scorer.plain(b)[0] or 0.0)) for a, b in numbers)
            likeness.differ(cluster, apart / len(numbers))

    def _agree(self, stable: Prediction, shadow: Prediction) -> bool:
        if isinstance(stable, float) and isinstance(shadow, float) and self._within is not None:
            return abs(stable - shadow) <= self._within
        return stable == shadow

    def times(self) -> dict[int, int]:
        """How long the shadow's answers took: {bin: count}."""
        return self._slower.histogram()

    def series(
        self, into: dict[SeriesKey, Series], names: Sequence[Sequence[str]], bins: Sequence[str]
    ) -> None:
        """Put every series that has an observation into `into`."""
        self._whole.series(into, "", bins)
        self._floor.series(into)
        self._between.series(into)
        self._explained.series(into)
        self._slower.series(into)
        for name, shift in zip(self._names, self._shifts, strict=True):
            shift.series(into, "", name)
        for groups, several in zip(names, self._group_shifts, strict=True):
            for group, shifts in zip(groups, several, strict=True):
                for at, shift in shifts:
                    shift.series(into, group, self._names[at])
        for groups, cells in zip(names, self._groups, strict=True):
            for group, cell in zip(groups, cells, strict=True):
                cell.series(into, group, bins)


def _in_time(ending: int) -> int:
    """What was still open at `account_after` as what a copy is then: cut off as too late.

    Dropped on stable's side alone, equal versions would differ wherever only the copy was the later one.
    """
    return _TIMEOUT if ending == _OPEN else ending


def _part(values: Sequence[Prediction], group: Sequence[int], index: int) -> list[Prediction]:
    return [value for value, at in zip(values, group, strict=False) if at == index]


def _lacking(values: Sequence[Prediction], expected: int) -> bool:
    return not values or len(values) < expected or None in values


def _shares(scores: Scores) -> dict[int, float]:
    if isinstance(scores.bins, int):
        return {scores.bins: 1}
    return scores.bins or {}
