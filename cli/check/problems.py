"""Problems of a file of rows: named by line, a few of them, and never with what a row holds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ...errors import FileError, Problem

MOST: Final = 20  # problems that are told; more of the same help nobody


class Problems:
    """What is wrong in one file. `full`: reading on would tell nothing new."""

    def __init__(self, path: Path) -> None:
        self._file = str(path)
        self._found: list[Problem] = []

    @property
    def full(self) -> bool:
        """True when there are as many as are told."""
        return len(self._found) >= MOST

    def add(self, line: int, message: str) -> None:
        """One more; beyond MOST they are left out."""
        if not self.full:
            self._found.append(Problem(self._file, line, 1, "", message))

    def raise_any(self) -> None:
        """Raise FileError where there is a problem."""
        if self._found:
            raise FileError(tuple(self._found))
