"""Who leads: one controller at a time decides, and what another decided before it took over is refused.

The lead runs out by the server's clock unless it is claimed again. Every holder has a token higher than those
before it. A new one first raises the fence of every service to its token: from then on nothing that carries a
lower one is committed, whenever its writer wakes up.
"""

from __future__ import annotations

from typing import Final

from ..protocol import Lead
from .commits import Commits
from .connection import Connection
from .identity import Identity
from .routes import RouteReader
from .scripts import CLAIM, RAISE, RESIGN

_MS: Final = 1000


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
            (keys.identity, keys.leader),
            (self._identity.value, holder, int(seconds * _MS)),
            writes=True,
        )
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
        self._connection.run(RESIGN, (self._connection.keys.leader,), (holder,))
