"""The verb `plan`: how many requests, how long, what can never decide, and what to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FileError, UsageError
from .options import DEFAULT_API, Api, Format, Output, Timeout

if TYPE_CHECKING:
    from ..controller.plan.assumed import Given
    from ..controller.plan.planned import Plan
    from ..policies.yaml import Data


def add_to(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(plan)


def plan(
    service: Annotated[
        str,
        typer.Argument(
            help="Name of a service that a controller knows; or its file, and no controller is asked.",
            show_default=False,
        ),
    ],
    *,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            "-p",
            help="A policy file, or the name of a library policy. Default: the service's own.",
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Requests a second. Default: as measured.")
    ] = None,
    error_rate: Annotated[
        float | None,
        typer.Option("--stable-error-rate", help="Share of stable's requests that fail, such as 0.01."),
    ] = None,
    selection_rate: Annotated[
        float | None,
        typer.Option("--selection-rate", help="Share of stable's predictions that are selected."),
    ] = None,
    sd: Annotated[
        float | None, typer.Option("--sd", help="Standard deviation of stable's prediction.")
    ] = None,
    share: Annotated[
        list[str] | None,
        typer.Option(
            "--share",
            help="Share of the traffic of a group: sex=female=0.02. Repeat it per group.",
            metavar="SLICE=GROUP=SHARE",
        ),
    ] = None,
    agreement: Annotated[
        float | None,
        typer.Option("--agreement", help="Share of mirrored requests on which both versions agree."),
    ] = None,
    correlation: Annotated[
        float | None, typer.Option("--correlation", help="Of the two answers to one request.")
    ] = None,
    units: Annotated[
        float | None,
        typer.Option(
            "--units", help="Users or sessions that come back, where requests of one stay together."
        ),
    ] = None,
    harm: Annotated[
        float | None,
        typer.Option("--harm", help="The harm to look for, as a multiple of the margin. Default: 2."),
    ] = None,
    attempt: Annotated[
        int | None,
        typer.Option(
            "--attempt", help="How often this candidate was rolled out before; each halves the levels."
        ),
    ] = None,
    assume: Annotated[
        Path | None,
        typer.Option("--assume", help="YAML file of such numbers; a flag goes before it.", metavar="FILE"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write a plot to this SVG file.", metavar="FILE")
    ] = None,
    output: Output = Format.TABLE,
    api: Api = DEFAULT_API,
    timeout: Timeout = 30.0,
) -> None:
    """How many requests and how long a rollout needs, and which gates can never decide; then exit 4."""
    import msgspec

    from . import plan_tables
    from .output import emit

    given = _given(
        assume,
        {
            "rate": rate, "error_rate": error_rate, "selection_rate": selection_rate, "sd": sd,
            "slices": _shares(share or []) or None, "agreement": agreement, "correlation": correlation,
            "units": units, "harm": harm, "attempt": attempt,
        },
    )  # fmt: skip
    made = (
        _from_file(service, policy, given)
        if _is_file(service)
        else _from_controller(service, policy, given, api, timeout)
    )
    if plot is not None:
        _write(plot, plan_tables.drawn(made))
    emit(msgspec.to_builtins(made), output, lambda console: console.print(plan_tables.table(made)))
    if not made.reachable:
        raise typer.Exit(4)


def _is_file(service: str) -> bool:
    return "/" in service or service.endswith((".yaml", ".yml"))


def _from_file(service: str, policy: str | None, given: Given) -> Plan:
    from ..controller.plan.service import plan_of
    from ..policies.load import load_policy, load_service

    declared = load_service(service)
    if policy is None and declared.policy is None:
        raise UsageError(f"service {declared.name!r} names no policy; give one with --policy")
    chosen = policy
    if chosen is None:
        written = declared.policy or ""
        beside = Path(service).parent / written
        chosen = str(beside) if beside.is_file() else written
    return plan_of(declared, load_policy(chosen), given, None)


def _from_controller(service: str, policy: str | None, given: Given, api: str, timeout: float) -> Plan:
    from .client import Client
    from .rollouts import policy_given

    name, text, file = policy_given(policy)
    with Client(api, timeout) as client:
        return client.plan(
            service, given.model_dump(exclude_defaults=True), policy=name, policy_text=text, policy_file=file
        )


def _given(assume: Path | None, flags: dict[str, Any]) -> Given:
    from pydantic import ValidationError

    from ..controller.plan.assumed import Given

    found: dict[str, Any] = {}
    if assume is not None:
        from ..policies.text import read_file
        from ..policies.yaml import load_yaml

        document = load_yaml(read_file(assume), str(assume), "holds numbers, such as rate: 20")
        if document.problems:
            raise FileError(tuple(problem for _, problem in document.problems))
        found = {key: _number(value) for key, value in document.data.items()}
    given = {key: value for key, value in flags.items() if value is not None}
    written = found.get("slices")
    if "slices" in given and isinstance(written, Mapping):
        given["slices"] = {**written, **given["slices"]}
    try:
        return Given.model_validate({**found, **given})
    except ValidationError as wrong:
        lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in wrong.errors(include_url=False)]
        known = ", ".join(Given.model_fields)
        raise UsageError(
            f"what is given for the plan is wrong: {'; '.join(lines)} (known: {known})"
        ) from None


def _number(value: Data) -> Data | int:
    """A whole number as one: the file's numbers are all fractions."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shares(texts: list[str]) -> dict[str, float]:
    shares: dict[str, float] = {}
    for text in texts:
        group, _, number = text.rpartition("=")
        try:
            shares[group] = float(number)
        except ValueError:
            raise UsageError(f"--share {text!r}: {number!r} is no share; write sex=female=0.02") from None
        if "=" not in group:
            raise UsageError(f"--share {text!r} names no group; write sex=female=0.02")
    return shares


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise UsageError(f"--plot {file}: cannot be written ({problem.strerror})") from None
