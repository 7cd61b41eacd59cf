"""What has changed in evidence: told in little, applied exactly, and nothing else is taken for it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from accede.errors import SourceClosed, StoreError, WireError
from accede.store.changes import changed, changes
from accede.store.evidence import ArmCounts, Evidence, Series, SeriesKey, encode_evidence
from accede.store.measurement import CLUSTERS
from accede.store.open import open_store
from accede.store.redis import publishing
from tests.store.servers import Server
from tests.store.test_subtracting import Growing

if TYPE_CHECKING:
    from pathlib import Path

    from tests.store.conftest import Backend

REMOTE = pytest.mark.parametrize("backend", ["valkey", "valkey-cluster"], indirect=True)


@pytest.mark.parametrize("seed", range(10))
def test_applied_changes_are_exactly_what_was_published(seed: int) -> None:
    growing = Growing(seed)
    growing.add(300)
    base = growing.evidence(1.0)
    untouched = growing.evidence(1.0)
    for step in range(4):
        growing.add(17 * step)
        now = growing.evidence(2.0 + step)
        told = changes(base, now)
        assert told is not None
        assert changed(base, told) == now
        assert base == untouched


def grown(n: int, groups: int = 30) -> Evidence:
    """As of a canary: whole traffic long ago, and n requests in the newest cluster of every series."""
    series: dict[SeriesKey, Series] = {}
    for group in range(groups):
        for metric in ("errors", "missing"):
            counts = [float(group * k % 97 + 200) for k in range(CLUSTERS)]
            sums = [float((group + k) % 5) for k in range(CLUSTERS)]
            counts[5] += n
            sums[5] += n // 10
            series[SeriesKey("stable", f"slice=g{group}", metric)] = Series(counts, sums, list(sums))
    arms = {"stable": ArmCounts(accounted=n)}
    return Evidence(
        "accede.evidence/1", "fraud", "r1", 1, "a:b-1", 100.0 + n, 99.0 + n, arms=arms, series=series
    )


def test_changes_are_a_small_part_of_evidence_that_is_clustered_by_time() -> None:
    told = changes(grown(0), grown(50))
    assert told is not None
    assert len(told) < len(encode_evidence(grown(50))) / 8


def test_evidence_of_other_series_has_to_be_published_whole() -> None:
    base = grown(1)
    other = grown(2)
    del other.series[SeriesKey("stable", "slice=g3", "errors")]
    assert changes(base, other) is None
    other = grown(2)
    other.series[SeriesKey("stable", "slice=g3", "errors")] = Series([1.0], [1.0], [1.0])
    assert changes(base, other) is None


def spoilt(**what: Any) -> bytes:
    """Changes with one series, some of it replaced."""
    change = {"series": 0, "clusters": b"\x05", "n": b"B\x09", "sum": b"B\x01", "square": b"="}
    change |= {key: value for key, value in what.items() if key in change}
    head = msgspec.structs.replace(grown(2), series={})
    told = {"wire": "accede.evidence-changes/1", "base": grown(1).published, "head": head}
    told |= {key: value for key, value in what.items() if key in told}
    return msgspec.msgpack.encode({**told, "series": [list(change.values())]})


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "cannot be read|malformed|changes"),
        (spoilt()[:-3], "changes"),
        (spoilt(wire="accede.evidence-changes/2"), "changes/2"),
        (spoilt(base=7.0), "something else"),
        (spoilt(head=msgspec.structs.replace(grown(2), series={}, epoch=9)), "something else"),
        (spoilt(head=msgspec.structs.replace(grown(2), series={}, source="a:b-2")), "something else"),
        (spoilt(head=msgspec.structs.replace(grown(2), series={}, watermark=float("nan"))), "head"),
        (spoilt(series=60), "series 60"),
        (spoilt(series=-1), "changes"),
        (spoilt(clusters=b"\x80"), "clusters"),
        (spoilt(clusters=b""), "clusters"),
        (spoilt(clusters=b"\x05\x05", n=b"B\x09\x09", sum=b"B\x01\x01"), "clusters"),
        (spoilt(n=b"B\x09\x09"), "column"),
        (spoilt(sum=b"B\x63"), "no sums of y"),
        (spoilt(n=b"x\x09"), "column"),
    ],
)
def test_what_are_no_changes_of_this_evidence_are_refused(data: bytes, named: str) -> None:
    with pytest.raises(WireError, match=named):
        changed(grown(1), data)
    assert changed(grown(1), spoilt()).series[SeriesKey("stable", "slice=g0", "errors")].n[5] == 9.0


@REMOTE
class TestPublished:
    def test_every_reader_reads_what_was_published_last_whatever_it_knew(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer, always = backend.open(), backend.open()
        seldom = backend.open()
        for n in range(1, 13):
            if n == 9:
                monkeypatch.setattr(publishing, "WHOLE_EVERY", 0.0)  # this one is published whole
            writer.publish_evidence(grown(n))
            monkeypatch.undo()
            assert always.evidence("fraud", "r1") == (grown(n),)
            if n % 4 == 1:
                assert seldom.evidence("fraud", "r1") == (grown(n),)
        for reader in (backend.open(), seldom, writer):
            assert reader.evidence("fraud", "r1") == (grown(12),)

    def test_a_second_publication_costs_a_fraction_of_the_first(
        self, backend: Backend, server_of: Callable[[str], Server]
    ) -> None:
        kinds = ("valkey", "valkey-cluster")
        (kind,) = [kind for kind in kinds if f":{server_of(kind).port}?" in backend.address]
        writer, reader = backend.open(), backend.open()
        with server_of(kind).client() as client:

            def told() -> int:
                stats = client.info("stats")
                return int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])

            costs = []
            for n in range(1, 6):
                before = told()
                writer.publish_evidence(grown(n))
                reader.evidence("fraud", "r1")
                costs.append(told() - before)
        assert max(costs[2:]) < costs[0] / 2  # with what asking costs, and heads

    def test_changes_of_a_body_that_is_another_by_now_are_not_written(self, backend: Backend) -> None:
        one, other = backend.open(), backend.open()
        one.publish_evidence(grown(1))
        one.publish_evidence(grown(2))
        other.publish_evidence(grown(30))  # whole
        assert backend.open().evidence("fraud", "r1") == (grown(30),)
        one.publish_evidence(grown(4))
        other.publish_evidence(grown(50))
        one.publish_evidence(grown(6))
        for reader in (one, other, backend.open()):
            assert reader.evidence("fraud", "r1") == (grown(6),)

    def test_a_source_is_closed_with_its_changes(self, backend: Backend) -> None:
        store = backend.open()
        store.publish_evidence(grown(1))
        store.publish_evidence(grown(7))
        assert store.close_sources("fraud", "r1", {"a:b-1"}) == 1
        (total,) = backend.open().evidence("fraud", "r1")
        assert total.series == grown(7).series
        with pytest.raises(SourceClosed) as refused:
            store.publish_evidence(grown(8))
        assert refused.value.published == grown(7).published
        assert backend.open().evidence("fraud", "r1") == (total,)

    def test_what_cannot_be_read_is_named_and_mended_by_the_next_publication(
        self, backend: Backend, server_of: Callable[[str], Server]
    ) -> None:
        kinds = ("valkey", "valkey-cluster")
        (kind,) = [kind for kind in kinds if f":{server_of(kind).port}?" in backend.address]
        writer = backend.open()
        writer.publish_evidence(grown(1))
        writer.publish_evidence(grown(2))
        key = f"{backend.address.rpartition('=')[2]}:{{fraud}}:changes:r1"
        with server_of(kind).client() as client:
            for body in (b"\xc1", b""):
                if body:
                    client.hset(key, "1|a:b-1", body)
                else:
                    client.delete(key)
                with pytest.raises(WireError, match=r"'fraud'.* 'a:b-1'"):
                    backend.open().evidence("fraud", "r1")
                writer.publish_evidence(grown(3))
                assert backend.open().evidence("fraud", "r1") == (grown(3),)

    def test_evidence_that_changes_everywhere_is_published_whole(self, backend: Backend) -> None:
        writer = backend.open()
        for n in range(1, 5):
            noise = Growing(n)
            noise.add(3000)
            writer.publish_evidence(noise.evidence(float(n)))
            (found,) = backend.open().evidence("s", "r")
            assert found == noise.evidence(float(n))


@pytest.mark.slow
def test_a_publication_whose_answer_was_lost_is_followed_by_a_whole_one(tmp_path: Path) -> None:
    server = Server(tmp_path / "server")
    try:
        store = open_store(f"redis://127.0.0.1:{server.port}")
        store.publish_evidence(grown(1))
        server.signal(signal.SIGSTOP)
        with pytest.raises(StoreError, match="does not answer in time"):
            store.publish_evidence(grown(2))
        server.signal(signal.SIGCONT)
        store.publish_evidence(grown(3))
        with server.client() as client:
            assert not client.exists("accede:{fraud}:changes:r1")
        assert store.evidence("fraud", "r1") == (grown(3),)
        store.close()
    finally:
        server.end()
