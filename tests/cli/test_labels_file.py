"""Files of labels: which lines are labels, and what is said of those that are none."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from accede.cli.labels_file import MOST_PROBLEMS, LabelLine, check, labels
from accede.errors import FileError, UsageError


def written(tmp_path: Path, name: str, text: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_csv_with_groups_in_further_columns(tmp_path: Path) -> None:
    text = '\ufeffvalue,request_id,sex\n1,a,female\n\n"0",b,\n,c,male\n'
    path = written(tmp_path, "l.csv", text)
    assert check(path) == 3
    assert list(labels(path)) == [
        LabelLine("a", "1", {"sex": "female"}, f"{path}:2"),
        LabelLine("b", "0", {}, f"{path}:4"),
        LabelLine("c", None, {"sex": "male"}, f"{path}:5"),
    ]


def test_json_lines_with_one_value_or_one_for_each_instance(tmp_path: Path) -> None:
    text = (
        '{"request_id": 17, "value": true}\n\n{"request_id": "b", "value": [1, 0], "groups": {"sex": "male"}}'
    )
    path = written(tmp_path, "l.jsonl", text)
    assert check(path) == 2
    assert list(labels(path)) == [
        LabelLine("17", True, {}, f"{path}:1"),
        LabelLine("b", [1.0, 0.0], {"sex": "male"}, f"{path}:3"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("l.csv", "id,value\na,1\n", ":1:1: the first line must name the columns request_id and value"),
        ("l.csv", "request_id,value\na,1\nb\n", ":3:1: has 1 fields where the first line names 2"),
        ("l.csv", "request_id,value\n,1\n", ":2:1: has no request_id"),
        ("l.csv", "request_id,value\na,\n", ":2:1: has no value"),
        ("l.csv", 'request_id,value\na,"1\n', ": is no CSV"),
        ("l.csv", "request_id,value\n", ":1:1: holds no label"),
        ("l.csv", b"request_id,value\n\xff\xfe,1\n", ": is not UTF-8"),
        ("l.jsonl", '{"request_id": "a", "value": 1}\n{"a"', ":2:1: is no JSON"),
        ("l.jsonl", '{"request_id": "a", "valu": 1}', ":1:1: is no label (Object contains unknown field"),
        ("l.jsonl", '{"request_id": "a", "value": "' + "x" * 2**18 + '"}', ":1:1: is longer than a label"),
        ("l.jsonl", "[" * 100_000, ":1:1: is no"),
        ("l.jsonl", '{"request_id": "a", "value": []}', ":1:1: has no value"),
        (
            "l.jsonl",
            '{"request_id": "' + "a" * 1001 + '", "value": 1}',
            ":1:1: has a request_id of more than",
        ),
        ("l.csv", gzip.compress(b"request_id,value\na,1\n", mtime=0), ":1:1: is compressed (gzip)"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(FileError) as refused:
        check(written(tmp_path, name, text))
    assert told in str(refused.value)


def test_a_byte_order_mark_and_spaces_around_an_id_are_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path, "l.jsonl", '\ufeff{"request_id": "a", "value": 1}\n')
    assert [one.request_id for one in labels(path)] == ["a"]
    path = written(tmp_path, "l.csv", "request_id,value\n a ,1\n")
    assert [one.request_id for one in labels(path)] == ["a"]


def test_many_wrong_lines_are_not_all_told(tmp_path: Path) -> None:
    with pytest.raises(FileError) as refused:
        check(written(tmp_path, "l.jsonl", "x\n" * 1000))
    assert len(refused.value.problems) == MOST_PROBLEMS


def test_a_file_of_another_kind_or_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv, \.jsonl"):
        check(written(tmp_path, "l.txt", "a"))
    with pytest.raises(FileError, match="cannot be read"):
        check(tmp_path / "none.csv")
    os.mkfifo(tmp_path / "l.csv")
    with pytest.raises(FileError, match="is no file but a pipe"):
        check(tmp_path / "l.csv")
