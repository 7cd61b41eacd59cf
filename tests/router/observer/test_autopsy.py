"""A body that kills the observer is named by the next one, and kept without what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from accede.router.facts import Body, Ending, Fact, Flush, Pair, encode_flush
from accede.router.marker import EXCHANGE, KIND, LARGEST, NUMBER, PAIR, Marker
from accede.router.observer.autopsy import KEPT, look_back
from accede.router.observer.redaction import masked


@pytest.fixture
def marker() -> Iterator[Marker]:
    made = Marker.create()
    yield made
    made.close()


def flush() -> bytes:
    facts = [
        Fact(n, 0, n % 2, n % 2, 1.0, int(Ending.ANSWERED), 200, 0.1, -1, False, 1, 9, 9) for n in (7, 8)
    ]
    bodies = [
        Body(7, b'{"name": "Ann", "age": 42}', b"[1, 2]", "", ""),
        Body(8, b"\x1f\x8b\x00", b'{"error": "x"}', "gzip", ""),
    ]
    pair = Pair(7, 0, 1.0, 0, 200, 0.1, 0, 200, 0.1, False, b"{}", b'{"a": 9}', b"[[[[", "", "", "")
    return encode_flush(Flush(0, "b", 1.0, 9, 1.0, 9, 1.0, [], facts, bodies, [pair], []))[4:]


def died(marker: Marker, kind: int, number: int, message: bytes) -> None:
    marker.begin(message)
    marker.cells[NUMBER] = number
    marker.cells[KIND] = kind


def test_nothing_is_said_where_nobody_died(marker: Marker, tmp_path: Path) -> None:
    marker.begin(flush())
    marker.done()
    assert look_back(marker, tmp_path / "poison") == ""
    assert not (tmp_path / "poison").exists()


def test_the_exchange_is_named_and_its_shape_kept(marker: Marker, tmp_path: Path) -> None:
    died(marker, EXCHANGE, 7, flush())
    line = look_back(marker, tmp_path / "poison")
    assert "exchange 7 of candidate" in line
    (path,) = (tmp_path / "poison").glob("*.json")
    assert str(path) in line
    report = json.loads(path.read_bytes())
    assert report["request"]["shape"] == '{"xxxx": "xxx", "xxx": 00}'
    assert report["response"] == {"bytes": 6, "encoding": "", "shape": "[0, 0]"}
    assert "Ann" not in path.read_text()
    assert look_back(marker, tmp_path / "poison") == "", "it is reported once"


def test_a_compressed_body_is_only_measured(marker: Marker, tmp_path: Path) -> None:
    died(marker, EXCHANGE, 8, flush())
    look_back(marker, tmp_path)
    report = json.loads((tmp_path / "poison-1.json").read_bytes())
    assert report["request"] == {"bytes": 3, "encoding": "gzip"}
    assert report["arm"] == "stable"


def test_a_pair_is_named_as_one(marker: Marker, tmp_path: Path) -> None:
    died(marker, PAIR, 7, flush())
    assert "the pair 7" in look_back(marker, tmp_path)
    report = json.loads((tmp_path / "poison-1.json").read_bytes())
    assert report["candidate_response"]["shape"] == "[[[["
    assert report["stable_response"]["shape"] == '{"x": 0}'


def test_a_flush_too_large_to_keep_still_tells_the_number(marker: Marker, tmp_path: Path) -> None:
    died(marker, EXCHANGE, 3, b"x" * (LARGEST + 1))
    assert "exchange 3" in look_back(marker, tmp_path)


def test_reports_do_not_pile_up(marker: Marker, tmp_path: Path) -> None:
    for _ in range(KEPT + 5):
        died(marker, EXCHANGE, 7, flush())
        look_back(marker, tmp_path)
    assert len(list(tmp_path.glob("poison-*.json"))) == KEPT


def test_a_mask_leaves_nothing_but_the_shape() -> None:
    assert masked('{"é": "Zoë-1", "n": -2.5e3}'.encode()) == b'{"xx": "xxxx-0", "x": -0.0x0}'
    assert len(masked(bytes(range(256)))) == 256
