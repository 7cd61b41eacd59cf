"""Sources that will say no more: their last totals become one, so that restarts do not make evidence grow.

Closed is for ever: what a source had said is in the total of closed ones and would count twice if it were
heard again. So a mark stays in its place, and whoever publishes under its name is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ..errors import StoreError
from .evidence import Evidence, merge

CLOSED: Final = "closed"  # the source of the total of all that are closed; routers' names have a colon
CLOSED_MARK: Final = b"accede.closed/1"  # lies where a closed source's evidence lay


def closed_total(parts: Sequence[Evidence]) -> Evidence:
    """The total of closed sources, of one epoch; at least one part."""
    total = merge(parts)
    if total is None:
        raise ValueError("nothing to close")
    return msgspec.structs.replace(total, source=CLOSED)


def closed_source(evidence: Evidence) -> StoreError:
    """What to say to a source that was taken for dead and speaks."""
    return StoreError(
        f"evidence of source {evidence.source!r} for service {evidence.service!r} was closed, since "
        "nothing was heard of it: restart this router; requests that are missing are reported as lost"
    )
