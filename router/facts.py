"""What a worker tells the observer: facts, bodies and pairs, in flushes. And what the parent tells both.

Order is what keeps evidence honest: sums must cover a prefix of what was assigned, or hanging
requests would be missing from exactly the arm that hangs. So every exchange gets a number at
assignment, each flush names the oldest number still open, and the observer folds in order below it.
An exchange open for longer than its plan's `account_after` is reported as it stands (Ending.OPEN) and
no longer holds the line; what becomes of it later is not reported again.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from ..errors import WireError
from ..store.routes import ServiceRoute

STABLE, CANDIDATE = 0, 1  # arm numbers of facts and counters


class Ending(IntEnum):
    """How an exchange ended, seen from the upstream."""

    ANSWERED = 0  # a whole response arrived; status says which
    CONNECT = 1
    TIMEOUT = 2
    TRUNCATED = 3
    DISCONNECTED = 4  # the client left first
    OPEN = 5  # still running at account_after


class Fact(msgspec.Struct, array_like=True, gc=False):
    """One exchange of a prediction call.

    `slot`: the (service, rollout, epoch) it was assigned under, as numbered by the parent. `arm`: the
    assigned one; `served` the one whose answer the client got. `assigned_at`: epoch seconds.
    `latency`: seconds from last request byte written to last response byte read, first attempt, client
    backpressure excluded; for DISCONNECTED and OPEN the age so far. `unit`: cluster of the unit, or -1
    where every request is one. `excluded`: no unit key, not analysed. `captured`: a Body with this
    number follows in this flush unless lost; 0 no (by design: sample, size), 1 yes, 2 lost to a bound.
    `first`: seconds from the last request byte to the first byte of the answer's body, `gap`: the longest
    pause between two pieces of it; both 0.0 where no body came.
    """

    number: int
    slot: int
    arm: int
    served: int
    assigned_at: float
    ending: int
    status: int
    latency: float
    unit: int
    excluded: bool
    captured: int
    request_bytes: int
    response_bytes: int
    first: float = 0.0
    gap: float = 0.0


class Body(msgspec.Struct, array_like=True, gc=False):
    """The captured bytes of the exchange `number`, with content-encoding of both ('' for identity).

    `request_head`: bytes of JSON before binary tensors in each body (Inference-Header-Content-Length), -1
    where the header is missing. `marks`: of a streamed answer, (bytes of body so far, seconds since the
    last request byte) of its first pieces, so that the first token can be timed. `request_id`: only
    where the service records or predictions are remembered.
    """

    number: int
    request: bytes
    response: bytes
    request_encoding: str
    response_encoding: str
    request_head: int = -1
    response_head: int = -1
    marks: list[tuple[int, float]] = []
    request_id: str = ""


PAIR_SHADOW, PAIR_BACK, PAIR_FLOOR = 0, 1, 2  # kinds of pairs


class Pair(msgspec.Struct, array_like=True, gc=False):
    """One mirrored request, both sides ended. Numbered by itself, in order of assignment.

    `kind`: who served and who got the copy: PAIR_SHADOW stable and candidate, PAIR_BACK candidate and
    stable, PAIR_FLOOR stable twice. In a PAIR_BACK the `stable_…` fields are still stable's (the copy's),
    the `shadow_…` ones the candidate's (which answered the client). `…_head`: see Body.
    `request_id`: only where predictions are remembered.

    Bodies are present when both were captured; a side that failed has b''. `lost`: bodies were dropped
    by our own bound, so the pair counts in coverage only.
    """

    number: int
    slot: int
    assigned_at: float
    stable_ending: int
    stable_status: int
    stable_latency: float
    shadow_ending: int
    shadow_status: int
    shadow_latency: float
    lost: bool
    request: bytes
    stable_response: bytes
    shadow_response: bytes
    request_encoding: str
    stable_encoding: str
    shadow_encoding: str
    kind: int = PAIR_SHADOW
    request_head: int = -1
    stable_head: int = -1
    shadow_head: int = -1
    request_id: str = ""


class MirrorTally(msgspec.Struct, array_like=True, gc=False):
    """What became of copies of one kind since the last flush, for one slot (see MirrorCounts)."""

    slot: int
    chosen: int
    sent: int
    dropped_in_flight: int
    dropped_bytes: int
    dropped_rate: int
    dropped_size: int
    kind: int = PAIR_SHADOW
    unpaired: int = 0
    warmed: int = 0
    held: int = 0
    unconnected: int = 0


class Flush(msgspec.Struct, array_like=True):
    """One message on the observer's socket: 4-byte big-endian length, then msgpack.

    `worker`: slot index and boot of the worker. Every exchange numbered below `line` has been reported;
    the oldest still open was assigned at `line_time` (or now). The same for pairs. `open`: (slot, arm,
    count) of exchanges not yet reported. `facts_lost`: facts dropped since the last flush.
    """

    worker: int
    boot: str
    sent_at: float
    line: int
    line_time: float
    pair_line: int
    pair_line_time: float
    open: list[tuple[int, int, int]]
    facts: list[Fact]
    bodies: list[Body]
    pairs: list[Pair]
    mirrors: list[MirrorTally]
    facts_lost: int = 0
    pairs_lost: int = 0


class Placed(msgspec.Struct, frozen=True):
    """One route and the slot its (service, rollout, epoch) has in facts and counters (-1: no plan).

    `held`: why this router serves stable alone whatever the route says (lease, direct abort, breaker).
    """

    route: ServiceRoute
    slot: int
    held: str = ""


class Table(msgspec.Struct, frozen=True, tag="table"):
    """Everything to serve, from the parent to workers and observer (JSON, 4-byte length prefix).

    `number` grows with every table; workers answer with Applied when it is in force.
    """

    number: int
    placed: tuple[Placed, ...]


class Applied(msgspec.Struct, frozen=True, tag="applied"):
    """A worker's answer to a Table."""

    worker: int
    number: int


class Tripped(msgspec.Struct, frozen=True, tag="tripped"):
    """A worker's breaker has opened for a service at this generation; the parent tells the others."""

    worker: int
    service: str
    generation: int
    reason: str


class Unwell(msgspec.Struct, frozen=True, array_like=True):
    """An address that a worker leaves out: its readiness probes fail, or it is ejected."""

    service: str
    version: str
    address: str
    unready: bool
    ejected: bool


class Health(msgspec.Struct, frozen=True, tag="health"):
    """What a worker leaves out now, whenever it changes; at most `UNWELL` addresses. `more`: beyond them."""

    worker: int
    unwell: tuple[Unwell, ...]
    more: int = 0


UNWELL = 64


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Finish what is open, accept nothing, exit 0."""


Message = Table | Applied | Tripped | Health | Drain

_message: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)
_flush = msgspec.msgpack.Decoder(Flush)
_pack = msgspec.msgpack.Encoder()


def framed(data: bytes) -> bytes:
    """Prefix with the 4-byte big-endian length."""
    return len(data).to_bytes(4, "big") + data


def encode_message(message: Message) -> bytes:
    """One framed control message."""
    return framed(msgspec.json.encode(message))


def decode_message(data: bytes) -> Message:
    """A control message without its frame. Raises WireError."""
    try:
        return _message.decode(data)
    except msgspec.DecodeError as problem:
        raise WireError(f"a router control message cannot be read: {problem}") from problem


def encode_flush(flush: Flush) -> bytes:
    """One framed flush."""
    return framed(_pack.encode(flush))


def decode_flush(data: bytes) -> Flush:
    """A flush without its frame. Raises WireError."""
    try:
        return _flush.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise WireError(f"a worker's flush cannot be read: {problem}") from problem
