"""What was read of evidence, remembered: a look reads and decodes only what was published since the last.

The number of a row tells whether it was replaced: INSERT OR REPLACE gives the new row a number above all
others in the table, and it is in the index, so asking reads no body. Only VACUUM numbers rows anew, and that
changes the number of the schema, with which everything is forgotten.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .closing import is_closed
from .evidence import Evidence
from .reading import Decode, read_evidence
from .room import memory_limit

LEAST_BYTES: Final = 512 * 2**20  # of all that is remembered, as it is counted below
_PART: Final = 4  # or a quarter of the memory there is, where that is more
_SPREAD: Final = 2  # bytes of memory for one of a stored body, its histograms included
_ALIVE: Final = 60.0  # s for which what was read is taken to be read again


@dataclass(frozen=True, slots=True)
class _Known:
    row: int
    evidence: Evidence | None  # None: closed
    size: int


def most_bytes() -> int:
    """How many bytes of evidence this process remembers."""
    return max(LEAST_BYTES, (memory_limit() or 0) // _PART)


class RememberedEvidence:
    """Evidence of the rollouts that were read last, about `most` bytes of it. For one thread at a time.

    Where that is too little for all that are read again and again, those that have a place keep it: to give
    it to the next would forget each just before it is read.
    """

    def __init__(
        self, decode: Decode, most: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._decode = decode
        self._most = most_bytes() if most is None else most
        self._clock = clock
        self._read: dict[tuple[str, str], float] = {}
        self._schema: int = -1
        self._known: dict[tuple[str, str], dict[tuple[int, str], _Known]] = {}  # oldest read first
        self.size = 0

    def read(self, connection: sqlite3.Connection, service: str, rollout: str) -> tuple[Evidence, ...]:
        """The latest of every source and epoch, by epoch and source, in the connection's transaction.

        Raises WireError where any cannot be read: then nothing of the rollout is remembered.
        """
        self._check_schema(connection)
        known = self._known.get((service, rollout), {})
        if known:
            self._forget((service, rollout))
        rows: list[tuple[int, str, int]] = connection.execute(
            "SELECT epoch, source, rowid FROM evidence WHERE service = ? AND rollout = ?"
            " ORDER BY epoch, source",
            (service, rollout),
        ).fetchall()
        now: dict[tuple[int, str], _Known] = {}
        like: Evidence | None = None
        for epoch, source, row in rows:
            one = known.get((epoch, source))
            if one is None or one.row != row:
                body: bytes = connection.execute(
                    "SELECT body FROM evidence WHERE rowid = ?", (row,)
                ).fetchone()[0]
                like = (one.evidence if one is not None else None) or like
                found = None
                if not is_closed(body):
                    found = read_evidence(service, rollout, epoch, source, body, self._decode, like)
                one = _Known(row, found, _SPREAD * len(body))
            now[epoch, source] = one
            like = one.evidence or like
        size = sum(one.size for one in now.values())
        self._make_room(size)
        if self.size + size <= self._most:
            self._known[service, rollout] = now
            self._read[service, rollout] = self._clock()
            self.size += size
        return tuple(one.evidence for one in now.values() if one.evidence is not None)

    def _make_room(self, size: int) -> None:
        """Forget what nobody reads any more, as far as it has to be."""
        while self._known and self.size + size > self._most:
            oldest = next(iter(self._known))
            if self._clock() - self._read[oldest] < _ALIVE:
                return
            self._forget(oldest)

    def _forget(self, rollout: tuple[str, str]) -> None:
        self.size -= sum(one.size for one in self._known.pop(rollout).values())
        del self._read[rollout]

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        schema: int = connection.execute("PRAGMA schema_version").fetchone()[0]
        if schema != self._schema:
            self._known.clear()
            self._read.clear()
            self.size = 0
            self._schema = schema
