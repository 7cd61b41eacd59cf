"""The deadlines of one exchange: the whole, its first byte, the pauses of its answer, and its account."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facts import Ending
from .ages import LOOK
from .reporting import report
from .retrying import fall_back

if TYPE_CHECKING:
    from .exchange import Exchange


def look(exchange: Exchange, now: float) -> float:
    """Obey the deadlines; the result is when to look again, 0.0 if it has ended."""
    service = exchange.call.service
    deadline_at = exchange.deadline_at()
    if now >= deadline_at:
        _expire(exchange, now, "did not answer within the deadline")
        return 0.0
    again = min(deadline_at, now + min(LOOK, service.look))
    if exchange.slot >= 0 and not exchange.reported:
        at = exchange.assigned + service.account_after
        if now >= at:
            report(exchange, Ending.OPEN, now)
            if exchange.copies is not None:
                exchange.path.mirrors.overdue(exchange)
        else:
            again = min(again, at)
    route, stream = service.route, exchange.stream
    if stream is not None and stream.begun:
        if route.idle is not None and not stream.blocked_since:
            at = stream.last + route.idle
            if now >= at:
                _expire(exchange, now, "paused too long in its answer")
                return 0.0
            again = min(again, at)
    elif route.first_byte is not None and exchange.request_done:
        at = exchange.sent_at + route.first_byte
        if now >= at:
            if exchange.arm.falls_back and fall_back(exchange, Ending.TIMEOUT, now):
                return min(again, now + route.first_byte)
            _expire(exchange, now, "did not begin its answer in time")
            return 0.0
        again = min(again, at)
    return again


def _expire(exchange: Exchange, now: float, reason: str) -> None:
    """Too late: a client still sending its body gets 408, any other 504.

    Where the client does not take its answer, it is nobody's failure but its own: or slow readers could
    make a version look bad, and trip its breaker.
    """
    client = exchange.client
    slow_client = not exchange.request_done and client is not None
    if client is not None and (client.upload_held or client.expecting):
        slow_client = False  # it waits for the upstream: to take more, or to say 100
    stream = exchange.stream
    slow_reader = stream is not None and stream.begun and stream.blocked_since > 0.0
    if exchange.upstream is not None and not slow_client and not slow_reader:
        exchange.upstream.expired()
        exchange.upstream = None
    exchange.leave_upstream()
    if slow_client:
        exchange.fail(Ending.DISCONNECTED, 408, "the request body did not arrive in time", now)
    elif slow_reader:
        exchange.fail(Ending.DISCONNECTED, 504, exchange.blamed(reason), now)  # begun, so it is only cut
    else:
        exchange.fail(Ending.TIMEOUT, 504, exchange.blamed(reason), now)
