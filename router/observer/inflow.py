"""What flows in from workers, brought into order: facts below each worker's line are folded, in sequence.

Pure: `now` is passed in. Per worker boot there is a buffer of facts that have come before their turn;
a new boot of the same worker, or silence, closes the earlier one, and what it holds is folded. Flushes
whose slots are not known yet (their table is on its way) wait a bounded time.
"""

from __future__ import annotations

from heapq import heappop, heappush
from operator import itemgetter
from random import Random

from ...store.evidence import ArmCounts, Evidence
from ...store.routes import ServiceRoute
from ..facts import Fact, Flush, Table
from ..marker import EXCHANGE, KIND, NUMBER, PAIR
from .beside import Beside
from .fold import Fold
from .inputs import NO_LABELS, Labels
from .notebook import NONE_LOST, Notebook
from .recorder import Recorder
from .remembered import Remembering
from .seen import Seen, weight_of
from .waiting import EpochSums, FactEntry, Source, pair_weight, size_of

KEPT_EPOCHS = 16  # closed ones per service: later facts of older ones are not awaited
KEPT_FOR = 60.0  # seconds, beside twice `account_after`, for which a closed epoch awaits late facts
PATIENCE = 5.0  # seconds that a flush waits for the table that names its slots
HELD_BYTES = 32 * 2**20  # of bodies in waiting flushes, per worker
PENDING = 1_000_000  # facts and predictions waiting for their turn, per worker
SETTLE = 0.1  # seconds: a new worker's first flush comes this late, and must not fall behind the watermark
IDLE = 0.5  # seconds between publications of an epoch in which only the watermark moves
_DEFAULT_ACCOUNT_AFTER = 10.0
_ARMS = ("stable", "candidate")

_number = itemgetter(0)


