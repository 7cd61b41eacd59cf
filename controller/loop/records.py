"""The open rollouts' records as rounds need them: read again only where their version is another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from ...errors import StoreError
from ...store.protocol import Store
from ...store.rollouts import RolloutRecord


class Records:
    """Records without their last analysis, which is most of them, and of which no look needs anything."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, RolloutRecord] = {}
        self._versions: Mapping[str, tuple[str, int] | StoreError | None] = {}

    def look(self, services: Collection[str]) -> None:
        """Ask for the versions of these, which `newest` rests on. Raises StoreError."""
        self._versions = self._store.newest_of(services)

    def newest(self, service: str) -> RolloutRecord | None:
        """The service's newest rollout, as it was at the last `look` or later, but for its analysis."""
        newest = self._versions.get(service)
        if isinstance(newest, StoreError):
            raise newest
        known = self._known.get(service)
        if newest is not None and known is not None and (known.id, known.version) == newest:
            return known
        record = self._store.rollout(service)
        if record is None:
            self._known.pop(service, None)
            return None
        brief = msgspec.structs.replace(record, analysis=None)
        self._known[service] = brief
        return brief

    def keep(self, services: Iterable[str]) -> None:
        """Forget all others."""
        for service in set(self._known) - set(services):
            del self._known[service]
