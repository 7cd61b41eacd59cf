"""What a check is given that is no evidence: it says so, with the place, and never passes."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import msgspec
import pytest

from accede.cli.check import junit
from accede.cli.check.dataset import Columns, Dataset
from accede.cli.check.outcome import Outcomes
from accede.cli.check.recorded import Answers
from accede.cli.check.request import Request, carried_out
from accede.cli.check.truth import Truth
from accede.errors import AccedeError, FileError, UsageError

SERVICE = """\
format: accede/v1
kind: ModelService
name: credit
match: {path: /v1/models/credit}
protocol: kserve-v1
versions:
  "1": {url: "http://127.0.0.1:9101"}
  "2": {url: "http://127.0.0.1:9102"}
stable: "1"
policy: policy.yaml
side_effects: none
prediction: {path: "predictions[0].score", type: number, range: [0, 1]}
"""
ERRORS_ALONE = """\
format: accede/v1
kind: RolloutPolicy
name: credit
steps:
  - {shadow: 100%, until: gates}
gates:
  - {metric: errors, max_increase: 5pp}
"""

Line = dict[str, Any]
CSV = "x,group\n0.1,a\n0.2,b\n"


def answers(path: Path, change: Callable[[int, Line], Mapping[str, Any] | None], count: int = 400) -> None:
    lines: list[str] = []
    for n in range(count):
        score = n * 37 % 100 / 100
        line: Line = {
            "id": n, "request": {"instances": [{"x": score}]},
            "response": {"predictions": [{"score": score}]},
        }  # fmt: skip
        changed = change(n, line)
        if changed is not None:
            lines.append(json.dumps(changed))
    path.write_text("\n".join(lines))


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "service.yaml").write_text(SERVICE)
        (folder / "policy.yaml").write_text(ERRORS_ALONE)

    def check(self, **changes: Any) -> Outcomes:
        asked: dict[str, Any] = {
            "service": self.folder / "service.yaml", "policy": None, "stable": "", "candidate": "",
            "data": None, "stable_answers": self.folder / "s.jsonl",
            "candidate_answers": self.folder / "c.jsonl", "path": "", "headers": (), "id_column": "",
            "unit_column": "", "label_column": "", "group_columns": (), "together": 8, "seed": 1,
            "timeout": None, "require_all": False,
        }  # fmt: skip
        return carried_out(Request(**{**asked, **changes}))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def ending(status: int | str) -> Line:
    return {"status": status} if isinstance(status, int) else {"ending": status}


def with_(changes: Line) -> Callable[[int, Line], Line]:
    return lambda _, line: {**line, **changes}


class TestNothingToCompare:
    """A gate on errors counts what the service calls errors: 404 is none, and 100% is no more than 100%."""

    @pytest.mark.parametrize("status", [404, 302, 500, "timeout", "connect"])
    @pytest.mark.parametrize("who", ["stable", "candidate", "both"])
    def test_a_version_that_answers_nothing_never_passes(
        self, bench: Bench, who: str, status: int | str
    ) -> None:
        for role in ("stable", "candidate"):
            changed = ending(status) if who in {role, "both"} else {}
            answers(bench.folder / f"{role[0]}.jsonl", with_(changed))
        found = bench.check()
        if who == "candidate" and status not in {404, 302}:
            assert (found.exit_code, found.verdict) == (3, "failed")
            return
        assert (found.exit_code, found.verdict) == (1, "error")
        assert f"version {'candidate' if who == 'candidate' else 'stable'} answered 0 of" in found.reason
        assert f"most often: {f'status {status}' if isinstance(status, int) else status};" in found.reason

    def test_servers_that_go_down_together_half_way_never_pass(self, bench: Bench) -> None:
        # Rows come in a random order, so a server that goes down is a run of neighbours in that order.
        answers(bench.folder / "s.jsonl", lambda n, line: {**line, **(ending(500) if n % 10 else {})})
        answers(bench.folder / "c.jsonl", lambda n, line: {**line, **(ending(500) if n % 10 else {})})
        assert bench.check().exit_code == 1

    def test_a_stable_that_fails_now_and_then_is_compared(self, bench: Bench) -> None:
        answers(bench.folder / "s.jsonl", lambda n, line: {**line, **(ending(500) if n % 10 == 0 else {})})
        answers(bench.folder / "c.jsonl", lambda _, line: line)
        assert bench.check().exit_code == 0


def test_junit_is_well_formed_whatever_a_note_says(bench: Bench) -> None:
    for name in ("s", "c"):
        answers(bench.folder / f"{name}.jsonl", lambda _, line: line, 5)
    bad = "".join(map(chr, (0, 8, 13, 0x7F, 0xD800, 0xFFFE, 0xFFFF))) + "<&>]]>\"'\U0001f600"
    found = msgspec.structs.replace(bench.check(), reason=bad, service=bad, policy=bad)
    suite = ET.fromstring(junit.text(found))[0]
    assert "<&>]]>\"'\U0001f600" in (suite[-1].text or "")


class TestRecordedAnswers:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"status": 0}, ":1:1: is no recorded answer: Expected `int` >= 100"),
            ({"status": -200}, ":1:1: is no recorded answer: Expected `int` >= 100"),
            ({"status": 10**30}, ":1:1: is no recorded answer: Expected `int` <= 599"),
            ({"latency": -0.1}, ":1:1: is no recorded answer: Expected `float` >="),
            ({"latency": "SECRET"}, ":1:1: is no recorded answer: Expected `float | null`"),
            ({"ending": "fine"}, ":1:1: is no recorded answer: Invalid enum value"),
        ],
    )
    def test_numbers_that_no_server_gives_are_refused(self, bench: Bench, change: Line, told: str) -> None:
        answers(bench.folder / "s.jsonl", lambda _, line: {**line, **change})
        answers(bench.folder / "c.jsonl", lambda _, line: line)
        with pytest.raises(FileError) as refused:
            bench.check()
        assert told in str(refused.value)
        assert "SECRET" not in str(refused.value)

    def test_flags_about_rows_are_refused_and_not_passed_over(self, bench: Bench) -> None:
        answers(bench.folder / "s.jsonl", lambda _, line: line)
        answers(bench.folder / "c.jsonl", lambda _, line: line)
        for changed in ({"label_column": "y"}, {"unit_column": "u"}, {"path": "/x"}, {"headers": ("a: b",)}):
            with pytest.raises(UsageError, match="is about --data"):
                bench.check(**changed)

    def test_a_file_that_changes_meanwhile_is_no_evidence(self, tmp_path: Path) -> None:
        path = tmp_path / "s.jsonl"
        answers(path, lambda _, line: line, 5)
        found = Answers(path, Truth(None), requests=True)
        found.line(3)
        answers(path, lambda _, line: {**line, "status": 201}, 5)
        os.utime(path, ns=(1, 1))
        with pytest.raises(AccedeError, match="has changed while it was read"):
            found.line(3)
        found.close()


def opened(path: Path) -> object:
    if path.suffix == ".csv":
        return Dataset(path, "kserve-v1", 10_000)
    return Answers(path, Truth(None), requests=False)


class TestFiles:
    @pytest.mark.parametrize("name", ["rows.csv", "answers.jsonl"])
    def test_a_pipe_a_packed_file_and_a_directory_are_named(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        os.mkfifo(path)
        with pytest.raises(FileError, match="1:1: is no file but a pipe"):
            opened(path)
        path.unlink()
        path.write_bytes(gzip.compress(CSV.encode()))
        with pytest.raises(FileError, match=r"1:1: is compressed \(gzip\); unpack it first"):
            opened(path)
        path.unlink()
        path.mkdir()
        with pytest.raises(FileError, match="cannot be read: Is a directory"):
            opened(path)
        with pytest.raises(FileError, match="cannot be read: No such file"):
            opened(tmp_path / f"none{path.suffix}")

    def test_a_byte_order_mark_and_line_ends_of_windows_are_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_bytes(b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode())
        rows = Dataset(path, "kserve-v1", 10_000)
        assert rows.row(1).body == b'{"instances":[{"x":0.2,"group":"b"}]}'
        rows.close()
        lines = tmp_path / "rows.jsonl"
        lines.write_bytes(b'\xef\xbb\xbf{"instances": [1]}\r\n{"instances": [2]}\r\n')
        found = Dataset(lines, "kserve-v1", 10_000)
        assert [found.row(n).body for n in (1, 0)] == [b'{"instances": [2]}', b'{"instances": [1]}']
        found.close()

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (",x\n0,0.1\n", ":1:1: column 1 has no name"),  # the index of a pandas frame
            ("x,group\n1e999,a\n", ":2:1: holds a number beyond 1.8e308"),
            (f"x,group\n{'9' * 5000},a\n", ":2:1: holds a number beyond 1.8e308"),
        ],
    )
    def test_what_no_server_would_read_alike_is_refused(self, tmp_path: Path, text: str, told: str) -> None:
        path = tmp_path / "rows.csv"
        path.write_text(text)
        with pytest.raises(FileError) as refused:
            Dataset(path, "kserve-v1", 10_000)
        assert told in str(refused.value)

    def test_columns_of_json_lines_are_refused_and_not_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text('{"instances": [1]}\n')
        with pytest.raises(UsageError, match="name columns of a CSV"):
            Dataset(path, "kserve-v1", 10_000, Columns(label="y"))

    def test_rows_that_change_meanwhile_are_no_evidence(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.csv"
        path.write_text(CSV)
        rows = Dataset(path, "kserve-v1", 10_000)
        rows.row(1)
        path.write_text(CSV.replace("0.2", "0.3"))
        os.utime(path, ns=(1, 1))
        with pytest.raises(AccedeError, match="has changed while it was read, at line 3"):
            rows.row(1)
        rows.close()


class TestFlags:
    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"candidate": "http://127.0.0.1:99999"}, "--candidate: no address of a server"),
            ({"candidate": "http://"}, "--candidate: no address of a server"),
            ({"candidate": "http://[::1"}, "--candidate: no address of a server"),
            ({"candidate": "http://exämple\U0001f600"}, "--candidate: no address of a server"),
            ({"stable": "http://a b"}, "--stable: no address of a server"),
            ({"path": "http://x/"}, "--path: write a path that begins with /"),
            ({"path": "/a\r\nb: c"}, "--path: write a path that begins with /"),
            ({"headers": ("content-length: 3",)}, "--header: content-length is set by the check itself"),
            ({"headers": ("a b: SECRET",)}, "--header: found no `name: value`"),
        ],
    )
    def test_what_cannot_be_sent_is_refused_before_anything_is(
        self, bench: Bench, changed: dict[str, Any], told: str
    ) -> None:
        (bench.folder / "rows.csv").write_text(CSV)
        given = {
            "data": bench.folder / "rows.csv", "candidate": "2", "stable_answers": None,
            "candidate_answers": None, **changed,
        }  # fmt: skip
        with pytest.raises(UsageError) as refused:
            bench.check(**given)
        assert told in str(refused.value)
        assert "SECRET" not in str(refused.value)
