"""Sources that will say no more: their last totals become one, so that restarts do not make evidence grow.

Closed is for ever: what a source had said is in the total of closed ones and would count twice if it were
heard again. So a mark stays in its place, with the time of the publication that was added, and whoever
publishes under its name is refused with that time. It knows then what it has to take off, and goes on under
another name (router.continuing).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ..errors import SourceClosed
from .evidence import Evidence, merge

CLOSED: Final = "closed"  # the source of the total of all that are closed; routers' names have a colon
CLOSED_MARK: Final = b"accede.closed/1"  # how begins what lies where a closed source's evidence lay


def closed_total(parts: Sequence[Evidence]) -> Evidence:
    """The total of closed sources, of one epoch; at least one part."""
    total = merge(parts)
    if total is None:
        raise ValueError("nothing to close")
    return msgspec.structs.replace(total, source=CLOSED)


def mark_of(part: Evidence) -> bytes:
    """What lies in the place of a source that was closed with this as its last publication."""
    return CLOSED_MARK + b" " + repr(part.published).encode()


def is_closed(body: bytes) -> bool:
    """Whether a stored body is such a mark."""
    return body.startswith(CLOSED_MARK)


def closed_source(evidence: Evidence, mark: bytes) -> SourceClosed:
    """What to say to a source that was taken for gone and speaks; `mark`: what lies in its place."""
    try:
        published = float(mark.removeprefix(CLOSED_MARK))
    except ValueError:  # of a version that did not write it
        published = None
    return SourceClosed(
        f"evidence of source {evidence.source!r} for service {evidence.service!r} was closed, since "
        "nothing was heard of it",
        published,
    )
