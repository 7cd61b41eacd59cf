"""The rules of a commit, the same for every store: what contradicts itself, and what is stale.

A store reads `Stored` and writes within one transaction of its own; between the two it asks here.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ..errors import StaleWrite, StoreError, WireError
from .protocol import Commit
from .rollouts import AuditEntry, Decision, RolloutRecord, decode_record, encode_record
from .routes import ServiceRoute, decode_route, encode_route

R = TypeVar("R", RolloutRecord, AuditEntry, Decision)


class Stored(msgspec.Struct, frozen=True):
    """What the store holds before a commit; 0 and None where there is nothing.

    `newest`, `newest_version`, `open`: the service's newest rollout. `owner`, `version`: service and
    version of the rollout with the id to be written. `generation`: of the service's route.
    """

    newest: str | None
    newest_version: int
    open: bool
    owner: str | None
    version: int
    generation: int


class Writing(msgspec.Struct, frozen=True):
    """The wire forms of a commit, each known to be readable; empty where there is nothing to write."""

    record: bytes
    route: bytes
    audit: tuple[bytes, ...]
    decision: bytes


def writing(change: Commit) -> Writing:
    """The wire forms of `change`.

    Raises StoreError where it contradicts itself, WireError where a part could not be read back.
    """
    _refuse_contradiction(change)
    return Writing(
        record=b"" if change.record is None else _readable(change.record, RolloutRecord),
        route=b"" if change.route is None else _readable_route(change.route),
        audit=tuple(_readable(entry, AuditEntry) for entry in change.audit),
        decision=b"" if change.decision is None else _readable(change.decision, Decision),
    )


def refuse_stale(change: Commit, stored: Stored) -> None:
    """Raise StaleWrite unless the store is as the writer saw it, StoreError for another service's id."""
    where = f"service {change.service!r}"
    record = change.record
    if record is None:
        allowed = {stored.newest_version} if stored.open else {0, stored.newest_version}
        if change.expected_version not in allowed:
            raise _stale(where, "version", stored.newest_version, change.expected_version)
    else:
        if stored.owner not in (None, change.service):
            raise StoreError(f"{where}: rollout {record.id} is one of service {stored.owner!r}")
        if change.expected_version != stored.version:
            raise _stale(f"{where}, rollout {record.id}", "version", stored.version, change.expected_version)
        if stored.newest != record.id and (stored.open or stored.version):
            raise StaleWrite(f"{where}: rollout {stored.newest} came after {record.id}, or is open")
    if change.expected_generation != stored.generation:
        raise _stale(where, "generation", stored.generation, change.expected_generation)


def _stale(where: str, what: str, found: int, expected: int) -> StaleWrite:
    return StaleWrite(f"{where}: stored {what} is {found}, not {expected}: somebody else wrote first")


def _refuse_contradiction(change: Commit) -> None:
    parts = [change.record, change.route, *change.audit]
    if any(part is not None and part.service != change.service for part in parts):
        raise StoreError(f"a commit for service {change.service!r} carries another service's record")
    if change.record is not None and change.record.version != change.expected_version + 1:
        raise StoreError(
            f"rollout {change.record.id}: version {change.record.version} is not the next "
            f"after {change.expected_version}"
        )
    if change.route is not None and change.route.generation <= change.expected_generation:
        raise StoreError(
            f"route of service {change.service!r}: generation {change.route.generation} is not above "
            f"{change.expected_generation}"
        )
    if change.record and change.decision and change.decision.rollout != change.record.id:
        raise StoreError(f"a commit for rollout {change.record.id} carries another rollout's decision")


def _readable(record: R, kind: type[R]) -> bytes:
    """The wire form, read once: a NaN, for instance, would be written and never read again."""
    body = encode_record(record)
    if decode_record(body, kind) != record:
        raise WireError(f"a {kind.__name__} reads back as another one: nothing was written")
    return body


def _readable_route(route: ServiceRoute) -> bytes:
    body = encode_route(route)
    if decode_route(body) != route:
        raise WireError(f"the route of service {route.service!r} reads back as another one")
    return body
