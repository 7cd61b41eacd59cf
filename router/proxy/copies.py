"""One copy of a request: on its way, and its answer, which no client sees.

Of an answer as much is kept as the analysis may see. One that grows beyond it is not read on: a short rest
is discarded, anything longer or endless has its connection closed, so that a stream nobody looks at costs no
CPU until the deadline. The copy has then been answered, with its status and a body that is lost: its pair
counts in coverage only.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from ..facts import Ending
from .answers import request_id_line
from .bounds import CAPTURED, Bounds
from .heads import CHUNKED, ResponseHead
from .receiver import Receiver
from .rewriting import rewritten
from .served import ServedMirror
from .upstream import Upstream
from .warming import Warmth

if TYPE_CHECKING:
    from .exchange import Exchange
    from .mirror import Mirrors

_NOT_COPIED: Final = frozenset((b"expect", b"transfer-encoding", b"connection", b"upgrade"))
_DISCARDED: Final = 2**20  # bytes: a rest that costs no more to read than a new connection costs to make


class Copy(Receiver):
    """A chosen copy of `exchange`. `number`: its pair's, -1 where it only warms the candidate up.

    `kept`: the answer's body, None once beyond a limit. `lost`: the served answer's body did not fit.
    """

    __slots__ = (
        "_mirrors", "_pool", "answer", "bounds", "bytes", "deadline_at", "done", "encoding",
        "ending", "exchange", "kept", "latency", "lost", "mirror", "number", "repeated", "sent_at", "size",
        "status", "upstream", "warmth",
    )  # fmt: skip

    bounds: Bounds | None

    def __init__(
        self, mirrors: Mirrors, exchange: Exchange, mirror: ServedMirror, number: int, warmth: Warmth | None
    ) -> None:
        self._mirrors = mirrors
        self.exchange = exchange
        self.mirror = mirror
        self.number = number
        self.warmth = warmth
        self.bounds = None  # until it is sent; most that are dropped need no more than this

    def send(self, bounds: Bounds) -> None:
        """Send it, or wait for a connection."""
        mirror, exchange = self.mirror, self.exchange
        self.head_only = self.waiting = self.done = self.lost = self.repeated = False
        self.wants_payload = True
        self.upstream: Upstream | None = None
        self.answer: ResponseHead | None = None
        self.kept: list[bytes] | None = []
        self.ending = Ending.OPEN
        self.status = self.size = 0
        self.latency = 0.0
        self.encoding = b""
        self.sent_at = monotonic()
        self.deadline_at = min(
            self.sent_at + mirror.route.deadline, exchange.assigned + exchange.call.service.account_after
        )
        data = copied(exchange, mirror)
        self.bounds = bounds
        self.bytes = len(data)
        bounds.bytes += self.bytes
        self._mirrors.path.captured += self.bytes
        bounds.in_flight += 1
        self._pool = mirror.source
        upstream = self._pool.take()
        if upstream is not None:
            self.upstream = upstream
            upstream.start(self, data, more=False)
        else:
            self.kept = [data]  # of the answer there is nothing yet
            self.waiting = True
            self._pool.ask(self)

    def connected(self, upstream: Upstream) -> None:
        """Part of Receiver."""
        self.waiting = False
        self.upstream = upstream
        data, self.kept = self.kept or [], []
        upstream.start(self, data[0], more=False)

    def answered(self, head: ResponseHead, body: bytes) -> None:
        """Part of Receiver."""
        self.upstream = None
        self._head(head)
        self._keep([body], len(body))
        self.finish(Ending.ANSWERED)

    def began(self, head: ResponseHead) -> None:
        """Part of Receiver."""
        self._head(head)
        if head.length > self._room:
            self._too_large(head.length)

    def piece(self, raw: bytes, payload: list[bytes] | None, size: int) -> None:
        """Part of Receiver."""
        if self.kept is not None and not self._keep([raw] if payload is None else payload, size):
            length = self.answer.length if self.answer is not None else -1
            self._too_large(length - self.size)

    def ended(self) -> None:
        """Part of Receiver."""
        self.finish(Ending.ANSWERED)

    def failed(self, ending: Ending) -> None:
        """Part of Receiver."""
        upstream, self.upstream = self.upstream, None
        stale = upstream is not None and upstream.uses > 1 and not upstream.answering
        if ending == Ending.TRUNCATED and stale and not self.repeated and self._may_repeat():
            self.repeated = self.waiting = True
            self.kept = [copied(self.exchange, self.mirror)]
            self._pool.ask(self)
            return
        self.finish(ending)

    def _may_repeat(self) -> bool:
        """As requests themselves: the connection idled too long, which is no failure of the version."""
        call = self.exchange.call
        return call.idempotent or call.service.repeatable

    def no_room(self) -> None:
        """Part of Receiver: lost to a bound of ours, so its pair counts in coverage only."""
        self.lost = True
        if self.warmth is not None:
            self.warmth.give_back()
        else:
            slot = self.exchange.slot
            self._mirrors.path.gathered.tally(slot, self.mirror.kind).unconnected += 1
        self.finish(Ending.DISCONNECTED)

    def expire(self) -> None:
        """Its deadline has passed."""
        if self.upstream is not None:
            self.upstream.expired()
            self.upstream = None
        self.leave()
        self.finish(Ending.TIMEOUT)

    def leave(self) -> None:
        """Ask for nothing more."""
        if self.upstream is not None:
            self.upstream.drop()
            self.upstream = None
        elif self.waiting:
            self.waiting = False
            self._pool.leave(self)

    def hold(self, size: int) -> bool:
        """Account `size` more bytes to this copy; False beyond the bound."""
        bounds, path = self.bounds, self._mirrors.path
        if bounds is None or bounds.bytes + size > self.mirror.route.max_bytes:
            return False
        if path.captured + size > CAPTURED:
            return False
        bounds.bytes += size
        path.captured += size
        self.bytes += size
        return True

    def release(self) -> None:
        """Give its bytes back: nothing of it is held any more."""
        if self.bounds is not None:
            self.bounds.bytes -= self.bytes
            self._mirrors.path.captured -= self.bytes
            self.bytes = 0

    @property
    def _room(self) -> int:
        """Bytes of an answer that are kept; of one that only warms, none."""
        return self.exchange.call.service.route.capture_response if self.number >= 0 else 0

    def _head(self, head: ResponseHead) -> None:
        self.answer = head
        self.status = head.status
        self.encoding = head.encoding

    def _keep(self, pieces: list[bytes], size: int) -> bool:
        if self.kept is None:
            return True
        self.size += size
        if self.size > self._room or not self.hold(size):
            self.kept = None
            self.wants_payload = False
            return False
        self.kept.extend(pieces)
        return True

    def _too_large(self, rest: int) -> None:
        """The answer is beyond what is kept, and `rest` bytes are to come (below 0: nobody knows)."""
        self.kept = None
        self.wants_payload = False
        if not 0 <= rest <= _DISCARDED:
            self.leave()
            self.finish(Ending.ANSWERED)

    def finish(self, ending: Ending) -> None:
        """The copy's side has ended."""
        if self.done:
            return
        self.done = True
        self.waiting = False
        self.upstream = None
        self.ending = ending
        self.latency = monotonic() - self.sent_at
        if ending != Ending.ANSWERED:
            self.kept = []
        if self.bounds is not None:
            self.bounds.in_flight -= 1
        self._mirrors.copy_ended(self)


def copied(exchange: Exchange, mirror: ServedMirror) -> bytes:
    """The bytes of a copy: the client's head without what must not travel, that it is a copy, the body."""
    head = exchange.head
    held = exchange.held or []
    fields, ours = head.fields, b""
    drop = mirror.strip
    if head.length == CHUNKED or head.expect or head.upgrade:
        drop = drop | _NOT_COPIED
    if head.length == CHUNKED:
        ours = b"content-length: %d\r\n" % exchange.request_bytes
    if mirror.model is not None and not head.encoding:
        body = rewritten(b"".join(held), mirror.model)
        if body is not None:
            held = [body]
            drop = drop | {b"content-length"}
            ours = b"content-length: %d\r\n" % len(body)
    if drop:
        lines = fields.split(b"\r\n")
        fields = b"\r\n".join([line for line in lines if line.partition(b":")[0].lower() not in drop])
    if head.request_id is None:
        ours += request_id_line(exchange.request_id)
    line = exchange.call.mirror_lines[mirror.kind]
    return b"".join((line, fields, ours, b"x-accede-shadow: 1\r\n\r\n", *held))
