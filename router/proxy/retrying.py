"""A second attempt: stale connections once more, a failed candidate's requests by stable. Both cost budget.

Nothing is attempted twice once a byte of a final answer has gone to the client, nor unless the whole
request is held and may be repeated. A service's budget is a tenth of its requests within ten seconds,
with a small floor: the load of a second attempt comes exactly when servers are failing.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from ..facts import CANDIDATE, STABLE, Ending
from .heads import ResponseHead
from .receiver import Receiver
from .reporting import report
from .upstream import Upstream

if TYPE_CHECKING:
    from .datapath import DataPath
    from .exchange import Exchange

SHARE: Final = 0.1  # of a service's requests: what stable must be able to bear on top of its own
FLOOR: Final = 3  # in a window, so that a service with few requests may retry at all
WINDOW: Final = 10.0  # seconds
_STEP: Final = 1.0  # seconds between two marks of the window
_DISCARDED: Final = 64 * 1024  # bytes of an unwanted answer worth reading to keep its connection
_PATIENCE: Final = 1.0  # seconds for them


class RetryBudget:
    """Second attempts of one service in one worker. `requests` counts its requests; it only grows."""

    __slots__ = ("_marks", "_spent", "requests")

    def __init__(self, now: float) -> None:
        self.requests = 0
        self._marks = deque([(now, 0)])
        self._spent: deque[float] = deque()

    def roll(self, now: float) -> None:
        """Let the window slide; called a few times a second."""
        marks = self._marks
        if now - marks[-1][0] >= _STEP:
            marks.append((now, self.requests))
        while len(marks) > 1 and now - marks[0][0] > WINDOW:
            marks.popleft()

    def spend(self, now: float) -> bool:
        """Take one second attempt, if one is left at `now` (monotonic seconds)."""
        spent = self._spent
        while spent and now - spent[0] > WINDOW:
            spent.popleft()
        if len(spent) >= max(FLOOR, SHARE * (self.requests - self._marks[0][1])):
            return False
        spent.append(now)
        return True


class Discarded(Receiver):
    """Reads an answer nobody wants, so that its connection can be used again; drops a long one."""

    __slots__ = ("_path", "_size", "_upstream", "until")

    def __init__(self, path: DataPath, upstream: Upstream, now: float, *, head_only: bool) -> None:
        self.head_only = head_only
        self.waiting = self.wants_payload = False
        self.until = now + _PATIENCE
        self._path = path
        self._upstream = upstream
        self._size = 0
        path.discarded.add(self)

    def answered(self, head: ResponseHead, body: bytes) -> None:  # noqa: ARG002 - nobody wants it
        """Part of Receiver."""
        self._path.discarded.discard(self)

    def began(self, head: ResponseHead) -> None:
        """Part of Receiver."""

    def piece(self, raw: bytes, payload: list[bytes] | None, size: int) -> None:  # noqa: ARG002
        """Part of Receiver."""
        self._size += len(raw)
        if self._size > _DISCARDED:
            self.drop()

    def ended(self) -> None:
        """Part of Receiver."""
        self._path.discarded.discard(self)

    def failed(self, ending: Ending) -> None:  # noqa: ARG002
        """Part of Receiver."""
        self._path.discarded.discard(self)

    def drop(self) -> None:
        """Close its connection."""
        self._path.discarded.discard(self)
        self._upstream.drop()


def repeat(exchange: Exchange, upstream: Upstream, now: float) -> bool:
    """Send once more on another connection: the one it went out on was stale, so nobody has seen it."""
    if exchange.retried or upstream.answering or upstream.uses <= 1 or not may_repeat(exchange, now):
        return False
    if not exchange.call.service.budget.spend(now):
        return False
    exchange.retried = True
    exchange.send_again(fresh=True)
    return True


def may_repeat(exchange: Exchange, now: float) -> bool:
    """Whether the whole request is at hand and may be sent a second time, with time left for it."""
    call = exchange.call
    return (
        exchange.request_done
        and exchange.client is not None
        and exchange.whole() is not None
        and (call.idempotent or call.service.repeatable)
        and now < exchange.deadline_at()
    )


def fall_back(exchange: Exchange, ending: Ending, now: float) -> bool:
    """The candidate has failed before anything went to the client: report that, and ask stable.

    The fact stands from here on, whatever becomes of stable's answer: assigned to the candidate, which
    failed (intention to treat).
    """
    service = exchange.call.service
    if exchange.arm.index != CANDIDATE or not exchange.call.predicts or not may_repeat(exchange, now):
        return False
    # What the service's file calls no error is none of stable's either: it would be the candidate's alone.
    if not service.fails(ending, exchange.status) or not service.budget.spend(now):
        return False
    path = exchange.path
    exchange.fell_back = True
    upstream, exchange.upstream = exchange.upstream, None
    if exchange.slot >= 0:
        path.brake(exchange, ending, now)
        if not exchange.reported:
            report(exchange, ending, now)
        if exchange.copies is not None:
            path.mirrors.served(exchange)
    if upstream is not None and upstream.receiver is exchange:
        if ending == Ending.TIMEOUT:
            upstream.expired()
        elif exchange.answer is None:
            upstream.drop()
        else:
            upstream.receiver = Discarded(path, upstream, now, head_only=exchange.head_only)
    elif exchange.waiting:
        exchange.leave_line()
    exchange.answer = None
    exchange.stream = None
    exchange.response_bytes = 0
    exchange.kept = None
    exchange.arm = service.arms[STABLE]
    exchange.sent_at = now  # for the first byte's deadline
    exchange.send_again(fresh=False)
    return True
