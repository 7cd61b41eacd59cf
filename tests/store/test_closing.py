"""Closing sources and leading, over every implementation."""

from __future__ import annotations

from time import monotonic, sleep
from typing import TYPE_CHECKING

import msgspec
import pytest

from accede.errors import SourceClosed, StaleWrite
from accede.store.closing import CLOSED
from accede.store.evidence import merge
from accede.store.protocol import Store
from accede.store.redis import leads

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.store.conftest import Backend, Records
    from tests.store.servers import Server


def total(store: Store, epoch: int = 0) -> dict[str, int]:
    found = merge([one for one in store.evidence("fraud", "r1") if one.epoch == epoch])
    assert found is not None
    return {arm: counts.accounted for arm, counts in found.arms.items()}


def test_a_closed_source_is_in_the_total_exactly_once(
    backend: Backend, store: Store, records: Records
) -> None:
    for source, n in (("a/1", 3), ("a/2", 5), ("b/1", 7)):
        store.publish_evidence(records.evidence(source, n=n))
        store.publish_evidence(records.evidence(source, n=n, epoch=1))
    before = merge(store.evidence("fraud", "r1")[:3])
    assert store.close_sources("fraud", "r1", {"a/1"}) == 2
    assert backend.open().close_sources("fraud", "r1", {"a/1", "a/2", "unheard/1"}) == 2
    assert store.close_sources("fraud", "r1", {"a/1", "a/2"}) == 0
    assert [(one.epoch, one.source) for one in store.evidence("fraud", "r1")] == [
        (0, "b/1"), (0, CLOSED), (1, "b/1"), (1, CLOSED),
    ]  # fmt: skip
    assert merge(store.evidence("fraud", "r1")[:2]) == before
    assert total(store) == total(store, 1) == {"stable": 15}


def test_a_closed_source_that_speaks_again_is_refused_and_changes_nothing(
    store: Store, records: Records
) -> None:
    store.publish_evidence(records.evidence("a/1", n=3))
    store.close_sources("fraud", "r1", {"a/1"})
    for _ in range(2):
        with pytest.raises(SourceClosed, match=r"'a/1'.*'fraud' was closed") as refused:
            store.publish_evidence(records.evidence("a/1", n=4))
        assert refused.value.published == records.evidence("a/1", n=3).published  # which of them was added
        store.close_sources("fraud", "r1", {"a/1"})
    store.publish_evidence(records.evidence("a/1", n=1, epoch=1))  # nothing was closed there
    assert total(store) == {"stable": 3}


def test_closed_evidence_outlives_every_commit_of_an_open_rollout(store: Store, records: Records) -> None:
    store.publish_evidence(records.evidence("a/1", n=3))
    store.commit(records.commit())
    store.close_sources("fraud", "r1", {"a/1"})
    store.commit(records.commit(version=2))
    assert total(store) == {"stable": 3}


def test_whoever_leads_goes_on_leading(store: Store, records: Records) -> None:
    first, again = store.claim("me", 5.0), store.claim("me", 5.0)
    assert (first.mine, first.holder) == (True, "me")
    assert again == first
    store.commit(records.commit())
    store.resign("me")
    assert store.claim("me", 5.0).mine


def test_who_leads_is_told_with_since_when_and_so_is_a_vacancy(store: Store) -> None:
    never = store.leadership()
    assert (never.leader, never.standing_by, never.vacant) == (None, (), None)
    store.claim("me", 60.0)
    first = store.leadership()
    assert first.leader is not None
    assert (first.leader.holder, first.standing_by, first.vacant) == ("me", (), None)
    assert first.leader.since is not None
    assert first.at - 30 < first.leader.since <= first.at
    store.claim("me", 60.0)
    again = store.leadership()
    assert again.leader == first.leader  # it leads on, not anew
    assert again.at >= first.at
    store.resign("me")
    gone = store.leadership()
    assert gone.leader is None
    assert gone.vacant is not None
    assert again.at - 0.01 <= gone.vacant <= gone.at  # the clock is told in milliseconds


def test_a_lead_that_ran_out_is_vacant_since_then(store: Store) -> None:
    store.claim("me", 0.05)
    until = monotonic() + 20.0
    while (found := store.leadership()).leader is not None:
        assert monotonic() < until
    assert found.vacant is not None
    assert found.vacant <= found.at


