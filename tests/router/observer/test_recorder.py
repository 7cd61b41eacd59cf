"""The recorder keeps what the file allows, within its bytes, and nothing depends on its disk."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from accede.router.facts import Body, Ending, Fact, Pair
from accede.router.observer.extract import FORMATS
from accede.router.observer.recorder import Recorder, Recording
from accede.store.routes import RouteRecording

FORM = FORMATS["json"]("", number=True)
SECRET = "4111-1111"  # what must never reach the disk
REQUEST = {"amount": 12, "user": {"id": "ann", "card": SECRET}, "rows": [{"x": 1}, {"x": 2}]}


def fact(number: int = 1) -> Fact:
    return Fact(number, 0, 1, 1, 1000.5, int(Ending.ANSWERED), 200, 0.25, -1, False, 1, 10, 10)


def body(request: object = None, response: object = None) -> Body:
    written = json.dumps(REQUEST if request is None else request).encode()
    return Body(1, written, json.dumps(response or {"score": 0.5}).encode(), "", "", request_id="r-1")


class Recorded:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.complaints: list[str] = []
        self.recorder = Recorder(folder, self.complaints.append)

    def recording(self, **rule: Any) -> Recording:
        found = self.recorder.recording(
            "fraud", "r", 3, RouteRecording(**{"sample": 1.0, "max_bytes": 2**20, **rule}), FORM
        )
        assert found is not None
        return found

    def files(self) -> list[Path]:
        return sorted((self.folder / "fraud").glob("*.jsonl"))

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for path in self.files() for line in path.read_text().splitlines()]


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    found = Recorded(tmp_path / "recordings")
    yield found
    found.recorder.close()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to let files grow beyond `size`: a full disk, for this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_only_allowed_fields_are_written(recorded: Recorded) -> None:
    recorded.recording(request=("amount", "rows[*].x"), response=("score",)).exchange(
        fact(), body(), [0.5], 0
    )
    (line,) = recorded.lines()
    assert line["request"] == {"amount": 12, "rows[*].x": [1, 2]}
    assert line["response"] == {"score": 0.5}
    assert (line["service"], line["rollout"], line["epoch"], line["arm"]) == ("fraud", "r", 3, "candidate")
    assert (line["status"], line["latency"], line["request_id"]) == (200, 0.25, "r-1")
    assert line["predictions"] == [0.5]
    assert SECRET not in recorded.files()[0].read_text()
    assert "ann" not in recorded.files()[0].read_text()


def test_hashed_fields_are_equal_for_equal_values_and_keyed(recorded: Recorded, tmp_path: Path) -> None:
    rule = {"request": ("user.card", "amount"), "hashed": ("user.card",)}
    recording = recorded.recording(**rule)
    recording.exchange(fact(), body(), [], 0)
    recording.exchange(fact(), body({"user": {"card": "other"}}), [], 0)
    recording.exchange(fact(), body(), [], 0)
    one, two, three = (line["request"]["user.card"] for line in recorded.lines())
    assert one == three != two
    assert SECRET not in recorded.files()[0].read_text()
    elsewhere = Recorded(tmp_path / "another")
    elsewhere.recording(**rule).exchange(fact(), body(), [], 0)
    assert elsewhere.lines()[0]["request"]["user.card"] != one
    elsewhere.recorder.close()


def test_key_and_files_are_private(recorded: Recorded) -> None:
    recorded.recording().exchange(fact(), body(), [], 0)
    for path in (*recorded.files(), recorded.folder / "recording.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(recorded.folder.stat().st_mode) == 0o700


def test_pairs_are_recorded_with_both_predictions(recorded: Recorded) -> None:
    pair = Pair(
        1, 0, 5.0, int(Ending.ANSWERED), 200, 0.1, int(Ending.TIMEOUT), 0, 2.0, False, b'{"amount": 3}', b"",
        b"", "", "", "",
    )  # fmt: skip
    recorded.recording(request=("amount",)).pair(pair, [0.4], [], 0)
    (line,) = recorded.lines()
    assert line["kind"] == "pair"
    assert line["stable"]["predictions"] == [0.4]
    assert line["candidate"] == {"status": 0, "latency": 2.0, "ending": "timeout", "predictions": []}
    assert line["request"] == {"amount": 3}


def test_all_files_together_stay_below_the_cap_and_the_oldest_go(recorded: Recorded) -> None:
    cap = 256 * 1024
    recording = recorded.recording(request=("text",), max_bytes=cap)
    for number in range(600):
        recording.exchange(fact(), body({"text": f"{number:04d}" + "x" * 1500}), [], 0)
        if number % 50 == 0:
            assert sum(path.stat().st_size for path in recorded.files()) <= cap
    kept = [int(line["request"]["text"][:4]) for line in recorded.lines()]
    assert kept == list(range(kept[0], 600)), "what is kept is the newest, without a hole"
    assert kept[0] > 0
    assert len(recorded.files()) > 4


def test_a_new_start_goes_on_in_a_new_file(recorded: Recorded) -> None:
    recorded.recording().exchange(fact(), body(), [], 0)
    recorded.recorder.close()
    with recorded.files()[0].open("ab") as file:
        file.write(b'{"v":1,"cut')  # as a crash leaves it
    again = Recorded(recorded.folder)
    again.recording().exchange(fact(), body(), [], 0)
    first, second = recorded.files()
    assert second.read_bytes().endswith(b"\n")
    assert first.read_bytes().endswith(b"cut")
    again.recorder.close()


def test_a_long_value_is_named_not_kept(recorded: Recorded) -> None:
    recorded.recording(request=("text",)).exchange(fact(), body({"text": "y" * 5000}), [], 0)
    assert recorded.lines()[0]["request"] == {"text": "(longer than is recorded)"}


def test_a_full_disk_is_said_once_and_leaves_no_half_line(recorded: Recorded) -> None:
    recording = recorded.recording(request=("text",))
    recording.exchange(fact(), body({"text": "a" * 500}), [], 0)
    size = recorded.files()[0].stat().st_size
    with files_of_at_most(size + 100):
        recording.exchange(fact(), body({"text": "b" * 500}), [], 1)
    with files_of_at_most(100):
        recording.exchange(fact(), body({"text": "c" * 500}), [], 30)
    assert len(recorded.complaints) == 1
    assert "interrupted" in recorded.complaints[0]
    assert all(path.stat().st_size in (0, size) for path in recorded.files())
    recording.exchange(fact(), body({"text": "d" * 500}), [], 60)
    assert [line["request"]["text"][0] for line in recorded.lines()] == ["a", "d"]


def test_a_folder_that_cannot_be_used_records_nothing_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "recordings").write_text("a file where a folder should be")
    recorded = Recorded(tmp_path / "recordings")
    for _ in range(2):
        assert recorded.recorder.recording("s", "r", 1, RouteRecording(sample=1.0), FORM) is None
    assert len(recorded.complaints) == 1


def test_no_body_stops_it(recorded: Recorded) -> None:
    recording = recorded.recording(request=("a",), response=("b",))
    for request in (b"", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b'{"a": "\\ud800"}'):
        recording.exchange(fact(), Body(1, request, b"{", "", "br, gzip"), [], 0)
    assert all(set(line["request"]) <= {"a"} for line in recorded.lines())


def test_recordings_leave_a_reserve_of_the_disk_to_the_store(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs(recorded.folder.parent)
    free = 20
    blocks = 4096  # of 4 KiB: a disk of 16 MiB, of which a tenth is the reserve

    def small(_: object) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, blocks, free, free, *real[5:]))

    monkeypatch.setattr(os, "statvfs", small)
    recording = recorded.recording(request=("amount",))
    recording.exchange(fact(), body(), [0.5], 100.0)
    recording.exchange(fact(), body(), [0.5], 101.0)
    assert recorded.lines() == []
    (complaint,) = recorded.complaints
    assert "its disk is nearly full, the rest is kept for evidence; free space on it" in complaint
    free = 420
    recording.exchange(fact(), body(), [0.5], 111.0)
    assert len(recorded.lines()) == 1
