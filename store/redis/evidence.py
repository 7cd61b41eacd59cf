"""Reading the evidence of every source and epoch of a rollout, and closing sources that will say no more."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from threading import Lock
from typing import Final

from ...errors import StoreError, WireError
from ..changes import changed
from ..closing import CLOSED, closed_total, is_closed, mark_of
from ..evidence import Evidence, encode_evidence
from ..reading import read_evidence
from .bodies import packed, unpacked
from .connection import Connection
from .keys import OF_EVIDENCE, new_version
from .scripts import CLOSE, EVIDENCE

_TRIES: Final = 3
_REMEMBERED: Final = 256 * 2**20  # bytes of evidence that need not be fetched and decoded again
_SPREAD: Final = 6  # bytes of memory for one of a body

Place = tuple[int, str]  # epoch and source


@dataclass(slots=True)
class _Row:
    """One source's evidence of one epoch. `body`, `changes`: unpacked where that can be done; b'': none.

    `whole`, `shown`: what was read of the body alone, and with its changes; None until it is asked for.
    """

    version: bytes
    body: bytes
    changes: bytes
    whole: Evidence | None = None
    shown: Evidence | None = None

    @property
    def closed(self) -> bool:
        return is_closed(self.body)


Rows = dict[Place, _Row]


class EvidenceStore:
    """What has not changed is not fetched or decoded again: closed epochs are most of what there is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = Lock()
        self._known: dict[tuple[str, str], Rows] = {}  # service and rollout, oldest use first

    def read(self, service: str, rollout: str) -> tuple[Evidence, ...]:
        """The latest of every source and epoch, by epoch and source."""
        rows = self._rows(service, rollout)
        return tuple(
            _read(service, rollout, place, row)
            for place, row in sorted(rows.items(), key=lambda one: one[0])
            if not row.closed
        )

    def close_sources(self, service: str, rollout: str, sources: Collection[str]) -> int:
        """Add what these have said to the total of closed sources; how many epochs' totals that were."""
        done = 0
        for epoch in sorted({epoch for epoch, _ in self._rows(service, rollout)}):
            done += self._close(service, rollout, epoch, sources)
        return done

    def _close(self, service: str, rollout: str, epoch: int, sources: Collection[str]) -> int:
        for _ in range(_TRIES):
            rows = {source: row for (at, source), row in self._rows(service, rollout).items() if at == epoch}
            gone = [name for name in sorted(rows) if name in sources and not rows[name].closed]
            if not gone:
                return 0
            parts = {
                name: _read(service, rollout, (epoch, name), rows[name])
                for name in (*gone, *([CLOSED] if CLOSED in rows else []))
            }
            answer = self._connection.run(
                CLOSE,
                self._keys(service, rollout),
                (
                    f"{epoch}|{CLOSED}", rows[CLOSED].version if CLOSED in rows else b"",
                    packed(encode_evidence(closed_total([*parts.values()]))), new_version(),
                    *(
                        part
                        for name in gone
                        for part in (f"{epoch}|{name}", rows[name].version, mark_of(parts[name]))
                    ),
                ),
                writes=True,
            )  # fmt: skip
            if answer == b"DONE":
                return len(gone)
        raise StoreError(
            f"service {service!r}, rollout {rollout}: sources to be closed still publish; they stay as "
            "they are"
        )

    def _rows(self, service: str, rollout: str) -> Rows:
        with self._lock:
            known = self._known.get((service, rollout), {})
        found = self._connection.run(
            EVIDENCE,
            self._keys(service, rollout),
            [part for (epoch, source), row in known.items() for part in (f"{epoch}|{source}", row.version)],
        )
        rows: Rows = {}
        for name, version, body, changes in zip(
            found[::4], found[1::4], found[2::4], found[3::4], strict=True
        ):
            epoch, _, source = name.decode().partition("|")
            place = (int(epoch), source)
            before = known.get(place)
            if before is not None and before.version == version:
                rows[place] = before
            elif body is None and before is not None:
                rows[place] = _Row(version, before.body, _unpacked(changes or b""), before.whole)
            else:
                rows[place] = _Row(version, _unpacked(body or b""), _unpacked(changes or b""))
        with self._lock:
            self._known.pop((service, rollout), None)
            self._known[service, rollout] = rows
            self._forget()
        return rows

    def _keys(self, service: str, rollout: str) -> tuple[str, ...]:
        return tuple(self._connection.keys.of(service, what, rollout) for what in OF_EVIDENCE)

    def _forget(self) -> None:
        size = sum(map(_size, self._known.values()))
        while size > _REMEMBERED and len(self._known) > 1:
            size -= _size(self._known.pop(next(iter(self._known))))


def _size(rows: Rows) -> int:
    return sum(_SPREAD * len(row.body) + len(row.changes) for row in rows.values())


def _read(service: str, rollout: str, place: Place, row: _Row) -> Evidence:
    """What lies there, decoded once. Raises WireError naming the place."""
    epoch, source = place
    if row.shown is None:
        if row.whole is None:
            row.whole = read_evidence(service, rollout, epoch, source, row.body)
        try:
            row.shown = changed(row.whole, row.changes) if b"+" in row.version else row.whole
        except WireError as problem:
            where = f"evidence for service {service!r}, rollout {rollout}, epoch {epoch} of source {source!r}"
            raise WireError(f"{where}: {problem}") from problem
    return row.shown


def _unpacked(body: bytes) -> bytes:
    """The body, as it lies there where it cannot be unpacked: reading it then says whose it is."""
    try:
        return unpacked(body)
    except WireError:
        return body
