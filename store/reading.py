"""Reading a stored evidence body, the same for every store."""

from __future__ import annotations

from ..errors import WireError
from .evidence import Evidence, decode_evidence


def read_evidence(service: str, rollout: str, epoch: int, source: str, body: bytes) -> Evidence:
    """The evidence that lies in this place. Raises WireError naming it."""
    where = f"evidence for service {service!r}, rollout {rollout}, epoch {epoch} of source {source!r}"
    try:
        found = decode_evidence(body)
    except WireError as problem:
        raise WireError(f"{where}: {problem}") from problem
    if (found.service, found.rollout, found.epoch, found.source) != (service, rollout, epoch, source):
        raise WireError(f"{where}: what is stored says it is another's")
    return found
