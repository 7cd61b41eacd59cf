"""Requests held until their body is complete: the unit, or the name of the model, lies in the body."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from ..facts import Ending
from .answers import CONTINUE, own_answer, request_id_line
from .exchange import Exchange
from .heads import CHUNKED, RequestHead
from .lengths import with_length
from .rewriting import rewritten

if TYPE_CHECKING:
    from .client import Client
    from .datapath import DataPath
    from .table import Call

HELD_BYTES: Final = 64 * 2**20  # of a worker: what the copies of one service may hold, eight default bodies
_RETRY_AFTER: Final = b"retry-after: 1\r\n"  # seconds: a body rarely takes longer


class HeldExchange(Exchange):
    """An exchange that is assigned and sent once its body is complete. Its deadline counts from the start.

    Until then it is nobody's (`slot` -1): what ends before is no observation of either arm.
    """

    __slots__ = ("_assigned_yet", "_body", "_held_bytes", "_pieces", "_started")

    def __init__(self, path: DataPath, client: Client, head: RequestHead, call: Call) -> None:
        self._pieces: list[bytes] = []
        self._body = b""
        self._held_bytes = 0
        self._assigned_yet = False
        super().__init__(path, client, head, call)
        self._started = self.assigned

    def send_head(self, payload: bytes, raw: bytes, *, more: bool) -> None:
        """Keep what came with the head; an `Expect: 100-continue` is answered here."""
        if self.head.expect:
            if more and not payload and self.client is not None:
                self.client.write(CONTINUE)
                self.client.continued()
            self.head.fields = with_length(self.head.fields, None)
        self.send_body(payload, raw, more=more)

    def send_body(self, payload: list[bytes] | bytes, raw: bytes, *, more: bool) -> None:  # noqa: ARG002
        """Keep more of the body, within the worker's bound."""
        if self._ended:
            return
        pieces = [payload] if isinstance(payload, bytes) else payload
        size = sum(map(len, pieces))
        self.request_bytes += size
        self._held_bytes += size
        self.path.held_bytes += size
        if self.path.held_bytes > HELD_BYTES:
            self._refuse_full(done=not more)
            return
        self._pieces.extend(pieces)
        if not more:
            self._complete()

    def _complete(self) -> None:
        path = self.path
        body = self._body = b"".join(self._pieces)
        self._pieces = []
        if len(body) <= self.call.service.route.capture_request:
            self.held = [body]
        del path.open[self.number]  # facts are numbered in the order of their assignment
        self.number = path.number = path.number + 1
        path.open[self.number] = self
        self.assigned = monotonic()
        self._assigned_yet = True
        if self.head.length == CHUNKED:
            self.head.fields = with_length(self.head.fields, len(body))
            self.head.length = len(body)
        self._assign(body)
        self._send(self.message(body), more=False)

    def message(self, raw: bytes) -> bytes:
        """The request as `arm` gets it: with its name of the model in the body, where it has one."""
        model = self.arm.model
        if model is None or self.head.encoding:
            return super().message(raw)
        body = rewritten(raw, model)
        if body is None or body == raw:
            return super().message(raw)
        fields = self.head.fields
        try:
            self.head.fields = with_length(fields, len(body))
            return super().message(body)
        finally:
            self.head.fields = fields

    def whole(self) -> bytes | None:
        """Part of Exchange."""
        return self._body

    def deadline_at(self) -> float:
        """Part of Exchange."""
        return super().deadline_at() - (self.assigned - self._started)

    def first_look(self) -> float:
        """Part of Exchange: waiting for its body may have used most of the time."""
        return min(super().first_look(), self.deadline_at())

    def own_named(self) -> bytes:
        """Part of Exchange."""
        return super().own_named() if self._assigned_yet else request_id_line(self.request_id)

    def account(self, ending: Ending, now: float) -> None:
        """Part of Exchange."""
        self.path.held_bytes -= self._held_bytes
        self._held_bytes = 0
        super().account(ending, now)

    def _refuse_full(self, *, done: bool) -> None:
        client = self.client
        self.account(Ending.DISCONNECTED, monotonic())
        if client is None:
            return
        self.request_done = done
        keep = client.keeps(self) and done
        named = self.own_named() + _RETRY_AFTER
        reason = "too many request bodies are being held here; try again shortly"
        client.write(own_answer(503, reason, named, close=not keep, bodyless=self.head_only))
        client.finished(monotonic(), keep=keep, at_once=True)
