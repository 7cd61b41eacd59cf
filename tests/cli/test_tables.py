"""What a person sees: readable at any width, and nothing in a name taken for markup."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from accede.cli import tables
from accede.cli.output import console
from accede.store.rollouts import Finding, Outcome, Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

KNOWN = Finding(
    cell="selection_rate{sex=[b]x} up", slice="sex=[b]x", outcome=Outcome.FAIL, reason="harm proven",
    effect="difference", unit="pp", estimate=-11.3, low=-15.6, high=-4.36, margin=5.0, n_stable=443,
    n_candidate=443, progress=0.0,
)  # fmt: skip
UNKNOWN = Finding(
    cell="selection_rate{sex=y} up", slice="sex=y", outcome=Outcome.INCONCLUSIVE,
    reason="selection_rate of sex=y: 8 batches, at least 10 needed", effect="difference", unit="pp",
    margin=5.0,
)  # fmt: skip
GATE = "selection_rate by sex max_shift 5pp"
VERDICTS = [Verdict(GATE, 0, "shadow", Outcome.FAIL, "sex=[b]x: harm proven", (KNOWN, UNKNOWN))]


def printed(shown: RenderableType, width: int) -> list[str]:
    screen = console(io.StringIO())
    screen.width = width
    screen.print(shown)
    assert isinstance(screen.file, io.StringIO)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [80, 120, 160])
def test_no_number_and_no_word_of_a_gate_is_broken(width: int) -> None:
    lines = printed(tables.gates(VERDICTS), width)
    assert max(len(line) for line in lines) <= width
    (found,) = [line for line in lines if "-11.3 pp" in line]
    for text in ("sex=[b]x", "[-15.6, -4.36] pp", "443", "0%", "fail"):
        assert text in found
    assert any("inconclusive" in line for line in lines)
    assert len(lines) < 10


def test_a_narrow_terminal_has_the_gate_and_the_reason_on_lines_of_their_own() -> None:
    lines = printed(tables.gates(VERDICTS), 80)
    assert lines[1] == f"{GATE}, shadow"
    assert lines[-1] == "    8 batches, at least 10 needed"
