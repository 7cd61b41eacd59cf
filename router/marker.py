"""What the observer is reading just now, in memory that survives it.

A body of a stranger may kill the observer or hold it for ever. Before each flush the observer copies it
here, and before each body it notes its number: two stores. So the parent sees that nothing moves, and the
next observer can tell which body it was. The memory belongs to no file and goes with the parent.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Final, NamedTuple

LARGEST: Final = (
    24 * 2**20
)  # bytes of a flush that fits: 8 MiB of bodies, and the facts and pairs beside them
_CELLS: Final = 8
_HEAD: Final = _CELLS * 8
SEQUENCE, KIND, NUMBER, LENGTH = range(4)  # cells
NOTHING, EXCHANGE, PAIR = range(3)  # values of KIND


class Found(NamedTuple):
    """What was being read: its kind, its number, and the flush it came in (empty: too large to keep)."""

    kind: int
    number: int
    flush: bytes


class Marker:
    """The shared memory. `cells`: sequence of flushes, kind, number and length, one 8-byte store each."""

    def __init__(self, descriptor: int) -> None:
        """Map what `create` made. Raises OSError."""
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, _HEAD + LARGEST)
        self.cells = memoryview(self._map)[:_HEAD].cast("q")

    @classmethod
    def create(cls) -> Marker:
        """New memory that says nothing. Raises OSError."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("accede-observer")
        else:  # pragma: no cover - macOS
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, _HEAD + LARGEST)
        return cls(descriptor)

    def begin(self, flush: bytes) -> None:
        """A flush is going to be read."""
        cells = self.cells
        cells[SEQUENCE] += 1
        if len(flush) <= LARGEST:
            self._map[_HEAD : _HEAD + len(flush)] = flush
            cells[LENGTH] = len(flush)
        else:
            cells[LENGTH] = 0

    def done(self) -> None:
        """Nothing is being read."""
        self.cells[KIND] = NOTHING

    def found(self) -> Found | None:
        """What is being read, or was when its reader died; None where that was nothing."""
        cells = self.cells
        if cells[KIND] == NOTHING:
            return None
        return Found(cells[KIND], cells[NUMBER], self._map[_HEAD : _HEAD + cells[LENGTH]])

    def place(self) -> tuple[int, int, int] | None:
        """Where the reader is; two equal answers mean that it has not moved. None: it reads nothing."""
        cells = self.cells
        return None if cells[KIND] == NOTHING else (cells[SEQUENCE], cells[KIND], cells[NUMBER])

    def close(self) -> None:
        """Unmap and close."""
        self.cells.release()
        self._map.close()
        os.close(self.descriptor)
