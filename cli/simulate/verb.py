"""The verb `simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Format, Output


def add_to(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(simulate)


def simulate(  # noqa: PLR0917  (typer calls it by name)
    service: Annotated[Path, typer.Argument(help="The service's file.", show_default=False, metavar="FILE")],
    recording: Annotated[
        Path,
        typer.Option(
            "--recording",
            "-r",
            help="What a router recorded: a file, or the service's folder.",
            show_default=False,
        ),
    ],
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            "-p",
            help="A policy file, or the name of a library policy. Default: the service's own.",
        ),
    ] = None,
    pairs: Annotated[
        bool,
        typer.Option("--pairs", help="Recorded pairs with the candidate's answers. Default: stable itself."),
    ] = False,
    inject: Annotated[
        list[str] | None,
        typer.Option(
            "--inject",
            help="A harm of the candidate: errors=+2pp, latency=x1.5, score=+0.2sd, missing=+1pp, each with "
            "@SLICE=GROUP if you like; repeat it.",
        ),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, max=100_000, help="How many rollouts.")] = 200,
    looks: Annotated[
        int, typer.Option("--looks", min=10, max=10_000, help="Looks over the whole recording.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all that is random.")] = 1,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write how the first rollout's evidence grew, as SVG.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Play recorded traffic through a policy: what it decides, when, and how often it is wrong."""
    import msgspec

    from ..check.writing import written
    from ..output import emit
    from . import shown
    from .running import Asked, simulated

    asked = Asked(service, recording, policy, pairs, tuple(inject or ()), runs, looks, seed)
    summary, first = simulated(asked)
    emit(msgspec.to_builtins(summary), output, lambda console: console.print(shown.table(summary)))
    if plot is not None and not written(plot, shown.plot(first)):
        raise typer.Exit(1)
