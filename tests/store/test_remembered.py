"""A store reads again only what was published again, whoever published it and however rows are numbered."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from accede.store import sqlite_evidence
from accede.store.evidence import Evidence, Series, SeriesKey, decode_evidence, encode_evidence
from accede.store.reading import plainly
from accede.store.room import memory_limit
from accede.store.sqlite import SqliteStore
from accede.store.sqlite_evidence import LEAST_BYTES, RememberedEvidence, most_bytes


def evidence(series: dict[SeriesKey, Series], source: str = "r1", epoch: int = 1) -> Evidence:
    return Evidence(
        wire="accede.evidence/1", service="s", rollout="r", epoch=epoch, source=source, published=1.0,
        watermark=1.0, series=series,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path / "accede.db")) as opened:
        yield opened


def of(count: float, source: str = "r1", epoch: int = 1) -> Evidence:
    return evidence({SeriesKey("stable", "", "errors"): Series([count], [0.0], [0.0])}, source, epoch)


def counts(found: tuple[Evidence, ...]) -> list[float]:
    return [one.series[SeriesKey("stable", "", "errors")].n[0] for one in found]


def test_only_what_was_published_since_is_decoded_again(tmp_path: Path) -> None:
    decoded: list[int] = []

    def counting(body: bytes, like: Evidence | None) -> Evidence:
        found = decode_evidence(body)
        decoded.append(found.epoch)
        assert like is None or like.rollout == found.rollout
        return found

    with closing(SqliteStore(tmp_path / "accede.db", decode=counting)) as store:
        _publish_and_read(store)
    assert decoded == [1, 2, 2, 2] + [2] * 20


def _publish_and_read(store: SqliteStore) -> None:
    for epoch in (1, 2):
        store.publish_evidence(of(10.0, epoch=epoch))
    first = store.evidence("s", "r")
    assert store.evidence("s", "r")[0] is first[0]
    store.publish_evidence(of(11.0, epoch=2))
    later = store.evidence("s", "r")
    assert later[0] is first[0]
    assert counts(later) == [10.0, 11.0]
    store.publish_evidence(of(3.0, "r2", epoch=2))
    assert counts(store.evidence("s", "r")) == [10.0, 11.0, 3.0]
    for count in range(20):  # the only source of a rollout that is the newest of all, again and again
        store.publish_evidence(of(float(count), "r2", epoch=2))
        assert counts(store.evidence("s", "r"))[-1] == count


def test_another_handles_writes_are_seen_at_once(store: SqliteStore, tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "accede.db")) as other:
        for count in range(1, 6):
            other.publish_evidence(of(float(count)))
            assert counts(store.evidence("s", "r")) == [count]


def test_rows_that_are_numbered_anew_are_read_anew(store: SqliteStore, tmp_path: Path) -> None:
    for count in (1.0, 2.0, 3.0):
        store.publish_evidence(of(count, "r1"))
        store.publish_evidence(of(count, "r2"))
    before = store.evidence("s", "r")
    with closing(sqlite3.connect(tmp_path / "accede.db")) as connection:
        connection.execute("VACUUM")
    after = store.evidence("s", "r")
    assert counts(after) == [3.0, 3.0]
    assert after[0] is not before[0]


def test_what_is_remembered_is_bounded(store: SqliteStore) -> None:
    for name in ("a", "b", "c"):
        store.publish_evidence(msgspec.structs.replace(of(1.0), rollout=name))
    body = len(encode_evidence(msgspec.structs.replace(of(1.0), rollout="a")))
    passed = [0.0]
    remembered = RememberedEvidence(plainly, most=2 * 2 * body, clock=lambda: passed[0])
    with store._reading() as connection:
        for _ in range(3):  # all are read again and again, and two keep their place
            found = {name: remembered.read(connection, "s", name) for name in ("a", "b", "c")}
            assert remembered.size <= 2 * 2 * body
            assert remembered.read(connection, "s", "a")[0] is found["a"][0]
            assert remembered.read(connection, "s", "b")[0] is found["b"][0]
            assert remembered.read(connection, "s", "c")[0] is not found["c"][0]
            passed[0] += 50.0
        passed[0] += 20.0  # "a" and "b" are not read any more
        found = {name: remembered.read(connection, "s", name) for name in ("c", "b")}
        assert remembered.read(connection, "s", "c")[0] is found["c"][0]
        assert remembered.read(connection, "s", "b")[0] is found["b"][0]
        nothing = RememberedEvidence(plainly, most=1)
        assert nothing.read(connection, "s", "c") == found["c"]
        assert nothing.size == 0


def test_a_quarter_of_the_memory_is_for_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, broken, gone = tmp_path / "memory.max", tmp_path / "broken", tmp_path / "gone"
    broken.write_text("max\n")
    machine = memory_limit([broken, gone])
    assert machine is not None
    group.write_text(f"{3 * 2**20}\n")
    assert memory_limit([gone, group]) == 3 * 2**20
    for memory, ours in ((8 * 2**30, 2 * 2**30), (2**30, LEAST_BYTES), (None, LEAST_BYTES)):
        monkeypatch.setattr(sqlite_evidence, "memory_limit", lambda memory=memory: memory)
        assert most_bytes() == ours
