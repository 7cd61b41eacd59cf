"""What is remembered of an exchange or a pair until its label comes: a store.labels.Prediction. Pure.

Of an exchange without any usable prediction nothing is remembered: no label could say whether it was right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...store.labels import ARM, PAIR, Prediction, Value, request_key
from ...store.measurement import CLUSTERS, MeasurementPlan
from ..facts import PAIR_FLOOR, Fact, Pair
from .asides import Stated
from .extract import Groups

_WIDTH: Final = 1.96  # standard deviations on either side of the interval that a stated sd means
_KEYS: Final = float(2**64)


class Remembering:
    """Of one epoch. `names`: the groups of each slice as the extractor has them, `slice=group`."""

    def __init__(self, service: str, plan: MeasurementPlan, names: Sequence[Sequence[str]]) -> None:
        self._service = service
        self._plan = plan
        self._names = names

    def exchange(
        self, fact: Fact, request_id: str, values: Sequence[Value], groups: Groups,
        stated: Sequence[Stated | None] = (),
    ) -> Prediction | None:  # fmt: skip
        """What an arm predicted; None where that is nothing, or the request is not in the sample."""
        request = self._chosen(request_id)
        if request is None or fact.excluded or all(value is None for value in values):
            return None
        unit = fact.unit % CLUSTERS if self._plan.sticky else 0
        intervals = (_intervals(values, stated),) if stated else ()
        return self._prediction(
            request, ARM, fact.assigned_at, fact.arm, unit, (tuple(values),), intervals, groups
        )

    def pair(
        self, pair: Pair, stable: Sequence[Value], shadow: Sequence[Value], groups: Groups,
        stated: tuple[Sequence[Stated | None], Sequence[Stated | None]] = ((), ()),
    ) -> Prediction | None:  # fmt: skip
        """What both versions predicted; an instance that the candidate left out has no value there."""
        request = self._chosen(pair.request_id)
        if request is None or pair.lost or pair.kind == PAIR_FLOOR or all(value is None for value in stable):
            return None
        theirs = (*shadow, *((None,) * len(stable)))[: len(stable)]
        intervals = (_intervals(stable, stated[0]), _intervals(theirs, stated[1])) if any(stated) else ()
        return self._prediction(
            request, PAIR, pair.assigned_at, 1, 0, (tuple(stable), theirs), intervals, groups
        )

    def _chosen(self, request_id: str) -> bytes | None:
        """The key of a request in the sample: by the key, so that both arms have equal shares."""
        if not request_id:
            return None
        request = request_key(self._service, request_id)
        return request if int.from_bytes(request[:8]) / _KEYS < self._plan.label_sample else None

    def _prediction(
        self, request: bytes, kind: int, at: float, arm: int, unit: int,
        sides: tuple[tuple[Value, ...], ...],
        stated: tuple[tuple[tuple[float, float] | None, ...], ...], groups: Groups,
    ) -> Prediction:  # fmt: skip
        plan = self._plan
        named = tuple(
            names[group] if isinstance(group, int) else tuple(names[each] for each in group)
            for names, group in zip(self._names, groups, strict=False)
        )
        return Prediction(
            request=request, kind=kind, rollout=plan.rollout, epoch=plan.epoch, at=at,
            until=at + plan.label_keep, arm=arm, unit=unit, batch=int(at / plan.batch) % CLUSTERS,
            sides=sides, stated=stated, groups=named,
        )  # fmt: skip


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
