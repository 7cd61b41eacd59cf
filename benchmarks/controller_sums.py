"""Sums of evidence that grow: as a router's observer keeps them for one epoch of one service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from accede.store.evidence import WIRE, ArmCounts, ArmKey, Evidence, MirrorCounts, Series, SeriesKey
from accede.store.measurement import CLUSTERS

from .controller_shape import PER_SECOND, RATES, SPREAD, START, Shape

Floats = np.ndarray[Any, Any]


class Sums(ABC):
    """Of one seed. `requests`: assigned so far, by arm."""

    def __init__(self, draw: np.random.Generator, shape: Shape) -> None:
        self._draw = draw
        self._shape = shape
        self.requests: dict[str, float] = {"stable": 0.0}
        self._by_time: dict[SeriesKey, list[Floats]] = {}
        self._whole: dict[SeriesKey, list[float]] = {}

    @abstractmethod
    def add(self, clusters: Floats, seconds: float) -> None:
        """Traffic of so many seconds in each of the time clusters named."""

    def mirrored(self) -> MirrorCounts:
        """What became of copies."""
        return MirrorCounts()

    def _timed(self, key: SeriesKey, clusters: Floats, *columns: Floats) -> None:
        have = self._by_time.setdefault(key, [np.zeros(CLUSTERS) for _ in columns])
        for into, more in zip(have, columns, strict=True):
            np.add.at(into, clusters, more)

    def _more(self, key: SeriesKey, n: float, y: float, square: float) -> None:
        have = self._whole.setdefault(key, [0.0, 0.0, 0.0])
        for k, more in enumerate((n, y, square)):
            have[k] += more

    def evidence(self, epoch: int) -> Evidence:
        """The sums so far, of no service yet."""
        series = {
            key: Series(*(one.tolist() for one in (columns[0], columns[1], columns[-1])))
            for key, columns in self._by_time.items()
        }
        series |= {key: Series([n], [y], [square]) for key, (n, y, square) in self._whole.items()}
        each = float(self.requests["stable"] // CLUSTERS)
        nothing = [0.0] * CLUSTERS
        series[SeriesKey("stable", "", "extraction")] = Series([each] * CLUSTERS, nothing, nothing)
        latencies = {arm: _spread_out(int(total)) for arm, total in self.requests.items()}
        return Evidence(
            wire=WIRE, service="", rollout="", epoch=epoch, source="router-1", published=START,
            watermark=START, mirror=self.mirrored(), series=series, latency=latencies,
            arms={arm: ArmCounts(accounted=int(total)) for arm, total in self.requests.items()},
        )  # fmt: skip


class Randomised(Sums):
    """Two arms, the candidate's of this `weight`."""

    def __init__(self, draw: np.random.Generator, shape: Shape, weight: float) -> None:
        super().__init__(draw, shape)
        self._weight = weight
        self.requests["candidate"] = 0.0

    def add(self, clusters: Floats, seconds: float) -> None:
        """Traffic of both arms."""
        arms: tuple[tuple[ArmKey, float], ...] = (("candidate", self._weight), ("stable", 1 - self._weight))
        for arm, share in arms:
            for group in ("", *self._shape.groups):
                here = PER_SECOND * seconds * share * (0.1 if group else 1.0)
                n = self._draw.poisson(here, clusters.size)
                self._served(arm, group, clusters, n)
                if not group:
                    self.requests[arm] += float(n.sum())

    def _served(self, arm: ArmKey, group: str, clusters: Floats, n: Floats) -> None:
        draw, total = self._draw, int(n.sum())
        for series, rate in RATES.items():
            self._timed(SeriesKey(arm, group, series), clusters, n, draw.binomial(n, rate))
        for series, rate in self._shape.events.items():
            y = float(draw.binomial(total, rate))
            self._more(SeriesKey(arm, group, series), total, y, y)
        for series in self._shape.amounts:
            y, more = (float(draw.normal()) * total**0.5 for _ in range(2))
            square = total * (0.16 + SPREAD**2) + 0.01 * more  # as of real values, hardly ever whole
            self._more(SeriesKey(arm, group, series), total, 0.4 * total + SPREAD * y, square)
        for name in self._shape.shares + self._shape.numbers:
            self._more(SeriesKey(arm, group, f"metrics.{name}.missing"), total, 0.0, 0.0)


class Mirrored(Sums):
    """All requests copied; a candidate that differs by chance only."""

    def mirrored(self) -> MirrorCounts:
        """Every request, with both answers."""
        copies = int(self.requests["stable"])
        return MirrorCounts(chosen=copies, sent=copies, paired=copies)

    def add(self, clusters: Floats, seconds: float) -> None:
        """Traffic, all of it copied."""
        for group in ("", *self._shape.groups):
            n = self._draw.poisson(PER_SECOND * seconds * (0.1 if group else 1.0), clusters.size)
            self._answered(group, clusters, n)
            if not group:
                self.requests["stable"] += float(n.sum())

    def _answered(self, group: str, clusters: Floats, n: Floats) -> None:
        draw = self._draw
        for series, rate in {**RATES, **self._shape.events}.items():
            y, more, less = (draw.binomial(n, share) for share in (rate, rate / 20.0, rate / 20.0))
            self._timed(SeriesKey("pair", group, series), clusters, n, more - less, more + less)
            self._timed(SeriesKey("paired_stable", group, series), clusters, n, y)
        for series in self._shape.amounts:
            noise, d = (draw.normal(size=n.size) * np.sqrt(n) for _ in range(2))
            apart = np.maximum(0.001 * n + 0.0001 * n * draw.random(n.size), 4e-4 * d * d)
            self._timed(SeriesKey("pair", group, series), clusters, n, 0.02 * d, apart)
            theirs = 0.4 * n + 0.1 * np.minimum(np.abs(noise), 0.5 * n)
            square = theirs * theirs / np.maximum(n, 1.0) + 0.02 * n
            self._timed(SeriesKey("paired_stable", group, series), clusters, n, theirs, square)
        for name in self._shape.shares + self._shape.numbers:
            self._more(SeriesKey("pair", group, f"metrics.{name}.missing"), int(n.sum()), 0.0, 0.0)


def _spread_out(requests: int) -> dict[int, int]:
    """A latency for each request, over a hundred bins."""
    each, more = divmod(requests, 100)
    return {150 + k: each + (k < more) for k in range(100)}
