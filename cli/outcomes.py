"""Verbs that look: `status`, `list`, `history`, `explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import DEFAULT_API, Api, Format, Output, Service, Timeout, WaitTimeout

Rollout = Annotated[
    str | None,
    typer.Option("--rollout", help="Id of an earlier rollout, as in `history`. Default: the newest."),
]


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(status)
    app.command("list")(list_services)
    app.command()(history)
    app.command()(explain)


def status(
    service: Service,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            "-w",
            help="Follow it to its outcome; exit 0 promoted, 3 rolled back, 4 paused, 5 late.",
        ),
    ] = False,
    rollout: Rollout = None,
    output: Output = Format.TABLE,
    api: Api = DEFAULT_API,
    timeout: WaitTimeout = None,
) -> None:
    """Where a rollout stands: each gate with estimate, interval, margin and verdict, and what comes next."""
    import msgspec

    from . import tables
    from .client import Client
    from .output import emit
    from .watching import follow

    with Client(api, 10.0 if timeout is None else min(timeout, 10.0)) as client:
        if watch:
            raise typer.Exit(follow(client, service, rollout, output, timeout))
        view = client.rollout(service, rollout)
    emit(msgspec.to_builtins(view), output, lambda console: console.print(tables.status(view)))


def list_services(output: Output = Format.TABLE, api: Api = DEFAULT_API, timeout: Timeout = 10.0) -> None:
    """All services, which version is stable, and their newest rollout."""
    import msgspec

    from . import tables
    from .client import Client
    from .output import emit

    with Client(api, timeout) as client:
        found = client.services()
    emit(msgspec.to_builtins(found), output, lambda console: console.print(tables.services(found)))


def history(
    service: Service,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="The last so many entries.")] = 50,
    output: Output = Format.TABLE,
    api: Api = DEFAULT_API,
    timeout: Timeout = 10.0,
) -> None:
    """What happened to a service: every act and decision, who and why."""
    import msgspec

    from . import tables
    from .client import Client
    from .output import emit

    with Client(api, timeout) as client:
        found = client.history(service, limit)
    emit(msgspec.to_builtins(found), output, lambda console: console.print(tables.trail(found.entries)))


def explain(
    service: Service,
    number: Annotated[
        int | None, typer.Option("--decision", "-n", min=1, help="Number of the decision. Default: the last.")
    ] = None,
    rollout: Rollout = None,
    output: Output = Format.TABLE,
    api: Api = DEFAULT_API,
    timeout: Timeout = 10.0,
) -> None:
    """Why a decision was taken, with every number it was taken on."""
    import msgspec

    from . import tables
    from .client import Client
    from .output import emit

    with Client(api, timeout) as client:
        found = client.explain(service, rollout, number)
    emit(msgspec.to_builtins(found), output, lambda console: console.print(tables.explanation(found)))
