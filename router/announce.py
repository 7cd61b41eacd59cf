"""What a router process says on standard error: single lines, no bodies, no credentials."""

from __future__ import annotations

import sys


def announce(who: str, line: str) -> None:
    """One line, at once: whoever reads it may be waiting for it."""
    print(f"accede {who}: {line}", file=sys.stderr, flush=True)  # noqa: T201 (these processes have no other voice)
