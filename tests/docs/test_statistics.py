"""docs/statistics.md: its example runs, and its figures are the report's."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "statistics.md").read_text(encoding="utf-8")


def test_the_notebooks_example_prints_what_is_said() -> None:
    section = TEXT[TEXT.index("## Use it from a notebook") :]
    found = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", section, re.DOTALL)
    assert found is not None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(found[1], "docs/statistics.md", "exec"), {})
    assert printed.getvalue() == found[2]


def test_modules_that_the_notebook_names_exist() -> None:
    from accede.controller.stats import arrays, clusters, drift, evalues, planning, sample_ratio

    for module, name in (
        (clusters, "cluster_estimate"),
        (sample_ratio, "log_e"),
        (drift, "drift"),
        (evalues, "closed_e_values"),
    ):
        assert callable(getattr(module, name))
        assert f"`{module.__name__.rpartition('.')[2]}.{name}`" in TEXT
    assert arrays.__doc__
    assert planning.__doc__


@pytest.mark.parametrize("level", [0.05])
def test_the_figures_are_those_of_the_report(level: float) -> None:
    """The generated table is compared as a whole elsewhere; here that it says the worst and hides nothing."""
    report = json.loads((DOCS / "benchmarks" / "statistics.json").read_bytes())
    part = TEXT[TEXT.index("<!-- generated: measured -->") :]
    for rate in report["rates"]:
        if rate["kind"] == "ours" and rate["level"] == level:
            row = next(line for line in part.splitlines() if line.startswith(f"| {rate['method']} |"))
            said = [float(cell) for cell in re.findall(r"\| (\d+\.\d+)% \(", row)]
            assert 100 * rate["hits"] / rate["runs"] <= said[rate["side"] == "safe"] + 0.005
    for wait in report["delays"]:
        assert wait["kind"] != "ours" or wait["setting"] in part
