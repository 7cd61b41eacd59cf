"""One scene: upstreams, and the proxies before them, each doing the same work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec

from accede.errors import AccedeError
from accede.router.parent.admin import admin_call
from accede.router.parent.process import RouterConfig
from accede.store.measurement import Extraction, LatencyThresholds, MeasurementPlan, Selected, SlicePlan
from accede.store.open import open_store
from accede.store.protocol import Commit
from accede.store.routes import MILLION, WIRE, Arm, MirrorTarget, ServiceRoute

from . import parts, peer_configs
from .machine import Places, children, pin
from .started import ROOT, Failed, Group, eventually, free_port

OURS = "accede"
PEERS = ("nginx", "haproxy", "envoy")
_DAY = 86_400.0  # seconds without a renewal: nothing renews the lease of a benchmark's route


class Side(msgspec.Struct, frozen=True):
    """One proxy (or the upstream itself, `direct`). `workers`: processes on the data path; `others`:
    the rest of it (our observer and parent, nginx's master)."""

    name: str
    port: int
    workers: tuple[int, ...]
    others: dict[str, int]

    @property
    def everything(self) -> list[int]:
        """All its processes."""
        return [*self.workers, *self.others.values()]


class Work(msgspec.Struct, frozen=True):
    """What the proxies do in a scene, besides forwarding and splitting."""

    mirror: bool = False
    stream: bool = False
    tls: bool = False


class Scene:
    """Starts what is asked for in `group`. `python`: the interpreter that runs the router."""

    def __init__(self, group: Group, where: Places, python: str) -> None:
        self.group = group
        self.where = where
        self.folder = group.folder
        self._python = python
        self.a, self.b, self.c = free_port(), free_port(), free_port()
        self._status = 0

    def origin(self, answer: str, large: int = 0) -> Side:
        """nginx as the models at a, b and c; `large`: bytes of what `/p/large` answers."""
        files = self.folder / "files" / "p"
        files.mkdir(parents=True, exist_ok=True)
        (files / "large").write_bytes(b"1" * large)
        self._status = free_port()
        text = peer_configs.nginx_origin(str(self.folder), [self.a, self.b, self.c], self._status, answer)
        process = self._nginx("origin", text, self.a, self.where.rest)
        return Side("direct", self.a, tuple(children(process.pid)), {})

    def upstream_requests(self) -> int:
        """Requests that the origin has answered so far, copies included."""
        with urlopen(f"http://127.0.0.1:{self._status}/") as page:
            return int(page.read().split(b"\n")[2].split()[2])

    def certificate(self) -> None:
        """A P-256 certificate for localhost."""
        here = self.folder
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        files = ["-keyout", str(here / "tls.key"), "-out", str(here / "tls.crt")]
        command = [parts.program("openssl"), "req", "-x509", *key, "-days", "30", "-subj", "/CN=localhost"]
        subprocess.run([*command, "-addext", names, *files], check=True, capture_output=True)
        (here / "tls.pem").write_text((here / "tls.crt").read_text() + (here / "tls.key").read_text())

    def peer(self, name: str, work: Work) -> Side:
        """Start one of PEERS."""
        here, port = self.folder, free_port()
        ports = {"port": port, "a": self.a, "b": self.b, "c": self.c}
        if name == "nginx":
            text = peer_configs.nginx(str(here), ports, mirror=work.mirror, stream=work.stream, tls=work.tls)
            process = self._nginx("nginx", text, port, self.where.proxy)
            return Side(name, port, tuple(children(process.pid)), {"master": process.pid})
        if name == "haproxy":
            if work.mirror:
                raise Failed("HAProxy mirrors only through an agent outside of it")
            config = here / "haproxy.cfg"
            config.write_text(peer_configs.haproxy(str(here), ports, tls=work.tls))
            command = [parts.program("haproxy"), "-db", "-f", str(config)]
        else:
            config = here / "envoy.json"
            config.write_bytes(peer_configs.envoy(str(here), ports, mirror=work.mirror, tls=work.tls))
            command = [
                parts.envoy(), "-c", str(config), "--disable-hot-restart", "--concurrency", "1",
                "--log-level", "error", "--use-dynamic-base-id",
            ]  # fmt: skip
        process = self.group.start(name, command, cores=self.where.proxy)
        self.group.ready(process, port)
        return Side(name, port, (process.pid,), {})

    def router(self, *routes: ServiceRoute, name: str = OURS, workers: int = 1, tls: bool = False) -> Side:
        """A whole router of ours: parent, observer, workers; the workers on the proxies' cores."""
        data = self.folder / name
        data.mkdir()
        with_store(data, lambda store: [store.commit(Commit(r.service, None, 0, r, 0)) for r in routes])
        config: dict[str, Any] = msgspec.to_builtins(
            RouterConfig("127.0.0.1", 0, workers, str(data), str(data), "bench", drain=1.0)
        )
        if tls:
            config |= {"tls": {"certificate": f"{self.folder}/tls.crt", "key": f"{self.folder}/tls.key"}}
        command = [self._python, "-m", "accede.router", msgspec.json.encode(config).decode()]
        cwd = started_in(self._python, self.folder)
        process = self.group.start(name, command, cores=self.where.rest, cwd=cwd)
        socket = data / "router" / "admin.sock"

        def ready() -> dict[str, Any]:
            self.group.alive(process)
            if not socket.exists():
                return {}
            try:
                told = admin_call(socket, {"do": "status"})
            except AccedeError:
                return {}
            return told if told["ready"] else {}

        told = eventually(ready, "the router is ready")
        serving = tuple(int(worker["pid"]) for worker in told["workers"])
        pin(list(serving), self.where.proxy)
        port = int(str(told["listen"]).rpartition(":")[2])
        others = {"observer": int(told["observer"]["pid"]), "parent": process.pid}
        if told.get("nursery"):
            others["nursery"] = int(told["nursery"])
        side = Side(name, port, serving, others)
        self.group.put_ahead(side.everything)  # each is a session of its own
        return side

    def _nginx(self, name: str, text: str, port: int, cores: set[int]) -> subprocess.Popen[str]:
        config = self.folder / f"{name}.conf"
        config.write_text(text)
        command = [parts.program("nginx"), "-c", str(config), "-p", str(self.folder)]
        process = self.group.start(name, command, cores=cores)
        self.group.ready(process, port)
        eventually(lambda: children(process.pid), f"{name} has its worker")
        return process


def started_in(python: str, folder: Path) -> Path:
    """Where `python` runs the router: ours from the checkout, another one what is installed there."""
    if python == sys.executable:
        return ROOT
    empty = folder / "started"  # nothing in it can be taken for a package
    empty.mkdir(exist_ok=True)
    return empty


def with_store(data: Path, act: Callable[[Any], object]) -> None:
    """Open the store in `data`, act, close."""
    store = open_store(str(data))
    try:
        act(store)
    finally:
        store.close()


def plan(slices: int = 2, *, epoch: int = 1, sticky: bool = True) -> MeasurementPlan:
    """What a canary with a numeric prediction measures: 3 fields read, 10 metrics, some slices."""
    named = [SlicePlan("sex", "instances[0].sex", values=("female", "male"))]
    named += [SlicePlan("age", "instances[0].age", bins=(0, 25, 40, 60))]
    named += [SlicePlan(f"s{k}", f"instances[0].f{k}", values=("x", "y")) for k in range(slices - 2)]
    chosen = tuple(named[:slices])
    names = tuple(one.name for one in chosen)
    return MeasurementPlan(
        rollout="r",
        epoch=epoch,
        stage="canary",
        extraction=Extraction(
            path="predictions[0].score", type="number", selected=Selected(">=", 0.5), slices=chosen
        ),
        batch=5.0,
        account_after=10.0,
        sticky=sticky,
        limits=(0.0, 1.0),
        thresholds=tuple(LatencyThresholds(f"latency.p{q}", 300 + q, 305 + q, 310 + q) for q in (50, 95, 99)),
        edges=tuple(k / 10 for k in range(1, 10)),
        sliced_metrics={"selected": names, "mean": names, "missing": names[:1]} if names else {},
    )


def route(a: int, b: int, **changes: Any) -> ServiceRoute:
    """The service at /p, 10 % of the users to b, every exchange captured."""
    settings: dict[str, Any] = {
        "wire": WIRE, "service": "bench", "generation": 1, "path": "/p", "host": None, "protocol": "json",
        "arms": (
            Arm("stable", "1", (f"http://127.0.0.1:{a}",), 9000),
            Arm("candidate", "2", (f"http://127.0.0.1:{b}",), 1000),
        ),
        "unit_header": "x-user-id", "salt": "bench/1", "side_effects": "none", "unattended": _DAY,
        "deadline": 600.0, "plan": plan(),
    }  # fmt: skip
    return ServiceRoute(**{**settings, **changes})


def mirrors(port: int) -> tuple[MirrorTarget, ...]:
    """Every request copied once: what stable serves and what the candidate serves."""
    address = (f"http://127.0.0.1:{port}",)
    return (MirrorTarget("2", address, MILLION), MirrorTarget("1", address, MILLION, kind="back"))
