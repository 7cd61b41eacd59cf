"""The verb `check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import Format, Output

if TYPE_CHECKING:
    from .outcome import Outcomes


def add_to(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(check)


def check(  # noqa: PLR0917  (typer calls it by name)
    service: Annotated[Path, typer.Argument(help="The service's file.", show_default=False, metavar="FILE")],
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Requests: JSON Lines (.jsonl), or a CSV of instances."),
    ] = None,
    candidate: Annotated[
        str, typer.Option("--candidate", "-c", help="A version of the file, or the URL of a server.")
    ] = "",
    stable: Annotated[
        str, typer.Option("--stable", help="The same for stable. Default: the file's stable.")
    ] = "",
    stable_answers: Annotated[
        Path | None,
        typer.Option("--stable-answers", help="Recorded answers of stable (.jsonl), in place of a server."),
    ] = None,
    candidate_answers: Annotated[
        Path | None, typer.Option("--candidate-answers", help="Recorded answers of the candidate.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            "-p",
            help="A policy file, or the name of a library policy. Default: the service's own.",
        ),
    ] = None,
    path: Annotated[
        str, typer.Option("--path", help="Where predictions are asked for. Default: by the protocol.")
    ] = "",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", help="A header of every request, `name: value`; repeat it."),
    ] = None,
    id_column: Annotated[str, typer.Option("--id", help="Column of a CSV with an id of the row.")] = "",
    unit_column: Annotated[
        str, typer.Option("--unit", help="Column of a CSV with the unit; rows of one unit stay together.")
    ] = "",
    label_column: Annotated[
        str, typer.Option("--label", help="Column of a CSV with what was true, for gates on outcomes.")
    ] = "",
    group_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--group",
            metavar="SLICE=COLUMN",
            help="Column of a CSV with the groups of a slice that only labels tell; repeat it.",
        ),
    ] = None,
    together: Annotated[
        int, typer.Option("--together", min=1, max=1024, help="Rows under way at one time.")
    ] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random order of rows.")] = 1,
    require_all: Annotated[
        bool, typer.Option("--require-all", help="A gate that pairs cannot decide is inconclusive: exit 4.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", envvar="ACCEDE_TIMEOUT", min=0.1, help="Seconds until it gives up with exit 5."
        ),
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write Markdown, for a pull request, to this file.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with plots, in one file, to this file.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Hold a policy's gates against two versions and a fixed set of requests, for CI."""
    import msgspec

    from ..output import emit
    from . import junit as as_junit
    from . import markdown as as_markdown
    from . import page, shown
    from .request import Request, carried_out
    from .writing import written

    request = Request(
        service, policy, stable, candidate, data, stable_answers, candidate_answers, path,
        tuple(header or ()), id_column, unit_column, label_column,
        tuple(group_columns or ()), together, seed, timeout, require_all,
    )  # fmt: skip
    found: Outcomes = carried_out(request)
    emit(msgspec.to_builtins(found), output, lambda console: console.print(shown.table(found)))
    failed = [
        written(where, text(found))
        for where, text in ((junit, as_junit.text), (markdown, as_markdown.text), (html, page.text))
        if where is not None
    ]
    raise typer.Exit(found.exit_code or int(not all(failed)))
