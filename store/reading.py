"""Reading a stored evidence body, the same for every store."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import WireError
from .evidence import Evidence, decode_evidence

# How a body is read. The second is a record that may have the same series, to share work and memory with.
Decode = Callable[[bytes, Evidence | None], Evidence]


def plainly(body: bytes, _like: Evidence | None) -> Evidence:
    """`decode_evidence`, for those who do not read again and again."""
    return decode_evidence(body)


def read_evidence(
    service: str,
    rollout: str,
    epoch: int,
    source: str,
    body: bytes,
    decode: Decode = plainly,
    like: Evidence | None = None,
) -> Evidence:
    """The evidence that lies in this place. Raises WireError naming it."""
    where = f"evidence for service {service!r}, rollout {rollout}, epoch {epoch} of source {source!r}"
    try:
        found = decode(body, like)
    except WireError as problem:
        raise WireError(f"{where}: {problem}") from problem
    if (found.service, found.rollout, found.epoch, found.source) != (service, rollout, epoch, source):
        raise WireError(f"{where}: what is stored says it is another's")
    return found
