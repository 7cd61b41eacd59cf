from __future__ import annotations

import math

import pytest

from accede.controller.stats.distribution import ClassEpoch, beta_binomial_log_e, equality_log_e, psi
from accede.controller.stats.result import NotComputable


def value(result: float | NotComputable) -> float:
    assert isinstance(result, float), result
    return result


def test_reference_values() -> None:
    assert math.exp(value(beta_binomial_log_e(15, 20, 0.5, 1, 1))) == pytest.approx(3.2206005, rel=1e-5)
    assert psi([50, 50], [60, 40], observations_per_bin=0) == pytest.approx(0.0405465, rel=1e-5)


def test_classes_and_epochs_multiply() -> None:
    one, two = ClassEpoch(0.5, (60, 40), (50, 50)), ClassEpoch(0.1, (5, 0), (30, 0))
    single = value(beta_binomial_log_e(60, 110, 0.5, 50, 50)) + value(
        beta_binomial_log_e(40, 90, 0.5, 50, 50)
    )
    assert value(equality_log_e([one])) == pytest.approx(single)
    assert value(equality_log_e([one, two])) == pytest.approx(single + value(equality_log_e([two])))
    mirrored = ClassEpoch(0.9, two.counts_s, two.counts_c)
    assert value(equality_log_e([mirrored])) == pytest.approx(value(equality_log_e([two])))


def test_a_collapse_to_the_mean_is_found() -> None:
    assert value(equality_log_e([ClassEpoch(0.5, (0, 900, 0), (300, 300, 300))])) > 100


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [ClassEpoch(0.5, (0, 0), (0, 0))],
        [ClassEpoch(0.5, (1, 2), (1,))],
        [ClassEpoch(0.5, (-1, 2), (5, 1))],
        [ClassEpoch(0.5, (math.nan, 2), (5, 1))],
        [ClassEpoch(0.0, (0, 0), (5, 1))],
    ],
)
def test_bad_classes_are_not_computable(bad: list[ClassEpoch]) -> None:
    assert isinstance(equality_log_e(bad), NotComputable)


def test_psi_is_withheld_from_small_samples() -> None:
    small = psi([50, 50], [60, 40])
    assert isinstance(small, NotComputable)
    assert "at least 200" in small.reason
    assert value(psi([500, 500, 0], [600, 400, 0], observations_per_bin=1)) > 0
    for bad in ([1.0], [1.0, math.nan], [-1.0, 3.0], [0.0, 0.0]):
        assert isinstance(psi(bad, bad, observations_per_bin=0), NotComputable)
