"""Publishing from a thread: the newest record of every kind is written to the store until it is there.

Sockets are read on while a store is slow; a store that is gone is tried again, and nothing piles up
meanwhile, because a newer record replaces the one before it, in its turn. Records are written in the order in
which they were put, and one that fails goes behind the others. Predictions replace nothing: who puts them
bounds them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic

from ..errors import AccedeError, WireError
from ..store.evidence import Evidence
from ..store.labels import Prediction
from ..store.open import open_store
from ..store.protocol import RouterStore
from ..store.rollouts import ReplicaReport
from .continuing import Continuing, Key, epoch_of

_PAUSE = 0.5  # seconds before a store that failed is tried again
_LAST_CHANCE = 1.0  # seconds that a store gets at the end when it has been failing


@dataclass(frozen=True, slots=True)
class Remembered:
    """Predictions of one service. `refuse` is told of those that are lost, in the outbox's thread."""

    service: str
    predictions: Sequence[Prediction]
    refuse: Callable[[str, Sequence[Prediction]], None]


Record = Evidence | ReplicaReport | Remembered


class Outbox:
    """Owns a thread and its store. `complain` gets one line at the first failure of a series."""

    def __init__(self, address: str, complain: Callable[[str], None]) -> None:
        self._address = address
        self._complain = complain
        self._waiting: dict[Hashable, Record] = {}
        self._writing: Record | None = None
        self._numbers = count()
        self._continuing = Continuing(complain)
        self._epochs: Collection[Key] | None = None
        self._failing = False
        self._closing = False
        self._abandoned = False  # closed, and what still waits is given up
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def holds(self, kind: type[Record]) -> bool:
        """Whether a record of this kind has not been written yet."""
        with self._changed:
            return any(isinstance(record, kind) for record in (*self._waiting.values(), self._writing))

    @property
    def failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._failing

    def put(self, key: Hashable, record: Record) -> None:
        """Write `record` soon, in place of one with the same key that still waits."""
        with self._changed:
            self._waiting[key] = record
            self._changed.notify_all()

    def keep(self, epochs: Collection[Key]) -> None:
        """Evidence of other epochs than these will not be put any more."""
        with self._changed:
            self._epochs = epochs

    def append(self, predictions: Remembered) -> None:
        """Write these too, in place of nothing."""
        self.put(("predictions", next(self._numbers)), predictions)

    def settle(self, patience: float) -> bool:
        """Give waiting records `patience` seconds to be written, a failing store less; whether all were."""
        began = monotonic()
        with self._changed:
            while self._waiting or self._writing is not None:
                left = began + (_LAST_CHANCE if self._failing else patience) - monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def close(self, patience: float) -> bool:
        """`settle`, and write nothing after that; whether all were written."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        written = self.settle(patience)
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
        self._thread.join(1.0)
        return written

    def _run(self) -> None:
        store: RouterStore | None = None
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if not self._waiting or self._abandoned:
                    break
                key = next(iter(self._waiting))
                record = self._waiting.pop(key)
                self._writing = record
            try:
                store = store or open_store(self._address)
                self._publish(store, record)
                self._failing = False
                done = True
            except AccedeError as problem:
                store = self._failed(store, problem)
                done = False
            with self._changed:
                self._writing = None
                if done and self._epochs is not None:
                    waiting = (record for record in self._waiting.values() if isinstance(record, Evidence))
                    self._continuing.keep({*self._epochs, *map(epoch_of, waiting)})
                    self._epochs = None
                if not done:
                    self._waiting.setdefault(key, record)
                self._changed.notify_all()
                if not done:
                    self._changed.wait_for(lambda: self._abandoned, _PAUSE)
        if store is not None:
            store.close()

    def _publish(self, store: RouterStore, record: Record) -> None:
        if isinstance(record, Evidence):
            self._continuing.publish(store, record)
        elif isinstance(record, ReplicaReport):
            store.publish_report(record)
        else:
            _remember(store, record)

    def _failed(self, store: RouterStore | None, problem: AccedeError) -> RouterStore | None:
        if not self._failing:
            self._failing = True
            self._complain(f"cannot publish, trying on: {problem}")
        if store is not None:
            store.close()  # a store that came back may be another file
        return None


def _remember(store: RouterStore, record: Remembered) -> None:
    predictions = record.predictions
    try:
        lost = store.labels.publish_predictions(record.service, predictions).no_room
    except WireError:  # tried again it would fail again
        lost = len(predictions)
    if lost:
        record.refuse(record.service, predictions[-lost:])
