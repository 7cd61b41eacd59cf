"""What the store's tests share: every implementation as a backend, and records to put into it.

A further implementation is one more name in BACKENDS: the contract's tests then run over it as well. Those on
servers share one of each kind, with keys of their own.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import pytest

from accede.store.approvals import Approval, GateAt
from accede.store.evidence import ArmCounts, Evidence, MirrorCounts, Series, SeriesKey
from accede.store.measurement import CLUSTERS, MeasurementPlan
from accede.store.open import open_store
from accede.store.protocol import Commit, Store
from accede.store.rollouts import AuditEntry, Decision, Phase, ReplicaReport, RolloutRecord, encode_record
from accede.store.routes import Arm, ServiceRoute
from tests.store.servers import VALKEY, Server, redis_7

Kind = Literal["routes", "rollouts", "evidence", "reports", "audit", "decisions"]


class Backend(Protocol):
    """One store, as often opened as a test needs it."""

    address: str

    def open(self) -> Store:
        """Another handle on the same store; closed with the test."""
        ...

    def spoil(self, kind: Kind, body: bytes) -> None:
        """Overwrite the body of every record of a kind, behind the store's back."""
        ...

    def check(self) -> None:
        """Assert that the implementation finds its own files sound."""
        ...

    def close(self) -> None:
        """Close every handle."""
        ...


