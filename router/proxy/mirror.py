"""Copies of requests to a shadow, within bounds, and the pairs they make.

A copy is made when the request's body is complete and stable's request is on its way, whatever becomes
of stable's. Past a bound the copy is dropped and counted, never queued.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from ..counters import FIELDS, MIRRORS_CHOSEN, MIRRORS_FINISHED
from ..facts import Ending, Pair
from .answers import request_id_line
from .heads import CHUNKED, ResponseHead
from .reporting import text
from .table import ServedMirror
from .upstream import Receiver, Upstream

if TYPE_CHECKING:
    from .datapath import DataPath
    from .exchange import Exchange

_NOT_COPIED = frozenset((b"expect", b"transfer-encoding"))


class Bounds:
    """What the copies of one service hold at this moment; it outlives route tables."""

    __slots__ = ("bytes", "in_flight", "refilled_at", "tokens")

    def __init__(self, now: float) -> None:
        self.bytes = 0
        self.in_flight = 0
        self.tokens = 1.0
        self.refilled_at = now

    def spend(self, rate: float, now: float) -> bool:
        """Take a token from a bucket that fills with `rate` a second and holds a tenth of a second's."""
        self.tokens = min(max(1.0, rate / 10), self.tokens + rate * (now - self.refilled_at))
        self.refilled_at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class Shadow(Receiver):
    """One copy on its way, and its answer; `kept` None when the answer is beyond a limit."""

    __slots__ = (
        "_data",
        "_mirror_pool",
        "_mirrors",
        "bounds",
        "bytes",
        "deadline_at",
        "done",
        "encoding",
        "ending",
        "kept",
        "latency",
        "limit",
        "sent_at",
        "size",
        "stable",
        "status",
        "upstream",
    )  # fmt: skip

    def __init__(self, mirrors: Mirrors, stable: Exchange, mirror: ServedMirror, bounds: Bounds) -> None:
        self.head_only = False
        self.waiting = False
        self.wants_payload = True
        self.done = False
        self._mirrors = mirrors
        self.stable = stable
        self.bounds = bounds
        self.upstream: Upstream | None = None
        self.ending = Ending.OPEN
        self.status = 0
        self.latency = 0.0
        self.encoding = b""
        self.kept: list[bytes] | None = []
        self.size = 0
        self.limit = mirror.route.max_bytes
        self.sent_at = monotonic()
        service = stable.call.service
        self.deadline_at = min(self.sent_at + mirror.route.deadline, stable.assigned + service.account_after)
        target = mirrors.path.turn(len(mirror.targets))
        head = stable.head
        held = stable.held or []
        fields, length = head.fields, b""
        if head.expect or head.length == CHUNKED:
            lines = fields.split(b"\r\n")
            fields = b"\r\n".join(
                line for line in lines if line.partition(b":")[0].lower() not in _NOT_COPIED
            )
        if head.length == CHUNKED:
            length = b"content-length: %d\r\n" % stable.request_bytes
        named = b"" if head.request_id is not None else request_id_line(stable.request_id)
        line = stable.call.mirror_lines[target]
        self._data = b"".join((line, fields, length, named, b"x-accede-shadow: 1\r\n\r\n", *held))
        self._mirror_pool = mirror.targets[target].pool
        self.bytes = len(self._data)
        bounds.bytes += self.bytes
        bounds.in_flight += 1

    def begin(self) -> None:
        """Send it, or wait for a connection."""
        upstream = self._mirror_pool.take()
        if upstream is not None:
            self.connected(upstream)
        else:
            self.waiting = True
            self._mirror_pool.ask(self)

    def connected(self, upstream: Upstream) -> None:
        """Part of Receiver."""
        self.waiting = False
        self.upstream = upstream
        upstream.start(self, self._data, more=False)
        self._data = b""

    def answered(self, head: ResponseHead, body: bytes) -> None:
        """Part of Receiver."""
        self.began(head)
        self._keep([body], len(body))
        self.finish(Ending.ANSWERED)

    def began(self, head: ResponseHead) -> None:
        """Part of Receiver."""
        self.status = head.status
        self.encoding = head.encoding

    def piece(self, raw: bytes, payload: list[bytes] | None, size: int) -> None:
        """Part of Receiver."""
        self._keep([raw] if payload is None else payload, size)

    def ended(self) -> None:
        """Part of Receiver."""
        self.finish(Ending.ANSWERED)

    def failed(self, ending: Ending) -> None:
        """Part of Receiver."""
        self.upstream = None
        self.finish(ending)

    def expire(self) -> None:
        """Its deadline has passed."""
        if self.upstream is not None:
            self.upstream.drop()
        elif self.waiting:
            self._mirror_pool.leave(self)
        self.finish(Ending.TIMEOUT)

    def hold(self, size: int) -> bool:
        """Account `size` more bytes to this copy; False beyond the bound."""
        if self.bounds.bytes + size > self.limit:
            return False
        self.bounds.bytes += size
        self.bytes += size
        return True

    def _keep(self, pieces: list[bytes], size: int) -> None:
        if self.kept is None:
            return
        self.size += size
        if self.size > self.stable.call.service.route.capture_response or not self.hold(size):
            self.kept = None
            self.wants_payload = False
        else:
            self.kept.extend(pieces)

    def finish(self, ending: Ending) -> None:
        """The shadow's side has ended."""
        if self.done:
            return
        self.done = True
        self.waiting = False
        self.upstream = None
        self.ending = ending
        self.latency = monotonic() - self.sent_at
        if ending != Ending.ANSWERED:
            self.kept = []
        self.bounds.in_flight -= 1
        self._mirrors.shadow_ended(self)


