"""The demo's processes: model servers, `accede serve` and the load. All end when the `with` block does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import yaml

from ...errors import AccedeError
from ..client import Client
from ..processes import end, environment, free_ports, uninterrupted
from .load import Configuration as LoadConfiguration
from .load import Totals
from .model_server import PREDICT
from .model_server import Configuration as ServerConfiguration
from .models import CANDIDATES, Data, instances

SERVICE = "progression"
_PATIENCE = 30.0  # seconds for a process to say that it is ready
_MOST = 300.0  # requests/s; more would prove nothing sooner than the policy's own minima
_LEAST = 40.0
# A mirrored request is predicted twice, and the analysis and its own load share the machine with them.
_SHARE_OF_CAPACITY = 0.25
_PROBE = 1.5  # seconds
_PROBE_CONNECTIONS = 32


def material(name: str) -> str:
    """One of the YAML files that ship with the demo; examples/demo has the same."""
    return files(__name__.rpartition(".")[0]).joinpath(name).read_text(encoding="utf-8")


class Cast:
    """Processes in `folder`, a temporary directory. `versions`: version -> `stable` or a scenario."""

    def __init__(self, folder: Path, versions: dict[str, str], data: Data) -> None:
        self.folder = folder
        self.versions = versions
        self._children: list[subprocess.Popen[bytes]] = []
        self._ports = dict(zip(versions, free_ports(len(versions)), strict=True))
        self.port, self.api_port = free_ports(2)
        self.totals = Totals()
        self._log = folder / "log"
        self._bodies = folder / "bodies"
        self._bodies.write_text("\n".join(json.dumps({"instances": [row]}) for row in instances(data)))
        self.policy = folder / "services" / "policy.yaml"
        self.policy.parent.mkdir()
        self.policy.write_text(material("policy.yaml"))
        (folder / "services" / "service.yaml").write_text(self._service())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        end(list(reversed(self._children)))

    @property
    def address(self) -> str:
        """The API's address."""
        return f"http://127.0.0.1:{self.api_port}"

    def client(self) -> Client:
        """A client of the API."""
        return Client(self.address)

    def _service(self) -> str:
        service: dict[str, Any] = yaml.safe_load(material("service.yaml"))
        service["versions"] = {
            version: {
                "url": f"http://127.0.0.1:{self._ports[version]}",
                "card": {"trained_on": "diabetes", "scenario": scenario},
            }
            for version, scenario in self.versions.items()
        }
        return yaml.safe_dump(service, sort_keys=False)

    def start_models(self) -> None:
        """One server process per version; they train side by side."""
        servers = [
            self._module(
                "accede.cli.demo.model_server",
                ServerConfiguration(
                    "stable" if scenario not in CANDIDATES else scenario, self._ports[version]
                ),
            )
            for version, scenario in self.versions.items()
        ]
        for server in servers:
            self._wait_for(server, "ready")

    def start_accede(self) -> None:
        """`accede serve`, proxy and controller."""
        command = [
            sys.executable, "-m", "accede", "serve", "--services", str(self.folder / "services"),
            "--data", str(self.folder / "data"), "--port", str(self.port), "--api-port", str(self.api_port),
        ]  # fmt: skip
        serving = self._spawn(command)
        self._wait_for(serving, "ready: proxy")
        self._drain(serving)

    def probe(self) -> tuple[float, float]:
        """(capacity, chosen rate) in requests/s: what the stable version answers through the proxy at most,
        and the share of it that leaves room for the candidate's copy, the analysis and the load itself.
        """
        configuration = self._load(rate=1.0, seconds=_PROBE, closed=_PROBE_CONNECTIONS)
        probe = self._module("accede.cli.demo.load", configuration)
        output, _ = probe.communicate(timeout=_PATIENCE)
        totals = msgspec.json.decode(output.splitlines()[-1], type=Totals)
        if totals.failed or not totals.answered:
            raise AccedeError(
                f"the demo's own stable version does not answer: {totals.failed} of {totals.sent} failed"
            )
        capacity = totals.answered / _PROBE
        return capacity, min(_MOST, max(_LEAST, _SHARE_OF_CAPACITY * capacity))

    def start_load(self, rate: float) -> None:
        """Open-loop load through the proxy; `totals` is kept up to date."""
        load = self._module("accede.cli.demo.load", self._load(rate=rate))

        def read() -> None:
            if load.stdout is None:
                return
            for line in load.stdout:
                self.totals = msgspec.json.decode(line, type=Totals)

        threading.Thread(target=read, daemon=True).start()

    def start_rollout(self, version: str) -> str:
        """`accede start`; returns the command as a person types it."""
        command = ["start", SERVICE, "--candidate", version, "-p"]
        started = subprocess.run(
            [sys.executable, "-m", "accede", *command, str(self.policy), "--api", self.address, "-o", "json"],
            env=environment(), check=False, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        if started.returncode != 0:
            raise AccedeError(f"the rollout of version {version} could not be started")
        return " ".join(["accede", *command, "policy.yaml"])

    def _load(self, rate: float, seconds: float | None = None, closed: int = 0) -> LoadConfiguration:
        return LoadConfiguration(self.port, PREDICT, str(self._bodies), rate, seconds=seconds, closed=closed)

    def _module(self, module: str, configuration: msgspec.Struct) -> subprocess.Popen[bytes]:
        return self._spawn([sys.executable, "-m", module, msgspec.json.encode(configuration).decode()])

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        # One thread per model server: their pools of threads would fight over the cores.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with uninterrupted(), self._log.open("ab") as log:
            child = subprocess.Popen(
                command,
                env=environment(threads),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            self._children.append(child)
        return child

    def _failed(self, what: str) -> AccedeError:
        """What went wrong with a process, with the last thing that any of them said."""
        said = self._log.read_text(errors="replace").strip().splitlines()
        return AccedeError(f"{what}: {said[-1][:300]}" if said else what)

    def _wait_for(self, child: subprocess.Popen[bytes], text: str) -> None:
        """Read a child's lines until one has `text`. Raises AccedeError where it ends first."""
        killer = threading.Timer(_PATIENCE, child.kill)
        killer.daemon = True  # a signal between here and `finally` must not leave a thread to wait for
        killer.start()
        try:
            for line in child.stdout or ():
                if text in line.decode(errors="replace"):
                    return
        finally:
            killer.cancel()
        raise self._failed("a process of the demo did not start")

    @staticmethod
    def _drain(child: subprocess.Popen[bytes]) -> None:
        """Read what a child prints, so that it never waits for us."""

        def read() -> None:
            if child.stdout is not None:
                for _ in child.stdout:
                    pass

        threading.Thread(target=read, daemon=True).start()
