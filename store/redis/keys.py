"""Where everything lies. Keys of one service share its hash tag, so they lie in one slot of a Cluster.

head        hash: generation, changes (how often the route changed), route, tag (changes with it), lease,
            nonce (of the last commit), fence (the least token that may commit), newest (rollout),
            newest_version, newest_ended, forgotten (how many rollouts of `order` keep nothing any more)
records     hash: rollout -> record;  meta: rollout -> "version ended stamp", its first commit's stamp
order       list: rollouts, oldest first
audit       list: "stamp entry", oldest first
decisions   hash per rollout: number -> decision
evidence    hash per rollout: "epoch|source" -> evidence;  versions: the same -> new with every writing
changes     hash per rollout: "epoch|source" -> what has changed since that evidence (store.changes)
pred …      see label_scripts

A stamp is the server's clock in microseconds, 16 digits: it orders what different services keep.
Of no service: identity, services (set), owners (hash: rollout -> service), leader (hash: holder, token,
until), controllers (hash: holder -> "role since heard", in ms), reports (hash: source -> report),
labelled (set: services with predictions or labels).
"""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import quote

STAMP: Final = 16  # digits
OF_EVIDENCE: Final = ("evidence", "versions", "changes")


def new_version() -> str:
    """A version of what is written. Random: numbers would come again in a store that went back in time."""
    return os.urandom(8).hex()


class Keys:
    """The names of one installation's keys."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        shared = f"{prefix}:{{{prefix}}}:"
        self.identity = shared + "identity"
        self.services = shared + "services"
        self.owners = shared + "owners"
        self.leader = shared + "leader"
        self.controllers = shared + "controllers"
        self.reports = shared + "reports"
        self.labelled = shared + "labelled"
        self.channel = f"{prefix}:routes"  # not a key: where changed routes are announced

    def of(self, service: str, what: str, rollout: str | None = None) -> str:
        """One of the service's keys: `what` as above, for some also the rollout."""
        key = f"{self._prefix}:{{{quote(service, safe='')}}}:{what}"
        return key if rollout is None else f"{key}:{rollout}"
