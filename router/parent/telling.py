"""What a router says of itself: to the store, on its admin socket, and to probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any, Final

import msgspec

from ...store.rollouts import AddressState, ReplicaReport
from ..facts import Table
from .addresses import addresses
from .certificate import Certificate
from .children import Child
from .probes import State
from .sync import RouteKeeper, Slots

_TABLES: Final = 256  # tables whose generations are remembered for late confirmations


@dataclass(slots=True)
class Telling:
    """Reads what the parent knows; of its own it has what went wrong last, and what each table held.

    `listens`: the address of clients. `store_problem`, `disk_problem`: '' where all is well.
    """

    replica: str
    boot: str
    listens: str
    admin_socket: str
    keeper: RouteKeeper
    slots: Slots
    workers: Sequence[Child]
    observer: Child
    certificate: Certificate | None
    nursery: int
    store_problem: str = ""
    disk_problem: str = ""
    stopping: bool = False
    _generations: dict[int, dict[str, int]] = field(default_factory=dict[int, dict[str, int]])

    def placed(self, table: Table) -> None:
        """Remember which generations a table holds."""
        self._generations[table.number] = {
            placed.route.service: placed.route.generation for placed in table.placed
        }
        self._generations.pop(table.number - _TABLES, None)

    def everywhere(self, number: int) -> bool:
        """Whether every worker serves that table or a newer one."""
        return all(worker.applied >= number for worker in self.workers)

    def in_force(self) -> dict[str, int]:
        """Service -> the oldest generation that any living worker serves; none until one has a table."""
        oldest: dict[str, int] = {}
        for worker in self.workers:
            for service, generation in self._generations.get(worker.applied, {}).items():
                oldest[service] = min(generation, oldest.get(service, generation))
        return oldest

    def report(self) -> ReplicaReport:
        """For the store."""
        assigned, finished = self.slots.counts()
        memory = self.keeper.memory
        return ReplicaReport(
            source=f"{self.replica}:{self.boot}",
            replica=self.replica,
            at=time(),
            generations=self.in_force(),
            assigned=assigned,
            finished=finished,
            tripped={service: held.generation for service, held in memory.tripped.items()},
            lapsed={service: held.generation for service, held in memory.lapsed.items()},
            direct={service: held.reason for service, held in memory.direct.items()},
            observer_restarts=tuple(self.observer.restarts),
            worker_restarts=sum(len(worker.restarts) for worker in self.workers),
            admin_socket=self.admin_socket,
            addresses=self._addresses(),
            workers=len(self.workers),
        )

    def unready(self) -> list[str]:
        """Why it should get no requests; empty where it may."""
        reasons: list[str] = []
        table = self.keeper.table
        if table is None:
            reasons.append(f"it has no routes yet; store: {self.store_problem or 'ok'}")
        elif not self.everywhere(table.number):
            reasons.append("not every worker has the last routes")
        if self.stopping:
            reasons.append("it drains")
        return reasons

    def state(self) -> State:
        """For probes."""
        notes = {"store": self.store_problem or "ok", "disk": self.disk_problem or "ok"}
        return State(self.unready(), notes)

    def status(self) -> dict[str, Any]:
        """For the admin socket."""
        keeper, table = self.keeper, self.keeper.table
        return {
            "ready": not self.unready(),
            "replica": self.replica,
            "listen": self.listens,
            "table": table.number if table is not None else 0,
            "generations": self.in_force(),
            "held": {service: reason for service in keeper.memory.routes if (reason := keeper.held(service))},
            "broken": keeper.broken,
            "store": self.store_problem or "ok",
            "disk": self.disk_problem or "ok",
            "tls": "off" if self.certificate is None else self.certificate.renewal.problem or "ok",
            "workers": [_described(worker) for worker in self.workers],
            "observer": _described(self.observer),
            "addresses": msgspec.to_builtins(self._addresses()),
            "nursery": self.nursery,
        }

    def _addresses(self) -> tuple[AddressState, ...]:
        return addresses(worker.health for worker in self.workers)


def _described(child: Child) -> dict[str, Any]:
    return {"pid": child.pid, "table": child.applied, "restarts": len(child.restarts)}
