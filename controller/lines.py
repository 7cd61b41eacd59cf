"""Where the controller's log goes: standard error, one JSON object a line."""

from __future__ import annotations

import contextlib
import os
from typing import Final

_STDERR: Final = 2


class Lines:
    """Writes a line, or loses it: a log on a full disk must not end the loop that decides."""

    def __init__(self, *_: object) -> None: ...

    def msg(self, message: str) -> None:
        """Write one line."""
        with contextlib.suppress(OSError):
            os.write(_STDERR, message.encode(errors="replace") + b"\n")

    debug = info = warning = error = critical = msg
