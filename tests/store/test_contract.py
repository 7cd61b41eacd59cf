"""Every guarantee of store.protocol, by its number, over every implementation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import pytest

from accede.errors import StaleWrite, StoreError, WireError
from accede.store.evidence import merge
from accede.store.protocol import Commit, Store
from accede.store.rollouts import Phase

if TYPE_CHECKING:
    from tests.store.conftest import Backend, Kind, Records


def contents(store: Store) -> tuple[object, ...]:
    """All that a commit can change."""
    routes = store.routes()
    return routes, store.rollouts(), store.audit(), store.decisions("r1"), store.revision()


# 1: all or nothing, and only on what was expected


def test_a_commit_writes_record_route_audit_and_decision_together(
    backend: Backend, store: Store, records: Records
) -> None:
    change = records.commit()
    store.commit(change)
    for handle in (store, backend.open()):
        assert handle.rollout("fraud") == change.record
        assert change.record is not None
        newest = {"fraud": (change.record.id, change.record.version), "nobody": None}
        assert handle.newest_of(["fraud", "nobody"]) == newest
        assert handle.routes().routes == (change.route,)
        assert handle.audit() == change.audit
        assert handle.decisions("r1") == (change.decision,)


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert store.rollout("fraud") is None
    assert store.newest_of(["fraud"]) == {"fraud": None}
    assert store.evidence_of({"fraud": "r1"}) == {"fraud": ()}
    assert contents(store)[1:] == ((), (), (), 0)
    assert store.evidence("fraud", "r1") == ()
    assert store.reports() == ()
    routes = store.routes()
    assert (routes.revision, routes.routes, routes.broken, routes.leases) == (0, (), {}, {})


@pytest.mark.parametrize(("version", "generation"), [(2, 0), (0, 1), (1, 1), (3, 2), (2, 3)])
def test_a_stale_commit_writes_nothing(store: Store, records: Records, version: int, generation: int) -> None:
    store.commit(records.commit(version=1))
    store.commit(records.commit(version=2))
    before = contents(store)
    change = msgspec.structs.replace(
        records.commit(version=version + 1),
        expected_generation=generation,
        route=records.route(generation=generation + 1),
    )
    with pytest.raises(StaleWrite):
        store.commit(change)
    assert contents(store) == before


def test_a_second_rollout_of_a_service_is_stale_while_one_is_open(store: Store, records: Records) -> None:
    store.commit(records.commit())
    second = Commit(
        service="fraud",
        record=records.record(rollout="r2"),
        expected_version=0,
        route=None,
        expected_generation=1,
    )
    with pytest.raises(StaleWrite, match="r1"):
        store.commit(second)
    ended = records.record(version=2, phase=Phase.ABORTED)
    store.commit(msgspec.structs.replace(second, record=ended, expected_version=1))
    store.commit(second)
    newest = store.rollout("fraud")
    assert newest is not None
    assert [r.id for r in store.rollouts("fraud")] == ["r1", "r2"]
    assert newest.id == "r2"
    with pytest.raises(StaleWrite):  # nor does the ended one come back
        store.commit(msgspec.structs.replace(second, record=records.record(version=3), expected_version=2))


def test_a_commit_without_a_route_still_asks_for_its_generation(store: Store, records: Records) -> None:
    store.commit(records.commit())
    change = Commit("fraud", records.record(version=2), expected_version=1, route=None, expected_generation=0)
    with pytest.raises(StaleWrite, match="generation"):
        store.commit(change)
    store.commit(msgspec.structs.replace(change, expected_generation=1))
    assert store.routes().routes == (records.route(),)


def test_a_commit_without_a_record_asks_for_the_version_of_the_open_rollout(
    store: Store, records: Records
) -> None:
    first = Commit(
        service="fraud", record=None, expected_version=0, route=records.route(), expected_generation=0
    )
    store.commit(first)  # a service without any rollout
    store.commit(msgspec.structs.replace(first, record=records.record(), route=None, expected_generation=1))
    later = msgspec.structs.replace(first, route=records.route(generation=2), expected_generation=1)
    with pytest.raises(StaleWrite, match="version"):
        store.commit(later)
    store.commit(msgspec.structs.replace(later, expected_version=1))
    assert store.rollout("fraud") == records.record()


def test_of_two_approvals_at_one_version_one_is_stale_and_nothing_of_it_is_kept(
    store: Store, records: Records
) -> None:
    store.commit(records.commit())
    first = records.record(version=2)
    for name in ("ben", "carl"):
        approval = msgspec.structs.replace(records.approval(), by=name)
        record = msgspec.structs.replace(first, approvals=(approval,))
        entry = records.audit(act=f"approve {name}")
        change = Commit("fraud", record, 1, None, 1, (entry,), records.decision(2))
        if name == "ben":
            store.commit(change)
        else:
            with pytest.raises(StaleWrite):
                store.commit(change)
    found = store.rollout("fraud")
    assert found is not None
    assert [one.by for one in found.approvals] == ["ben"]
    assert [one.act for one in store.audit("fraud")][-1] == "approve ben"
    assert len(store.decisions("r1")) == 2


def test_services_do_not_touch_each_other(store: Store, records: Records) -> None:
    store.commit(records.commit("fraud", rollout="r1"))
    store.commit(records.commit("credit", rollout="r2"))
    store.commit(records.commit("credit", 2, rollout="r2"))
    assert [(route.service, route.generation) for route in store.routes().routes] == [
        ("credit", 2),
        ("fraud", 1),
    ]
    assert [entry.service for entry in store.audit("credit")] == ["credit", "credit"]
    assert [record.service for record in store.rollouts()] == ["fraud", "credit"]


def test_one_of_two_threads_wins_a_version(backend: Backend, records: Records) -> None:
    handles = [backend.open(), backend.open()]
    start = threading.Barrier(4)

    def attempt(store: Store) -> int:
        won = 0
        for version in range(1, 11):
            start.wait(30)
            try:
                store.commit(records.commit(version=version))
                won += 1
            except StaleWrite:
                pass
        return won

    with ThreadPoolExecutor(4) as pool:  # two threads on each handle
        assert sum(pool.map(attempt, handles * 2)) == 10
    assert [decision.number for decision in handles[0].decisions("r1")] == list(range(1, 11))


def test_the_audit_trail_gives_the_last_entries_oldest_first(store: Store, records: Records) -> None:
    for version in range(1, 6):
        store.commit(records.commit(version=version))
    assert [entry.act for entry in store.audit(limit=2)] == ["act 4", "act 5"]
    assert store.audit(limit=0) == ()


# 2 is in test_processes.py

# 3: evidence and reports


def test_publishing_again_replaces_whole_and_twice_changes_nothing(store: Store, records: Records) -> None:
    first, other = records.evidence(n=3), records.evidence("b/1", n=5)
    second = msgspec.structs.replace(records.evidence(n=9), labels={})
    for evidence in (first, other, second, other, second):
        store.publish_evidence(evidence)
    assert store.evidence("fraud", "r1") == (second, other)
    assert merge(store.evidence("fraud", "r1")) == merge([other, second])


def test_evidence_is_kept_apart_by_service_rollout_and_epoch(store: Store, records: Records) -> None:
    kept = [
        records.evidence(),
        records.evidence(epoch=1),
        records.evidence(rollout="r2"),
        records.evidence(service="credit"),
    ]
    for evidence in reversed(kept):
        store.publish_evidence(evidence)
    assert store.evidence("fraud", "r1") == tuple(kept[:2])
    assert store.evidence("fraud", "r2") == (kept[2],)
    assert store.evidence("credit", "r1") == (kept[3],)


def test_evidence_stays_whatever_is_committed(store: Store, records: Records) -> None:
    store.publish_evidence(records.evidence())
    for version in range(1, 4):
        store.commit(records.commit(version=version))
    assert store.evidence("fraud", "r1") == (records.evidence(),)


def test_a_report_replaces_its_sources_earlier_one(store: Store, records: Records) -> None:
    for report in (records.report("b/1"), records.report("a/1", 1.0), records.report("a/1", 2.0)):
        store.publish_report(report)
    assert store.reports() == (records.report("a/1", 2.0), records.report("b/1"))


def test_a_report_is_forgotten_unless_its_source_has_spoken_since(
    backend: Backend, store: Store, records: Records
) -> None:
    for report in (records.report("a/1", 1.0), records.report("b/1", 2.0), records.report("c/1", 3.0)):
        store.publish_report(report)
    silent = store.reports()[:2]
    backend.open().publish_report(records.report("b/1", 9.0))
    assert store.forget_reports((*silent, records.report("unheard/1", 1.0))) == 1
    assert store.reports() == (records.report("b/1", 9.0), records.report("c/1", 3.0))
    assert store.forget_reports(silent) == 0
    store.publish_report(records.report("a/1", 10.0))  # one that comes back is read again
    assert store.reports()[0] == records.report("a/1", 10.0)


# 4: what cannot be read


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff\x00", b"[" * 100_000, b'{"wire": "accede.route/9"}'])
def test_a_route_that_cannot_be_read_is_named_and_leaves_the_others(
    backend: Backend, store: Store, records: Records, body: bytes
) -> None:
    store.commit(records.commit("credit", rollout="r2"))
    store.routes()
    backend.spoil("routes", body)
    store.commit(records.commit("fraud"))
    routes = store.routes()
    assert [route.service for route in routes.routes] == ["fraud"]
    assert list(routes.broken) == ["credit"]
    assert ("accede.route/9" in routes.broken["credit"]) == (b"wire" in body)
    store.commit(records.commit("credit", 2, rollout="r2"))  # the next one mends it
    assert store.routes().broken == {}


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x82\xa4head"])
def test_broken_evidence_is_an_error_that_names_service_and_source(
    backend: Backend, store: Store, records: Records, body: bytes
) -> None:
    store.publish_evidence(records.evidence("a/1"))
    backend.spoil("evidence", body)
    store.publish_evidence(records.evidence("b/1"))
    with pytest.raises(WireError, match=r"'fraud'.* 'a/1'"):
        store.evidence("fraud", "r1")
    assert store.evidence("credit", "r1") == ()
    sound = records.evidence("a/1", service="credit")
    store.publish_evidence(sound)
    found = store.evidence_of({"fraud": "r1", "credit": "r1"})
    assert isinstance(found["fraud"], WireError)
    assert found["credit"] == (sound,)


@pytest.mark.parametrize("kind", ["rollouts", "audit", "decisions", "reports"])
def test_any_other_broken_record_is_a_wire_error(
    backend: Backend, store: Store, records: Records, kind: Kind
) -> None:
    store.commit(records.commit())
    store.publish_report(records.report())
    backend.spoil(kind, b'{"wire": "accede.other/7"}')
    read: dict[str, Callable[[], object]] = {
        "rollouts": lambda: store.rollout("fraud"),
        "audit": store.audit,
        "decisions": lambda: store.decisions("r1"),
        "reports": store.reports,
    }
    with pytest.raises(WireError, match=r"accede\.other/7"):
        read[kind]()


# 5: revision


def test_revision_grows_with_route_changes_and_nothing_else(
    backend: Backend, store: Store, records: Records
) -> None:
    reader = backend.open()
    seen = [reader.revision()]
    store.commit(records.commit())
    seen.append(reader.revision())
    store.renew("fraud", 5.0)
    store.publish_evidence(records.evidence())
    store.publish_report(records.report())
    store.commit(Commit("fraud", records.record(version=2), 1, route=None, expected_generation=1))
    seen.append(reader.revision())
    store.commit(records.commit("credit", rollout="r2"))
    seen.append(reader.revision())
    assert seen[0] < seen[1] == seen[2] < seen[3] == reader.routes().revision


def test_a_lease_is_seen_by_every_handle_and_outlives_a_commit(
    backend: Backend, store: Store, records: Records
) -> None:
    reader = backend.open()
    store.renew("fraud", 4.0)  # no route yet: nothing to renew
    store.commit(records.commit())
    assert reader.routes().leases == {}
    store.renew("fraud", 5.0)
    store.commit(records.commit(version=2))
    assert reader.routes().leases == {"fraud": 5.0}
    store.commit(records.commit("credit", rollout="r2"))
    assert store.renew_all(["credit", "fraud", "nobody"], 6.0) == {}
    assert reader.routes().leases == {"credit": 6.0, "fraud": 6.0}


# 6: threads, closing


def test_readers_see_whole_commits_while_others_write(backend: Backend, records: Records) -> None:
    store, reader = backend.open(), backend.open()
    done = threading.Event()

    def look() -> int:
        looks = 0
        while not done.is_set() or not looks:
            routes = reader.routes()
            assert routes.revision == sum(route.generation for route in routes.routes)
            looks += 1
        return looks

    with ThreadPoolExecutor(2) as pool:
        try:
            watching = [pool.submit(look), pool.submit(look)]
            for version in range(1, 16):
                store.commit(records.commit(version=version))
                store.publish_evidence(records.evidence(n=version))
        finally:
            done.set()
        assert all(looking.result() > 0 for looking in watching)


def test_a_closed_store_says_so(store: Store, records: Records) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.revision()
    with pytest.raises(StoreError, match="closed"):
        store.commit(records.commit())


# 7: what a commit refuses


def test_a_commit_that_contradicts_itself_is_refused(store: Store, records: Records) -> None:
    good = records.commit()
    for bad in (
        msgspec.structs.replace(good, record=records.record("credit")),
        msgspec.structs.replace(good, route=records.route("credit")),
        msgspec.structs.replace(good, audit=(records.audit("credit"),)),
        msgspec.structs.replace(good, decision=records.decision(rollout="r9")),
        msgspec.structs.replace(good, record=records.record(version=2)),
        msgspec.structs.replace(good, route=records.route(generation=0)),
    ):
        with pytest.raises(StoreError) as refused:
            store.commit(bad)
        assert not isinstance(refused.value, StaleWrite)
    store.commit(good)
    with pytest.raises(StoreError, match="'fraud'"):  # the id of another service's rollout
        store.commit(records.commit("credit", 2, rollout="r1"))
    assert store.routes().routes == (good.route,)


def test_what_could_not_be_read_back_is_not_written(store: Store, records: Records) -> None:
    good = records.commit()
    assert good.record is not None
    assert good.route is not None
    assert good.decision is not None
    nan = float("nan")
    for bad in (
        msgspec.structs.replace(good, record=msgspec.structs.replace(good.record, held_for=nan)),
        msgspec.structs.replace(good, decision=msgspec.structs.replace(good.decision, at=float("inf"))),
        msgspec.structs.replace(good, route=msgspec.structs.replace(good.route, arms=())),
        msgspec.structs.replace(good, route=msgspec.structs.replace(good.route, wire="accede.route/2")),
        msgspec.structs.replace(good, record=msgspec.structs.replace(good.record, wire="")),
    ):
        with pytest.raises(WireError):
            store.commit(bad)
    assert contents(store)[1:] == ((), (), (), 0)
