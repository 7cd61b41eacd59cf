"""The evidence of all sources, added up epoch by epoch; what has not changed is not added again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ...store.evidence import TOTAL, Evidence, merge
from .columns import StoredSeries, added

_MOST: Final = 1024  # rollouts whose sums are remembered; the store bounds the bytes of what they rest on


def merged(parts: Sequence[Evidence]) -> dict[int, Evidence]:
    """Epoch -> the sum over all sources, in order of epochs. No part is changed; one alone is shared."""
    return {epoch: _sum(found) for epoch, found in _by_epoch(parts).items()}


class Merges:
    """Sums of the rollouts that were looked at last: the same object while their parts are the same."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._known: dict[str, dict[int, tuple[tuple[Evidence, ...], Evidence]]] = {}

    def of(self, rollout: str, parts: Sequence[Evidence]) -> dict[int, Evidence]:
        """As `merged`, of the parts of one rollout."""
        known = self._known.pop(rollout, {})
        now: dict[int, tuple[tuple[Evidence, ...], Evidence]] = {}
        for epoch, found in _by_epoch(parts).items():
            before = known.get(epoch)
            same = before is not None and len(before[0]) == len(found)
            if before is not None and same and all(a is b for a, b in zip(before[0], found, strict=True)):
                now[epoch] = before
            else:
                now[epoch] = (tuple(found), _sum(found))
        while len(self._known) >= self._most:
            del self._known[next(iter(self._known))]
        self._known[rollout] = now
        return {epoch: total for epoch, (_, total) in now.items()}


def _by_epoch(parts: Sequence[Evidence]) -> dict[int, list[Evidence]]:
    epochs: dict[int, list[Evidence]] = {}
    for part in parts:
        epochs.setdefault(part.epoch, []).append(part)
    return dict(sorted(epochs.items()))


def _sum(parts: Sequence[Evidence]) -> Evidence:
    """Of one epoch, at least one part. Series that all sources keep alike are added as arrays."""
    series = [part.series for part in parts if isinstance(part.series, StoredSeries)]
    total = series[0] if len(parts) == len(series) == 1 else None
    if len(parts) == len(series) > 1:
        total = added(series)
    if total is None:
        return _plain(parts)
    if len(parts) == 1:
        return msgspec.structs.replace(parts[0], source=TOTAL)
    heads = _plain([msgspec.structs.replace(part, series={}) for part in parts])
    heads.series = total
    return heads


def _plain(parts: Sequence[Evidence]) -> Evidence:
    total = merge(parts)
    assert total is not None  # noqa: S101 (there is a part)
    return total