class SqliteBackend:
    """A database file of its own for each test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "data" / "accede.db"
        self.address = f"sqlite://{self.path}"
        self._opened: list[Store] = []

    def open(self) -> Store:
        self._opened.append(open_store(self.address))
        return self._opened[-1]

    def spoil(self, kind: Kind, body: bytes) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(f"UPDATE {kind} SET body = ?", (body,))

    def check(self) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def close(self) -> None:
        for store in self._opened:
            store.close()


class RedisBackend:
    """Keys of its own on a server that all tests of a run share."""

    def __init__(self, server: Server, *, cluster: bool = False) -> None:
        self._prefix = f"t{next(_PREFIXES)}"
        kind = "redis+cluster" if cluster else "redis"
        self.address = f"{kind}://127.0.0.1:{server.port}?prefix={self._prefix}"
        self._server = server
        self._opened: list[Store] = []

    def open(self) -> Store:
        self._opened.append(open_store(self.address))
        return self._opened[-1]

    def spoil(self, kind: Kind, body: bytes) -> None:
        with self._server.client() as client:
            for key in client.scan_iter(f"{self._prefix}:*", count=1000):
                name = key.decode().partition("}:")[2]
                what = name.partition(":")[0]
                if what == "head" and kind == "routes":
                    client.hset(key, mapping={"route": body, "tag": "spoilt"})
                elif what == "audit" and kind == "audit":
                    client.lset(key, 0, client.lindex(key, 0)[:17] + body)
                elif what == {"rollouts": "records"}.get(kind, kind) and kind != "audit":
                    client.hset(key, mapping=dict.fromkeys(client.hkeys(key), body))

    def check(self) -> None:
        with self._server.client() as client:
            assert client.ping()

    def close(self) -> None:
        for store in self._opened:
            store.close()


_PREFIXES = count()
_SLOW = ("redis-7",)  # as its successor, which the fast suite runs on
BACKENDS = [
    pytest.param(n, marks=pytest.mark.slow if n in _SLOW else ())
    for n in ("sqlite", "valkey", "valkey-cluster", "redis-7")
]


@pytest.fixture(scope="session")
def server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """The one server of each kind that tests share, started when it is first asked for."""
    started: dict[str, Server] = {}

    def server(kind: str) -> Server:
        if kind not in started:
            program = redis_7() if kind == "redis-7" else VALKEY
            options = ("--cluster-enabled", "yes") if kind == "valkey-cluster" else ()
            started[kind] = one = Server(tmp_path_factory.mktemp(kind), program=program, options=options)
            if options:
                one.all_slots()
        return started[kind]

    yield server
    for one in started.values():
        one.end()


@pytest.fixture(params=BACKENDS)
def backend(
    request: pytest.FixtureRequest, tmp_path: Path, server_of: Callable[[str], Server]
) -> Iterator[Backend]:
    made: Backend
    if request.param == "sqlite":
        made = SqliteBackend(tmp_path)
    else:
        made = RedisBackend(server_of(request.param), cluster=request.param == "valkey-cluster")
    yield made
    made.close()


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.open()


class Records:
    """Small valid records."""

    def record(
        self, service: str = "fraud", version: int = 1, *, rollout: str = "r1", phase: Phase = Phase.BASELINE
    ) -> RolloutRecord:
        return RolloutRecord(
            wire="accede.rollout/1", id=rollout, service=service, version=version, stable="42",
            candidate="43", candidate_digest="d", policy_name="p", policy_hash="h", policy="{}",
            attempt=0, salt="s", started_by="ada", started_at=1.0,
            phase=phase, phase_since=1.0, step=None, step_since=1.0,
            epoch=0, epochs=(), reason="begun", approvals=(self.approval(),), proven=(GateAt(2, "canary"),),
        )  # fmt: skip

    def approval(self) -> Approval:
        return Approval(
            by="ben", at=1.5, step=2, group="model-risk", epoch=2, number=7, digest="d" * 64,
            subject="s" * 64, until=86401.5, reason="RISK-7 – geprüft",
        )  # fmt: skip

    def route(self, service: str = "fraud", generation: int = 1, candidate: int = 0) -> ServiceRoute:
        arms = (
            Arm(role="stable", version="42", addresses=("http://127.0.0.1:1",), weight=10_000 - candidate),
            Arm(role="candidate", version="43", addresses=("http://127.0.0.1:2",), weight=candidate),
        )
        plan = MeasurementPlan(
            rollout="r1", epoch=0, stage="baseline", extraction=None, batch=1.0, account_after=31.0
        )
        return ServiceRoute(
            wire="accede.route/1", service=service, generation=generation, path=f"/{service}", host=None,
            protocol="json", arms=arms, plan=plan,
        )  # fmt: skip

    def audit(self, service: str = "fraud", act: str = "start", *, rollout: str | None = "r1") -> AuditEntry:
        return AuditEntry(at=1.0, service=service, rollout=rollout, actor="ada", act=act, reason="asked")

    def decision(self, number: int = 1, *, rollout: str = "r1") -> Decision:
        return Decision(
            rollout=rollout, number=number, at=1.0, act="start", reason="asked", before=b"\x00b",
            evidence=(b"\xff",), reports=(), analysis=None,
        )  # fmt: skip

    def commit(self, service: str = "fraud", version: int = 1, *, rollout: str = "r1") -> Commit:
        """Version `version` of a rollout with a route of the same generation, audit and decision."""
        return Commit(
            service=service,
            record=self.record(service, version, rollout=rollout),
            expected_version=version - 1,
            route=self.route(service, version),
            expected_generation=version - 1,
            audit=(self.audit(service, f"act {version}", rollout=rollout),),
            decision=self.decision(version, rollout=rollout),
        )

    def evidence(
        self, source: str = "a/1", *, service: str = "fraud", rollout: str = "r1", epoch: int = 0, n: int = 3
    ) -> Evidence:
        series = Series([float(n)] * CLUSTERS, [n / 4] * CLUSTERS, [n / 16] * CLUSTERS)
        counts = Series([float(n)], [1.0], [1.0])
        return Evidence(
            wire="accede.evidence/1", service=service, rollout=rollout, epoch=epoch, source=source,
            published=10.0 + n, watermark=9.0 + n, arms={"stable": ArmCounts(accounted=n)},
            open={"stable": 1}, mirror=MirrorCounts(chosen=n, sent=n), latency={"stable": {300: n}},
            values={-5: n}, labels={"approve": n},
            series={
                SeriesKey("stable", "", "errors"): series,
                SeriesKey("stable", "sex=female", "mean"): counts,
            },
        )  # fmt: skip

    def report(self, source: str = "a/1", at: float = 1.0) -> ReplicaReport:
        return ReplicaReport(source=source, replica="a", at=at, generations={"fraud": 1})


@pytest.fixture(scope="session")
def records() -> Records:
    return Records()


class Child:
    """A process of its own that works on a store: see child.py for what it can do."""

    def __init__(self, address: str, task: str, template: Commit) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("child.py"), address, task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert template.record is not None
        assert template.route is not None
        self.tell(encode_record(template.record).decode())
        self.tell(msgspec.json.encode(template.route).decode())

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.endswith("\n"), "the child process ended"
        return line.strip()

    def kill(self) -> list[str]:
        """SIGKILL; every whole line it had still said."""
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        out = self._process.stdout.read()  # not communicate(), which would miss what is already buffered
        return [line.strip() for line in out.splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def child(backend: Backend, records: Records) -> Iterator[Callable[[str], Child]]:
    started: list[Child] = []

    def start(task: str) -> Child:
        started.append(Child(backend.address, task, records.commit()))
        return started[-1]

    yield start
    for process in started:
        if process._process.poll() is None:
            process.kill()
        for pipe in (process._process.stdin, process._process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()
