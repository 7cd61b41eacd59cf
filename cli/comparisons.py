"""Comparisons as a table where the terminal is wide enough, else as two lines each, so no column breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

_GAP = 2  # columns of space between two cells of a table
_HEADING = 24  # a heading folds, and is readable from this width on
_LAST = 14  # so does the last cell: an outcome, and perhaps why
_INDENT = " "


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row. `heading`: what is compared, empty where it is that of the row before. `note`: why."""

    heading: str
    cells: tuple[str, ...]
    outcome: Text
    note: str = ""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Rows under the names of their columns: heading, cells, outcome, note; `>` marks a column of numbers.

    `in_heading`: cells that a narrow terminal does without, because the heading says the same.
    """

    columns: tuple[str, ...]
    rows: Sequence[Comparison]
    in_heading: frozenset[int] = frozenset()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The form that fits into the width at hand."""
        if _HEADING + self._cells_width() + _LAST <= options.max_width:
            yield self._table()
        else:
            yield from self._lines()

    def _cells_width(self) -> int:
        return sum(self._widths()) + _GAP * (len(self.columns) - 2)

    def _widths(self) -> list[int]:
        names = [name.lstrip(">") for name in self.columns[1:-1]]
        return [
            max(Text(text).cell_len for text in (name, *(row.cells[at] for row in self.rows)))
            for at, name in enumerate(names)
        ]

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        last = len(self.columns) - 1
        for at, column in enumerate(self.columns):
            name = column.lstrip(">")
            table.add_column(
                name,
                justify="right" if name != column else "left",
                no_wrap=0 < at < last,
                min_width=_HEADING if at == 0 else None,
                overflow="fold",
            )
        for row in self.rows:
            table.add_row(row.heading, *row.cells, _told(row))
        return table

    def _lines(self) -> RenderResult:
        widths = self._widths()
        shown = [
            at
            for at in range(len(widths))
            if at not in self.in_heading and any(r.cells[at] for r in self.rows)
        ]

        def aligned(cells: Sequence[str]) -> str:
            padded = [
                cells[at].rjust(widths[at])
                if self.columns[at + 1].startswith(">")
                else cells[at].ljust(widths[at])
                for at in shown
            ]
            return _INDENT + " ".join(padded)

        yield Text(aligned([name.lstrip(">") for name in self.columns[1:-1]]), "dim")
        for row in self.rows:
            if row.heading:
                yield Text(row.heading)
            yield Text.assemble(aligned(row.cells), " ", row.outcome)
            if row.note:
                yield Text(f"{_INDENT * 4}{row.note}", "dim")


def _told(row: Comparison) -> Text:
    return Text.assemble(row.outcome, (f": {row.note}", "dim")) if row.note else row.outcome
