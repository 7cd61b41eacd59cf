"""What waits in an observer: of workers what has come before its turn, of epochs what is not published."""

from __future__ import annotations

from collections import deque

from ..facts import Fact, Flush, Pair
from .beside import Beside
from .fold import Fold
from .inputs import Labels
from .notebook import NONE_LOST, Lost
from .pairing import PairSeen
from .remembered import Remembering
from .seen import Seen


class EpochSums:
    """One fold and what was last published of it."""

    __slots__ = (
        "beside", "changed", "closed_at", "fold", "published_at", "remembering", "still_open", "unremembered"
    )  # fmt: skip

    def __init__(self, fold: Fold, beside: Beside | None, remembering: Remembering | None) -> None:
        self.fold = fold
        self.beside = beside
        self.remembering = remembering
        self.changed = True
        self.closed_at = 0.0  # when no table named it any more; 0: one does
        self.published_at = 0.0
        self.still_open: dict[str, int] = {}
        self.unremembered: Lost = NONE_LOST


FactEntry = tuple[int, int, EpochSums, Fact, Seen | None, Labels]
PairEntry = tuple[int, int, EpochSums, Pair, PairSeen | None]


class Source:
    """One boot of one worker."""

    def __init__(self, boot: str) -> None:
        self.boot = boot
        self.heard = 0.0
        self.line_time = 0.0
        self.open: list[tuple[int, int, int]] = []
        self.facts: list[FactEntry] = []  # heaps by number
        self.pairs: list[PairEntry] = []
        self.weight = 0
        self.waiting: deque[tuple[float, Flush]] = deque()
        self.waiting_bytes = 0
        # Slot and kind of the last tally: what a pair without a place is counted to.
        self.mirrored: tuple[int, int] = (-1, 0)


def pair_weight(seen: PairSeen | None) -> int:
    """About how many values wait in memory with a pair."""
    return 1 if seen is None else 1 + len(seen.stable) + len(seen.shadow)


def size_of(flush: Flush) -> int:
    """About its bytes in memory."""
    bodies = sum(len(body.request) + len(body.response) for body in flush.bodies)
    pairs = sum(len(p.request) + len(p.stable_response) + len(p.shadow_response) for p in flush.pairs)
    return bodies + pairs + 256 * (len(flush.facts) + len(flush.pairs))
