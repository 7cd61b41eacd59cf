"""The answer's side of an exchange: from the upstream's bytes to the client's."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from ..facts import Ending
from .bounds import CAPTURED
from .chunks import LAST, chunk
from .heads import CHUNKED, UNTIL_CLOSE, Malformed, RequestHead, ResponseHead
from .receiver import Receiver
from .tunnel import accepted

if TYPE_CHECKING:
    from .client import Client
    from .datapath import DataPath
    from .served import ServedArm
    from .table import Call
    from .upstream import Upstream

RAW, UNCHUNK, CHUNK = range(3)  # how an answer's body goes on to the client
_ANSWERED: Final = Ending.ANSWERED
MARKS: Final = 64  # pieces that are timed: enough for the first token behind any preamble
_CONTINUE: Final = b"HTTP/1.1 100 "
_FAILURE: Final = 500  # statuses from here on are the server's fault: RFC 9110 §15.6


class Stream:
    """What is known of an answer that comes in pieces; most requests never need one.

    `begun`: its head has gone to the client. `first`: seconds until the body's first byte, -1 before it.
    `last`: when the latest piece came. `marks`: (bytes so far, seconds) of the first pieces.
    """

    __slots__ = ("begun", "blocked_since", "first", "gap", "last", "marks", "out", "stalled")

    def __init__(self) -> None:
        self.begun = False
        self.blocked_since = self.stalled = self.gap = self.last = 0.0
        self.first = -1.0
        self.out = RAW
        self.marks: list[tuple[int, float]] = []


class Answering(Receiver):
    """The part of an exchange that an upstream drives. `Exchange` makes and ends it.

    `arm`: who answers, `answer`: the head of its answer. `kept`: the answer's body, None beyond the capture
    limit, beyond the worker's bound (`crowded`), or where nothing is analysed. `room`: bytes of request and
    answer that count against that bound. `sent_at`: monotonic time of the request's last byte,
    less what an upload waited for its connection; not above 0.0 before.
    """

    __slots__ = (
        "answer", "arm", "call", "client", "crowded", "head", "kept", "path", "request_done", "request_id",
        "response_bytes", "room", "sent_at", "slot", "stream", "upstream",
    )  # fmt: skip

    answer: ResponseHead | None
    arm: ServedArm
    call: Call
    client: Client | None
    crowded: bool
    head: RequestHead
    kept: list[bytes] | None
    path: DataPath
    request_done: bool
    request_id: bytes
    response_bytes: int
    room: int
    sent_at: float
    slot: int
    stream: Stream | None
    upstream: Upstream | None

    def account(self, ending: Ending, now: float) -> None:
        """Take the exchange out of the open ones and report it, once."""
        raise NotImplementedError

    def falls_back(self, ending: Ending, now: float) -> bool:
        """Let stable answer what the candidate could not, if it may."""
        raise NotImplementedError

    def takes(self, size: int) -> bool:
        """Count `size` bytes more to what the worker holds beside forwarding; False where that is full."""
        path = self.path
        if path.captured + size > CAPTURED:
            self.crowded = True
            return False
        path.captured += size
        self.room += size
        return True

    def gives(self, size: int) -> None:
        """Give these bytes back: they are not held any more."""
        self.path.captured -= size
        self.room -= size

    def interim(self, raw: bytes) -> None:
        """Part of Receiver."""
        if self.client is not None and self.head.minor:
            self.client.write(raw)
            if raw.startswith(_CONTINUE):
                self.client.continued()

    def switched(self, upstream: Upstream, head: ResponseHead, rest: bytes) -> None:
        """Part of Receiver: the exchange is over, and a tunnel goes on with both connections."""
        client = self.client
        if client is None or not self.head.upgrade or not accepted(self.head.upgrade, head.upgrade):
            raise Malformed(502, "the upstream switched to a protocol nobody asked for")
        self.answer = head
        answer = b"".join((b"HTTP/1.1 ", head.line, head.fields, *self.named(head, keep=True), rest))
        self.account(Ending.ANSWERED, monotonic())
        client.switch(upstream, answer)

    def answered(self, head: ResponseHead, body: bytes) -> None:
        """Part of Receiver."""
        now = monotonic()
        self.answer = head
        size = self.response_bytes = len(body)
        arm = self.arm
        if head.status >= _FAILURE and arm.falls_back and self.falls_back(Ending.ANSWERED, now):
            return
        if self.slot >= 0:
            self.kept = [body] if size <= self.call.service.route.capture_response else None
        client = self.client
        if client is None:
            self.account(_ANSWERED, now)
            return
        keep = client.keeps(self)
        if keep and self.head.minor:  # nearly every answer
            client.write(
                b"".join(
                    (
                        b"HTTP/1.1 ", head.line, head.fields, b"x-request-id: ", self.request_id,
                        arm.tail if head.minor else arm.tail_10, body,
                    )
                )
            )  # fmt: skip
        else:
            client.write(b"".join((b"HTTP/1.1 ", head.line, head.fields, *self.named(head, keep=keep), body)))
        self.account(_ANSWERED, now)
        client.finished(now, keep=keep)

    def named(self, head: ResponseHead, *, keep: bool) -> tuple[bytes, ...]:
        """The last header lines of an answer, and the empty line."""
        connection = b""
        if not keep:
            connection = b"connection: close\r\n"
        elif not self.head.minor:
            connection = b"connection: keep-alive\r\n"
        tail = self.arm.tail if head.minor else self.arm.tail_10
        return (connection, b"x-request-id: ", self.request_id, tail)

    def began(self, head: ResponseHead) -> None:
        """Part of Receiver."""
        self.answer = head
        now = monotonic()
        if head.status >= _FAILURE and self.arm.falls_back and self.falls_back(Ending.ANSWERED, now):
            return
        client = self.client
        if client is None:
            return
        stream = self.stream
        if stream is None:
            stream = self.stream = Stream()
        stream.begun = True
        stream.last = now
        coding = b""
        minor = self.head.minor
        if head.length == CHUNKED:
            stream.out = RAW if minor else UNCHUNK
        elif head.length == UNTIL_CLOSE:
            stream.out = CHUNK if minor else RAW
        if head.length < 0 and minor:
            coding = b"transfer-encoding: chunked\r\n"
        elif head.length < 0:
            client.close_after = True  # an HTTP/1.0 client knows the end by the close
        if self.slot >= 0:
            self.kept = []
        self.wants_payload = stream.out == UNCHUNK or self.kept is not None
        keep = client.keeps(self)
        client.write(b"".join((b"HTTP/1.1 ", head.line, head.fields, coding, *self.named(head, keep=keep))))
        if client.blocked:
            self.hold_answer()

    def piece(self, raw: bytes, payload: list[bytes] | None, size: int) -> None:
        """Part of Receiver."""
        stream = self.stream
        if stream is None:
            return
        client = self.client
        if client is not None:
            if stream.out == RAW:
                client.write(raw)
            elif stream.out == CHUNK:
                client.write(chunk(raw))
            else:
                client.write(b"".join(payload or ()))
        if not size:
            return
        now = monotonic()
        sofar = self.response_bytes = self.response_bytes + size
        if stream.first < 0:
            stream.first = now - self.sent_at if self.sent_at > 0.0 else 0.0
        elif now - stream.last > stream.gap:
            stream.gap = now - stream.last
        stream.last = now
        kept = self.kept
        if kept is not None:
            if sofar > self.call.service.route.capture_response or not self.takes(size):
                self.gives(sum(map(len, kept)))
                self.kept = None
                self.wants_payload = stream.out == UNCHUNK
            else:
                if payload is None:
                    kept.append(raw)
                else:
                    kept.extend(payload)
                if len(stream.marks) < MARKS and self.sent_at > 0.0:
                    stream.marks.append((sofar, now - self.sent_at))

    def ended(self) -> None:
        """Part of Receiver."""
        now = monotonic()
        client = self.client
        if client is None:
            self.account(_ANSWERED, now)
            return
        if self.stream is not None and self.stream.out == CHUNK:
            client.write(LAST)
        keep = client.keeps(self)
        self.account(_ANSWERED, now)
        client.finished(now, keep=keep)

    def hold_answer(self) -> None:
        """The client takes no more for now: what the upstream waits then is not its latency."""
        stream = self.stream
        if stream is None:
            stream = self.stream = Stream()
        if self.upstream is not None and not stream.blocked_since:
            stream.blocked_since = monotonic()
            self.upstream.hold()

    def go_on_answer(self) -> None:
        """The client takes more again."""
        stream = self.stream
        if stream is not None and stream.blocked_since:
            now = monotonic()
            stream.stalled += now - stream.blocked_since
            stream.blocked_since = 0.0
            stream.last = now  # a pause of the client's is no gap of the upstream's
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
