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

from collections.abc import Sequence
from copy import copy
from operator import getitem
from typing import Final

from ...store.evidence import WIRE, ArmCounts, ArmKey, Evidence, MirrorCounts, Series, SeriesKey
from ...store.histogram import BINS, bin_of, value_bin
from ...store.measurement import CLUSTERS, MeasurementPlan
from ...store.routes import ServiceRoute
from ..facts import PAIR_BACK, PAIR_FLOOR, PAIR_SHADOW, STABLE, Body, Ending, Fact, MirrorTally, Pair
from .arms import Arm
from .asides import Aside, Stated
from .decode import unreadable
from .extract import Extractor, Groups, Prediction
from .extras import Columns, Extras, part
from .failures import Failures
from .openai import OpenAi, Reply, wants_stream
from .pairing import PairFold, PairSeen
from .quick import Quick, quick_of
from .replies import PREFIX, ReplyFold
from .scores import Scorer, Scores
from .seen import Seen, Several, shrunk
from .sums import Put, Ranks, column
from .unscored import UNSCORED

# Plain integers: comparing with members of an enumeration takes twice as long.
_ANSWERED, _DISCONNECTED, _OPEN = int(Ending.ANSWERED), int(Ending.DISCONNECTED), int(Ending.OPEN)
_AGED = frozenset({_ANSWERED, _DISCONNECTED, _OPEN})  # their age says which thresholds they passed
_REFUSED = 400
_LOST = 2  # Fact.captured
_MAX_LABELS: Final = 64
_MAX_COMPLAINTS: Final = 8  # one for each arm and a few codings

_SO_FAR = frozenset({_DISCONNECTED, _OPEN})


_ARMS: tuple[ArmKey, ArmKey] = ("stable", "candidate")


