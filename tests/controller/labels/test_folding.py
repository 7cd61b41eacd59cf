"""Folding over a real store: exactly once, whoever is killed, and whoever else folds or sends labels."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import sleep

import pytest

from accede.controller.labels.folding import AT_ONCE, fold_mature
from accede.controller.labels.joining import Meaning
from accede.errors import StaleWrite
from accede.store.evidence import Evidence, SeriesKey
from accede.store.labels import ARM, Joined, Label, Prediction, request_key
from accede.store.measurement import Selected
from accede.store.sqlite import SqliteStore

MEANING = Meaning("binary", frozenset({"outcome.accuracy"}), (0.0, 1.0), Selected(">=", 0.5))

FOLDER = """
import sys
from pathlib import Path
from accede.controller.labels import folding
from accede.store.sqlite import SqliteStore
sys.path.insert(0, sys.argv[2])
from test_folding import MEANING
folding.AT_ONCE = 7
store = SqliteStore(Path(sys.argv[1]))
while True:
    print(folding.fold_mature(store, "s", "r1", MEANING, 1000.0, 1.0), flush=True)
"""


def predictions(count: int) -> list[Prediction]:
    return [
        Prediction(request_key("s", f"{k}"), ARM, "r1", k % 3, float(k), 1e12, k % 2, 0, 0, ((0.9,),))
        for k in range(count)
    ]


def labels(count: int, start: int = 0) -> list[Label]:
    return [Label(request_key("s", f"{k}"), (float(k % 5 > 0),)) for k in range(start, count)]


def total(store: SqliteStore, metric: str) -> tuple[float, float]:
    found = [
        series
        for one in store.evidence("s", "r1")
        for key, series in one.series.items()
        if (key.slice, key.metric) == ("", metric)
    ]
    return sum(sum(one.n) for one in found), sum(sum(one.sum) for one in found)


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "accede.db")


def test_only_what_is_mature_is_folded_and_only_once(store: SqliteStore) -> None:
    store.labels.publish_predictions("s", predictions(10))
    store.labels.add_labels("s", labels(4), 1e12)
    assert fold_mature(store, "s", "r1", MEANING, 5.0, 1.0) == 6
    assert fold_mature(store, "s", "r1", MEANING, 5.0, 1.0) == 0
    assert total(store, "labelled") == (6.0, 4.0)
    store.labels.add_labels("s", labels(6), 1e12)
    assert fold_mature(store, "s", "r1", MEANING, 100.0, 1.0) == 6
    assert total(store, "labelled") == (10.0, 6.0)
    assert total(store, "outcome.accuracy") == (6.0, 4.0)
    (first, *_) = store.evidence("s", "r1")
    assert (first.source, first.service, first.rollout) == ("labels", "s", "r1")
    assert SeriesKey("candidate", "", "labelled.selected") in first.series


def test_who_folds_second_writes_nothing(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.labels.publish_predictions("s", predictions(10))
    kept = store.labels.fold

    def late(
        service: str, rollout: str, number: int, rows: Sequence[Joined], sums: Sequence[Evidence]
    ) -> None:
        kept(service, rollout, number, rows, sums)
        kept(service, rollout, number, rows, sums)

    monkeypatch.setattr(store.labels, "fold", late)
    assert fold_mature(store, "s", "r1", MEANING, 100.0, 1.0) == 0
    assert total(store, "labelled") == (10.0, 0.0)
    with pytest.raises(StaleWrite):
        kept("s", "r1", 0, [], [])


def test_many_are_folded_in_parts(store: SqliteStore) -> None:
    store.labels.publish_predictions("s", predictions(AT_ONCE + 5))
    assert fold_mature(store, "s", "r1", MEANING, 1e9, 1.0) == AT_ONCE
    assert fold_mature(store, "s", "r1", MEANING, 1e9, 1.0) == 5
    assert total(store, "labelled") == (AT_ONCE + 5.0, 0.0)


@pytest.mark.slow
def test_folders_killed_at_any_moment_count_everything_once(tmp_path: Path) -> None:
    rng = random.Random(7)
    path = tmp_path / "accede.db"
    store = SqliteStore(path)
    store.labels.publish_predictions("s", predictions(600))
    for part in range(6):  # two fold at a time, while labels come in
        folders = [
            subprocess.Popen(
                [sys.executable, "-c", FOLDER, str(path), str(Path(__file__).parent)], stdout=subprocess.PIPE
            )
            for _ in range(2)
        ]
        for folder in folders:
            assert folder.stdout is not None
            assert folder.stdout.readline()
        store.labels.add_labels("s", labels(100 * (part + 1), 100 * part), 1e12)
        sleep(rng.random() * 0.03)  # so that the kill falls anywhere in a fold
        for folder in folders:
            folder.kill()
            folder.communicate()
    while fold_mature(store, "s", "r1", MEANING, 1000.0, 1.0):
        pass
    assert total(store, "labelled") == (600.0, 600.0)
    assert total(store, "outcome.accuracy") == (600.0, 480.0)
    assert store.labels.due("s", "r1", 1000.0, 10).rows == ()
