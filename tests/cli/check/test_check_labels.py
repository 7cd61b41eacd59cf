"""`accede check` decides gates on outcomes where its rows say what was true."""

from __future__ import annotations

import json
import random
from contextlib import closing
from pathlib import Path

import pytest

from accede.cli.check.dataset import Columns, Dataset
from accede.cli.check.truth import Truth
from accede.errors import FileError
from accede.policies.outcome import Outcome
from tests.cli.check.test_check import ACCEDE, POLICY, Bench, bench, servers

__all__ = ["bench", "servers"]

GATE = "  - {metric: outcome.accuracy, max_decrease: 10pp, labels: {mature_after: 1d}}\n"
BINARY = Truth(Outcome.model_validate({"type": "binary"}))


def labelled(bench: Bench) -> None:
    """A tenth of the rows turns out otherwise than x says; a twentieth has no label."""
    folder, chance = bench.folder, random.Random(3)
    service = (folder / "service.yaml").read_text()
    (folder / "service.yaml").write_text(service + "outcome: {type: binary, keep: 30d}\n")
    (folder / "policy.yaml").write_text(POLICY + GATE)
    lines = ["x,group,paid"]
    for _ in range(900):
        x = chance.random()
        true = int((x >= 0.5) != (chance.random() < 0.1))
        lines.append(f"{x:.4f},{chance.choice('ab')},{'' if chance.random() < 0.05 else true}")
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_a_column_of_labels_lets_a_check_decide_what_it_otherwise_cannot(bench: Bench) -> None:
    labelled(bench)
    bench.behave(upside_down=0.0)
    found = bench.check("--label", "paid", "-o", "json")
    gates = {gate["gate"]: gate for gate in json.loads(found.stdout)["gates"]}
    gate = gates["outcome.accuracy max_decrease 10pp"]
    assert (gate["decided"], gate["outcome"]) == (True, "pass")
    bench.behave(upside_down=0.3)
    found = bench.check("--label", "paid", "-o", "json")
    bench.behave(upside_down=0.0)
    assert found.returncode == 3, found.stdout + found.stderr
    gates = {gate["gate"]: gate for gate in json.loads(found.stdout)["gates"]}
    assert gates["outcome.accuracy max_decrease 10pp"]["outcome"] == "fail"


@pytest.mark.slow
@pytest.mark.parametrize(("wrong", "code", "outcome"), [(0.0, 0, "pass"), (0.3, 3, "fail")])
def test_recorded_answers_with_labels_are_decided_too(
    bench: Bench, wrong: float, code: int, outcome: str
) -> None:
    labelled(bench)
    chance = random.Random(5)
    ours: list[str] = []
    theirs: list[str] = []
    for number in range(900):
        x = chance.random()
        row = {"instances": [{"x": x, "group": chance.choice("ab")}]}
        true = int((x >= 0.5) != (chance.random() < 0.1))
        said = 1.0 - x if chance.random() < wrong else x
        common = {"id": str(number), "status": 200}
        ours.append(
            json.dumps({**common, "request": row, "label": true, "response": {"predictions": [{"score": x}]}})
        )
        theirs.append(json.dumps({**common, "response": {"predictions": [{"score": said}]}}))
    for name, lines in (("ours.jsonl", ours), ("theirs.jsonl", theirs)):
        (bench.folder / name).write_text("\n".join(lines))
    more = ("--stable-answers", "ours.jsonl", "--candidate-answers", "theirs.jsonl", "-o", "json")
    found = bench.run([ACCEDE, "check", "service.yaml", *more])
    assert found.returncode == code, found.stdout + found.stderr
    gates = {gate["gate"]: gate for gate in json.loads(found.stdout)["gates"]}
    assert gates["outcome.accuracy max_decrease 10pp"]["outcome"] == outcome


def written(folder: Path, text: str, suffix: str) -> Path:
    (folder / f"rows{suffix}").write_text(text)
    return folder / f"rows{suffix}"


def test_labels_of_a_file_are_read_as_feedback_is(tmp_path: Path) -> None:
    path = written(tmp_path, "x,paid\n1,true\n2,0\n3,\n", ".csv")
    with closing(Dataset(path, "json", 1000, Columns(label="paid"), BINARY)) as data:
        assert [data.row(at).label for at in range(3)] == [(1.0,), (0.0,), ()]
        assert data.labelled == 2
    lines = '{"request": {"x": 1}, "label": [1, false]}\n{"request": {"x": 2}}\n'
    with closing(Dataset(written(tmp_path, lines, ".jsonl"), "json", 1000, None, BINARY)) as data:
        assert [data.row(at).label for at in range(2)] == [(1.0, 0.0), ()]


@pytest.mark.parametrize(
    ("truth", "told"),
    [
        (BINARY, "rows.csv:3:1: its label: the value is a text; allowed for an outcome of type binary"),
        (Truth(None), "rows.csv:2:1: has a label, and the service declares no outcome"),
    ],
)
def test_a_label_that_means_nothing_stops_the_check_with_its_line(
    tmp_path: Path, truth: Truth, told: str
) -> None:
    path = written(tmp_path, "x,paid\n1,1\n2,secret\n", ".csv")
    with pytest.raises(FileError) as caught:
        Dataset(path, "json", 1000, Columns(label="paid"), truth)
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)