class Fold:
    """The sums of one (service, rollout, epoch) at this source."""

    def __init__(self, route: ServiceRoute, plan: MeasurementPlan) -> None:
        self.service, self.rollout, self.epoch = route.service, plan.rollout, plan.epoch
        self.account_after = plan.account_after
        self._batch = plan.batch
        self._sticky = plan.sticky
        self._baseline = plan.stage == "baseline"
        self._failures = Failures(route.errors)
        self._fine = self._failures.fine()
        self._ranks = Ranks([one for one in plan.thresholds if not one.metric.startswith(PREFIX)], BINS)
        self._extractor: Extractor | None = None
        self._scorer: Scorer | None = None
        self._extras: Extras | None = None
        self._quick: Quick | None = None
        self._replies: ReplyFold | None = None
        self._telling: tuple[Extractor, OpenAi, ReplyFold] | None = None
        self._stated = ""  # path of how sure answers are, where predictions are remembered
        self._unscored = plan.extraction is not None and plan.extraction.type in UNSCORED
        self.complaints: set[str] = set()
        self._bins: tuple[str, ...] = ()
        slices: list[tuple[frozenset[str], int]] = []
        self.slice_names: list[tuple[str, ...]] = []  # of each slice that is kept, its groups: slice=group
        if plan.extraction is not None:
            wanted = frozenset(name for names in plan.sliced_metrics.values() for name in names)
            self._extractor = Extractor(plan.extraction, route.protocol, wanted)
            self._scorer = Scorer(plan, plan.extraction)
            self._bins = self._scorer.bins
            self._extras = Extras(plan, plan.extraction)
            self._stated = plan.extraction.uncertainty if plan.labels else ""
            self._quick = quick_of(
                plan.extraction, route.protocol, self._extractor, self._scorer, self._extras,
                stated=self._stated,
            )  # fmt: skip
            if self._extractor.replies is not None:
                self._replies = ReplyFold(plan)
                self._telling = self._extractor, self._extractor.replies, self._replies
            for planned, names in zip(self._extractor.slices, self._extractor.names, strict=True):
                metrics = frozenset(m for m, asked in plan.sliced_metrics.items() if planned.name in asked)
                slices.append((metrics, len(names)))
                self.slice_names.append(tuple(f"{planned.name}={name}" for name in names))
        self._more = self._extras.names if self._extras is not None else ()
        self._arms = tuple(Arm(plan, slices, self._ranks, len(self._bins), self._more) for _ in _ARMS)
        self._pairs = PairFold(
            plan, self._failures.failed, self._extractor, self._scorer, slices, self._replies, self._extras
        )
        self._mirrors = (MirrorCounts(), MirrorCounts(), MirrorCounts())  # by kind of pair
        self._values: dict[int, int] = {}
        self._labels: dict[str, int] = {}

    def read(self, fact: Fact, body: Body | None) -> Seen | None:
        """What the exchange's bodies hold; None where they were not captured or nothing is read.

        Never raises: a body that breaks its reader has no usable prediction.
        """
        extractor = self._extractor
        if extractor is None or body is None or fact.excluded:
            return None
        whole = not fact.ending and fact.served == fact.arm
        try:
            if (
                whole
                and self._quick is not None
                and fact.status in self._fine
                and not body.request_encoding
                and not body.response_encoding
            ):
                one = self._quick.exchange(body.request, body.response)
                if one is not None:
                    return one
            usable = whole and not self._failures.failed(fact.ending, fact.status)
            if self._telling is not None:
                return self._replied(fact, body, *self._telling, usable=usable)
            values, groups = extractor.exchange(
                body.request, body.request_encoding, body.response if usable else b"",
                body.response_encoding, body.request_head, body.response_head,
            )  # fmt: skip
        except Exception:  # noqa: BLE001  (whatever a stranger's body did to the reader, its fact still counts)
            return Several([], ())
        if usable and not values:
            self._explain(fact, body)
        more, stated = self._asides(extractor, values, body) if usable else ((), ())
        return Several(shrunk(values), groups, None, more, stated)

    def _asides(
        self, extractor: Extractor, values: list[Prediction], body: Body
    ) -> tuple[Columns, Sequence[Stated | None]]:
        """The extras of an answer, and how sure it is where that is remembered."""
        extras = self._extras
        aside = Aside()
        if self._stated or (extras is not None and extras.beside):
            aside = extractor.asides.read(body.response, body.response_encoding, body.response_head)
        more = extras.columns(values, aside) if extras is not None and extras.names else ()
        return more, aside.uncertainty if self._stated else ()

    def _replied(
        self, fact: Fact, body: Body, extractor: Extractor, form: OpenAi, replies: ReplyFold, *, usable: bool
    ) -> Several:
        """The same where the protocol tells of streams and tokens."""
        reply: Reply | None = None
        if body.response and (usable or (fact.ending in _SO_FAR and fact.served == fact.arm)):
            reply = form.reply(body.response, body.response_encoding, body.marks)
        streamed = reply is not None and reply.streamed
        if not streamed and not (usable and reply is not None):
            streamed = wants_stream(body.request, body.request_encoding)
        failed = fact.served != fact.arm or self._failures.failed(fact.ending, fact.status)
        told = replies.told(fact, failed=failed, streamed=streamed, reply=reply)
        values = extractor.read(reply.values) if usable and reply is not None and not reply.failed else []
        if usable and not values:
            self._explain(fact, body)
        instances, groups = extractor.groups(body.request, body.request_encoding, body.request_head)
        values, groups = extractor.matched(values, instances, groups)
        more, stated = self._asides(extractor, values, body) if usable else ((), ())
        return Several(shrunk(values), groups, told, more, stated)

    def _explain(self, fact: Fact, body: Body) -> None:
        """Count answers whose coding nobody here can undo: they would look like missing predictions."""
        if body.response_encoding and self._complain(fact.arm, body.response_encoding):
            self._arms[fact.arm].counts.undecodable += 1

    def _complain(self, arm: int, encoding: str) -> bool:
        reason = unreadable(encoding)
        if reason and len(self.complaints) < _MAX_COMPLAINTS:
            self.complaints.add(f"service {self.service}: answers of {_ARMS[arm]} cannot be read: {reason}")
        return bool(reason)

    def read_pair(self, pair: Pair) -> PairSeen | None:
        """What the bodies of a pair hold; never raises."""
        seen = self._pairs.read(pair)
        if seen is not None:
            if pair.stable_encoding and not seen.stable:
                self._complain(0, pair.stable_encoding)
            coded = pair.shadow_encoding and not seen.shadow and self._complain(1, pair.shadow_encoding)
            if coded and pair.kind == PAIR_SHADOW:  # of what the candidate serves itself there is a fact
                self._arms[1].counts.undecodable += 1
        return seen

    def add(self, fact: Fact, seen: Seen | None) -> None:
        """Account one exchange. `seen`: what `read` gave for it."""
        arm = self._arms[fact.arm]
        counts = arm.counts
        counts.accounted += 1
        if fact.excluded:
            counts.unassignable += 1
            return
        if arm.units is not None:
            arm.units[fact.unit % CLUSTERS] += 1
        at = int(fact.assigned_at / self._batch) % CLUSTERS
        if isinstance(seen, tuple):
            index = bin_of(fact.latency)
            arm.latency[index] += 1
            y, selected, place, groups, value, more, _ = seen
            rank = self._ranks.of_bin[index]
            unit = fact.unit % CLUSTERS if self._sticky else 0
            arm.whole.add_plain(at, rank, unit, y, selected, place)
            for cell in map(getitem, arm.groups, groups):
                cell.add_plain(at, rank, unit, y, selected, place)
            if more:
                for amount, y_of in zip(arm.extras, more, strict=True):
                    amount.one(unit, y_of)
                if arm.sliced:
                    for cells, group in zip(arm.group_extras, groups, strict=True):
                        for index, amount in cells[group]:
                            amount.one(unit, more[index])
            if self._baseline and fact.arm == STABLE:
                self._reference([value])
            return
        self._add_other(fact, seen, arm, at)

    def _add_other(self, fact: Fact, seen: Several | None, arm: Arm, at: int) -> None:
        counts = arm.counts
        ending = fact.ending
        told = seen.told if seen is not None else None
        failed = fact.served != fact.arm or self._failures.failed(ending, fact.status)
        failed = failed or (told is not None and told.failed)
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
        values, groups = seen.values, seen.groups
        unit = fact.unit % CLUSTERS if self._sticky else 0
        if told is not None and self._replies is not None:
            self._replies.add(fact.arm, at, unit, told)
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
        if extracted and self._more:
            self._tell(arm, unit, seen.more, groups)
        if self._baseline and scores is not None and fact.arm == STABLE and not self._unscored:
            self._reference(values)

    def _tell(self, arm: Arm, unit: int, more: Columns, groups: Groups) -> None:
        """Add the extras of an exchange that should have had them; an answer nobody could read has none."""
        more = more or tuple([] for _ in self._more)
        for amount, found in zip(arm.extras, more, strict=True):
            amount.add(unit, found)
        if not arm.sliced:
            return
        for cells, group in zip(arm.group_extras, groups, strict=False):
            for index in (group,) if isinstance(group, int) else set(group):
                for at, amount in cells[index]:
                    amount.add(unit, part(more[at], None if isinstance(group, int) else group, index))

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
        mirror = self._mirrors[pair.kind]
        if pair.lost:
            mirror.lost += 1
            return
        mirror.paired += 1
        self._pairs.add(pair, seen)

    def add_tally(self, tally: MirrorTally) -> None:
        """Add what became of copies."""
        mirror = self._mirrors[tally.kind]
        mirror.chosen += tally.chosen
        mirror.sent += tally.sent
        mirror.dropped_in_flight += tally.dropped_in_flight
        mirror.dropped_bytes += tally.dropped_bytes
        mirror.dropped_rate += tally.dropped_rate
        mirror.dropped_size += tally.dropped_size
        mirror.unpaired += tally.unpaired
        mirror.warmed += tally.warmed
        mirror.held += tally.held
        mirror.unconnected += tally.unconnected

    def lose_pairs(self, count: int, kind: int) -> None:
        """Count pairs that were dropped before they came here."""
        self._mirrors[kind].lost += count

    def evidence(
        self, source: str, published: float, watermark: float, still_open: dict[str, int]
    ) -> Evidence:
        """A copy of the totals."""
        series: dict[SeriesKey, Series] = {}
        for name, arm in zip(_ARMS, self._arms, strict=True):
            arm.whole.series(series, name, "", self._bins)
            if arm.units is not None:
                Put(series, name, "").events("requests", arm.units, column(CLUSTERS))
            for names, cells in zip(self.slice_names, arm.groups, strict=True):
                for group, cell in zip(names, cells, strict=True):
                    cell.series(series, name, group, self._bins)
            for extra, amount in zip(self._more, arm.extras, strict=True):
                amount.series(series, name, "", extra)
            for names, amounts in zip(self.slice_names, arm.group_extras, strict=True):
                for group, several in zip(names, amounts, strict=True):
                    for index, amount in several:
                        amount.series(series, name, group, self._more[index])
        self._pairs.series(series, self.slice_names, self._bins)
        if self._replies is not None:
            self._replies.series(series, _ARMS)
        return Evidence(
            wire=WIRE, service=self.service, rollout=self.rollout, epoch=self.epoch, source=source,
            published=published, watermark=watermark,
            arms={
                name: ArmCounts(*(getattr(arm.counts, field) for field in ArmCounts.__struct_fields__))
                for name, arm in zip(_ARMS, self._arms, strict=True)
                if arm.counts.accounted or arm.counts.undecodable
            },
            open=dict(still_open),
            mirror=copy(self._mirrors[PAIR_SHADOW]), back=copy(self._mirrors[PAIR_BACK]),
            floor=copy(self._mirrors[PAIR_FLOOR]),
            series=series,
            latency=self._times(),
            values=dict(self._values), labels=dict(self._labels),
            first_token=self._replies.histograms(_ARMS) if self._replies is not None else {},
            tokens=dict(self._replies.counts) if self._replies is not None else {},
        )  # fmt: skip

    def _times(self) -> dict[str, dict[int, int]]:
        """Histograms of the answers' times by arm; `pair`: of the copies that a shadow answered."""
        times = {
            name: {index: count for index, count in enumerate(arm.latency) if count}
            for name, arm in zip(_ARMS, self._arms, strict=True)
        }
        times["pair"] = self._pairs.times()
        return {name: counts for name, counts in times.items() if counts}
