"""The flags that many verbs share. Precedence: flag, then environment ACCEDE_*, then the default."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError

if TYPE_CHECKING:
    from ..router.proxy.tls import TlsFiles

DEFAULT_API = "http://127.0.0.1:9090"


class Format(StrEnum):
    """How a verb prints its result."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Output = Annotated[
    Format, typer.Option("--output", "-o", envvar="ACCEDE_OUTPUT", help="How the result is printed.")
]
Api = Annotated[
    str,
    typer.Option(
        "--api",
        envvar="ACCEDE_API",
        help="Address of the controller's API. ACCEDE_TOKEN is the token it asks for, ACCEDE_API_CA a PEM "
        "file of the authorities its certificate is from.",
        metavar="URL",
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        envvar="ACCEDE_TIMEOUT",
        min=0.1,
        help="Seconds to wait for the controller's answer; then exit 5.",
    ),
]
WaitTimeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        envvar="ACCEDE_TIMEOUT",
        min=0.1,
        help="Seconds until it gives up with exit 5. Default: 10, without limit while it waits.",
    ),
]
Service = Annotated[str, typer.Argument(help="Name of the service, as in its file.", show_default=False)]
Reason = Annotated[
    str, typer.Option("--reason", help="Why; kept in the audit trail, such as a ticket's number.")
]
Actor = Annotated[
    str,
    typer.Option(
        "--as", envvar="ACCEDE_ACTOR", help="Who acts. Default: the name of the login.", metavar="NAME"
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data", envvar="ACCEDE_DATA", help="Directory that keeps rollouts and evidence; made if missing."
    ),
]
SharedStore = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="ACCEDE_STORE",
        help="Where rollouts and evidence are kept: redis://host:6379/0 and the like for several machines (a "
        "password may stand in ACCEDE_STORE_PASSWORD, or in a file that ACCEDE_STORE_PASSWORD_FILE names), "
        "or a directory. Default: the one of --data.",
        metavar="ADDRESS",
    ),
]
Services = Annotated[
    Path,
    typer.Option(
        "--services",
        envvar="ACCEDE_SERVICES",
        help="Directory of service and policy files.",
        show_default=False,
    ),
]
Host = Annotated[str, typer.Option("--host", envvar="ACCEDE_HOST", help="Address the proxy listens on.")]
Port = Annotated[
    int, typer.Option("--port", envvar="ACCEDE_PORT", min=1, max=65535, help="Port the proxy listens on.")
]
ApiHost = Annotated[
    str, typer.Option("--api-host", envvar="ACCEDE_API_HOST", help="Address the API listens on.")
]
ApiPort = Annotated[
    int,
    typer.Option("--api-port", envvar="ACCEDE_API_PORT", min=1, max=65535, help="Port the API listens on."),
]
ApiTokens = Annotated[
    Path | None,
    typer.Option(
        "--tokens",
        envvar="ACCEDE_TOKENS",
        help="File that says who may call the API; read again when it changes. Default: everybody on this "
        "machine, and nobody else.",
    ),
]
ApiTlsCert = Annotated[
    Path | None,
    typer.Option(
        "--api-tls-cert",
        envvar="ACCEDE_API_TLS_CERT",
        help="PEM file of the API's certificate and its chain. Default: plain HTTP.",
    ),
]
ApiTlsKey = Annotated[
    Path | None,
    typer.Option("--api-tls-key", envvar="ACCEDE_API_TLS_KEY", help="PEM file of its private key."),
]
Workers = Annotated[
    int,
    typer.Option("--workers", envvar="ACCEDE_WORKERS", min=1, max=256, help="Worker processes of the proxy."),
]
Drain = Annotated[
    float,
    typer.Option(
        "--drain", envvar="ACCEDE_DRAIN", min=0.0, help="Seconds that open requests get at the end."
    ),
]


TlsCert = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        envvar="ACCEDE_TLS_CERT",
        help="PEM file of the proxy's certificate and its chain; read again when it changes. "
        "Default: plain HTTP.",
    ),
]
TlsKey = Annotated[
    Path | None,
    typer.Option("--tls-key", envvar="ACCEDE_TLS_KEY", help="PEM file of that certificate's private key."),
]
TlsClientCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-client-ca",
        envvar="ACCEDE_TLS_CLIENT_CA",
        help="PEM file of the authorities that clients' certificates must come from. Default: none.",
    ),
]
MaxConnections = Annotated[
    int,
    typer.Option(
        "--max-connections",
        envvar="ACCEDE_MAX_CONNECTIONS",
        min=1,
        help="Client connections of one worker at one time; more get 503.",
    ),
]


ProbeHost = Annotated[
    str,
    typer.Option("--probe-host", envvar="ACCEDE_PROBE_HOST", help="Address that the probes' port is on."),
]
ProbePort = Annotated[
    int | None,
    typer.Option(
        "--probe-port",
        envvar="ACCEDE_PROBE_PORT",
        min=1,
        max=65535,
        help="Port that answers /healthz and /readyz, for orchestrators and load balancers. Default: none.",
    ),
]


KeepDecisions = Annotated[
    str,
    typer.Option(
        "--keep-decisions",
        envvar="ACCEDE_KEEP_DECISIONS",
        help="How long after a rollout's end its decisions are kept with all that they saw, such as 90d, or "
        "forever. Those of open rollouts and of each service's newest stay; so do records and audit trail.",
        metavar="TIME",
    ),
]


def seconds_of(flag: str, text: str) -> float:
    """Seconds, of `36h` or `90d`; infinity of `forever`. Raises UsageError."""
    import math
    import re

    if text == "forever":
        return math.inf
    found = re.fullmatch(r"([0-9]{1,6})(s|m|h|d)", text)
    if found is None or not int(found[1]):
        raise UsageError(f"{flag} is {text[:40]!r}; write a time such as 36h or 90d, or forever")
    return int(found[1]) * {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[found[2]]


def tls_files(cert: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    """The files the flags name, absolute; None without any. Raises UsageError: half a pair."""
    from ..router.proxy.tls import TlsFiles

    if (cert is None) != (key is None):
        found, missing = ("--tls-cert", "--tls-key") if key is None else ("--tls-key", "--tls-cert")
        raise UsageError(f"{found} without {missing}; a certificate needs its key, so give both or neither")
    if client_ca is not None and cert is None:
        raise UsageError("--tls-client-ca without --tls-cert; clients show a certificate over TLS only")
    if cert is None or key is None:
        return None
    return TlsFiles(
        str(cert.absolute()), str(key.absolute()), None if client_ca is None else str(client_ca.absolute())
    )


def api_tls(cert: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Certificate and key of the API; None without. Raises UsageError: half a pair."""
    if (cert is None) != (key is None):
        raise UsageError("--api-tls-cert and --api-tls-key belong together: give both or neither")
    return None if cert is None or key is None else (cert, key)


def actor_or_login(actor: str) -> str:
    """Who acts, where no name was given: the login's."""
    if actor:
        return actor
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
