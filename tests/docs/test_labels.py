"""What docs/labels.md shows is what happens: its plan is made, its file of labels is taken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from accede.cli.labels_file import check, labels
from accede.cli.main import app
from accede.controller.labels.feedback import FeedbackRequest, take
from accede.policies.load import load_service
from accede.store.labels import LabelCounts
from accede.store.sqlite import SqliteStore

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "labels.md").read_text(encoding="utf-8")


def test_the_plan_says_what_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    block = re.search(r"^ *\$ accede (plan .+)\n((?:.+\n)*?) *```", PAGE, re.MULTILINE)
    assert block is not None
    shown = [" ".join(line.split()) for line in block[2].splitlines() if "…" not in line]
    assert len(shown) >= 2
    got = CliRunner().invoke(app, shlex.split(block[1]), env={"COLUMNS": "140"})
    assert got.exit_code == 0, got.output
    printed = [" ".join(line.split()) for line in got.output.splitlines()]
    assert [line for line in shown if line not in printed] == []


def test_the_labels_are_taken(tmp_path: Path) -> None:
    (name,) = re.findall(r"^ *\$ accede feedback chargebacks (\S+)$", PAGE, re.MULTILINE)
    file = ROOT / name
    assert check(file) == 3
    sent = [{"request_id": one.request_id, "value": one.value, "groups": one.groups} for one in labels(file)]
    assert {group for one in sent for group in one["groups"]} == {"origin"}  # type: ignore[union-attr]
    service = load_service(str(ROOT / "examples" / "labels" / "service.yaml"))
    store = SqliteStore(tmp_path / "accede.db")
    got = take(store, service, FeedbackRequest.model_validate({"labels": sent}), 1.0)
    assert got == LabelCounts(new=3, unknown=3)
    store.close()
