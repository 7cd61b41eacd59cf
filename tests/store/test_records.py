"""Wire forms: what was written reads back, and any other bytes are a WireError."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.errors import WireError
from accede.store.evidence import decode_evidence, encode_evidence
from accede.store.histogram import BINS, bin_of, edge, value_bin, value_of
from accede.store.rollouts import (
    AuditEntry,
    Decision,
    Finding,
    Outcome,
    Phase,
    ReplicaReport,
    RolloutRecord,
    decode_record,
    encode_record,
)
from accede.store.routes import Arm, MirrorTarget, check_route, decode_route, encode_route

if TYPE_CHECKING:
    from tests.store.conftest import Records

KINDS = (RolloutRecord, AuditEntry, Decision, ReplicaReport)


def test_every_record_reads_back_as_itself(records: Records) -> None:
    assert decode_route(encode_route(records.route())) == records.route()
    assert decode_evidence(encode_evidence(records.evidence())) == records.evidence()
    assert decode_record(encode_record(records.record()), RolloutRecord) == records.record()
    assert decode_record(encode_record(records.audit()), AuditEntry) == records.audit()
    assert decode_record(encode_record(records.decision()), Decision) == records.decision()
    assert decode_record(encode_record(records.report()), ReplicaReport) == records.report()


def test_a_record_of_before_there_were_approvals_is_read(records: Records) -> None:
    old = msgspec.json.decode(encode_record(records.record()))
    del old["approvals"], old["proven"]
    found = decode_record(msgspec.json.encode(old), RolloutRecord)
    assert (found.approvals, found.proven) == ((), ())


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_record_or_a_wire_error(data: bytes) -> None:
    for read in (decode_route, decode_evidence, *(lambda d, k=kind: decode_record(d, k) for kind in KINDS)):
        with contextlib.suppress(WireError):
            read(data)


@given(data=st.data())
def test_a_damaged_record_is_a_record_or_a_wire_error(records: Records, data: st.DataObject) -> None:
    forms = (
        (encode_route(records.route()), decode_route),
        (encode_evidence(records.evidence()), decode_evidence),
        (encode_record(records.record()), lambda body: decode_record(body, RolloutRecord)),
        (encode_record(records.decision()), lambda body: decode_record(body, Decision)),
    )
    body, read = data.draw(st.sampled_from(forms))
    at = data.draw(st.integers(0, len(body) - 1))
    cut = data.draw(st.integers(at, min(len(body), at + 3)))
    with contextlib.suppress(WireError):
        read(body[:at] + data.draw(st.binary(max_size=3)) + body[cut:])


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"x":' * 200_000, b"\x81\xa1x" * 200_000])
def test_deep_nesting_is_a_wire_error(data: bytes) -> None:
    for read in (decode_route, decode_evidence, lambda body: decode_record(body, RolloutRecord)):
        with pytest.raises(WireError):
            read(data)


def test_another_version_is_named_even_where_its_fields_are_strange(records: Records) -> None:
    for kind, version in (
        (RolloutRecord, "accede.rollout/1"),
        (AuditEntry, "accede.audit/1"),
        (Decision, "accede.decision/1"),
        (ReplicaReport, "accede.report/1"),
    ):
        newer = version[:-1] + "2"
        with pytest.raises(WireError, match=f"{kind.__name__}.*'{newer}'.*'{version}'"):
            decode_record(msgspec.json.encode({"wire": newer, "new": [1]}), kind)
    with pytest.raises(WireError, match=r"'accede.route/2'.*'accede.route/1'"):
        decode_route(b'{"wire": "accede.route/2"}')
    with pytest.raises(WireError, match=r"'accede.evidence/2'.*'accede.evidence/1'"):
        decode_evidence(msgspec.msgpack.encode({"head": {"wire": "accede.evidence/2"}}))
    readable = msgspec.structs.replace(records.record(), wire="accede.rollout/2")
    with pytest.raises(WireError, match=r"'accede.rollout/2'"):
        decode_record(encode_record(readable), RolloutRecord)


def test_every_record_carries_its_version(records: Records) -> None:
    for record in (records.record(), records.audit(), records.decision(), records.report()):
        assert msgspec.json.decode(encode_record(record))["wire"].startswith("accede.")


def test_a_finding_without_numbers_reads_back() -> None:
    finding = Finding("errors", "", Outcome.ERROR, "no data", effect="difference", unit="pp")
    assert decode_record(encode_record(finding), Finding) == finding


def test_phases_are_their_names() -> None:
    assert f"{Phase.CANARY}" == "canary"
    assert [phase for phase in Phase if phase.ended] == [Phase.PROMOTED, Phase.ROLLED_BACK, Phase.ABORTED]


def test_a_route_no_router_could_serve_is_refused(records: Records) -> None:
    good = records.route()
    stable, candidate = good.arms
    change = msgspec.structs.replace
    bad = (
        change(good, arms=()),
        change(good, arms=(candidate, stable)),
        change(good, arms=(stable, candidate, candidate)),
        change(good, arms=(stable, change(candidate, weight=1))),
        change(good, arms=(change(stable, weight=10_001), change(candidate, weight=-1))),
        change(good, arms=(change(stable, addresses=()), candidate)),
        change(good, arms=(Arm("stable", "42", ("http://h:1",), 9_999),)),
        change(good, mirrors=(MirrorTarget("43", ("http://h:1",), 1_000_001),)),
        change(good, mirrors=(MirrorTarget("43", (), 1),)),
        change(good, path=None, host=None),
        change(good, service=""),
        change(good, generation=0),
        change(good, deadline=0.0),
        change(good, unattended=-1.0),
        change(good, max_body=-1),
        change(good, capture_sample=1.1),
        change(good, wire="accede.route/0"),
    )
    for route in bad:
        with pytest.raises(WireError):
            check_route(route)
        with pytest.raises(WireError):
            decode_route(encode_route(route))
    check_route(good)


# The histogram


@given(st.floats(min_value=0, max_value=1e9))
def test_a_latency_lies_in_its_bin(seconds: float) -> None:
    index = bin_of(seconds)
    assert 0 <= index < BINS
    if 1e-5 < seconds < edge(BINS):
        assert edge(index) * (1 - 1e-9) <= seconds <= edge(index + 1) * (1 + 1e-9)


def test_every_edge_lies_in_the_bin_above_it() -> None:
    assert [bin_of(edge(index)) for index in range(BINS)] == list(range(BINS))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_value_bin_is_within_a_percent_and_odd(value: float) -> None:
    index = value_bin(value)
    assert value_bin(-value) == -index
    assert math.isclose(value_of(index), value, rel_tol=0.011, abs_tol=1e-6)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_bin(number: float) -> None:
    for read in (bin_of, value_bin):
        with pytest.raises(ValueError, match="no"):
            read(number)


def test_a_report_of_a_newer_router_is_read() -> None:
    """Routers are upgraded before the controller, so reports may say more than a reader knows."""
    report = ReplicaReport(source="a:1", replica="a", at=1.0, generations={"s": 3})
    more = msgspec.json.decode(encode_record(report)) | {"of_tomorrow": [1]}
    assert decode_record(msgspec.json.encode(more), ReplicaReport) == report
