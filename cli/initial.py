"""`init`: a service file and a policy file to begin with, for one protocol."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Format, Output
from .output import emit

if TYPE_CHECKING:
    from rich.console import Console


class Protocol(StrEnum):
    """The protocols of policies.protocols."""

    TENSORFLOW_SERVING = "tensorflow-serving"
    KSERVE_V1 = "kserve-v1"
    OPEN_INFERENCE = "open-inference"
    MLFLOW = "mlflow"
    TORCHSERVE = "torchserve"
    BENTOML = "bentoml"
    SAGEMAKER = "sagemaker"
    OPENAI = "openai"
    JSON = "json"


def add_to(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(init)


def init(
    protocol: Annotated[
        Protocol,
        typer.Argument(
            help="How the model server speaks.",
            show_default=False,
            metavar="PROTOCOL",
        ),
    ],
    name: Annotated[str, typer.Argument(help="Name of the service.", metavar="[NAME]")] = "model",
    url: Annotated[
        list[str] | None,
        typer.Option(
            "--url",
            metavar="URL",
            help="Base URL of the version that serves now; given again: of the next one. "
            "Default: ports of this machine.",
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--dir", help="Directory to write to; made if missing.", metavar="DIR")
    ] = Path("services"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Write a service file and a policy file for a protocol, with comments, and say what to do next."""
    from ..errors import Conflict, UsageError
    from ..policies.load import check_pair, parse_policy, parse_service
    from .sketches import policy_text, service_text

    urls = url or []
    if len(urls) > 2:  # noqa: PLR2004  (stable and candidate)
        raise UsageError(f"--url was given {len(urls)} times; give it once for each of two versions")
    files = {folder / f"{name}.yaml": service_text(protocol, name, urls)}
    files[folder / f"{name}-policy.yaml"] = policy_text(protocol, name)
    (service_file, service), (policy_file, policy) = files.items()
    # A name or a URL that no file may hold is told before anything is written.
    check_pair(parse_service(service, str(service_file)), parse_policy(policy, str(policy_file)))
    there = [str(file) for file in files if file.exists()]
    if there and not force:
        raise Conflict(f"{' and '.join(there)} exist already; --force overwrites, --dir writes elsewhere")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            file.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise Conflict(
            f"{folder}: cannot be written to: {problem.strerror}; --dir writes elsewhere"
        ) from None
    candidate = parse_service(service).versions
    following = [
        f"accede validate {folder}",
        f"accede serve --services {folder}",
        f"accede start {name} --candidate {list(candidate)[-1]}",
        f"accede status {name} --watch",
    ]
    value: dict[str, Any] = {
        "service": name,
        "protocol": protocol.value,
        "files": [str(file) for file in files],
        "next": following,
    }

    def table(console: Console) -> None:
        for file in files:
            console.print(f"wrote {file}", markup=False)
        console.print(
            "Set addresses, prediction and side_effects in the service and the margins in the policy, then:"
        )
        for command in following:
            console.print(f"  {command}", markup=False)

    emit(value, output, table)
