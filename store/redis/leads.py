"""Who leads: one controller at a time decides, and what another decided before it took over is refused.

The lead runs out by the server's clock unless it is claimed again. Every holder has a token higher than those
before it. A new one first raises the fence of every service to its token: from then on nothing that carries a
lower one is committed, whenever its writer wakes up.
"""

from __future__ import annotations

from typing import Final

from ..protocol import Claimant, Lead, Leadership
from .commits import Commits
from .connection import Connection
from .identity import Identity
from .routes import RouteReader
from .scripts import CLAIM, LEADERSHIP, RAISE, RESIGN

_MS: Final = 1000
SHOWN: Final = 15.0  # seconds of silence after which a controller is not said to stand by any more
_FORGOTTEN: Final = 60.0  # after which nothing is kept of it
_NOTED: Final = 1.0  # seconds between notes of one that goes on as before


class Leads:
    """Claims the lead, and tells the commits which token they carry."""

    def __init__(
        self, connection: Connection, identity: Identity, routes: RouteReader, commits: Commits
    ) -> None:
        self._connection = connection
        self._identity = identity
        self._routes = routes
        self._commits = commits
        self._raised = 0  # token up to which this process knows every fence to be raised

    def claim(self, holder: str, seconds: float) -> Lead:
        """Lead for so long from now on, if nobody else does."""
        keys = self._connection.keys
        answer, *found = self._connection.run(
            CLAIM,
            (keys.identity, keys.leader, keys.controllers),
            (
                self._identity.value, holder, int(seconds * _MS), int(_FORGOTTEN * _MS), int(_NOTED * _MS)
            ),
            writes=True,
        )  # fmt: skip
        if answer == b"REPLACED":
            raise self._identity.replaced()
        token, name = int(found[0]), found[1].decode()
        mine = answer == b"MINE"
        if mine and self._raised != token:
            for service in self._routes.services():
                self._connection.run(RAISE, (keys.of(service, "head"),), (token,))
            self._raised = token
        # Of one that does not lead, operators' acts carry the leader's: the lead under which they read.
        self._commits.token = token
        return Lead(token, name, mine)

    def resign(self, holder: str) -> None:
        """Let another one lead at once."""
        keys = self._connection.keys
        self._connection.run(RESIGN, (keys.leader, keys.controllers), (holder,))

    def leadership(self) -> Leadership:
        """Who leads and who stands by, by the server's clock."""
        keys = self._connection.keys
        clock, holder, until, noted = self._connection.run(LEADERSHIP, (keys.leader, keys.controllers))
        now = int(clock)
        roles: dict[bytes, tuple[bytes, int, int]] = {}  # holder -> role, since, heard
        for name, note in zip(noted[::2], noted[1::2], strict=True):
            role, since, heard = note.split()
            roles[name] = role, int(since), int(heard)
        leads = bool(holder) and int(until) > now
        role, since, _ = roles.get(holder, (b"", 0, 0))
        known = since / _MS if role == b"leads" else None
        standing = sorted(
            (since, name.decode())
            for name, (role, since, heard) in roles.items()
            if role == b"stands" and now - heard <= SHOWN * _MS
        )
        return Leadership(
            at=now / _MS,
            leader=Claimant(holder.decode(), known) if leads else None,
            standing_by=tuple(Claimant(name, since / _MS) for since, name in standing),
            vacant=None if leads or not until else min(now, int(until)) / _MS,
        )