@pytest.mark.parametrize("backend", ["valkey", "valkey-cluster"], indirect=True)
class TestLeads:
    def test_those_that_stand_by_are_told_longest_first_and_change_with_the_lead(
        self, backend: Backend
    ) -> None:
        first, second, third = backend.open(), backend.open(), backend.open()
        for store, name in ((first, "first"), (second, "second"), (third, "third")):
            store.claim(name, 60.0)
            sleep(0.002)  # since when is told in milliseconds
        found = third.leadership()
        assert found.leader is not None
        assert found.leader.holder == "first"
        assert [one.holder for one in found.standing_by] == ["second", "third"]
        since = [one.since for one in found.standing_by]
        assert second.claim("second", 60.0).holder == "first"
        assert [one.since for one in first.leadership().standing_by] == since
        first.resign("first")
        assert second.claim("second", 60.0).mine
        first.claim("first", 60.0)
        found = first.leadership()
        assert found.leader is not None
        assert found.leader.holder == "second"
        assert found.leader.since is not None
        assert since[0] is not None
        assert found.leader.since > since[0]
        assert [one.holder for one in found.standing_by] == ["third", "first"]

    def test_one_that_is_silent_stands_by_no_more_and_is_forgotten(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch, server_of: Callable[[str], Server]
    ) -> None:
        monkeypatch.setattr(leads, "SHOWN", 0.05)
        monkeypatch.setattr(leads, "_FORGOTTEN", 0.1)
        monkeypatch.setattr(leads, "_NOTED", 0.0)
        one, other = backend.open(), backend.open()
        one.claim("one", 60.0)
        other.claim("other", 60.0)
        until = monotonic() + 20.0
        while one.leadership().standing_by:
            assert monotonic() < until
        sleep(0.1)
        one.claim("one", 60.0)
        (kind,) = [
            kind for kind in ("valkey", "valkey-cluster") if str(server_of(kind).port) in backend.address
        ]
        prefix = backend.address.rpartition("=")[2]
        with server_of(kind).client() as client:
            assert client.hkeys(f"{prefix}:{{{prefix}}}:controllers") == [b"one"]

    def test_another_leads_only_when_the_lead_was_given_up(self, backend: Backend) -> None:
        first, second = backend.open(), backend.open()
        assert first.claim("first", 60.0).mine
        assert second.claim("second", 60.0) == msgspec.structs.replace(first.claim("first", 60.0), mine=False)
        second.resign("second")  # which it does not hold
        assert not second.claim("second", 60.0).mine
        first.resign("first")
        assert second.claim("second", 60.0).mine
        assert not first.claim("first", 60.0).mine

    def test_nothing_of_an_earlier_holder_is_written_any_more(
        self, backend: Backend, records: Records
    ) -> None:
        stale, newer = backend.open(), backend.open()
        stale.claim("stale", 0.001)
        stale.commit(records.commit())
        while not (lead := newer.claim("newer", 60.0)).mine:
            pass
        before = newer.routes(), newer.rollouts(), newer.audit()
        for change in (records.commit(version=2), records.commit("credit", rollout="r2")):
            with pytest.raises(StaleWrite, match="another controller has taken the lead"):
                stale.commit(change)
        assert (newer.routes(), newer.rollouts(), newer.audit()) == before
        newer.commit(records.commit(version=2))
        assert stale.claim("stale", 60.0).token == lead.token  # an operator's act there is under this lead
        stale.commit(records.commit(version=3))


@pytest.mark.parametrize("backend", ["valkey"], indirect=True)
def test_a_reader_takes_nothing_for_known_on_a_store_that_went_back(
    backend: Backend, records: Records, server_of: Callable[[str], Server]
) -> None:
    writer, reader = backend.open(), backend.open()
    writer.publish_evidence(records.evidence(n=1))
    prefix = backend.address.rpartition("=")[2]
    keys = [f"{prefix}:{{fraud}}:{what}:r1" for what in ("evidence", "versions")]
    with server_of("valkey").client() as client:
        copies = [client.dump(key) for key in keys]
        writer.publish_evidence(records.evidence(n=2))
        assert reader.evidence("fraud", "r1") == (records.evidence(n=2),)
        for key, copy in zip(keys, copies, strict=True):
            client.restore(key, 0, copy, replace=True)
    writer.publish_evidence(records.evidence(n=7))
    assert reader.evidence("fraud", "r1") == (records.evidence(n=7),)
