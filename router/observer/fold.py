"""Facts, bodies and pairs of one epoch, folded into Evidence by the table in store/evidence.py.

Pure: no clock, no sockets. Two steps, because bodies must not wait in memory for their turn: `read`
extracts when they arrive, `add` sums when all before them are in. What counts as what:

ANSWERED       an error where route.errors says so, or where another arm had to answer; else its latency
               counts, and a captured body gives predictions
CONNECT        an error where route.errors.connect, never an answer
TIMEOUT        the same with route.errors.timeout
TRUNCATED      always an error
DISCONNECTED   no error; over the thresholds its age had passed; says nothing about predictions
OPEN           no error; over the thresholds its age had passed; its prediction is missing
Errors and exchanges without an answer are over every threshold. An error's prediction is missing and
gives no score. `extraction` counts answers below 400 only: a refused request says nothing about the path.
"""

from __future__ import annotations

from typing import Final

from ...store.evidence import WIRE, ArmCounts, ArmKey, Evidence, MirrorCounts, Series, SeriesKey
from ...store.histogram import BINS, bin_of, value_bin
from ...store.measurement import CLUSTERS, MeasurementPlan
from ...store.routes import RouteErrors, ServiceRoute
from ..facts import STABLE, Body, Ending, Fact, MirrorTally, Pair
from .extract import Extractor, Groups, Prediction
from .pairing import PairFold, PairSeen
from .scores import Scorer, Scores
from .sums import ALL, ArmCell, Ranks

_ANSWERED, _DISCONNECTED, _OPEN = Ending.ANSWERED, Ending.DISCONNECTED, Ending.OPEN
_AGED = frozenset({_ANSWERED, _DISCONNECTED, _OPEN})  # their age says which thresholds they passed
_REFUSED = 400
_LOST = 2  # Fact.captured
_MAX_LABELS: Final = 64

Seen = tuple[list[Prediction], Groups]  # what the bodies of one exchange held
_ARMS: tuple[ArmKey, ArmKey] = ("stable", "candidate")


class Failures:
    """Which endings are errors of the model."""

    def __init__(self, errors: RouteErrors) -> None:
        self._statuses = frozenset(code for low, high in errors.ranges for code in range(low, high + 1))
        endings = {Ending.CONNECT: errors.connect, Ending.TIMEOUT: errors.timeout, Ending.TRUNCATED: True}
        self._endings = frozenset(int(ending) for ending, counts in endings.items() if counts)

    def failed(self, ending: int, status: int) -> bool:
        """True where this ending counts as an error."""
        if ending == _ANSWERED:
            return status in self._statuses
        return ending in self._endings


class _Arm:
    """All cells of one arm: `groups[slice][group]`."""

    def __init__(
        self, plan: MeasurementPlan, slices: list[tuple[frozenset[str], int]], ranks: Ranks, bins: int
    ) -> None:
        clusters = CLUSTERS if plan.sticky else 1
        everything = set(ALL) if plan.extraction is not None else {"errors", "client_disconnects", "latency"}
        if plan.extraction is not None and plan.limits is None:
            everything.discard("mean")
        if plan.extraction is None or plan.extraction.selected is None:
            everything.discard("selected")
        self.whole = ArmCell(frozenset(everything), ranks, bins, clusters)
        self.groups = [
            [ArmCell(metrics, ranks, bins, clusters) for _ in range(count)] for metrics, count in slices
        ]
        self.counts = ArmCounts()
        self.latency = [0] * BINS


