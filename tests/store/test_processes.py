"""Guarantees 1, 2 and 6 between real processes: races, and kills at any moment."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import sleep
from typing import TYPE_CHECKING

import pytest

from accede.store.evidence import Evidence, SeriesKey
from accede.store.protocol import Store

if TYPE_CHECKING:
    from tests.store.conftest import Backend, Child

# A process that uses a server takes longer to begin.
pytestmark = pytest.mark.parametrize(
    "backend",
    ["sqlite", *(pytest.param(n, marks=pytest.mark.slow) for n in ("valkey", "valkey-cluster", "redis-7"))],
    indirect=True,
)


def test_exactly_one_of_two_processes_wins_each_version(store: Store, child: Callable[[str], Child]) -> None:
    rivals = [child("compete"), child("compete")]
    assert [rival.hear() for rival in rivals] == ["ready", "ready"]
    for version in range(1, 61):
        for rival in rivals if version % 2 else rivals[::-1]:
            rival.tell(str(version))
        assert sorted(rival.hear() for rival in rivals) == ["stale", "won"]
    assert [decision.number for decision in store.decisions("r1")] == list(range(1, 61))
    assert [int(entry.act) for entry in store.audit()] == list(range(1, 61))
    assert store.revision() == 60


def test_a_writer_killed_at_any_moment_leaves_whole_commits(
    backend: Backend, child: Callable[[str], Child]
) -> None:
    rng = random.Random(3)
    acknowledged = 0
    for _ in range(12):  # each writer goes on where the one before was killed
        writer = child("write")
        for _ in range(rng.randrange(1, 20)):
            acknowledged = int(writer.hear())
        sleep(rng.random() * 0.004)  # so that the kill falls anywhere in a commit, not just after one
        for line in writer.kill():
            acknowledged = int(line)

        store = backend.open()
        record = store.rollout("fraud")
        assert record is not None
        assert record.version in (acknowledged, acknowledged + 1)
        (route,) = store.routes().routes
        assert route.generation == store.revision() == record.version
        assert [decision.number for decision in store.decisions("r1")] == list(range(1, record.version + 1))
        assert [int(entry.act) for entry in store.audit(limit=10**6)] == list(range(1, record.version + 1))
        backend.check()


@pytest.mark.parametrize("task", ["publish", "trickle"])
def test_a_publisher_killed_at_any_moment_leaves_whole_evidence(
    backend: Backend, child: Callable[[str], Child], task: str
) -> None:
    reader = backend.open()
    for count in (30, 7):
        publisher = child(task)
        acknowledged = 0
        for _ in range(count):
            acknowledged = int(publisher.hear())
            for one in reader.evidence("fraud", "r1"):  # of this life, or the one before, but of one alone
                whole(one, task)
        for line in publisher.kill():
            acknowledged = int(line)
        for handle in (reader, backend.open()):
            (found,) = handle.evidence("fraud", "r1")
            assert found.published in (acknowledged, acknowledged + 1)
            whole(found, task)
        backend.check()


def whole(found: Evidence, task: str) -> None:
    """All of it is of the same publication."""
    count = int(found.published)
    each = [found.published] * 128 if task == "publish" else [(count + 127 - k) // 128 for k in range(128)]
    assert len(found.series) == 50
    for k in range(50):
        series = found.series[SeriesKey("stable", "", f"bin.{k}")]
        assert list(series.n) == list(series.sum) == list(series.square) == each


def test_publishers_and_a_writer_do_not_fail_each_other(store: Store, child: Callable[[str], Child]) -> None:
    publishers, writer = [child("publish"), child("publish")], child("write")
    for _ in range(30):
        assert int(writer.hear()) > 0
        assert all(int(publisher.hear()) > 0 for publisher in publishers)
        store.routes()
        store.evidence("fraud", "r1")
