"""`accede serve`: both planes on one machine, in one command."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .options import (
    ApiHost,
    ApiPort,
    ApiTlsCert,
    ApiTlsKey,
    ApiTokens,
    Data,
    Drain,
    Host,
    KeepDecisions,
    MaxConnections,
    Port,
    Services,
    TlsCert,
    TlsClientCa,
    TlsKey,
    Workers,
    api_tls,
    seconds_of,
    tls_files,
)

if TYPE_CHECKING:
    from ..router.proxy.tls import TlsFiles

_PATIENCE = 30.0  # seconds for a plane to be ready; it takes one or two
_LONGEST_SOCKET = 90  # bytes; a longer path is beyond what a socket may have
_AFTER_DRAIN = 15.0  # seconds a router needs after its drain for its last report


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(serve)


def serve(  # noqa: PLR0917 - one parameter per flag
    services: Services,
    data: Data = Path("accede-data"),
    host: Host = "127.0.0.1",
    port: Port = 8080,
    api_host: ApiHost = "127.0.0.1",
    api_port: ApiPort = 9090,
    workers: Workers = 1,
    drain: Drain = 10.0,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    max_connections: MaxConnections = 8192,
    tokens: ApiTokens = None,
    api_tls_cert: ApiTlsCert = None,
    api_tls_key: ApiTlsKey = None,
    keep_decisions: KeepDecisions = "90d",
) -> None:
    """Run the proxy and the controller on this machine until Ctrl-C. One that dies is started again."""
    from ..router.proxy.tls import Pem, server_context
    from .processes import Stopped
    from .supervisor import Plane, PlaneFailed, run, say

    services, data = services.absolute(), data.absolute()
    tls = tls_files(tls_cert, tls_key, tls_client_ca)
    seconds_of("--keep-decisions", keep_decisions)
    scheme = "http" if tls is None else "https"
    _check(services, data, (host, port, "--port"), (api_host, api_port, "--api-port"))
    api, api_scheme = _api_flags(tokens, api_tls(api_tls_cert, api_tls_key))
    accede = [sys.executable, "-m", "accede"]
    if tls is not None:
        server_context(Pem.read(tls), tls)
    controller = Plane(
        "controller",
        [
            *accede, "controller", "--services", str(services), "--data", str(data),
            "--api-host", api_host, "--api-port", str(api_port), "--keep-decisions", keep_decisions, *api,
        ],
        lambda: _answers(f"{api_scheme}://{_reachable(api_host)}:{api_port}/readyz"),
    )  # fmt: skip
    router = Plane(
        "proxy",
        [
            *accede, "router", "--data", str(data), "--host", host, "--port", str(port),
            "--workers", str(workers), "--drain", str(drain), *_flags(tls),
            "--max-connections", str(max_connections),
        ],
        lambda: _routes(data, host, port),
    )  # fmt: skip

    def ready() -> None:
        say(f"ready: controller at {api_scheme}://{_reachable(api_host)}:{api_port}")
        say(f"ready: proxy at {scheme}://{_reachable(host)}:{port} ({workers} worker{'s' * (workers > 1)})")

    try:
        run([controller, router], _PATIENCE, drain + _AFTER_DRAIN, ready)
    except PlaneFailed as failed:
        if not failed.explained:
            raise
        raise typer.Exit(failed.exit_code) from None
    except Stopped:
        say("stopped")


def _flags(tls: TlsFiles | None) -> list[str]:
    """What says the same to `accede router`."""
    if tls is None:
        return []
    authorities = [] if tls.client_ca is None else ["--tls-client-ca", tls.client_ca]
    return ["--tls-cert", tls.certificate, "--tls-key", tls.key, *authorities]


def _api_flags(tokens: Path | None, tls: tuple[Path, Path] | None) -> tuple[list[str], str]:
    """What says the same to `accede controller`, and the scheme of its API."""
    named = [] if tokens is None else ["--tokens", str(tokens.absolute())]
    if tls is None:
        return named, "http"
    certificate, key = (str(path.absolute()) for path in tls)
    return [*named, "--api-tls-cert", certificate, "--api-tls-key", key], "https"


def _check(services: Path, data: Path, *addresses: tuple[str, int, str]) -> None:
    """Everything that can be wrong and is quick to see, before anything starts."""
    from ..errors import FileError, PortInUse, StoreError, UsageError
    from ..policies.load import load_directory
    from ..store.open import open_store

    loaded = load_directory(services)
    if loaded.problems:
        raise FileError(loaded.problems)
    if not loaded.services:
        raise UsageError(f"{services}: no service file in this directory; see `accede schema service`")
    if addresses[0][1] == addresses[1][1]:
        raise UsageError(f"--port and --api-port are both {addresses[0][1]}; give each its own")
    for host, port, flag in addresses:
        try:
            with socket.socket(_family(host)) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError as problem:
            raise PortInUse(
                f"{host}:{port} cannot be listened on: {problem.strerror}; choose another with {flag}"
            ) from None
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise StoreError(f"data directory {data}: {problem.strerror}; choose another with --data") from None
    open_store(str(data)).close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _reachable(host: str) -> str:
    """The address to ask for what listens on `host`: `any` is asked on the loopback."""
    named = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104  (compared, not bound)
    return f"[{named}]" if ":" in named and not named.startswith("[") else named


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((_reachable(host).strip("[]"), port), timeout=1.0):
            return True
    except OSError:
        return False


def _routes(data: Path, host: str, port: int) -> bool:
    """Whether every worker has its routes; where the admin socket lies elsewhere, whether it listens."""
    from ..errors import AccedeError
    from ..router.parent.admin import admin_call

    socket_path = data / "router" / "admin.sock"
    if not socket_path.exists():
        return len(str(socket_path)) > _LONGEST_SOCKET and _listens(host, port)
    try:
        return bool(admin_call(socket_path, {"do": "status"}, 1.0).get("ready"))
    except AccedeError:
        return False


def _answers(url: str) -> bool:
    import httpx

    try:
        # Our own child on this machine, whose certificate is for the name that others know it by.
        answer: Any = httpx.get(url, timeout=1.0, trust_env=False, verify=False)  # noqa: S501
    except httpx.HTTPError:
        return False
    return bool(answer.status_code == httpx.codes.OK)
