"""What is remembered of an exchange or a pair until its label comes: a store.labels.Prediction. Pure.

Of an exchange without any usable prediction nothing is remembered: no label could say whether it was right.
Nor is what no gate reads: gates on outcomes compare the randomised arms in a canary, and pairs in a shadow.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from operator import getitem
from typing import Final

from ...store.labels import ARM, PAIR, Prediction, Value, request_keys
from ...store.measurement import CLUSTERS, MeasurementPlan
from ..facts import PAIR_FLOOR, Fact, Pair
from .asides import Stated
from .extract import Groups
from .notebook import Notebook
from .pairing import PairSeen
from .seen import Seen
from .unscored import UNSCORED

_WIDTH: Final = 1.96  # standard deviations on either side of the interval that a stated sd means
_KEYS: Final = 2**64
_MOST_NAMED: Final = 4096  # combinations of groups whose names are kept at hand


class Remembering:
    """Of one epoch. `names`: the groups of each slice as the extractor has them, `slice=group`."""

    def __init__(
        self, service: str, plan: MeasurementPlan, names: Sequence[Sequence[str]], notebook: Notebook
    ) -> None:
        self._log, self._notebook = (service, plan.rollout), notebook
        self._key = request_keys(service)
        self._rollout, self._epoch, self._batch = plan.rollout, plan.epoch, plan.batch
        self._keep, self._sticky = plan.label_keep, plan.sticky
        self._names = names
        self._named: dict[Sequence[int], tuple[str, ...]] = {}  # groups of one instance: there are not many
        self._arms, self._pairs = plan.stage == "canary", plan.stage == "shadow"
        # A sample is of keys, so that both arms have equal shares: those below a bound, None where all are.
        share = int(plan.label_sample * _KEYS)
        self._below = None if share >= _KEYS else share.to_bytes(8)

    @classmethod
    def of(
        cls, service: str, plan: MeasurementPlan, names: Sequence[Sequence[str]], notebook: Notebook
    ) -> Remembering | None:
        """None where a plan asks for nothing, or for what cannot be compared with a label."""
        if not plan.labels or plan.extraction is None or plan.extraction.type in UNSCORED:
            return None
        return cls(service, plan, names, notebook)

    def exchange(self, fact: Fact, request_id: str, seen: Seen) -> None:
        """Remember what an arm predicted, unless that is nothing, or the request is not in the sample."""
        if not self._arms or not request_id or fact.excluded:
            return
        if not isinstance(seen, tuple):
            if any(value is not None for value in seen.values):
                unit = fact.unit % CLUSTERS if self._sticky else 0
                told = (seen.stated,) if seen.stated else ()
                self._add(
                    request_id, ARM, fact.assigned_at, fact.arm, (unit, 0), (seen.values,), told, seen.groups
                )
            return
        request = self._key(request_id)
        if self._below is not None and request >= self._below:
            return
        at, groups, value = fact.assigned_at, seen[3], seen[4]
        stated = None if seen[6] is None else _interval(value, seen[6])
        try:
            named = self._named[groups]
        except KeyError:
            named = self._name(groups)
        self._notebook.add(self._log, Prediction(
            request, ARM, self._rollout, self._epoch, at, at + self._keep, fact.arm,
            fact.unit % CLUSTERS if self._sticky else 0, 0, ((value,),),
            () if stated is None else ((stated,),), named,
        ))  # fmt: skip

    def pair(self, pair: Pair, seen: PairSeen) -> None:
        """Remember what both versions predicted; what the candidate left out has no value there."""
        stable = seen.stable
        if not self._pairs or pair.lost or pair.kind == PAIR_FLOOR or not isfinite(pair.assigned_at):
            return
        if all(value is None for value in stable):
            return
        theirs = (*seen.shadow, *((None,) * len(stable)))[: len(stable)]
        stated = seen.stated if any(seen.stated) else ()
        batch = int(pair.assigned_at / self._batch) % CLUSTERS
        self._add(
            pair.request_id, PAIR, pair.assigned_at, 1, (0, batch), (stable, theirs), stated, seen.groups
        )

    def _add(
        self, request_id: str, kind: int, at: float, arm: int, clusters: tuple[int, int],
        sides: Sequence[Sequence[Value]], stated: Sequence[Sequence[Stated | None]], groups: Groups,
    ) -> None:  # fmt: skip
        if not request_id:
            return
        request = self._key(request_id)
        if self._below is not None and request >= self._below:
            return
        named = tuple(
            names[group] if isinstance(group, int) else tuple(names[each] for each in group)
            for names, group in zip(self._names, groups, strict=False)
        )
        intervals = tuple(map(_intervals, sides, stated))
        if all(each is None for side in intervals for each in side):
            intervals = ()
        self._notebook.add(self._log, Prediction(
            request, kind, self._rollout, self._epoch, at, at + self._keep, arm, *clusters,
            tuple(map(tuple, sides)), intervals, named,
        ))  # fmt: skip

    def _name(self, groups: Sequence[int]) -> tuple[str, ...]:
        if len(self._named) >= _MOST_NAMED:
            self._named.clear()
        named = self._named[groups] = tuple(map(getitem, self._names, groups))
        return named


def _intervals(
    values: Sequence[Value], stated: Sequence[Stated | None]
) -> tuple[tuple[float, float] | None, ...]:
    """For each value its interval; what was stated once holds for every instance."""
    each = tuple(stated) * len(values) if len(stated) == 1 else tuple(stated)
    each = (*each, *((None,) * len(values)))[: len(values)]
    return tuple(map(_interval, values, each))


def _interval(value: Value, stated: Stated | None) -> tuple[float, float] | None:
    if stated is None or not isinstance(value, float):
        return None
    if isinstance(stated, tuple):
        return stated
    return value - _WIDTH * stated, value + _WIDTH * stated
