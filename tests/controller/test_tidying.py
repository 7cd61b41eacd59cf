"""What the leader removes, in its turns, and that nothing hangs on it."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from pathlib import Path

import pytest

from accede.controller.loop.tidying import ENDED_AT_ONCE, ENDED_EVERY, Tidying
from accede.errors import StoreError
from accede.store.sqlite import SqliteStore
from tests.store.conftest import Records
from tests.store.test_forgetting import run

KEEP = 1000.0


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    made = SqliteStore(tmp_path / "accede.db")
    records = Records()
    for service in ("credit", "fraud"):
        for number in (1, 2, 3):
            run(made, records, service, f"{service}-{number}", 10.0 * number)
        run(made, records, service, f"{service}-4", None)
    return made


def left(store: SqliteStore) -> dict[str, int]:
    found = {record.id: len(store.decisions(record.id)) for record in store.rollouts()}
    return {rollout: count for rollout, count in found.items() if count}


def test_decisions_are_kept_for_their_time_and_go_in_bites_service_by_service(store: SqliteStore) -> None:
    tidying, names = Tidying(store, KEEP), ["credit", "fraud"]
    whole = left(store)
    now = KEEP + 5.0
    for _ in range(8):
        now += 0.25
        tidying.tidy(names, (), now)
    assert left(store) == whole
    now = KEEP + 1000.0
    sizes = [sum(left(store).values())]
    for _ in range(200):
        now += 0.25
        tidying.tidy(names, (), now)
        sizes.append(sum(left(store).values()))
    assert left(store) == {"credit-4": 3, "fraud-4": 3}
    assert max(a - b for a, b in pairwise(sizes)) == ENDED_AT_ONCE


def test_forever_is_forever(store: SqliteStore) -> None:
    whole, tidying = left(store), Tidying(store, inf)
    for step in range(10):
        tidying.tidy(["credit", "fraud"], (), 1e9 + ENDED_EVERY * step)
    assert left(store) == whole


def test_a_store_that_refuses_one_service_serves_the_others(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget = store.forget_ended

    def refusing(service: str, before: float, limit: int) -> int:
        if service == "credit":
            raise StoreError("is out of memory")
        return forget(service, before, limit)

    monkeypatch.setattr(store, "forget_ended", refusing)
    tidying = Tidying(store, KEEP)
    for step in range(30):
        tidying.tidy(["credit", "fraud"], (), 5000.0 + step * ENDED_EVERY)
    assert {name: count for name, count in left(store).items() if name.startswith("fraud")} == {"fraud-4": 3}
    assert sum(left(store).values()) == 3 + 12
