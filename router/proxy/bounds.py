"""What copies may hold in a worker at one time: connections, bytes, and their rate.

Past a bound a copy is dropped and counted by reason, never queued: a queue would only hide that the
shadow is slower than stable, and pair requests of one minute with the load of the next.
"""

from __future__ import annotations

from typing import Final

from ...store.routes import MirrorTarget
from ..facts import MirrorTally

CAPTURED: Final = 128 * 2**20  # bytes of a worker, held beside forwarding: 400 of the largest exchanges
COPIED: Final = CAPTURED // 2  # of these, beyond which no copy is sent
_BURST: Final = 0.1  # seconds of the rate that may come at once: about five flushes' worth


class Bounds:
    """What is held at this moment. It outlives route tables, and all kinds of copies share it."""

    __slots__ = ("_refilled_at", "_tokens", "bytes", "in_flight")

    def __init__(self, now: float) -> None:
        self.bytes = 0
        self.in_flight = 0
        self._tokens = 1.0
        self._refilled_at = now

    def admit(self, rule: MirrorTarget, size: int, room: int, tally: MirrorTally, now: float) -> bool:
        """Whether a copy of `size` bytes may be sent now (monotonic seconds); where not, count why.

        `room`: bytes that the worker has left for copies.
        """
        if self.in_flight >= rule.max_in_flight:
            tally.dropped_in_flight += 1
        elif self.bytes + size > rule.max_bytes or size > room:
            tally.dropped_bytes += 1
        elif rule.max_rps is not None and not self._spend(rule.max_rps, now):
            tally.dropped_rate += 1
        else:
            return True
        return False

    def _spend(self, rate: float, now: float) -> bool:
        """Take a token from a bucket that fills with `rate` a second and holds `_BURST` seconds of it."""
        most = max(1.0, rate * _BURST)
        self._tokens = min(most, self._tokens + rate * (now - self._refilled_at))
        self._refilled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
