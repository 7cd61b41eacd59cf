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
from accede.policies.load import parse_service
from tests.cli.check.test_check import ACCEDE, POLICY, Bench, bench, servers

__all__ = ["bench", "servers"]

GATE = "  - {metric: outcome.accuracy, max_decrease: 10pp, labels: {mature_after: 1d}}\n"
SERVICE = """
format: accede/v1
kind: ModelService
name: s
match: {path: /p}
protocol: json
versions: {"1": {url: "http://a:1"}}
stable: "1"
prediction: {path: score, type: number, range: [0, 1], selected: ">= 0.5"}
slices:
  origin: {from: labels, values: [domestic, foreign]}
outcome: {type: binary, keep: 30d}
"""
BINARY = Truth(parse_service(SERVICE))


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
        assert [data.row(at).label.values for at in range(3)] == [(1.0,), (0.0,), ()]
        assert data.labelled == 2
    lines = '{"request": {"x": 1}, "label": [1, false]}\n{"request": {"x": 2}}\n'
    with closing(Dataset(written(tmp_path, lines, ".jsonl"), "json", 1000, None, BINARY)) as data:
        assert [data.row(at).label.values for at in range(2)] == [(1.0, 0.0), ()]


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


def test_groups_that_only_labels_tell_are_read_as_feedback_is_and_no_feature(tmp_path: Path) -> None:
    path = written(tmp_path, "x,paid,land\n1,1,foreign\n2,0,\n3,,domestic\n", ".csv")
    columns = Columns(label="paid", groups=(("origin", "land"),))
    with closing(Dataset(path, "json", 1000, columns, BINARY)) as data:
        rows = [data.row(at) for at in range(3)]
        assert [row.label.groups for row in rows] == [("origin=foreign",), (), ("origin=domestic",)]
        assert [json.loads(row.body) for row in rows] == [{"x": 1}, {"x": 2}, {"x": 3}]
        assert data.labelled == 2
    lines = '{"request": {"x": 1}, "label": 1, "groups": {"origin": "foreign"}}\n'
    with closing(Dataset(written(tmp_path, lines, ".jsonl"), "json", 1000, None, BINARY)) as data:
        assert data.row(0).label == ((1.0,), ("origin=foreign",))


@pytest.mark.parametrize("groups", ['{"origin": "secret"}', '{"secret-slice": "foreign"}'])
def test_a_group_that_the_service_does_not_know_stops_the_check_without_naming_it(
    tmp_path: Path, groups: str
) -> None:
    path = written(tmp_path, f'{{"request": {{"x": 1}}, "label": 1, "groups": {groups}}}\n', ".jsonl")
    with pytest.raises(FileError) as caught:
        Dataset(path, "json", 1000, None, BINARY)
    assert "rows.jsonl:1:1: its label: no " in str(caught.value)
    assert "'secret'" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("wrong", "code", "outcome"), [(0.0, 0, "pass"), (0.6, 3, "fail")])
def test_a_gate_by_groups_that_only_labels_tell_is_decided(
    bench: Bench, wrong: float, code: int, outcome: str
) -> None:
    """The candidate is wrong for one group, which stands in no request."""
    labelled(bench)
    folder, chance = bench.folder, random.Random(7)
    service = (folder / "service.yaml").read_text()
    assert "slices:\n" in service
    (folder / "service.yaml").write_text(
        service.replace("slices:\n", "slices:\n  origin: {from: labels, values: [domestic, foreign]}\n")
    )
    (folder / "policy.yaml").write_text(POLICY + GATE.replace("accuracy,", "accuracy, by: origin,"))
    ours: list[str] = []
    theirs: list[str] = []
    for number in range(1500):
        x, origin = chance.random(), chance.choice(("domestic", "foreign"))
        row = {"instances": [{"x": x, "group": chance.choice("ab")}]}
        said = 1.0 - x if origin == "foreign" and chance.random() < wrong else x
        common = {"id": str(number), "status": 200}
        known = {"label": int(x >= 0.5), "groups": {"origin": origin}}
        answer = {"predictions": [{"score": x}]}
        ours.append(json.dumps({**common, **known, "request": row, "response": answer}))
        theirs.append(json.dumps({**common, "response": {"predictions": [{"score": said}]}}))
    for name, lines in (("ours.jsonl", ours), ("theirs.jsonl", theirs)):
        (folder / name).write_text("\n".join(lines))
    more = ("--stable-answers", "ours.jsonl", "--candidate-answers", "theirs.jsonl", "-o", "json")
    found = bench.run([ACCEDE, "check", "service.yaml", *more])
    assert found.returncode == code, found.stdout + found.stderr
    (gate,) = [one for one in json.loads(found.stdout)["gates"] if "outcome.accuracy" in one["gate"]]
    assert (gate["decided"], gate["outcome"]) == (True, outcome)
    assert "foreign" in json.dumps(gate)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--group", "group=paid"), "the column 'paid' is that of --label"),
        (("--group", "group=a", "--group", "group=b"), "comes twice"),
        (("--group", "land"), "has no slice 'land'"),
    ],
)
def test_a_column_is_one_thing_only(bench: Bench, flags: tuple[str, ...], told: str) -> None:
    labelled(bench)
    found = bench.check("--label", "paid", *flags)
    assert found.returncode == 2
    assert told in found.stderr
