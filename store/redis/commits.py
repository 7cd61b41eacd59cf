"""Committing: the rules of store.commits on what is stored, then one script that writes if it still is.

Between reading and writing nothing is locked. The head's nonce, new with every commit, says in the script
whether what was judged is still there; if not, it is judged again. A commit whose answer was lost on the way
finds its own nonce and is done.
"""

from __future__ import annotations

import os
from typing import Final

from ...errors import StaleWrite, StoreError
from ..commits import Stored, Writing, refuse_stale, writing
from ..protocol import Commit
from .bodies import packed
from .connection import Connection
from .identity import Identity
from .keys import OF_EVIDENCE
from .scripts import COMMIT, REGISTER, STORED

_TRIES: Final = 5  # each lost to somebody else's commit, which is then nearly always what makes ours stale
AFTER_THE_END: Final = 7 * 86400  # seconds that evidence outlives its rollout; decisions keep what they saw


class Commits:
    """Writes commits. `token`: of whoever leads, as this process last heard; lower ones are refused."""

    def __init__(self, connection: Connection, identity: Identity) -> None:
        self._connection = connection
        self._identity = identity
        self.token = 0

    def commit(self, change: Commit) -> None:
        """Write all of `change` or nothing; a decision, route or audit entry also on replicas."""
        wire = writing(change)
        nonce = os.urandom(12).hex()
        for _ in range(_TRIES):
            seen, stored = self._stored(change)
            refuse_stale(change, stored)
            if not seen or (change.record is not None and not stored.version):
                self._register(change)
            answer = self._write(change, wire, seen, nonce)
            if answer == b"DONE":
                if wire.route or wire.audit or wire.decision:
                    self._connection.acknowledge(self._connection.keys.of(change.service, "acknowledged"))
                return
            if answer == b"FENCED":
                raise self._fenced(change.service)
        raise StaleWrite(f"service {change.service!r}: others write all the time: read again")

    def _stored(self, change: Commit) -> tuple[bytes, Stored]:
        """The nonce of what is stored, and what the rules need to know of it."""
        keys, connection = self._connection.keys, self._connection
        rollout = "" if change.record is None else change.record.id
        found = connection.run(
            STORED, (keys.of(change.service, "head"), keys.of(change.service, "meta")), (rollout,)
        )
        nonce, generation, newest, version, ended, meta = found
        owner: str | None = None
        if rollout:
            if meta is not None:
                owner = change.service
            elif (other := connection.call("HGET", keys.owners, rollout)) is not None:
                owner = other.decode()
        return nonce or b"", Stored(
            newest=None if newest is None else newest.decode(),
            newest_version=int(version or 0),
            open=newest is not None and ended != b"1",
            owner=owner,
            version=0 if meta is None else int(meta.split()[0]),
            generation=int(generation or 0),
        )

    def _register(self, change: Commit) -> None:
        """Before a service's or a rollout's first commit: known to whoever asks what there is."""
        keys = self._connection.keys
        rollout = "" if change.record is None else change.record.id
        answer, *owner = self._connection.run(
            REGISTER,
            (keys.identity, keys.services, keys.owners, keys.leader),
            (self._identity.value, self.token, change.service, rollout),
            writes=True,
        )
        if answer == b"REPLACED":
            raise self._identity.replaced()
        if answer == b"FENCED":
            raise self._fenced(change.service)
        if owner[0].decode() != change.service:
            where = f"service {change.service!r}: rollout {rollout}"
            raise StoreError(f"{where} is one of service {owner[0].decode()!r}")

    def _write(self, change: Commit, wire: Writing, seen: bytes, nonce: str) -> bytes:
        keys, service, record = self._connection.keys, change.service, change.record
        decided = "" if change.decision is None else change.decision.rollout
        rollout = "" if record is None else record.id
        of_service = [keys.of(service, what) for what in ("head", "meta", "records", "order", "audit")]
        of_rollout = [keys.of(service, what, rollout) for what in OF_EVIDENCE]
        answer: bytes = self._connection.run(
            COMMIT,
            (*of_service, keys.of(service, "decisions", decided), *of_rollout),
            (
                seen, nonce, self.token, keys.channel,
                rollout, 0 if record is None else record.version,
                int(record is not None and record.phase.ended), wire.record,
                0 if change.route is None else change.route.generation, wire.route,
                0 if change.decision is None else change.decision.number, packed(wire.decision),
                AFTER_THE_END, *wire.audit,
            ),
            writes=True,
        )  # fmt: skip
        return answer

    def _fenced(self, service: str) -> StaleWrite:
        return StaleWrite(
            f"service {service!r}: another controller has taken the lead since (token {self.token} is past): "
            "nothing was written"
        )
