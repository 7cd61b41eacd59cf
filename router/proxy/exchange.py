"""One request and its answer: from assignment to its fact."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from ..counters import ASSIGNED, FIELDS
from ..facts import CANDIDATE, STABLE, Ending
from .answering import RAW, Answering
from .answers import own_answer, request_id_line
from .assignment import CHOSEN, assign
from .deadlines import look
from .heads import CHUNKED, TIMEOUT, RequestHead
from .lengths import with_length
from .reporting import report
from .retrying import fall_back, repeat
from .table import Call

if TYPE_CHECKING:
    from .client import Client
    from .copies import Copy
    from .datapath import DataPath
    from .upstream import Upstream

_SERVER_ERRORS: Final = {Ending.CONNECT: 502, Ending.TIMEOUT: 504, Ending.TRUNCATED: 502}
_LONGEST_TIMEOUT: Final = 9  # digits of milliseconds: eleven days, far above any deadline


class Exchange(Answering):
    """A request that is being answered for `client`.

    Times are monotonic seconds. `assigned_arm`: what the fact is accounted to; `arm` differs from it once
    stable answers in the candidate's place (`fell_back`). `held`: the request's payload, None once beyond
    the capture limit or the worker's bound. `copies`: those chosen to be mirrored. `ending`, `latency`: set
    when it is reported.
    """

    __slots__ = (
        "_ended", "_outgoing", "assigned", "assigned_arm", "copies", "ending", "excluded", "fell_back",
        "held", "latency", "number", "reported", "request_bytes", "retried", "unit",
    )  # fmt: skip

    ending: Ending
    latency: float
    copies: list[Copy] | None
    held: list[bytes] | None
    _outgoing: list[bytes] | None

    def __init__(self, path: DataPath, client: Client, head: RequestHead, call: Call) -> None:
        service = call.service
        self.path = path
        self.client = client
        self.head = head
        self.call = call
        self.head_only = call.head_only
        self.upstream = self.answer = self.stream = self.kept = self.held = self._outgoing = self.copies = (
            None
        )
        self.waiting = self.wants_payload = self.request_done = self.reported = self._ended = False
        self.crowded = self.excluded = self.fell_back = self.retried = False
        self.request_bytes = self.response_bytes = self.room = 0
        self.sent_at = 0.0
        self.unit = -1
        self.number = number = path.number = path.number + 1
        self.request_id = head.request_id or path.new_request_id()
        service.budget.requests += 1
        if service.adds is not None:
            head.fields = service.adds.to_request(head, client.peer())
        self.assigned = monotonic()
        path.open[number] = self
        if call.holds:
            self.slot = -1
            self.assigned_arm = STABLE
            self.arm = service.arms[STABLE]
        elif call.predicts:
            self._assign(None)
        else:
            self.slot = -1
            self.assigned_arm = call.arm
            self.arm = service.arms[call.arm]

    def _assign(self, body: bytes | None) -> None:
        service = self.call.service
        path = self.path
        self.slot = slot = service.slot
        index, self.unit, self.excluded = assign(service, self.head.seen, path.random, body)
        if self.unit == CHOSEN:  # by the caller, so it is no sample of either arm
            self.slot = slot = -1
        arm = service.arms[index]
        if index == CANDIDATE and arm.probed and not arm.ready:
            if arm.was_ready:  # nothing was sent, so stable answers for it without asking the budget
                self.fell_back = True
            else:
                index = STABLE
                self.excluded = True
            arm = service.arms[STABLE]
        self.assigned_arm = index
        self.arm = arm
        if slot >= 0:
            path.cells[slot * FIELDS + ASSIGNED + index] += 1
            if self.fell_back:
                path.brake(self, Ending.CONNECT, self.assigned)
        if self.fell_back:
            return
        mirrors = service.mirrors
        if mirrors is not None and not self.excluded:
            self.copies = path.mirrors.choose(self, mirrors[index])

    # --- for those who ask

    @property
    def assigned_at(self) -> float:
        """Epoch seconds of the assignment."""
        return self.assigned + self.path.offset

    @property
    def status(self) -> int:
        """Status of the answer, 0 without one."""
        return 0 if self.answer is None else self.answer.status

    @property
    def response_encoding(self) -> bytes:
        """Content-encoding of the answer."""
        return b"" if self.answer is None else self.answer.encoding

    # --- the request, driven by the client's connection

    def send_head(self, payload: bytes, raw: bytes, *, more: bool) -> None:
        """Forward the head and what came with it; `raw` is `payload` with its framing."""
        size = self.request_bytes = len(payload)
        if size <= self.call.service.route.capture_request:
            if not size:
                self.held = []
            elif self.takes(size):
                self.held = [payload]
        self._send(self.message(raw), more=more)

    def message(self, raw: bytes) -> bytes:
        """The request as `arm` gets it, with `raw` as what is there of its framed body."""
        head = self.head
        return b"".join(
            (
                self.call.lines[self.arm.index],
                head.fields,
                b"\r\n" if head.request_id is not None else request_id_line(self.request_id) + b"\r\n",
                raw,
            )
        )

    def _send(self, data: bytes, *, more: bool, fresh: bool = False) -> None:
        source = self.arm.source
        upstream = None if fresh else source.take()
        if upstream is not None:
            self.upstream = upstream
            upstream.start(self, data, more=more)
        else:
            self.waiting = True
            self._outgoing = [data]
        if not more and not self.request_done:
            self._request_complete()
        if upstream is None:
            source.ask(self)

    def send_body(self, payload: list[bytes] | bytes, raw: bytes, *, more: bool) -> None:
        """Forward more of the body."""
        for piece in (payload,) if isinstance(payload, bytes) else payload:
            self.request_bytes += len(piece)
            if self.held is not None:
                most = self.call.service.route.capture_request
                if self.request_bytes > most or not self.takes(len(piece)):
                    self.held = None
                    self.gives(self.request_bytes - len(piece))
                else:
                    self.held.append(piece)
        upstream = self.upstream
        if upstream is not None:
            upstream.send(raw)
            upstream.sending = more
        elif self._outgoing is not None:
            self._outgoing.append(raw)
            if more and self.client is not None:
                self.client.hold_upload()  # no connection yet, so hold back instead of gathering
        if not more:
            self._request_complete()

    def _request_complete(self) -> None:
        self.request_done = True
        self.sent_at += monotonic()  # it was 0, or less what an upload has waited for its connection
        if self.copies is not None:
            self.path.mirrors.send(self)

    def connected(self, upstream: Upstream) -> None:
        """Part of Receiver."""
        self.waiting = False
        outgoing, self._outgoing = self._outgoing or [], None
        self.upstream = upstream
        if not self.request_done:  # the upload waited with it: queueing belongs to the latency
            self.sent_at = self.assigned - monotonic()
        upstream.start(self, b"".join(outgoing), more=not self.request_done)
        if self.client is not None:
            self.client.go_on_upload()

    # --- a second attempt

    def whole(self) -> bytes | None:
        """The whole body of a complete request, None where it is not held."""
        return None if self.held is None else b"".join(self.held)

    def send_again(self, *, fresh: bool) -> None:
        """Send the whole request to `arm`; `fresh`: not on a connection that idled."""
        body = self.whole() or b""
        head = self.head
        if head.expect or head.length == CHUNKED:
            head.fields = with_length(head.fields, len(body) if head.length else None)
            head.expect = False
        self._send(self.message(body), more=False, fresh=fresh)

    def falls_back(self, ending: Ending, now: float) -> bool:
        """Let stable answer what the candidate could not, if it may."""
        return fall_back(self, ending, now)

    # --- what goes wrong

    def failed(self, ending: Ending) -> None:
        """Part of Receiver."""
        upstream, self.upstream = self.upstream, None
        self.waiting = False
        now = monotonic()
        if self.stream is None or not self.stream.begun:
            if ending == Ending.TRUNCATED and upstream is not None and repeat(self, upstream, now):
                return
            if self.arm.falls_back and fall_back(self, ending, now):
                return
        reason = {
            Ending.CONNECT: "cannot be reached",
            Ending.TIMEOUT: "did not answer within the deadline",
        }.get(ending, "broke off its answer")
        self.fail(ending, _SERVER_ERRORS.get(ending, 502), self.blamed(reason))

    def refused(self) -> None:
        """Part of Receiver: as many wait for the version as may, so it does not keep up.

        That is its failure like any other: a version too slow for its share would else look fast and free of
        errors, since the requests it never got to would count as clients who left at once.
        """
        self.waiting = False
        self._outgoing = None
        now = monotonic()
        if self.arm.falls_back and fall_back(self, Ending.CONNECT, now):
            return
        reason = f"too many requests wait for version {self.arm.version} already; try again later"
        self.fail(Ending.CONNECT, 503, reason, now)

    def no_room(self) -> None:
        """Part of Receiver: as a client who left, so that no version is blamed."""
        self.waiting = False
        self._outgoing = None
        reason = f"this router has no descriptor left for a connection to version {self.arm.version}"
        self.fail(Ending.DISCONNECTED, 503, f"{reason}; try again later")

    def blamed(self, reason: str) -> str:
        """What went wrong, with whose version it was; never its address."""
        return f"version {self.arm.version} of {self.call.service.route.service} {reason}"

    def refuse(self, status: int, reason: str) -> None:
        """The request turned out to be unacceptable while its body came: the client's fault."""
        self.leave_upstream()
        self.fail(Ending.DISCONNECTED, status, reason)

    def abandon(self) -> None:
        """The client is gone."""
        self.client = None
        self.leave_upstream()
        self.account(Ending.DISCONNECTED, monotonic())

    # --- the clock

    def deadline_at(self) -> float:
        """When the whole request must be over: the route's deadline, or the client's if that is sooner."""
        seconds = self.call.service.route.deadline
        wanted = self.head.seen.get(TIMEOUT)
        if wanted and wanted.isdigit() and len(wanted) <= _LONGEST_TIMEOUT and int(wanted):
            seconds = min(seconds, int(wanted) / 1000)
        return self.assigned + seconds

    def first_look(self) -> float:
        """When the clock must look at it first."""
        if TIMEOUT in self.head.seen:
            return self.deadline_at()
        return self.assigned + self.call.service.look

    def look(self, now: float) -> float:
        """Obey the deadlines; the result is when to look again, 0.0 if it has ended."""
        return look(self, now)

    # --- the end

    def leave_line(self) -> None:
        """Wait for no connection any more."""
        self.waiting = False
        self.arm.source.leave(self)

    def leave_upstream(self) -> None:
        """Want nothing more of the upstream, nor a connection to it."""
        if self.waiting:
            self.leave_line()
        self._outgoing = None
        if self.upstream is not None:
            self.upstream.drop()
            self.upstream = None

    def fail(self, ending: Ending, status: int, reason: str, now: float = 0.0) -> None:
        """End it with an answer of our own, or cut off the one that has begun."""
        now = now or monotonic()
        client = self.client
        self.account(ending, now)
        if client is None:
            return
        stream = self.stream
        if stream is not None and stream.begun:
            client.cut(framed=self.head.minor or stream.out == RAW)
            return
        keep = client.keeps(self) and self.request_done
        named = self.own_named()
        client.write(own_answer(status, reason, named, close=not keep, bodyless=self.head_only))
        client.finished(now, keep=keep)

    def own_named(self) -> bytes:
        """The header lines of an answer of our own."""
        return request_id_line(self.request_id) + self.arm.named

    def account(self, ending: Ending, now: float) -> None:
        """Take the exchange out of the open ones and report it, once."""
        if self._ended:
            return
        self._ended = True
        self.upstream = self.client = None
        path = self.path
        path.captured -= self.room
        self.room = 0
        del path.open[self.number]
        if self.slot < 0:
            return
        if self.arm.index == CANDIDATE and self.call.service.breaker is not None:
            path.brake(self, ending, now)
        if not self.reported:
            report(self, ending, now)
        if self.copies is not None and not self.fell_back:
            path.mirrors.served(self)
