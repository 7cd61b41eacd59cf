"""Printing: tables for people, JSON and YAML for programs, colour on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO

from .options import Format

if TYPE_CHECKING:
    from rich.console import Console

_LOG_WIDTH = 160  # where there is no terminal whose width could be asked for


def console(stream: TextIO | None = None) -> Console:
    """A console for a stream (stdout): colour on a terminal only, and no broken lines in a log."""
    from rich.console import Console

    file = stream or sys.stdout
    terminal = file.isatty()
    width = None if terminal else _LOG_WIDTH
    # Names and reasons are text of others: nothing in them is markup.
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False, soft_wrap=not terminal)


def emit(value: Any, output: Format, table: Callable[[Console], None]) -> None:
    """Print `value` (plain JSON data) as asked for; `table` prints the form for people."""
    if output is Format.JSON:
        import json

        print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201
    elif output is Format.YAML:
        import yaml

        print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), end="")  # noqa: T201
    else:
        table(console())
