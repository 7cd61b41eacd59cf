"""Evidence of every source and epoch of a rollout, and the closing of sources that will say no more."""

from __future__ import annotations

from collections.abc import Collection
from threading import Lock
from typing import Final

from ...errors import StoreError, WireError
from ..closing import CLOSED, CLOSED_MARK, closed_source, closed_total, is_closed, mark_of
from ..evidence import Evidence, encode_evidence
from ..reading import read_evidence
from .bodies import packed, unpacked
from .commits import AFTER_THE_END
from .connection import Connection
from .keys import new_version
from .scripts import CLOSE, EVIDENCE, PUBLISH

_TRIES: Final = 3
_REMEMBERED: Final = 32 * 2**20  # bytes of bodies that need not be fetched again

Rows = dict[tuple[int, str], tuple[bytes, bytes]]  # epoch and source -> version and body, unpacked


class EvidenceStore:
    """Bodies that have not changed are not fetched again: closed epochs are most of what there is."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = Lock()
        self._known: dict[tuple[str, str], Rows] = {}  # service and rollout, oldest use first

    def publish(self, evidence: Evidence, body: bytes) -> None:
        """Replace this source's evidence for the same service, rollout and epoch by this, of wire form `body`."""
        keys, service, rollout = self._connection.keys, evidence.service, evidence.rollout
        answer, *mark = self._connection.run(
            PUBLISH,
            (
                keys.of(service, "evidence", rollout),
                keys.of(service, "versions", rollout),
                keys.of(service, "meta"),
            ),
            (
                f"{evidence.epoch}|{evidence.source}", packed(body), rollout,
                CLOSED_MARK, AFTER_THE_END, new_version(),
            ),
            writes=True,
        )  # fmt: skip
        if answer == b"CLOSED":
            raise closed_source(evidence, mark[0])

    def read(self, service: str, rollout: str) -> tuple[Evidence, ...]:
        """The latest of every source and epoch, by epoch and source."""
        rows = self._rows(service, rollout)
        return tuple(
            read_evidence(service, rollout, epoch, source, body)
            for (epoch, source), (_, body) in sorted(rows.items())
            if not is_closed(body)
        )

    def close_sources(self, service: str, rollout: str, sources: Collection[str]) -> int:
        """Add what these have said to the total of closed sources; how many epochs' totals that were."""
        done = 0
        for epoch in sorted({epoch for epoch, _ in self._rows(service, rollout)}):
            done += self._close(service, rollout, epoch, sources)
        return done

    def _close(self, service: str, rollout: str, epoch: int, sources: Collection[str]) -> int:
        keys = self._connection.keys
        for _ in range(_TRIES):
            rows = {source: row for (at, source), row in self._rows(service, rollout).items() if at == epoch}
            gone = [name for name in sorted(rows) if name in sources and not is_closed(rows[name][1])]
            if not gone:
                return 0
            parts = {
                name: read_evidence(service, rollout, epoch, name, rows[name][1])
                for name in (*gone, *([CLOSED] if CLOSED in rows else []))
            }
            answer = self._connection.run(
                CLOSE,
                (keys.of(service, "evidence", rollout), keys.of(service, "versions", rollout)),
                (
                    f"{epoch}|{CLOSED}", rows[CLOSED][0] if CLOSED in rows else b"",
                    packed(encode_evidence(closed_total([*parts.values()]))), new_version(),
                    *(
                        part
                        for name in gone
                        for part in (f"{epoch}|{name}", rows[name][0], mark_of(parts[name]))
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
        keys = self._connection.keys
        with self._lock:
            known = self._known.get((service, rollout), {})
        found = self._connection.run(
            EVIDENCE,
            (keys.of(service, "evidence", rollout), keys.of(service, "versions", rollout)),
            [
                part
                for (epoch, source), (version, _) in known.items()
                for part in (f"{epoch}|{source}", version)
            ],
        )
        rows: Rows = {}
        for name, version, body in zip(found[::3], found[1::3], found[2::3], strict=True):
            epoch, _, source = name.decode().partition("|")
            place = (int(epoch), source)
            rows[place] = known[place] if body is None else (version, _whole(body))
        with self._lock:
            self._known.pop((service, rollout), None)
            self._known[service, rollout] = rows
            self._forget()
        return rows

    def _forget(self) -> None:
        size = sum(len(body) for rows in self._known.values() for _, body in rows.values())
        while size > _REMEMBERED and len(self._known) > 1:
            oldest = next(iter(self._known))
            size -= sum(len(body) for _, body in self._known.pop(oldest).values())


def _whole(body: bytes) -> bytes:
    """The body, as it lies there where it cannot be unpacked: reading it then says whose it is."""
    try:
        return unpacked(body)
    except WireError:
        return body
