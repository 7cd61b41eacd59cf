"""What ended rollouts have kept goes in bites; what is open or newest stays. Over every implementation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from accede.errors import WireError
from accede.store.protocol import Commit, Store
from accede.store.rollouts import Phase

if TYPE_CHECKING:
    from tests.store.conftest import Backend, Records

NEVER = 1e12


@pytest.fixture
def told(store: Store, records: Records) -> Store:
    """Three rollouts of `fraud` that ended at 10, 20 and 30, one that is open; one that ended of `credit`."""
    for number in (1, 2, 3):
        run(store, records, "fraud", f"r{number}", 10.0 * number)
    run(store, records, "fraud", "r4", None)
    run(store, records, "credit", "c1", 10.0)
    return store


def run(store: Store, records: Records, service: str, rollout: str, ended: float | None) -> None:
    """A rollout with three decisions."""
    for version in (1, 2, 3):
        record = records.record(service, version, rollout=rollout)
        if version == 3 and ended is not None:
            record = msgspec.structs.replace(record, phase=Phase.ABORTED, ended_at=ended)
        decision = records.decision(version, rollout=rollout)
        store.commit(Commit(service, record, version - 1, None, 0, decision=decision))


def left(store: Store) -> dict[str, int]:
    return {name: len(store.decisions(name)) for name in ("r1", "r2", "r3", "r4", "c1")}


WHOLE = {"r1": 3, "r2": 3, "r3": 3, "r4": 3, "c1": 3}


def test_decisions_go_oldest_rollout_first_and_no_more_than_asked(told: Store) -> None:
    assert told.forget_ended("fraud", 10.0, 100) == 0  # which is not before its end
    assert told.forget_ended("fraud", 25.0, 2) == 2
    assert left(told) == {**WHOLE, "r1": 1}
    assert told.forget_ended("fraud", 25.0, 2) == 2
    assert left(told) == {**WHOLE, "r1": 0, "r2": 2}
    assert told.forget_ended("fraud", 25.0, 100) == 2
    assert told.forget_ended("fraud", 25.0, 100) == 0
    assert left(told) == {**WHOLE, "r1": 0, "r2": 0}


def test_nothing_of_an_open_rollout_or_of_a_services_newest_goes(
    backend: Backend, told: Store, records: Records
) -> None:
    assert told.forget_ended("fraud", NEVER, 100) == 9
    assert told.forget_ended("credit", NEVER, 100) == 0
    assert told.forget_ended("unknown", NEVER, 100) == 0
    assert left(told) == {"r1": 0, "r2": 0, "r3": 0, "r4": 3, "c1": 3}
    assert [record.id for record in told.rollouts("fraud")] == ["r1", "r2", "r3", "r4"]
    again = backend.open()
    ended = msgspec.structs.replace(
        records.record(version=4, rollout="r4"), phase=Phase.ABORTED, ended_at=40.0
    )
    again.commit(Commit("fraud", ended, 3, None, 0, decision=records.decision(4, rollout="r4")))
    assert again.forget_ended("fraud", NEVER, 100) == 0  # it is the newest still
    run(again, records, "fraud", "r5", None)
    assert told.forget_ended("fraud", NEVER, 100) == 4
    assert [one.number for one in again.decisions("r5")] == [1, 2, 3]


def test_evidence_of_open_rollouts_stays(told: Store, records: Records) -> None:
    told.publish_evidence(records.evidence(rollout="r4"))
    told.forget_ended("fraud", NEVER, 100)
    assert told.evidence("fraud", "r4") == (records.evidence(rollout="r4"),)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_evidence_of_ended_ones_goes_with_their_decisions_where_nothing_else_removes_it(
    told: Store, records: Records
) -> None:
    told.publish_evidence(records.evidence(rollout="r1"))
    assert told.forget_ended("fraud", 15.0, 100) == 4
    assert told.evidence("fraud", "r1") == ()
    told.publish_evidence(records.evidence("late/1", rollout="r1"))
    assert told.forget_ended("fraud", 15.0, 100) == 1


def test_a_record_that_cannot_be_read_loses_nothing(backend: Backend, told: Store) -> None:
    backend.spoil("rollouts", b"{}")
    with pytest.raises(WireError, match="rollout r1"):
        told.forget_ended("fraud", NEVER, 100)
    assert left(told) == WHOLE
