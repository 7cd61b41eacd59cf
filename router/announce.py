"""What a router process says on standard error: single lines, no bodies, no credentials."""

from __future__ import annotations

import contextlib
import os
import select
from typing import Final

_STDERR: Final = 2
_LONGEST: Final = 3000  # bytes: a pipe with room at all has room for 4096 (PIPE_BUF)


def announce(who: str, line: str) -> None:
    """One line, at once: whoever reads it may be waiting for it.

    Dropped where it cannot be taken: neither a log on a full disk nor a pipe that nobody reads may stop a
    process on which requests or evidence depend.
    """
    data = f"accede {who}: {line}".encode(errors="replace")[:_LONGEST] + b"\n"
    with contextlib.suppress(OSError):
        if select.select((), (_STDERR,), (), 0.0)[1]:
            os.write(_STDERR, data)
