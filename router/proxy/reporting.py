"""From an exchange that has ended, or is overdue, to the fact and body the observer gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..counters import FIELDS, FINISHED
from ..facts import STABLE, Body, Ending, Fact
from .heads import JSON_BYTES

if TYPE_CHECKING:
    from .exchange import Exchange

_LOST = 2  # Fact.captured: dropped by a bound of ours, not by design
_LONGEST = 15  # digits of a length
_SO_FAR = frozenset((Ending.DISCONNECTED, Ending.OPEN))  # endings whose first token may have come
_ANSWERED = Ending.ANSWERED  # looking a member up costs more than the rest of the comparison


def report(exchange: Exchange, ending: Ending, now: float) -> None:
    """Make its fact, at the end, or once as open when `account_after` has passed.

    It is counted as finished, and its body gathered where it was kept and sampled. An exchange without an
    answer of its arm sends its request alone: its slices must see its failure too.
    """
    path = exchange.path
    exchange.reported = True
    arm, slot, stream = exchange.assigned_arm, exchange.slot, exchange.stream
    held, kept, answer = exchange.held, exchange.kept, exchange.answer
    request_bytes, response_bytes = exchange.request_bytes, exchange.response_bytes
    status = 0 if answer is None else answer.status
    served, gap = arm, 0.0
    if ending == _ANSWERED and stream is None and exchange.sent_at and not exchange.fell_back:
        latency = now - exchange.sent_at
        first = latency if response_bytes else 0.0
    else:
        latency = _latency(exchange, ending, now)
        first = latency if ending == _ANSWERED and response_bytes else 0.0
        if stream is not None and stream.first >= 0:
            first, gap = stream.first, stream.gap
        if ending != _ANSWERED and not (ending in _SO_FAR and kept and exchange.call.service.streams):
            kept = []
        if exchange.fell_back:
            served, kept = STABLE, []
            if exchange.arm.index != arm:  # the candidate was never asked; what came is stable's
                ending, status, response_bytes = Ending.CONNECT, 0, 0
                latency = first = gap = 0.0
    exchange.ending = ending
    exchange.latency = latency
    if exchange.number <= path.ages.newest:
        path.ages.reported(exchange)
    path.cells[slot * FIELDS + FINISHED + arm] += 1
    if kept is None and status in exchange.call.service.errors:
        kept = []  # of an error nothing is read: its slices must see it however long it is
    body: Body | None = None
    size = 0
    if held is not None and kept is not None and not exchange.excluded:
        sample = exchange.call.service.route.capture_sample
        if sample >= 1.0 or path.random() < sample:
            size = request_bytes + (response_bytes if kept else 0)
            body = _body(exchange, held, kept)
    path.gathered.add(
        Fact(
            exchange.number, slot, arm, served, exchange.assigned + path.offset,
            0 if ending is _ANSWERED else int(ending), status, latency, exchange.unit, exchange.excluded,
            1 if body is not None else _LOST if exchange.crowded else 0, request_bytes, response_bytes,
            first, gap,
        ),
        body,
        size,
    )  # fmt: skip
    path.reported()


def _latency(exchange: Exchange, ending: Ending, now: float) -> float:
    if ending >= Ending.DISCONNECTED:  # and OPEN
        return now - exchange.assigned
    if not exchange.sent_at:
        return 0.0
    late = now - exchange.sent_at
    stream = exchange.stream
    if stream is not None:
        late -= stream.stalled + (now - stream.blocked_since if stream.blocked_since else 0.0)
    return max(0.0, late)


def _body(exchange: Exchange, held: list[bytes], kept: list[bytes]) -> Body:
    head, answer, stream = exchange.head, exchange.answer, exchange.stream
    body = Body(
        exchange.number, one(held), one(kept),
        head.encoding.decode("latin-1") if head.encoding else "",
        answer.encoding.decode("latin-1") if kept and answer is not None and answer.encoding else "",
    )  # fmt: skip
    if exchange.call.service.named:
        body.request_id = text(exchange.request_id)
    if JSON_BYTES in head.seen:
        body.request_head = json_bytes(head.seen)
    if answer is not None and kept:
        if JSON_BYTES in answer.seen:
            body.response_head = json_bytes(answer.seen)
        if stream is not None:
            body.marks = stream.marks
    return body


def json_bytes(seen: dict[int, bytes]) -> int:
    """The value of Inference-Header-Content-Length, -1 without a usable one."""
    value = seen.get(JSON_BYTES, b"")
    return int(value) if value.isdigit() and len(value) <= _LONGEST else -1


def one(pieces: list[bytes]) -> bytes:
    """The pieces as one."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def text(value: bytes) -> str:
    """A header value as text."""
    return value.decode("latin-1") if value else ""
