"""Writing a report: whole or not at all, and a disk that is full is said."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


def written(path: Path, text: str) -> bool:
    """Write a file beside its place and move it there. False, and a line on stderr, where that fails."""
    special = path.exists() and not path.is_file()  # /dev/stdout, a pipe: nothing can be moved there
    target = path if special else path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with target.open("w", encoding="utf-8") as file:
            file.write(text)
        if not special:
            target.replace(path)
    except OSError as problem:
        if not special:
            with suppress(OSError):
                target.unlink()
        print(f"accede: {path}: cannot be written: {problem.strerror}", file=sys.stderr)  # noqa: T201
        return False
    return True
