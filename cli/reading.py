"""Opening what was recorded, labelled or exported elsewhere: a file that can be read twice, as plain text.

What is no such file is said before anything else, since a compressed file or a pipe read as lines gives many
errors that all mean one thing.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

from ..errors import FileError, Problem

_BOM: Final = b"\xef\xbb\xbf"
_PACKED: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"(\xb5/\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)
_LONGEST: Final = max(len(magic) for magic, _ in _PACKED)


def opened(path: Path) -> BufferedReader:
    """The file, behind a byte order mark if it has one. Raises FileError with the way out."""
    try:
        kind = path.stat().st_mode
        # Opening a pipe would wait for somebody who writes.
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise _problem(path, "is no file but a pipe or a device, and is read twice; write it to a file")
        file = path.open("rb")
    except OSError as problem:
        raise _problem(path, f"cannot be read: {problem.strerror}") from None
    except ValueError:
        raise _problem(path, "is no name of a file") from None
    begin = file.read(_LONGEST)
    for magic, name in _PACKED:
        if begin.startswith(magic):
            file.close()
            raise _problem(path, f"is compressed ({name}); unpack it first")
    file.seek(len(_BOM) if begin.startswith(_BOM) else 0)
    return file


def state_of(file: BufferedReader) -> tuple[int, int]:
    """What tells that an open file was written to: its size and the time of its last change."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


def _problem(path: Path, message: str) -> FileError:
    return FileError((Problem(str(path), 1, 1, "", message),))
