"""Publishing from a thread: the newest record of every kind is written to the store until it is there.

Sockets are read on while a store is slow; a store that is gone is tried again, and nothing piles up
meanwhile, because a newer record replaces the one before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from time import monotonic

from ..errors import AccedeError
from ..store.evidence import Evidence
from ..store.open import open_store
from ..store.protocol import RouterStore
from ..store.rollouts import ReplicaReport

_PAUSE = 0.5  # seconds before a store that failed is tried again
_LAST_CHANCE = 1.0  # seconds that a store gets at the end when it has been failing

Record = Evidence | ReplicaReport


class Outbox:
    """Owns a thread and its store. `complain` gets one line at the first failure of a series."""

    def __init__(self, address: str, complain: Callable[[str], None]) -> None:
        self._address = address
        self._complain = complain
        self._waiting: dict[Hashable, Record] = {}
        self._writing = False
        self._failing = False
        self._closing = False
        self._abandoned = False  # closed, and what still waits is given up
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    @property
    def empty(self) -> bool:
        """Whether everything put in has been written."""
        with self._changed:
            return not self._waiting and not self._writing

    @property
    def failing(self) -> bool:
        """Whether the last attempt to write failed."""
        return self._failing

    def put(self, key: Hashable, record: Record) -> None:
        """Write `record` soon, in place of one with the same key that still waits."""
        with self._changed:
            self._waiting[key] = record
            self._changed.notify_all()

    def close(self, patience: float) -> bool:
        """Give waiting records `patience` seconds to be written, a failing store less; whether all were."""
        began = monotonic()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            while self._waiting or self._writing:
                left = began + (_LAST_CHANCE if self._failing else patience) - monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            written = not self._waiting and not self._writing
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
                self._writing = True
            try:
                store = store or open_store(self._address)
                _publish(store, record)
                self._failing = False
                done = True
            except AccedeError as problem:
                store = self._failed(store, problem)
                done = False
            with self._changed:
                self._writing = False
                if not done:
                    self._waiting.setdefault(key, record)
                self._changed.notify_all()
                if not done:
                    self._changed.wait_for(lambda: self._abandoned, _PAUSE)
        if store is not None:
            store.close()

    def _failed(self, store: RouterStore | None, problem: AccedeError) -> RouterStore | None:
        if not self._failing:
            self._failing = True
            self._complain(f"cannot publish, trying on: {problem}")
        if store is not None:
            store.close()  # a store that came back may be another file
        return None


def _publish(store: RouterStore, record: Record) -> None:
    if isinstance(record, Evidence):
        store.publish_evidence(record)
    else:
        store.publish_report(record)
