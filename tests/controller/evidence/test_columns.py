"""Stored evidence is a mapping like any other, unpacked late, and adds up as arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.controller.evidence.columns import StoredSeries, added
from accede.controller.evidence.decoding import decode_evidence
from accede.errors import WireError
from accede.store.evidence import ArmKey, Evidence, Series, SeriesKey, encode_evidence
from accede.store.measurement import CLUSTERS

ARMS: tuple[ArmKey, ...] = ("stable", "candidate", "pair")


def evidence(series: dict[SeriesKey, Series], source: str = "r1", epoch: int = 1) -> Evidence:
    return Evidence(
        wire="accede.evidence/1", service="s", rollout="r", epoch=epoch, source=source, published=1.0,
        watermark=1.0, series=series,
    )  # fmt: skip


@st.composite
def some_series(draw: st.DrawFn) -> dict[SeriesKey, Series]:
    made: dict[SeriesKey, Series] = {}
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for k in range(draw(st.integers(0, 6))):
        clusters = draw(st.sampled_from([1, 3, CLUSTERS]))
        most = draw(st.sampled_from([1, 200, 60_000, 2**33]))
        n = rng.integers(0, most, clusters, endpoint=True).astype(float)
        if draw(st.booleans()):
            y = np.floor(n * rng.uniform(0.0, 1.0))
            square = y
        else:
            y = n * rng.uniform(-1.0, 1.0, clusters)
            square = np.abs(y)
        key = SeriesKey(draw(st.sampled_from(ARMS)), f"g={k % 2}", f"m{k}")
        made[key] = Series(n.tolist(), y.tolist(), square.tolist())
    return made


def stored(series: dict[SeriesKey, Series], like: Evidence | None = None) -> StoredSeries:
    found = decode_evidence(encode_evidence(evidence(series)), like).series
    assert isinstance(found, StoredSeries)
    return found


@given(some_series())
def test_it_reads_as_the_dict_that_was_written(series: dict[SeriesKey, Series]) -> None:
    found = stored(series)
    assert len(found) == len(series)
    assert dict(found) == series
    assert set(found) == set(series)
    assert SeriesKey("floor", "", "errors") not in found
    assert found.get(SeriesKey("floor", "", "errors")) is None
    assert found.packed is not None
    for key, one in found.items():
        assert (one.square is one.sum) == (series[key].sum == series[key].square)


@given(some_series(), some_series())
def test_two_sources_add_up_as_series_by_series(
    one: dict[SeriesKey, Series], other: dict[SeriesKey, Series]
) -> None:
    alike = {key: Series(list(s.n), [0.0] * len(s.n), [0.0] * len(s.n)) for key, s in one.items()}
    total = added([stored(one), stored(alike)])
    assert total is not None
    for key, series in total.items():
        assert list(series.n) == [2.0 * n for n in one[key].n]
        assert list(series.sum) == list(one[key].sum)
        assert list(series.square) == list(one[key].square)
    if sorted(one) != sorted(other):
        assert added([stored(one), stored(other)]) is None


def test_what_is_written_to_is_a_dict_from_then_on() -> None:
    key, other = SeriesKey("stable", "", "a"), SeriesKey("stable", "", "b")
    found = stored({key: Series([2.0], [1.0], [1.0]), other: Series([5.0], [1.0], [1.0])})
    found[key] = Series([3.0], [1.0], [1.0])
    del found[other]
    assert found.packed is None
    assert dict(found) == {key: Series([3.0], [1.0], [1.0])}
    assert added([found, stored({})]) is None


def test_keys_are_shared_with_a_record_that_has_the_same() -> None:
    series = {SeriesKey("stable", f"g={k}", "errors"): Series([1.0], [0.0], [0.0]) for k in range(4)}
    first = decode_evidence(encode_evidence(evidence(series)))
    assert isinstance(first.series, StoredSeries)
    again, more = (
        stored(series, first),
        stored({**series, SeriesKey("pair", "", "mean"): Series([1.0], [0.0], [0.0])}, first),
    )
    assert first.series.packed is not None
    assert again.packed is not None
    assert more.packed is not None
    assert again.packed[0] is first.series.packed[0]
    assert more.packed[0] is not first.series.packed[0]


@pytest.mark.parametrize(("column", "value"), [("n", -1.0), ("n", math.inf), ("sum", 9.0), ("square", -0.5)])
def test_impossible_sums_are_refused_by_name(column: str, value: float) -> None:
    good = {
        SeriesKey("stable", f"g={k}", "errors"): Series([4.0] * 3, [1.0] * 3, [1.0] * 3) for k in range(5)
    }
    bad = Series([4.0] * 3, [1.0] * 3, [1.0] * 3)
    getattr(bad, column)[1] = value
    data = encode_evidence(evidence({**good, SeriesKey("stable", "g=3", "errors"): bad}))
    with pytest.raises(WireError, match="series stable/g=3/errors: "):
        decode_evidence(data)
