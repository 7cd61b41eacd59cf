"""Predictions on their way to the store: held within bounds until it has them, counted where they are lost.

Pure, but for `refuse`, which the thread that writes may call. Nothing here waits for anybody: what finds no
room is lost at once, whichever arm it is of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from ...store.labels import MOST_INSTANCES, Prediction

LEAST: Final = 512  # bytes of memory that each weighs at least, about: a request with one number
MOST_BYTES: Final = 65_536 * LEAST  # of what waits, and again as much of what is being written
AT_ONCE: Final = 1000  # predictions of one write; some 20 ms for which nobody else writes
_VALUE: Final = 40  # bytes of one more value

Log = tuple[str, str]  # service, rollout
Epoch = tuple[str, str, int]  # service, rollout, epoch
Lost = tuple[int, int]  # of stable and of the candidate; a pair is the candidate's
NONE_LOST: Final[Lost] = (0, 0)


class Notebook:
    """Of all services of one observer."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._room = self._most_bytes = most_bytes
        self._waiting: dict[Log, list[Prediction]] = {}
        self._handed: dict[Log, list[Prediction]] = {}
        self._refused: deque[tuple[str, Sequence[Prediction]]] = deque()
        self._lost: dict[Epoch, list[int]] = {}

    def add(self, log: Log, prediction: Prediction) -> None:
        """Keep it until it is handed out, if there is room."""
        side = prediction.sides[0]
        room = self._room - (LEAST if len(side) == 1 and type(side[0]) is float else _weight(prediction))
        if room < 0 or len(side) > MOST_INSTANCES:
            self._lose(log[0], prediction)
            return
        self._room = room
        try:
            self._waiting[log].append(prediction)
        except KeyError:
            self._waiting[log] = [prediction]

    def hand_out(self) -> Iterator[tuple[str, Sequence[Prediction]]]:
        """All that waits, in parts of one rollout; only when what was handed out is written or lost."""
        self._handed, self._waiting = self._waiting, {}
        self._room = self._most_bytes
        for (service, _), predictions in self._handed.items():
            for first in range(0, len(predictions), AT_ONCE):
                yield service, predictions[first : first + AT_ONCE]

    def refuse(self, service: str, predictions: Sequence[Prediction]) -> None:
        """The store has no room for these: they are lost. From any thread."""
        self._refused.append((service, predictions))

    def lost(self, *, unwritten: bool) -> dict[Epoch, Lost]:
        """How many are lost; with `unwritten` also those that wait or are being written."""
        while self._refused:
            service, predictions = self._refused.popleft()
            for prediction in predictions:
                self._lose(service, prediction)
        found = {epoch: list(counts) for epoch, counts in self._lost.items()}
        if unwritten:
            for several in (self._handed, self._waiting):
                for (service, rollout), predictions in several.items():
                    for one in predictions:
                        found.setdefault((service, rollout, one.epoch), [0, 0])[1 if one.arm else 0] += 1
        return {epoch: (stable, candidate) for epoch, (stable, candidate) in found.items()}

    def forget(self, epoch: Epoch) -> None:
        """Its counts have been told for the last time."""
        self._lost.pop(epoch, None)

    def _lose(self, service: str, prediction: Prediction) -> None:
        counts = self._lost.setdefault((service, prediction.rollout, prediction.epoch), [0, 0])
        counts[1 if prediction.arm else 0] += 1


def _weight(prediction: Prediction) -> int:
    """About its bytes in memory."""
    values = [value for side in prediction.sides for value in side]
    texts = sum(len(value) for value in values if isinstance(value, str))
    stated = sum(map(len, prediction.stated))
    groups = sum(len(group) for group in prediction.groups if not isinstance(group, str))
    return LEAST + 4 * texts + _VALUE * (len(values) + 3 * stated + groups)
