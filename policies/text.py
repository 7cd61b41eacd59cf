"""The text of a file before anything reads it: bounded, regular, UTF-8, and without hidden characters."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import FileError, Problem

MAX_BYTES: Final = 128 * 2**10  # the longest service file we know of has 6 KiB

# Control characters, line breaks that editors do not count, lone surrogates, and marks that reorder text.
UNWANTED = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u2028-\u202e\u2066-\u2069\ufeff]"
)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file, line and column counted from 1."""

    line: int
    column: int


START: Final = Position(1, 1)


def shorten(text: str, limit: int = 60) -> str:
    """Text fit for a message: one line, bounded, nothing unprintable."""
    shown = "".join(char if char.isprintable() else "?" for char in text[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit] + "…"


def read_file(path: Path) -> bytes:
    """The bytes of a regular file, at most one more than MAX_BYTES. Raises FileError with one clear line."""
    file = shorten(str(path), 300)
    try:
        # A pipe would wait for a writer, a device would never end: neither is opened, nor waited for.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as opened:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise fatal(file, START, "not a regular file")
            return opened.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise fatal(file, START, "no such file") from None
    except IsADirectoryError:
        raise fatal(file, START, "is a directory; name a file in it") from None
    except PermissionError:
        raise fatal(file, START, "cannot be read: permission denied") from None
    except (OSError, ValueError) as problem:
        reason = (
            problem.strerror if isinstance(problem, OSError) and problem.strerror else "not a usable path"
        )
        raise fatal(file, START, f"cannot be read: {reason}") from None


def fatal(file: str, position: Position, message: str) -> FileError:
    """The error of a file with one problem."""
    return FileError((Problem(file, position.line, position.column, "", message),))


def decode(content: bytes | str, file: str) -> str:
    """The text of a file, without a byte order mark. Raises FileError at the first character not allowed."""
    size = len(content) if isinstance(content, bytes) else len(content.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise fatal(file, START, f"the file is larger than {MAX_BYTES // 1024} KiB")
    if isinstance(content, bytes):
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as problem:
            position = _position_in(content[: problem.start].decode("utf-8"))
            raise fatal(file, position, "not UTF-8; save the file as UTF-8") from None
    else:
        text = content
    text = text.removeprefix("\ufeff")
    unwanted = UNWANTED.search(text)
    if unwanted:
        message = f"the character U+{ord(unwanted[0]):04X} is not allowed; remove it"
        raise fatal(file, _position_in(text[: unwanted.start()]), message)
    return text


def _position_in(before: str) -> Position:
    lines = re.split("\r\n|\r|\n", before)
    return Position(len(lines), len(lines[-1]) + 1)
