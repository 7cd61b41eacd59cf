"""How much memory this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_GROUPS: Final = (
    Path("/sys/fs/cgroup/memory.max"),  # cgroup 2, as a container sees its own
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),  # cgroup 1
)


def memory_limit(groups: Iterable[Path] = _GROUPS) -> int | None:
    """Bytes: those of the machine, or fewer where its control group is limited; None where nobody says."""
    known: list[int] = []
    with suppress(ValueError, OSError):
        known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in groups:
        with suppress(ValueError, OSError):  # "max" is no number: no limit
            known.append(int(path.read_text()))
    known = [one for one in known if one > 0]
    return min(known) if known else None
