"""The `accede` command: what it is made of, and how it ends.

Every verb is a function in a file of its group. Nothing here or in those files loads numpy, a plane or the
store when it is imported: a verb imports what it needs when it runs.

It ends with 0 fine or promoted, 1 error, 2 usage, 3 rolled back, aborted or a gate failed, 4 inconclusive or
paused, 5 timed out. Errors are lines on stderr, never a stack trace (ACCEDE_DEBUG=1 shows it).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..errors import AccedeError
from . import demonstration, feedback, files, initial, outcomes, planes, planning, rollouts, serving, tokens
from .check import verb as checking
from .processes import Stopped, die_with_parent
from .simulate import verb as simulating

app = typer.Typer(
    name="accede",
    help="Roll out model versions by evidence: shadow, canary, promote or roll back.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help and one-line usage errors, the same on a terminal and in a log
    pretty_exceptions_enable=False,
)
for group in (
    demonstration,
    initial,
    files,
    planning,
    checking,
    simulating,
    serving,
    planes,
    rollouts,
    outcomes,
    feedback,
    tokens,
):
    group.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"accede {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Roll out model versions by evidence: shadow, canary, promote or roll back."""


def main() -> None:
    """Run the command line. Always ends in SystemExit."""
    die_with_parent()
    _open_streams()
    try:
        app(prog_name="accede")
    except AccedeError as problem:
        _explain(problem, str(problem))
        raise SystemExit(problem.exit_code) from None
    except Stopped as stopped:
        raise SystemExit(stopped.exit_code) from None
    except Exception as problem:  # noqa: BLE001  (the last resort: a user gets one line, not a trace)
        found = " ".join(f"{type(problem).__name__}: {problem}".split())
        _explain(problem, f"unexpected {found[:500]}; ACCEDE_DEBUG=1 shows where")
        raise SystemExit(1) from None


def _open_streams() -> None:
    """Something behind a closed stdout or stderr, so that a verb ends with its own code (`accede … >&-`).

    It also takes the number of the descriptor, which would else be that of the next file opened.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nothing = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (open to the end)
            setattr(sys, name, nothing)


def _explain(problem: Exception, text: str) -> None:
    if os.environ.get("ACCEDE_DEBUG") == "1":
        import traceback

        traceback.print_exception(problem)
    for line in text.splitlines() or [type(problem).__name__]:
        print(f"accede: {line}", file=sys.stderr)  # noqa: T201  (the one way an error reaches the user)
