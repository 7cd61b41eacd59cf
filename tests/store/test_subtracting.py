"""What is left of totals when an earlier publication is taken off: added again, they are the same."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from accede.store.evidence import (
    ArmCounts,
    Evidence,
    MirrorCounts,
    Series,
    SeriesKey,
    decode_evidence,
    encode_evidence,
    merge,
)
from accede.store.measurement import CLUSTERS
from accede.store.subtracting import less

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYS = [
    SeriesKey("stable", "", "errors"),
    SeriesKey("candidate", "", "errors"),
    SeriesKey("stable", "sex=female", "mean"),
    SeriesKey("pair", "", "difference"),
]


class Growing:
    """An epoch's sums, which grow as an observer's do."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.series: dict[SeriesKey, Series] = {}
        self.counts = ArmCounts()
        self.mirror = MirrorCounts()
        self.latency: dict[int, int] = {}

    def add(self, requests: int) -> None:
        for _ in range(requests):
            key = self.chance.choice(KEYS)
            clusters = 1 if key.metric == "mean" else CLUSTERS
            zeros: list[float] = [0.0] * clusters
            series = self.series.setdefault(key, Series(list(zeros), list(zeros), list(zeros)))
            at = self.chance.randrange(clusters)
            y = {"errors": float(self.chance.random() < 0.3), "mean": self.chance.random()}.get(
                key.metric, self.chance.uniform(-1, 1)
            )
            series.n[at] += 1
            series.sum[at] += y
            series.square[at] += y * y
            self.counts.accounted += 1
            self.mirror.chosen += 2
            self.mirror.sent += 1
            place = self.chance.randrange(300, 310)
            self.latency[place] = self.latency.get(place, 0) + 1

    def evidence(self, published: float) -> Evidence:
        return decode_evidence(encode_evidence(Evidence(
            "accede.evidence/1", "s", "r", 1, "a:b-1", published, published,
            arms={"stable": self.counts} if self.counts.accounted else {}, mirror=self.mirror,
            back=self.mirror, floor=self.mirror, series=self.series, latency={"stable": self.latency},
            values=self.latency, labels={str(k): v for k, v in self.latency.items()},
            first_token={"stable": self.latency}, tokens=self.latency, inputs={"stable|age": {"a": 3}},
        )))  # fmt: skip


def same(one: Evidence, other: Evidence) -> None:
    plain = [
        msgspec.structs.replace(e, series={}, source="", published=0.0, watermark=0.0) for e in (one, other)
    ]
    assert plain[0] == plain[1]
    assert one.series.keys() == other.series.keys()
    for key, series in one.series.items():
        for mine, theirs in zip(columns(series), columns(other.series[key]), strict=True):
            assert list(mine) == pytest.approx(list(theirs), abs=1e-9)


def columns(series: Series) -> Sequence[Sequence[float]]:
    return series.n, series.sum, series.square


@pytest.mark.parametrize("seed", range(20))
def test_parts_of_parts_add_to_the_whole_and_can_be_published(seed: int) -> None:
    growing = Growing(seed)
    growing.add(seed * 7)
    first = growing.evidence(1.0)
    growing.add(11 * (seed % 3))
    second = growing.evidence(2.0)
    growing.add(50)
    third = growing.evidence(3.0)
    rest = less(third, second)
    between = less(second, first)
    for part in (rest, between):
        decode_evidence(encode_evidence(part))  # refuses what cannot be sums
    total = merge([first, between, rest])
    assert total is not None
    same(total, third)
    assert less(third, third).arms["stable"].accounted == 0
    assert sum(sum(series.n) for series in less(third, third).series.values()) == 0
