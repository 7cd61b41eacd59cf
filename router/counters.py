"""Assigned and finished counts in a shared memory map that survives the worker that wrote them.

One file per router host: a block of SLOTS x FIELDS int64 cells (native byte order) per worker. Only
that worker writes its block; parent and observer read all of them. A cell is one aligned 8-byte
store, so a reader sees either the old or the new number. Numbers only grow: a restarted worker goes on
counting where the killed one stopped, and what it had assigned but never reported stays missing.

Cells of a slot, see the constants: excluded exchanges are counted too (their facts say `excluded`).
`finished` counts facts made, also those lost to a bound later.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import NamedTuple

SLOTS = 4096
FIELDS = 8
# cell numbers: ASSIGNED + arm, FINISHED + arm
ASSIGNED = 0
FINISHED = 2
MIRRORS_CHOSEN = 4
MIRRORS_FINISHED = 5
FACTS_LOST = 6
PAIRS_LOST = 7

BLOCK = SLOTS * FIELDS * 8  # bytes of one worker


class Counts(NamedTuple):
    """One slot's cells, of one worker or summed over several; pairs are (stable, candidate)."""

    assigned: tuple[int, int]
    finished: tuple[int, int]
    mirrors_chosen: int
    mirrors_finished: int
    facts_lost: int
    pairs_lost: int


class Counters:
    """The map of one file. `cells` is the raw array of one worker's block, for the worker's fast path."""

    def __init__(self, path: str | Path, workers: int, *, create: bool = False) -> None:
        """Map `path`; with `create` it is made anew, all zero, private to the user. Raises OSError."""
        self.workers = workers
        flags = os.O_RDWR | (os.O_CREAT | os.O_TRUNC if create else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            if create:
                os.ftruncate(descriptor, workers * BLOCK)
                if hasattr(os, "posix_fallocate"):  # a write to a hole of a full disk would kill the worker
                    os.posix_fallocate(descriptor, 0, workers * BLOCK)
            self._map = mmap.mmap(descriptor, workers * BLOCK)
        finally:
            os.close(descriptor)
        self._all = memoryview(self._map).cast("q")

    def cells(self, worker: int) -> memoryview[int]:
        """The block of `worker`: cell `slot * FIELDS + field`. Release it before `close`."""
        width = SLOTS * FIELDS
        return self._all[worker * width : (worker + 1) * width]

    def read(self, slot: int, worker: int | None = None) -> Counts:
        """The counts of `slot`, of one worker or of all."""
        chosen = range(self.workers) if worker is None else (worker,)
        total = [0] * FIELDS
        for index in chosen:
            start = (index * SLOTS + slot) * FIELDS
            for field in range(FIELDS):
                total[field] += self._all[start + field]
        return Counts((total[0], total[1]), (total[2], total[3]), *total[4:])

    def clear(self, slot: int) -> None:
        """Zero `slot` for every worker: before the parent gives it to another epoch."""
        for index in range(self.workers):
            start = (index * SLOTS + slot) * FIELDS
            for field in range(FIELDS):
                self._all[start + field] = 0

    def close(self) -> None:
        """Unmap. Blocks handed out by `cells` must be released before."""
        self._all.release()
        self._map.close()
