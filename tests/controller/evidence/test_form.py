"""A body that lies in its bytes as the one before is read from its places, and reads as it would anew."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.controller.evidence.columns import StoredSeries
from accede.controller.evidence.decoding import decode_evidence
from accede.errors import WireError
from accede.store import evidence as plain
from accede.store.evidence import Evidence, Series, SeriesKey, encode_evidence
from accede.store.measurement import CLUSTERS


def evidence(seed: int, *, load: float = 20.0) -> Evidence:
    """The same series for every seed: counts and amounts, of one cluster and of many."""
    draw = np.random.default_rng(seed)
    series: dict[SeriesKey, Series] = {}
    for arm in ("stable", "candidate"):
        for group in ("", "g=1", "g=2"):
            for metric, clusters, counted in (
                ("errors", CLUSTERS, True),
                ("mean", 1, False),
                ("bin", CLUSTERS, False),
                ("selected", 1, True),
            ):
                n = draw.poisson(load, clusters).astype(float)
                y = draw.binomial(n.astype(int), 0.3).astype(float)
                if not counted:
                    y = n * draw.uniform(-1.0, 1.0, clusters)
                square = y if counted else 0.7 * np.abs(y)
                series[SeriesKey(arm, group, metric)] = Series(n.tolist(), y.tolist(), square.tolist())
    return Evidence(
        wire="accede.evidence/1", service="s", rollout="r", epoch=1, source="r1", published=1.0 + seed,
        watermark=2.0 * seed, series=series, latency={"stable": {k: k + seed for k in range(seed % 40)}},
        open={"stable": seed},
    )  # fmt: skip


def formed(seed: int) -> Evidence:
    """Read after another one, so that its form is known."""
    found = decode_evidence(
        encode_evidence(evidence(seed)), decode_evidence(encode_evidence(evidence(seed + 1)))
    )
    assert isinstance(found.series, StoredSeries)
    assert found.series.forms
    return found


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 20.0, 300.0, 70_000.0]))
def test_it_reads_as_it_would_anew(seed: int, load: float) -> None:
    data = encode_evidence(evidence(seed, load=load))
    found, anew = decode_evidence(data, formed(seed + 1)), plain.decode_evidence(data)
    assert found == anew
    assert {key: (s.square is s.sum) for key, s in found.series.items()} == {
        key: (s.square is s.sum) for key, s in anew.series.items()
    }


def test_the_form_goes_from_one_to_the_next_until_a_column_grows() -> None:
    first = formed(3)
    assert isinstance(first.series, StoredSeries)
    later = decode_evidence(encode_evidence(evidence(9)), first)
    assert isinstance(later.series, StoredSeries)
    assert later.series.forms is first.series.forms
    assert later.series.packed is not None
    assert first.series.packed is not None
    assert later.series.packed[1].layout is first.series.packed[1].layout
    more = decode_evidence(encode_evidence(evidence(9, load=1e6)), later)
    assert isinstance(more.series, StoredSeries)
    assert more.series.forms[0] is not first.series.forms[0]
    assert more == evidence(9, load=1e6)
    again = decode_evidence(encode_evidence(evidence(7)), more)
    assert again == evidence(7)
    assert isinstance(again.series, StoredSeries)
    assert again.series.forms == (first.series.forms[0], more.series.forms[0])
    fewer = msgspec.structs.replace(evidence(4), series=dict(list(evidence(4).series.items())[1:]))
    assert decode_evidence(encode_evidence(fewer), more) == fewer


def test_services_of_one_form_keep_it_and_their_keys_once() -> None:
    mine, other = formed(3).series, decode_evidence(encode_evidence(evidence(20)), formed(11)).series
    assert isinstance(mine, StoredSeries)
    assert isinstance(other, StoredSeries)
    assert other.forms[0] is mine.forms[0]
    assert mine.packed is not None
    assert other.packed is not None
    assert other.packed[0] is mine.packed[0]
    less = msgspec.structs.replace(evidence(3), series=dict(list(evidence(3).series.items())[1:]))
    fewer = decode_evidence(encode_evidence(less), decode_evidence(encode_evidence(less))).series
    assert isinstance(fewer, StoredSeries)
    assert fewer.forms[0] is not mine.forms[0]


@pytest.mark.slow
@given(st.data())
def test_what_is_damaged_is_refused_as_it_would_be_anew(data: st.DataObject) -> None:
    known = formed(5)
    body = bytearray(encode_evidence(evidence(6)))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 0, 1, 400]))
    damaged = bytes(body[cut:])
    assert outcome(damaged, known) == outcome(damaged, None)


def outcome(data: bytes, known: Evidence | None) -> Evidence | None:
    """What is read, by the definition where none is known; None where it is refused."""
    try:
        return plain.decode_evidence(data) if known is None else decode_evidence(data, known)
    except WireError:
        return None


def test_a_series_hidden_in_the_head_is_no_series() -> None:
    known = formed(5)
    whole = encode_evidence(evidence(5))
    tail = whole[whole.index(b"\xa6series") :]
    head = msgspec.msgpack.encode(msgspec.structs.replace(evidence(5), series={}, inputs={}))
    hidden = b"\x82\xa6series\x90\xa4head" + head.replace(b"\xa4arms\x80", b"\xa4arms\x81" + tail, 1)
    for like in (None, known):
        with pytest.raises(WireError):
            decode_evidence(hidden, like)
