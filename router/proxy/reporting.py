"""From an exchange that has ended, or is overdue, to the fact and body the observer gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..counters import FIELDS, FINISHED
from ..facts import Body, Ending, Fact

if TYPE_CHECKING:
    from .datapath import DataPath
    from .exchange import Exchange


def report(path: DataPath, exchange: Exchange) -> None:
    """Count it as finished and gather its fact, with its body where it was kept and sampled.

    An exchange without an answer sends its request alone: its slices must see its failure too.
    """
    arm, slot = exchange.arm.index, exchange.slot
    path.cells[slot * FIELDS + FINISHED + arm] += 1
    body: Body | None = None
    size = 0
    held, kept = exchange.held, exchange.kept
    if exchange.ending != Ending.ANSWERED:
        kept = []
    if held is not None and kept is not None and not exchange.excluded:
        sample = exchange.call.service.route.capture_sample
        if sample >= 1.0 or path.random() < sample:
            size = exchange.request_bytes + (exchange.response_bytes if kept else 0)
            body = Body(
                exchange.number, one(held), one(kept),
                text(exchange.head.encoding), text(exchange.response_encoding),
            )  # fmt: skip
    path.gathered.add(
        Fact(
            exchange.number, slot, arm, arm, exchange.assigned_at, int(exchange.ending), exchange.status,
            exchange.latency, exchange.unit, exchange.excluded, int(body is not None), exchange.request_bytes,
            exchange.response_bytes,
        ),
        body,
        size,
    )  # fmt: skip


def one(pieces: list[bytes]) -> bytes:
    """The pieces as one."""
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def text(value: bytes) -> str:
    """A header value as text."""
    return value.decode("latin-1") if value else ""