class Mirrors:
    """All copies of a worker. `open_pairs`: exchanges whose pair is not yet reported, by its number."""

    def __init__(self, path: DataPath) -> None:
        self.path = path
        self.open_pairs: dict[int, Exchange] = {}
        self.shadows: dict[int, Shadow] = {}
        self.next_pair = 1
        self._bounds: dict[str, Bounds] = {}

    def choose(self, exchange: Exchange, mirror: ServedMirror) -> int:
        """Whether this request is to be copied, at random: the number of its pair, or -1."""
        if mirror.rate < 1.0 and self.path.random() >= mirror.rate:
            return -1
        number = self.next_pair
        self.next_pair += 1
        self.open_pairs[number] = exchange
        return number

    def copy(self, exchange: Exchange) -> None:
        """The body is complete: send the copy, or drop and count it."""
        service = exchange.call.service
        mirror = service.mirror
        if mirror is None or not exchange.call.mirror_lines:  # the breaker has closed it meanwhile
            self._forget(exchange)
            return
        now = monotonic()
        bounds = self._bounds.get(service.name)
        if bounds is None:
            bounds = self._bounds[service.name] = Bounds(now)
        tally = self.path.gathered.tally(exchange.slot)
        tally.chosen += 1
        self.path.cells[exchange.slot * FIELDS + MIRRORS_CHOSEN] += 1
        rule = mirror.route
        if exchange.held is None:
            tally.dropped_size += 1
        elif bounds.in_flight >= rule.max_in_flight:
            tally.dropped_in_flight += 1
        elif bounds.bytes + exchange.request_bytes + len(exchange.head.fields) > rule.max_bytes:
            tally.dropped_bytes += 1
        elif rule.max_rps is not None and not bounds.spend(rule.max_rps, now):
            tally.dropped_rate += 1
        else:
            tally.sent += 1
            shadow = Shadow(self, exchange, mirror, bounds)
            exchange.shadow = shadow
            self.shadows[exchange.pair] = shadow
            shadow.begin()
            return
        self._forget(exchange)

    def stable_ended(self, exchange: Exchange) -> None:
        """Stable's side has ended."""
        shadow = exchange.shadow
        if shadow is None:
            self._forget(exchange)
        elif shadow.done:
            self._report(exchange, shadow)
        elif exchange.kept and not shadow.hold(sum(map(len, exchange.kept))):
            exchange.kept = None

    def shadow_ended(self, shadow: Shadow) -> None:
        """The shadow's side has ended."""
        exchange = shadow.stable
        self.shadows.pop(exchange.pair, None)
        self.path.cells[exchange.slot * FIELDS + MIRRORS_FINISHED] += 1
        if exchange.reported:
            self._report(exchange, shadow)

    def overdue(self, exchange: Exchange) -> None:
        """The exchange was reported as open at `account_after`: so is its pair."""
        shadow = exchange.shadow
        if shadow is None:
            self._forget(exchange)
        elif shadow.done:
            self._report(exchange, shadow)
        else:
            shadow.expire()

    def sweep(self, now: float) -> None:
        """End copies whose deadline has passed."""
        late = [shadow for shadow in self.shadows.values() if now >= shadow.deadline_at]
        for shadow in late:
            shadow.expire()

    def _forget(self, exchange: Exchange) -> None:
        self.open_pairs.pop(exchange.pair, None)
        exchange.pair = -1

    def _report(self, exchange: Exchange, shadow: Shadow) -> None:
        number = exchange.pair
        if self.open_pairs.pop(number, None) is None:
            return
        exchange.pair = -1
        exchange.shadow = None
        shadow.bounds.bytes -= shadow.bytes
        stable_kept = exchange.kept if exchange.ending == Ending.ANSWERED else []
        lost = stable_kept is None or shadow.kept is None or exchange.held is None
        self.path.gathered.add_pair(
            Pair(
                number, exchange.slot, exchange.assigned_at,
                int(exchange.ending), exchange.status, exchange.latency,
                int(shadow.ending), shadow.status, shadow.latency, lost,
                b"" if lost else b"".join(exchange.held or ()),
                b"" if lost else b"".join(stable_kept or ()),
                b"" if lost else b"".join(shadow.kept or ()),
                text(exchange.head.encoding), text(exchange.response_encoding),
                text(shadow.encoding),
            )
        )  # fmt: skip
