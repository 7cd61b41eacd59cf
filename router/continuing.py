"""Going on under another name where the store has closed the one before: nothing lost, nothing counted twice.

Who was silent for long is taken for gone: its last totals are in the total of closed sources, and its name is
refused (store.closing). What it has seen since that publication is not in there. So it is remembered
what was last written of every epoch, and what was sent without an answer, which is sent again as it was
before anything newer: the store can have closed one of these two only, and says of which time it was. That is
taken off the totals, and the rest is published as `source.1`, then `source.2`, …

One outbox's thread calls all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import msgspec

from ..errors import SourceClosed, WireError
from ..store.evidence import Evidence, merge
from ..store.protocol import RouterStore
from ..store.subtracting import less

_TRIES: Final = 3  # names: closing one takes the store's users an hour

Key = tuple[str, str, int]  # service, rollout, epoch


@dataclass(slots=True)
class _Line:
    """Of one epoch. `closed`: what the store has of its totals under names before the `name`-th."""

    name: int = 0
    closed: Evidence | None = None
    written: Evidence | None = None
    doubt: Evidence | None = None  # sent without an answer


class Continuing:
    """Publishes the totals of one life. `complain` gets a line for each name that was closed."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        self._complain = complain
        self._lines: dict[Key, _Line] = {}
        self._names: dict[tuple[str, str], int] = {}  # service and rollout -> the last name in use

    def publish(self, store: RouterStore, totals: Evidence) -> None:
        """Write what the store has not closed of these totals. Raises what `publish_evidence` does."""
        key = epoch_of(totals)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(self._names.get(key[:2], 0))
        for _ in range(_TRIES):
            try:
                if line.doubt is not None:
                    self._write(store, line, line.doubt)
                self._write(store, line, _shown(line, totals))
                return
            except SourceClosed as refused:
                self._go_on(line, totals, refused)
        raise SourceClosed(
            f"evidence of source {totals.source!r} for service {totals.service!r} is closed under every name",
            None,
        )

    def keep(self, keys: Collection[Key]) -> None:
        """Forget epochs that nothing will be published of any more, unless something is in doubt."""
        for key in [key for key, line in self._lines.items() if key not in keys and line.doubt is None]:
            del self._lines[key]

    def _write(self, store: RouterStore, line: _Line, shown: Evidence) -> None:
        line.doubt = shown
        try:
            store.publish_evidence(shown)
        except WireError:  # nothing was sent
            line.doubt = None
            raise
        line.written, line.doubt = shown, None

    def _go_on(self, line: _Line, totals: Evidence, refused: SourceClosed) -> None:
        """Take off what was closed, and take the next name."""
        known = [one for one in (line.doubt, line.written) if one is not None]
        closed = next((one for one in known if one.published == refused.published), None)
        lost = ""
        if closed is None:  # closed before this process was told of it: what is in there nobody knows
            closed = _shown(line, totals)
            count = sum(arm.accounted for arm in closed.arms.values())
            lost = f"; which of its publications is not known: up to {count} requests count as lost"
        line.closed = merge([closed] if line.closed is None else [line.closed, closed])
        line.name += 1
        line.written = line.doubt = None
        self._names[totals.service, totals.rollout] = line.name
        self._complain(f"{refused}; it goes on as {_shown(line, totals).source!r}{lost}")


def epoch_of(evidence: Evidence) -> Key:
    """Which epoch it is of."""
    return evidence.service, evidence.rollout, evidence.epoch


def _shown(line: _Line, totals: Evidence) -> Evidence:
    """What is published of these totals."""
    if not line.name:
        return totals
    rest = totals if line.closed is None else less(totals, line.closed)
    return msgspec.structs.replace(rest, source=f"{totals.source}.{line.name}")