class Fold:
    """The sums of one (service, rollout, epoch) at this source."""

    def __init__(self, route: ServiceRoute, plan: MeasurementPlan) -> None:
        self.service, self.rollout, self.epoch = route.service, plan.rollout, plan.epoch
        self.account_after = plan.account_after
        self._batch = plan.batch
        self._sticky = plan.sticky
        self._baseline = plan.stage == "baseline"
        self._failures = Failures(route.errors)
        self._ranks = Ranks(plan.thresholds, BINS)
        self._extractor: Extractor | None = None
        self._scorer: Scorer | None = None
        self._bins: tuple[str, ...] = ()
        slices: list[tuple[frozenset[str], int]] = []
        self._slice_names: list[tuple[str, ...]] = []
        if plan.extraction is not None:
            wanted = frozenset(name for names in plan.sliced_metrics.values() for name in names)
            self._extractor = Extractor(plan.extraction, route.protocol, wanted)
            self._scorer = Scorer(plan, plan.extraction)
            self._bins = self._scorer.bins
            for planned, names in zip(self._extractor.slices, self._extractor.names, strict=True):
                metrics = frozenset(m for m, asked in plan.sliced_metrics.items() if planned.name in asked)
                slices.append((metrics, len(names)))
                self._slice_names.append(tuple(f"{planned.name}={name}" for name in names))
        self._arms = tuple(_Arm(plan, slices, self._ranks, len(self._bins)) for _ in _ARMS)
        self._pairs = PairFold(plan, self._failures.failed, self._extractor, self._scorer, slices)
        self._mirror = MirrorCounts()
        self._values: dict[int, int] = {}
        self._labels: dict[str, int] = {}

    def read(self, fact: Fact, body: Body | None) -> Seen | None:
        """What the exchange's bodies hold; None where they were not captured or nothing is read.

        Never raises: a body that breaks its reader has no usable prediction.
        """
        if self._extractor is None or body is None or fact.excluded:
            return None
        try:
            usable = fact.ending == _ANSWERED and fact.served == fact.arm
            usable = usable and not self._failures.failed(fact.ending, fact.status)
            return self._extractor.exchange(
                body.request, body.request_encoding, body.response if usable else b"", body.response_encoding
            )
        except Exception:  # noqa: BLE001  (whatever a stranger's body did to the reader, its fact still counts)
            return [], ()

    def read_pair(self, pair: Pair) -> PairSeen | None:
        """What the bodies of a pair hold; never raises."""
        return self._pairs.read(pair)

    def add(self, fact: Fact, seen: Seen | None) -> None:
        """Account one exchange. `seen`: what `read` gave for it."""
        arm = self._arms[fact.arm]
        counts = arm.counts
        counts.accounted += 1
        if fact.excluded:
            counts.unassignable += 1
            return
        ending = fact.ending
        at = int(fact.assigned_at / self._batch) % CLUSTERS
        failed = fact.served != fact.arm or self._failures.failed(ending, fact.status)
        if failed or ending not in _AGED:
            rank = self._ranks.top
        else:
            index = bin_of(fact.latency)
            rank = self._ranks.of_bin[index]
            if ending == _ANSWERED:
                arm.latency[index] += 1
        left = ending == _DISCONNECTED
        if seen is None:
            if fact.captured == _LOST or (fact.captured and self._scorer is not None):
                counts.bodies_lost += 1
            else:
                counts.uncaptured += 1
            arm.whole.add(at, rank, failed, left, -1, False, 0, None)
            return
        values, groups = seen
        unit = fact.unit % CLUSTERS if self._sticky else 0
        extracted = not failed and ending == _ANSWERED and fact.status < _REFUSED
        missing, scores = self._judged(values)
        if left:
            missing = -1
        arm.whole.add(at, rank, failed, left, missing, extracted, unit, scores)
        for cells, group in zip(arm.groups, groups, strict=False):
            if isinstance(group, int):
                cells[group].add(at, rank, failed, left, missing, extracted, unit, scores)
                continue
            for index in set(group):
                lacking, part = self._judged([v for v, g in zip(values, group, strict=False) if g == index])
                cells[index].add(at, rank, failed, left, -1 if left else lacking, extracted, unit, part)
        if self._baseline and scores is not None and fact.arm == STABLE:
            self._reference(values)

    def _judged(self, values: list[Prediction]) -> tuple[int, Scores | None]:
        """Whether any of one request's predictions is missing (1, 0), and the y of the usable ones."""
        scorer = self._scorer
        if scorer is None:
            return -1, None
        if len(values) == 1 and values[0] is not None:
            return 0, scorer.one(values[0])
        usable = [value for value in values if value is not None]
        if not usable:
            return 1, None
        return int(len(usable) < len(values)), scorer.many(usable)

    def _reference(self, values: list[Prediction]) -> None:
        for value in values:
            if isinstance(value, float):
                place = value_bin(value)
                self._values[place] = self._values.get(place, 0) + 1
            elif isinstance(value, str):
                label = value if value in self._labels or len(self._labels) < _MAX_LABELS else "other"
                self._labels[label] = self._labels.get(label, 0) + 1

    def add_pair(self, pair: Pair, seen: PairSeen | None) -> None:
        """Account one mirrored request."""
        if pair.lost:
            self._mirror.lost += 1
            return
        self._mirror.paired += 1
        self._pairs.add(pair, seen)

    def add_tally(self, tally: MirrorTally) -> None:
        """Add what became of copies."""
        mirror = self._mirror
        mirror.chosen += tally.chosen
        mirror.sent += tally.sent
        mirror.dropped_in_flight += tally.dropped_in_flight
        mirror.dropped_bytes += tally.dropped_bytes
        mirror.dropped_rate += tally.dropped_rate
        mirror.dropped_size += tally.dropped_size

    def lose_pairs(self, count: int) -> None:
        """Count pairs that were dropped before they came here."""
        self._mirror.lost += count

    def evidence(
        self, source: str, published: float, watermark: float, still_open: dict[str, int]
    ) -> Evidence:
        """A copy of the totals."""
        series: dict[SeriesKey, Series] = {}
        for name, arm in zip(_ARMS, self._arms, strict=True):
            arm.whole.series(series, name, "", self._bins)
            for names, cells in zip(self._slice_names, arm.groups, strict=True):
                for group, cell in zip(names, cells, strict=True):
                    cell.series(series, name, group, self._bins)
        self._pairs.series(series, self._slice_names, self._bins)
        return Evidence(
            wire=WIRE, service=self.service, rollout=self.rollout, epoch=self.epoch, source=source,
            published=published, watermark=watermark,
            arms={
                name: ArmCounts(*(getattr(arm.counts, field) for field in ArmCounts.__struct_fields__))
                for name, arm in zip(_ARMS, self._arms, strict=True)
                if arm.counts.accounted
            },
            open=dict(still_open),
            mirror=MirrorCounts(*(getattr(self._mirror, field) for field in MirrorCounts.__struct_fields__)),
            series=series,
            latency={
                name: {index: count for index, count in enumerate(arm.latency) if count}
                for name, arm in zip(_ARMS, self._arms, strict=True)
                if any(arm.latency)
            },
            values=dict(self._values), labels=dict(self._labels),
        )  # fmt: skip
