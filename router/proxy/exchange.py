"""One request and its answer: from assignment to its fact."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from ..counters import ASSIGNED, FIELDS
from ..facts import CANDIDATE, STABLE, Ending
from .answers import own_answer, request_id_line
from .assignment import assign
from .chunks import LAST, chunk
from .heads import CHUNKED, UNTIL_CLOSE, RequestHead, ResponseHead
from .reporting import report
from .table import Call, ServedArm
from .upstream import Receiver, Upstream

if TYPE_CHECKING:
    from .client import Client
    from .datapath import DataPath
    from .mirror import Shadow

_RAW, _UNCHUNK, _CHUNK = range(3)  # how an answer's body goes on to the client
_SERVER_ERRORS: Final = {Ending.CONNECT: 502, Ending.TIMEOUT: 504, Ending.TRUNCATED: 502}


class Exchange(Receiver):
    """A request that is being answered for `client`.

    Times are monotonic seconds. `held`: the request's payload, `kept`: the answer's, each None once
    beyond the capture limit. `pair`: number of the pair its copy makes, -1 without one.
    """

    __slots__ = (
        "_begun", "_blocked_since", "_ended", "_out", "_outgoing", "_path", "_retried", "_stalled", "_target",
        "arm", "assigned", "assigned_at", "call", "client", "ending", "excluded", "head", "held", "kept",
        "latency", "number", "pair", "reported", "request_bytes", "request_done", "request_id",
        "response_bytes", "response_encoding", "sent_at", "shadow", "slot", "status", "unit", "upstream",
    )  # fmt: skip

    arm: ServedArm

    def __init__(self, path: DataPath, client: Client, head: RequestHead, call: Call) -> None:
        service = call.service
        self._path = path
        self.client: Client | None = client
        self.head = head
        self.call = call
        self.head_only = call.head_only
        self.waiting = False
        self.wants_payload = False
        self.upstream: Upstream | None = None
        self.number = path.next_number()
        self.request_id = head.request_id or path.new_request_id()
        self.held: list[bytes] | None = []
        self.kept: list[bytes] | None = []
        self.request_done = False
        self.request_bytes = self.response_bytes = 0
        self.response_encoding = b""
        self.status = 0
        self.sent_at = self._blocked_since = self._stalled = self.latency = 0.0
        self.reported = self._begun = self._ended = self._retried = False
        self._out = _RAW
        self._outgoing: list[bytes] | None = None
        self.ending = Ending.OPEN
        self.pair = -1
        self.shadow: Shadow | None = None
        self.assigned = monotonic()
        self.unit = -1
        self.excluded = False
        if call.predicts:
            self.slot = service.slot
            arm, self.unit, self.excluded = assign(service, head.seen, path.random)
            self.arm = service.arms[arm]
            if self.slot >= 0:
                self.assigned_at = self.assigned + path.offset
                path.cells[self.slot * FIELDS + ASSIGNED + self.arm.index] += 1
                mirror = service.mirror
                if mirror is not None and self.arm.index == STABLE and not self.excluded:
                    self.pair = path.mirrors.choose(self, mirror)
        else:
            self.slot = -1
            self.arm = service.arms[call.arm]
        if self.slot < 0:
            self.kept = None
        targets = self.arm.targets
        self._target = 0 if len(targets) == 1 else path.turn(len(targets))
        path.open[self.number] = self

    # --- the request, driven by the client's connection

    def send_head(self, payload: bytes, raw: bytes, *, more: bool) -> None:
        """Forward the head and what came with it; `raw` is `payload` with its framing."""
        head = self.head
        self._hold(payload)
        data = b"".join(
            (
                self.call.lines[self.arm.index][self._target],
                head.fields,
                b"\r\n" if head.request_id is not None else request_id_line(self.request_id) + b"\r\n",
                raw,
            )
        )
        upstream = self.arm.targets[self._target].pool.take()
        if upstream is not None:
            self.upstream = upstream
            upstream.start(self, data, more=more)
        else:
            self.waiting = True
            self._outgoing = [data]
        if not more:
            self._request_complete()
        if upstream is None:
            self.arm.targets[self._target].pool.ask(self)

    def send_body(self, payload: list[bytes] | bytes, raw: bytes, *, more: bool) -> None:
        """Forward more of the body."""
        for piece in (payload,) if isinstance(payload, bytes) else payload:
            self._hold(piece)
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

    def _hold(self, payload: bytes) -> None:
        if payload:
            self.request_bytes += len(payload)
            if self.held is not None:
                if self.request_bytes > self.call.service.route.capture_request:
                    self.held = None
                else:
                    self.held.append(payload)

    def _request_complete(self) -> None:
        self.request_done = True
        self.sent_at = monotonic()
        if self.pair >= 0:
            self._path.mirrors.copy(self)

    def connected(self, upstream: Upstream) -> None:
        """Part of Receiver."""
        self.waiting = False
        outgoing, self._outgoing = self._outgoing or [], None
        self.upstream = upstream
        upstream.start(self, b"".join(outgoing), more=not self.request_done)
        if self.client is not None:
            self.client.go_on_upload()

    # --- the answer, driven by the upstream's connection

    def interim(self, raw: bytes) -> None:
        """Part of Receiver."""
        if self.client is not None and self.head.minor:
            self.client.write(raw)

    def answered(self, head: ResponseHead, body: bytes) -> None:
        """Part of Receiver."""
        now = monotonic()
        self.status = head.status
        self.response_encoding = head.encoding
        self.response_bytes = len(body)
        if self.kept is not None:
            self.kept = [body] if len(body) <= self.call.service.route.capture_response else None
        client = self.client
        if client is not None:
            keep = client.keeps(self)
            client.write(b"".join((b"HTTP/1.1 ", head.line, head.fields, *self._named(keep=keep), body)))
            self._account(Ending.ANSWERED, now)
            client.finished(now, keep=keep)
        else:
            self._account(Ending.ANSWERED, now)

    def began(self, head: ResponseHead) -> None:
        """Part of Receiver."""
        self.status = head.status
        self.response_encoding = head.encoding
        client = self.client
        if client is None:
            return
        self._begun = True
        coding = b""
        if head.length == CHUNKED:
            self._out = _RAW if self.head.minor else _UNCHUNK
        elif head.length == UNTIL_CLOSE:
            self._out = _CHUNK if self.head.minor else _RAW
        if head.length < 0 and self.head.minor:
            coding = b"transfer-encoding: chunked\r\n"
        elif head.length < 0:
            client.close_after = True  # an HTTP/1.0 client knows the end by the close
        self.wants_payload = self._out == _UNCHUNK or self.kept is not None
        keep = client.keeps(self)
        client.write(b"".join((b"HTTP/1.1 ", head.line, head.fields, coding, *self._named(keep=keep))))
        if client.blocked:
            self.hold_answer()

    def piece(self, raw: bytes, payload: list[bytes] | None, size: int) -> None:
        """Part of Receiver."""
        self.response_bytes += size
        kept = self.kept
        if kept is not None:
            if self.response_bytes > self.call.service.route.capture_response:
                self.kept = None
                self.wants_payload = self._out == _UNCHUNK
            elif payload is None:
                kept.append(raw)
            else:
                kept.extend(payload)
        client = self.client
        if client is not None:
            if self._out == _RAW:
                client.write(raw)
            elif self._out == _CHUNK:
                client.write(chunk(raw))
            else:
                client.write(b"".join(payload or ()))

    def ended(self) -> None:
        """Part of Receiver."""
        now = monotonic()
        client = self.client
        if client is None:
            self._account(Ending.ANSWERED, now)
            return
        if self._out == _CHUNK:
            client.write(LAST)
        keep = client.keeps(self)
        self._account(Ending.ANSWERED, now)
        client.finished(now, keep=keep)

    def failed(self, ending: Ending) -> None:
        """Part of Receiver."""
        upstream, self.upstream = self.upstream, None
        self.waiting = False
        if ending == Ending.TRUNCATED and upstream is not None and self._repeat(upstream):
            return
        reason = {
            Ending.CONNECT: "cannot be reached",
            Ending.TIMEOUT: "did not answer within the deadline",
        }.get(ending, "broke off its answer")
        self._fail(ending, _SERVER_ERRORS.get(ending, 502), self._blamed(reason))

    def _blamed(self, reason: str) -> str:
        """What went wrong, with whose version it was; never its address."""
        return f"version {self.arm.version} of {self.call.service.route.service} {reason}"

    def _repeat(self, upstream: Upstream) -> bool:
        """Send once more on a fresh connection: the old one was stale, so nothing has been answered."""
        call = self.call
        if (
            self._retried or upstream.answering or upstream.uses <= 1 or not self.request_done
            or self.held is None or self.head.length == CHUNKED
            or not (call.idempotent or call.service.repeatable)
        ):  # fmt: skip
            return False
        self._retried = True
        ours = b"\r\n" if self.head.request_id is not None else request_id_line(self.request_id) + b"\r\n"
        self._outgoing = [call.lines[self.arm.index][self._target], self.head.fields, ours, *self.held]
        self.waiting = True
        self.arm.targets[self._target].pool.ask(self)
        return True

    # --- the clock and the client

    def expire(self, now: float) -> None:
        """The deadline has passed: a client still sending its body gets 408, any other 504."""
        self._leave_upstream()
        client = self.client
        slow_client = not self.request_done and client is not None and not client.upload_held
        if slow_client:
            self._fail(Ending.DISCONNECTED, 408, "the request body did not arrive in time", now)
        else:
            self._fail(Ending.TIMEOUT, 504, self._blamed("did not answer within the deadline"), now)

    def refuse(self, status: int, reason: str) -> None:
        """The request turned out to be unacceptable while its body came: the client's fault."""
        self._leave_upstream()
        self._fail(Ending.DISCONNECTED, status, reason)

    def abandon(self) -> None:
        """The client is gone."""
        self.client = None
        self._leave_upstream()
        self._account(Ending.DISCONNECTED, monotonic())

    def hold_answer(self) -> None:
        """The client takes no more for now: what the upstream waits then is not its latency."""
        if self.upstream is not None and not self._blocked_since:
            self._blocked_since = monotonic()
            self.upstream.hold()

    def go_on_answer(self) -> None:
        """The client takes more again."""
        if self._blocked_since:
            self._stalled += monotonic() - self._blocked_since
            self._blocked_since = 0.0
            if self.upstream is not None:
                self.upstream.go_on()

    def pause(self) -> None:
        """Part of Receiver."""
        if self.client is not None:
            self.client.hold_upload()

    def resume(self) -> None:
        """Part of Receiver."""
        if self.client is not None:
            self.client.go_on_upload()

    # --- the end

    def _leave_upstream(self) -> None:
        if self.waiting:
            self.waiting = False
            self.arm.targets[self._target].pool.leave(self)
        self._outgoing = None
        if self.upstream is not None:
            self.upstream.drop()
            self.upstream = None

    def _named(self, *, keep: bool) -> tuple[bytes, ...]:
        """The last header lines of an answer, and the empty line."""
        connection = (
            b"connection: close\r\n"
            if not keep
            else b""
            if self.head.minor
            else b"connection: keep-alive\r\n"
        )
        return (connection, b"x-request-id: ", self.request_id, b"\r\n", self.arm.named, b"\r\n")

    def _fail(self, ending: Ending, status: int, reason: str, now: float = 0.0) -> None:
        now = now or monotonic()
        client = self.client
        self._account(ending, now)
        if client is None:
            return
        if self._begun:
            client.cut(framed=self.head.minor or self._out == _RAW)
            return
        named = request_id_line(self.request_id) + self.arm.named
        keep = client.keeps(self) and self.request_done
        client.write(own_answer(status, reason, named, close=not keep, bodyless=self.head_only))
        client.finished(now, keep=keep)

    def _account(self, ending: Ending, now: float) -> None:
        """Take the exchange out of the open ones and report it, once."""
        if self._ended:
            return
        self._ended = True
        self.ending = ending
        self.upstream = self.client = None
        path = self._path
        del path.open[self.number]
        if self.slot < 0:
            return
        if self.call.service.breaker is not None and self.arm.index == CANDIDATE:
            path.brake(self, ending, now)
        if not self.reported:
            self.report(ending, now)
        if self.pair >= 0:
            path.mirrors.stable_ended(self)

    def report(self, ending: Ending, now: float) -> None:
        """Make the fact: at the end, or once as open when `account_after` has passed."""
        self.reported = True
        self.ending = ending
        self.latency = self._latency(ending, now)
        report(self._path, self)

    def _latency(self, ending: Ending, now: float) -> float:
        if ending in {Ending.DISCONNECTED, Ending.OPEN}:
            return now - self.assigned
        if not self.sent_at:
            return 0.0
        stalled = self._stalled + (now - self._blocked_since if self._blocked_since else 0.0)
        return max(0.0, now - self.sent_at - stalled)