class Inflow:
    """All that one observer has been told. `strays`: facts without a place, dropped (they count as lost).

    `cells`: those of a Marker, where the number of what is read next is noted. `notebook`: what is
    remembered, for whoever writes it.
    """

    def __init__(
        self, source: str, recorder: Recorder | None = None, cells: memoryview[int] | None = None
    ) -> None:
        self.source = source
        self.notebook = Notebook()
        self._recorder = recorder
        self._cells: memoryview[int] | list[int] = [0] * 8 if cells is None else cells
        self._random = Random().random  # noqa: S311 - a sample, no secret
        self.strays = 0
        self._sources: dict[int, Source] = {}
        self._slots: dict[int, EpochSums] = {}
        self._epochs: dict[tuple[str, str, int], EpochSums] = {}
        self._current: set[tuple[str, str, int]] = set()
        self._named: set[tuple[str, str, int]] = set()  # also those that are held, and may go on
        self._watermark = 0.0
        self._tick = 0
        self._said: set[str] = set()

    def obey(self, table: Table, now: float) -> None:
        """Learn which slots mean what; flushes that waited for it are taken."""
        self._current = set()
        self._named = {
            (placed.route.service, placed.route.plan.rollout, placed.route.plan.epoch)
            for placed in table.placed
            if placed.route.plan is not None
        }
        for placed in table.placed:
            if placed.slot >= 0:
                self.place(placed.slot, placed.route)
        for source in self._sources.values():
            self._catch_up(source, now)

    def place(self, slot: int, route: ServiceRoute) -> None:
        """`slot` is the epoch of this route's plan from now on."""
        plan = route.plan
        if plan is None:
            return
        key = (route.service, plan.rollout, plan.epoch)
        self._current.add(key)
        epoch = self._epochs.get(key)
        if epoch is None:
            fold = Fold(route, plan)
            beside = Beside.of(route, plan, self._recorder, self._random)
            remembering = Remembering.of(route.service, plan, fold.slice_names, self.notebook)
            epoch = self._epochs[key] = EpochSums(fold, beside, remembering)
        self._slots[slot] = epoch

    def take(self, flush: Flush, now: float) -> None:
        """Everything in one flush: folded, or kept until its turn or its table comes."""
        source = self._sources.get(flush.worker)
        if source is None or source.boot != flush.boot:
            if source is not None:
                self._close(source)
            source = self._sources[flush.worker] = Source(flush.boot)
        source.heard = now
        if source.waiting or not self._knows(flush):
            source.waiting.append((now + PATIENCE, flush))
            source.waiting_bytes += size_of(flush)
            self._catch_up(source, now)
            return
        self._apply(source, flush)

    def _knows(self, flush: Flush) -> bool:
        named = {fact.slot for fact in flush.facts}
        named.update([pair.slot for pair in flush.pairs])
        named.update([tally.slot for tally in flush.mirrors])
        return named <= self._slots.keys()

    def _catch_up(self, source: Source, now: float) -> None:
        while source.waiting:
            until, flush = source.waiting[0]
            if until > now and source.waiting_bytes <= HELD_BYTES and not self._knows(flush):
                return
            source.waiting.popleft()
            source.waiting_bytes -= size_of(flush)
            self._apply(source, flush)

    def _apply(self, source: Source, flush: Flush) -> None:
        source.open = flush.open
        source.line_time = min(flush.line_time, flush.pair_line_time)
        bodies = {body.number: body for body in flush.bodies}
        ready: list[FactEntry] = []
        cells = self._cells
        for fact in flush.facts:
            epoch = self._slots.get(fact.slot)
            if epoch is None:
                self.strays += 1
                continue
            cells[NUMBER] = fact.number
            cells[KIND] = EXCHANGE
            body = bodies.get(fact.number)
            seen = epoch.fold.read(fact, body)
            labels = NO_LABELS
            if epoch.beside is not None:
                labels = epoch.beside.exchange(fact, body, seen, source.heard)
            if epoch.remembering is not None and body is not None and seen is not None:
                epoch.remembering.exchange(fact, body.request_id, seen)
            if fact.number < flush.line:
                ready.append((fact.number, 0, epoch, fact, seen, labels))
            else:
                self._keep(source, epoch, fact, seen, labels)
        self._fold_facts(source, flush.line, ready)
        self._take_pairs(source, flush)

    def _keep(self, source: Source, epoch: EpochSums, fact: Fact, seen: Seen | None, labels: Labels) -> None:
        weight = weight_of(seen) + len(labels)
        if source.weight + weight > PENDING:
            self.strays += 1
            return
        source.weight += weight
        self._tick += 1
        heappush(source.facts, (fact.number, self._tick, epoch, fact, seen, labels))

    def _fold_facts(self, source: Source, line: float, ready: list[FactEntry]) -> None:
        while source.facts and source.facts[0][0] < line:
            entry = heappop(source.facts)
            source.weight -= weight_of(entry[4]) + len(entry[5])
            ready.append(entry)
        ready.sort(key=_number)
        for _, _, epoch, fact, seen, labels in ready:
            try:
                epoch.fold.add(fact, seen)
                if labels and epoch.beside is not None:
                    epoch.beside.count(fact, labels)
            except (
                ValueError,
                OverflowError,
                IndexError,
            ):  # numbers no worker sends: this fact is lost, no other
                self.strays += 1
            epoch.changed = True

    def _take_pairs(self, source: Source, flush: Flush) -> None:
        for tally in flush.mirrors:
            epoch = self._slots.get(tally.slot)
            if epoch is not None:
                source.mirrored = tally.slot, tally.kind
                epoch.fold.add_tally(tally)
                epoch.changed = True
        for pair in flush.pairs:
            epoch = self._slots.get(pair.slot)
            if epoch is None:
                self.strays += 1
                continue
            self._tick += 1
            self._cells[NUMBER] = pair.number
            self._cells[KIND] = PAIR
            read = epoch.fold.read_pair(pair)
            if epoch.beside is not None:
                epoch.beside.pair(pair, read, source.heard)
            if epoch.remembering is not None and read is not None:
                epoch.remembering.pair(pair, read)
            weight = pair_weight(read)
            if source.weight + weight > PENDING:
                epoch.fold.lose_pairs(1, pair.kind)
                epoch.changed = True
                continue
            source.weight += weight
            heappush(source.pairs, (pair.number, self._tick, epoch, pair, read))
        slot, kind = source.mirrored
        if flush.pairs_lost and slot in self._slots:
            epoch = self._slots[slot]
            epoch.fold.lose_pairs(flush.pairs_lost, kind)
            epoch.changed = True
        self._fold_pairs(source, flush.pair_line)

    def _fold_pairs(self, source: Source, line: float) -> None:
        while source.pairs and source.pairs[0][0] < line:
            _, _, epoch, pair, seen = heappop(source.pairs)
            source.weight -= pair_weight(seen)
            try:
                epoch.fold.add_pair(pair, seen)
            except (ValueError, OverflowError, IndexError):
                self.strays += 1
            epoch.changed = True

    def _close(self, source: Source) -> None:
        """A worker that is gone: what it reported counts, what it had open is lost, and says so."""
        while source.waiting:
            self._apply(source, source.waiting.popleft()[1])
        self._fold_facts(source, float("inf"), [])
        self._fold_pairs(source, float("inf"))
        source.open = []

    def finish(self) -> None:
        """No worker will speak again: fold everything."""
        for source in self._sources.values():
            self._close(source)

    def evidence(self, now: float, *, unwritten: bool = False) -> list[Evidence]:
        """The totals of every epoch that has news, and of current ones twice a second for their watermark.

        `unwritten`: what was remembered is not written before them, and counts as lost until it is. Empty
        until a worker has spoken: without one there is nothing to cover.
        """
        patience = 2 * max(
            (epoch.fold.account_after for epoch in self._epochs.values()), default=_DEFAULT_ACCOUNT_AFTER
        )
        for worker in [worker for worker, source in self._sources.items() if source.heard < now - patience]:
            self._close(self._sources.pop(worker))
        for source in self._sources.values():
            self._catch_up(source, now)
        if self._sources:
            oldest = min(source.line_time for source in self._sources.values())
            self._watermark = max(self._watermark, min(oldest, now - SETTLE))
        if not self._watermark:
            return []
        still_open = self._still_open()
        lost = self.notebook.lost(unwritten=unwritten)
        news: list[Evidence] = []
        for key, epoch in self._epochs.items():
            opened = still_open.get(id(epoch), {})
            unremembered = lost.get(key, NONE_LOST)
            due = epoch.changed or opened != epoch.still_open or unremembered != epoch.unremembered
            if due or (key in self._current and now >= epoch.published_at + IDLE):
                evidence = epoch.fold.evidence(self.source, now, self._watermark, opened)
                if epoch.beside is not None:
                    evidence.inputs = epoch.beside.counts()
                for arm, count in zip(_ARMS, unremembered, strict=True):
                    if count:
                        evidence.arms.setdefault(arm, ArmCounts()).unremembered = count
                news.append(evidence)
                epoch.changed, epoch.published_at, epoch.still_open = False, now, opened
                epoch.unremembered = unremembered
        self._forget(now)
        return news

    def epochs(self) -> frozenset[tuple[str, str, int]]:
        """Service, rollout and epoch of all that evidence may still come of."""
        return frozenset(self._epochs)

    def complaints(self) -> list[str]:
        """What could not be read and why, each said once."""
        new = sorted({line for epoch in self._epochs.values() for line in epoch.fold.complaints} - self._said)
        self._said.update(new)
        return new

    def _still_open(self) -> dict[int, dict[str, int]]:
        """By epoch and arm: what workers have open, and what has been reported and waits for its turn."""
        counts: dict[int, dict[str, int]] = {}

        def count(slot: int, arm: int, more: int) -> None:
            epoch = self._slots.get(slot)
            if epoch is not None and more:
                arms = counts.setdefault(id(epoch), {})
                name = _ARMS[1 if arm else 0]
                arms[name] = arms.get(name, 0) + more

        for source in self._sources.values():
            for slot, arm, more in source.open:
                count(slot, arm, more)
            for _, _, _, fact, _, _ in source.facts:
                count(fact.slot, fact.arm, 1)
            for _, flush in source.waiting:
                for fact in flush.facts:
                    count(fact.slot, fact.arm, 1)
        return counts

    def _forget(self, now: float) -> None:
        """Let go of closed epochs that await nothing any more; all their sums have been handed out.

        Never of one that a table names: begun anew, its sums would replace those handed out.
        """
        by_service: dict[str, list[tuple[str, str, int]]] = {}
        for key, epoch in self._epochs.items():
            if key in self._current or key in self._named:
                epoch.closed_at = 0.0
                continue
            epoch.closed_at = epoch.closed_at or now
            by_service.setdefault(key[0], []).append(key)
        for keys in by_service.values():
            for at, key in enumerate(keys):
                epoch = self._epochs[key]
                late = now - epoch.closed_at > KEPT_FOR + 2 * epoch.fold.account_after
                if (late and not epoch.still_open) or at < len(keys) - KEPT_EPOCHS:
                    gone = self._epochs.pop(key)
                    self.notebook.forget(key)
                    self._slots = {slot: epoch for slot, epoch in self._slots.items() if epoch is not gone}
