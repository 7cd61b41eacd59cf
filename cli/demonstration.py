"""`accede demo`: the product at work on this machine."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from .options import Format, Output


class Scenario(StrEnum):
    """Which candidates are rolled out."""

    GOOD = "good"
    BIASED = "biased"
    SLOW = "slow"
    ERRORS = "errors"
    SHIFTED = "shifted"
    ALL = "all"


def add_to(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(demo)


def demo(
    scenario: Annotated[
        Scenario | None,
        typer.Option("--scenario", "-s", help="One candidate, or all. Default: good, then biased."),
    ] = None,
    output: Output = Format.TABLE,
    timeout: Annotated[
        float | None,
        typer.Option(
            "--timeout", envvar="ACCEDE_TIMEOUT", min=1.0, help="Seconds until it gives up with exit 5."
        ),
    ] = None,
) -> None:
    """Real models, real traffic, one promotion and one rollback, in about a minute."""
    import sys

    from .demo.models import require_extra

    require_extra()  # before the story, which loads what the extra brings

    from .demo.story import tell
    from .output import console, emit

    if scenario is None:
        scenarios = [Scenario.GOOD, Scenario.BIASED]
    elif scenario is Scenario.ALL:
        scenarios = [one for one in Scenario if one is not Scenario.ALL]
    else:
        scenarios = [scenario]
    # A document on stdout keeps the story on stderr.
    stream = sys.stdout if output is Format.TABLE else sys.stderr
    ends = tell([one.value for one in scenarios], console(stream), timeout)
    if output is not Format.TABLE:
        emit(ends, output, lambda _: None)
