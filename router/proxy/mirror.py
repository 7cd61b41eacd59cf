"""Copies of requests, and the pairs they make. Three kinds: what stable serves to the candidate (shadow)
and to stable again (floor), what the candidate serves to stable (back).

Chosen at random at assignment; sent when the request's body is complete, whatever becomes of the answer;
past a bound dropped and counted, never queued. A pair is reported when both of its sides have ended. One
whose request stable answered in the candidate's place is none: both its sides would be stable.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Final

from ..counters import FIELDS, MIRRORS_CHOSEN, MIRRORS_FINISHED
from ..facts import PAIR_BACK, PAIR_SHADOW, Ending, MirrorTally, Pair
from .bounds import COPIED, Bounds
from .copies import Copy
from .heads import JSON_BYTES, RequestHead, ResponseHead
from .reporting import text
from .served import ServedMirror, Service
from .warming import Warmth

if TYPE_CHECKING:
    from .datapath import DataPath
    from .exchange import Exchange

_NO_MORE_DIGITS: Final = 15  # as of Content-Length (heads)
_UNCOUNTED: Final = MirrorTally(-1, 0, 0, 0, 0, 0, 0)  # takes what nobody reads


class Mirrors:
    """All copies of a worker. `open_pairs`: those whose pair is not yet reported, by number, oldest first."""

    def __init__(self, path: DataPath) -> None:
        self.path = path
        self.open_pairs: dict[int, Copy] = {}
        self.next_pair = 1
        self._under_way: set[Copy] = set()
        self._bounds: dict[str, Bounds] = {}
        self._warmths: dict[tuple[str, str, tuple[str, ...]], Warmth] = {}
        self._cold: list[Service] = []

    def adopt(self, services: Iterable[Service]) -> None:
        """Take up a new table's services; a candidate that is cold or was never ready gets no users yet."""
        now = monotonic()
        known, self._warmths = self._warmths, {}
        bounds, self._bounds = self._bounds, {}
        self._cold = []
        for service in services:
            if service.name in bounds:  # those of others are held by the copies that are still on their way
                self._bounds[service.name] = bounds[service.name]
            warming: ServedMirror | None = None
            for mirror in service.every_mirror:
                rule = mirror.route
                if rule.warm_up and mirror.kind == PAIR_SHADOW:
                    key = (service.name, rule.version, rule.addresses)
                    warmth = self._warmths[key] = known.get(key) or Warmth(rule.warm_up)
                    if not warmth.warm(now):
                        mirror.warmth = warmth
                        warming = mirror
            candidate = service.awaited
            if candidate is not None and (warming is not None or not candidate.was_ready):
                service.hold(warming)
                self._cold.append(service)
            else:
                service.let_go()

    def choose(self, exchange: Exchange, mirrors: tuple[ServedMirror, ...]) -> list[Copy] | None:
        """The copies to make of this request, each at random; None without any."""
        copies: list[Copy] | None = None
        for mirror in mirrors:
            if mirror.rate < 1.0 and self.path.random() >= mirror.rate:
                continue
            copy = None
            if mirror.warmth is not None:
                copy, counts = self._warming(exchange, mirror, mirror.warmth)
                if copy is None and not counts:
                    continue
            if copy is None:
                number = self.next_pair
                self.next_pair += 1
                copy = self.open_pairs[number] = Copy(self, exchange, mirror, number, None)
            if copies is None:
                copies = [copy]
            else:
                copies.append(copy)
        return copies

    def _warming(self, exchange: Exchange, mirror: ServedMirror, warmth: Warmth) -> tuple[Copy | None, bool]:
        """The copy that warms the candidate up, if one is still to be; and whether an ordinary one may go."""
        service = exchange.call.service
        held = service.held_for is mirror
        if held:
            self.path.gathered.tally(service.placed.slot, mirror.kind).held += 1
            if not mirror.ready:
                return None, False
        if warmth.wants:
            return Copy(self, exchange, mirror, -1, warmth), False
        if not held:
            mirror.warmth = None  # warm enough: copies count from here on
        return None, not held

    def send(self, exchange: Exchange) -> None:
        """The body is complete: send its copies, or drop and count them.

        The exchange keeps those that make a pair, until it is reported: a cycle left behind would hold bodies
        until the collector runs, which is rare in a worker.
        """
        copies, exchange.copies = exchange.copies or (), None
        service = exchange.call.service
        closed = service.mirrors is None  # the breaker has closed it meanwhile
        now = monotonic()
        bounds = self._bounds.get(service.name)
        if bounds is None:
            bounds = self._bounds[service.name] = Bounds(now)
        size = exchange.request_bytes + len(exchange.head.fields)
        for copy in copies:
            if closed:
                self._forget(copy)
                continue
            rule = copy.mirror.route
            tally = self.path.gathered.tally(service.placed.slot, copy.mirror.kind)
            if copy.warmth is not None:
                # What is not sent of these counts nowhere: there will be others.
                if exchange.held is None or not bounds.admit(rule, size, self._room(), _UNCOUNTED, now):
                    continue
                if not copy.warmth.take():
                    continue
                tally.warmed += 1
            else:
                tally.chosen += 1
                self.path.cells[exchange.slot * FIELDS + MIRRORS_CHOSEN] += 1
                if exchange.held is None:
                    if exchange.crowded:
                        tally.dropped_bytes += 1
                    else:
                        tally.dropped_size += 1
                    self._forget(copy)
                    continue
                if not bounds.admit(rule, size, self._room(), tally, now):
                    self._forget(copy)
                    continue
                tally.sent += 1
                if exchange.copies is None:
                    exchange.copies = [copy]
                else:
                    exchange.copies.append(copy)
            self._under_way.add(copy)
            copy.send(bounds)

    def _room(self) -> int:
        """Bytes that copies of all services may still take; captured requests and answers need the rest."""
        return COPIED - self.path.captured

    def served(self, exchange: Exchange) -> None:
        """The exchange has ended and is reported."""
        for copy in tuple(exchange.copies or ()):
            if copy.bounds is None:
                self._forget(copy)
            elif exchange.fell_back and copy.mirror.kind == PAIR_BACK:
                self._unpair(exchange, copy)
            elif copy.done:
                self._report(copy)
            elif exchange.kept and not copy.hold(sum(map(len, exchange.kept))):
                copy.lost = True

    def overdue(self, exchange: Exchange) -> None:
        """The exchange was reported as open at `account_after`: so are its pairs."""
        for copy in tuple(exchange.copies or ()):
            if copy.bounds is None:
                self._forget(copy)
            elif copy.done:
                self._report(copy)
            else:
                copy.expire()

    def copy_ended(self, copy: Copy) -> None:
        """The copy's side has ended."""
        self._under_way.discard(copy)
        if copy.warmth is not None:
            copy.warmth.ended += 1
        if copy.number < 0:
            copy.release()
            return
        self.path.cells[copy.exchange.slot * FIELDS + MIRRORS_FINISHED] += 1
        if copy.exchange.reported:
            self._report(copy)

    def sweep(self, now: float) -> None:
        """End copies whose deadline has passed; let users go to candidates that are warm by now."""
        late = [copy for copy in self._under_way if now >= copy.deadline_at]
        for copy in late:
            copy.expire()
        if self._cold:
            self._cold = [service for service in self._cold if self._still_cold(service, now)]

    @staticmethod
    def _still_cold(service: Service, now: float) -> bool:
        candidate = service.awaited
        if candidate is not None and not candidate.was_ready:
            return True
        mirror = service.held_for
        if mirror is not None and mirror.warmth is not None:
            if mirror.warmth.held_since is None:
                mirror.warmth.held_since = now
            if not mirror.warmth.warm(now):
                return True
            mirror.warmth = None
        service.let_go()
        return False

    def _forget(self, copy: Copy) -> bool:
        """There will be no pair, or there has been one; False where that is known."""
        if self.open_pairs.pop(copy.number, None) is None and copy.number >= 0:
            return False
        copies = copy.exchange.copies
        if copies is not None and copy in copies:
            copies.remove(copy)
            if not copies:
                copy.exchange.copies = None
        return True

    def _unpair(self, exchange: Exchange, copy: Copy) -> None:
        """Stable answered in the candidate's place: the copy has nothing to be compared with."""
        if not self._forget(copy):
            return
        self.path.gathered.tally(exchange.slot, copy.mirror.kind).unpaired += 1
        copy.leave()
        copy.finish(Ending.DISCONNECTED)
        copy.release()

    def _report(self, copy: Copy) -> None:
        if not self._forget(copy):
            return
        exchange = copy.exchange
        copy.release()
        errors = exchange.call.service.errors
        kept = exchange.kept if exchange.ending == Ending.ANSWERED else []
        if kept is None and exchange.status in errors:
            kept = []  # nothing of an error is read, so it fits however long it is
        if copy.kept is None and copy.status in errors:
            copy.kept = []
        lost = copy.lost or kept is None or copy.kept is None or exchange.held is None
        served = (int(exchange.ending), exchange.status, exchange.latency)
        copied = (int(copy.ending), copy.status, copy.latency)
        served_body = b"" if lost else b"".join(kept or ())
        copied_body = b"" if lost else b"".join(copy.kept or ())
        encodings = (text(exchange.response_encoding), text(copy.encoding))
        json_bytes = (_json_bytes(exchange.answer), _json_bytes(copy.answer))
        kind = copy.mirror.kind
        if kind == PAIR_BACK:  # stable's side first: here it is the copy
            served, copied = copied, served
            served_body, copied_body = copied_body, served_body
            encodings = encodings[1], encodings[0]
            json_bytes = json_bytes[1], json_bytes[0]
        self.path.gathered.add_pair(
            Pair(
                copy.number, exchange.slot, exchange.assigned_at, *served, *copied, lost,
                b"" if lost else b"".join(exchange.held or ()), served_body, copied_body,
                text(exchange.head.encoding), *encodings,
                kind, _json_bytes(exchange.head), *json_bytes,
                text(exchange.request_id) if exchange.call.service.remembered else "",
            )
        )  # fmt: skip


def _json_bytes(head: RequestHead | ResponseHead | None) -> int:
    """Bytes of JSON before binary tensors, -1 where the header is missing or no number."""
    value = b"" if head is None else head.seen.get(JSON_BYTES, b"")
    return int(value) if value.isdigit() and len(value) <= _NO_MORE_DIGITS else -1
