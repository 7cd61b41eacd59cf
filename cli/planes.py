"""`accede router` and `accede controller`: one plane each, in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    ProbeHost,
    ProbePort,
    SharedStore,
    TlsCert,
    TlsClientCa,
    TlsKey,
    Workers,
    api_tls,
    seconds_of,
    tls_files,
)


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(router)
    app.command()(controller)


def router(  # noqa: PLR0917 - one parameter per flag
    data: Data = Path("accede-data"),
    host: Host = "127.0.0.1",
    port: Port = 8080,
    workers: Workers = 1,
    drain: Drain = 10.0,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    max_connections: MaxConnections = 8192,
    replica: Annotated[
        str,
        typer.Option("--replica", envvar="ACCEDE_REPLICA", help="Name of this router. Default: the host's."),
    ] = "",
    probe_host: ProbeHost = "127.0.0.1",
    probe_port: ProbePort = None,
    store: SharedStore = "",
) -> None:
    """Run the proxy: it splits, forwards and mirrors as the controller's routes say."""
    import platform

    from ..router.parent.process import RouterConfig, run_router
    from ..store.open import keep_secret

    tls = tls_files(tls_cert, tls_key, tls_client_ca)
    name = replica or platform.node() or "router"
    config = RouterConfig(
        host, port, workers, store=keep_secret(store or str(data)), data=str(data), replica=name,
        drain=drain, tls=tls, connections=max_connections,
        probes=None if probe_port is None else (probe_host, probe_port),
    )  # fmt: skip
    raise typer.Exit(run_router(config))


def controller(  # noqa: PLR0917 - one parameter per flag
    services: Annotated[
        Path | None,
        typer.Option(
            "--services",
            envvar="ACCEDE_SERVICES",
            help="Directory of service and policy files. Default: none are read.",
        ),
    ] = None,
    data: Data = Path("accede-data"),
    api_host: ApiHost = "127.0.0.1",
    api_port: ApiPort = 9090,
    tokens: ApiTokens = None,
    api_tls_cert: ApiTlsCert = None,
    api_tls_key: ApiTlsKey = None,
    store: SharedStore = "",
    keep_decisions: KeepDecisions = "90d",
) -> None:
    """Run the controller: it judges the evidence, decides, and serves the API.

    Of several on one shared store, one decides; the others stand by, and take acts as well.
    """
    from ..controller.process import ControllerConfig, run_controller
    from ..store.open import keep_secret

    config = ControllerConfig(
        data=data, services=services, store=keep_secret(store) or None, host=api_host, port=api_port,
        tokens=tokens, tls=api_tls(api_tls_cert, api_tls_key),
        keep_decisions=seconds_of("--keep-decisions", keep_decisions),
    )  # fmt: skip
    code = run_controller(config)
    raise typer.Exit(code)
