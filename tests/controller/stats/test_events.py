from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accede.controller.stats.events import EventEpoch, interval, log_e_harm, log_e_safe
from accede.controller.stats.result import NotComputable


@st.composite
def epochs(draw: st.DrawFn) -> list[EventEpoch]:
    out = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 400))
        out.append(EventEpoch(draw(st.sampled_from([0.01, 0.25, 0.5])), draw(st.integers(0, n)), n))
    return out


def value(result: float | NotComputable) -> float:
    assert isinstance(result, float), result
    return result


@given(seen=epochs(), r0=st.floats(0.2, 5))
def test_swapping_arms_mirrors_the_result(seen: list[EventEpoch], r0: float) -> None:
    swapped = [EventEpoch(1 - e.pi, e.n - e.x, e.n) for e in seen]
    assert value(log_e_harm(seen, r0)) == pytest.approx(
        value(log_e_safe(swapped, 1 / r0)), rel=1e-7, abs=1e-7
    )


@given(seen=epochs())
def test_splitting_an_epoch_changes_nothing(seen: list[EventEpoch]) -> None:
    halves = [EventEpoch(e.pi, x, n) for e in seen for x, n in ((e.x / 2, e.n / 2), (e.x / 2, e.n / 2))]
    assert value(log_e_harm(seen, 1.2)) == pytest.approx(value(log_e_harm(halves, 1.2)), rel=1e-7, abs=1e-7)


@given(seen=epochs())
def test_the_log_e_value_falls_with_the_ratio_tested(seen: list[EventEpoch]) -> None:
    harm = [value(log_e_harm(seen, r)) for r in (0.25, 0.5, 1.0, 2.0, 4.0)]
    safe = [value(log_e_safe(seen, r)) for r in (0.25, 0.5, 1.0, 2.0, 4.0)]
    assert harm == sorted(harm, reverse=True)
    assert safe == sorted(safe)


def test_the_interval_inverts_both_tests() -> None:
    seen = [EventEpoch(0.05, 12, 150), EventEpoch(0.5, 70, 120)]
    ends = interval(seen, 0.01, 0.05)
    assert not isinstance(ends, NotComputable)
    assert value(log_e_harm(seen, ends[0])) == pytest.approx(math.log(100), rel=1e-6)
    assert value(log_e_safe(seen, ends[1])) == pytest.approx(math.log(20), rel=1e-6)


def test_one_sided_counts_leave_an_open_interval() -> None:
    assert interval([EventEpoch(0.5, 0, 1)], 0.05, 0.05) == (0.0, math.inf)
    none_of_many = interval([EventEpoch(0.5, 0, 200)], 0.05, 0.05)
    assert not isinstance(none_of_many, NotComputable)
    assert none_of_many[0] == 0.0
    assert none_of_many[1] < 0.1


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [EventEpoch(0.5, 0, 0)],
        [EventEpoch(0.5, 3, 2)],
        [EventEpoch(0.5, -1, 2)],
        [EventEpoch(0.5, math.nan, 2)],
        [EventEpoch(0.5, 1, math.inf)],
        [EventEpoch(0.0, 0, 2)],
        [EventEpoch(math.nan, 0, 2)],
    ],
)
def test_bad_counts_are_not_computable(bad: list[EventEpoch]) -> None:
    for result in (log_e_harm(bad, 1), log_e_safe(bad, 1), interval(bad, 0.05, 0.05)):
        assert isinstance(result, NotComputable)


def test_a_ratio_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="relative risk"):
        log_e_harm([EventEpoch(0.5, 1, 2)], 0.0)
