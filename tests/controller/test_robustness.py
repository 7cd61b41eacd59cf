"""Every statistic against every way in which numbers can be broken: refused with a reason, never a pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from accede.controller.stats import (
    arrays,
    asymptotic,
    autocorrelation,
    clusters,
    distribution,
    drift,
    events,
    groups,
    histogram,
    mean,
    mixture,
    planning,
    sample_ratio,
    spread,
)
from accede.controller.stats.evalues import closed_e_values, e_bh, log_mean_exp
from accede.controller.stats.result import NotComputable
from accede.store.evidence import ArmKey
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import Outcome
from tests.controller.test_analysis import CONSTANTS, ERRORS, MEAN, Scene, policy

G = 40
NAN, INF = math.nan, math.inf

Counts = Callable[[float, float], Any]
Column = np.ndarray[tuple[int], np.dtype[np.float64]]


def column(value: float, length: int = G) -> Column:
    """Whole clusters of one count, the first of them replaced by `value`."""
    made = np.full(length, 10.0)
    made[0] = value
    return made


def events_of(log_e: Callable[[Sequence[events.EventEpoch], float], Any]) -> Counts:
    return lambda x, n: log_e([events.EventEpoch(0.5, x, n)], 1.2)


# statistic -> what it says with a count of the candidate and one of stable, of which either may be broken
STATISTICS: dict[str, Counts] = {
    "mean": lambda c, s: mean.mean_statistic([mean.MeanEpoch(0.5, 0.5, c, c / 2, c / 3, s, s / 2, s / 3)]),
    "paired": lambda c, s: mean.paired_statistic(c, s / 10, s / 5),
    "at least": lambda c, s: mean.at_least_statistic(c, s / 2, s / 3, 0.9),
    "events harm": events_of(events.log_e_harm),
    "events safe": events_of(events.log_e_safe),
    "events interval": lambda c, s: events.interval([events.EventEpoch(0.5, c, s)], 0.05, 0.05),
    "clusters": lambda c, s: clusters.cluster_estimate(
        [clusters.ClusterEpoch(0.5, column(c), 0.3 * column(c), column(s), 0.3 * column(s))]
    ),
    "batches": lambda c, s: clusters.batch_estimate(column(c), 0.1 * column(s)),
    "asymptotic harm": lambda c, s: asymptotic.log_e_harm(c, s, 0.0, v_opt=10.0, level=0.05, df=20.0),
    "asymptotic safe": lambda c, s: asymptotic.log_e_safe(c, s, 0.0, v_opt=10.0, level=0.05, df=20.0),
    "asymptotic interval": lambda c, s: asymptotic.interval(
        c, s, v_opt=10.0, level_low=0.05, level_high=0.05, df=20.0
    ),
    "sample ratio": lambda c, s: sample_ratio.log_e([sample_ratio.RatioEpoch((c, s), (0.5, 0.5))]),
    "sticky ratio": lambda c, s: sample_ratio.sticky_log_e(
        [sample_ratio.StickyRatioEpoch(0.5, column(c), column(s))], 0.001
    ),
    "beta-binomial": lambda c, s: distribution.beta_binomial_log_e(c, s, 0.5, 50.0, 50.0),
    "equality": lambda c, s: distribution.equality_log_e([distribution.ClassEpoch(0.5, (c, 5.0), (s, 5.0))]),
    "psi": lambda c, s: distribution.psi([c, 500.0], [s, 500.0]),
    "ks": lambda c, s: drift.kolmogorov_smirnov([c, 5.0], [s, 5.0]),
    "js": lambda c, s: drift.jensen_shannon([c, 5.0], [s, 5.0]),
    "wasserstein": lambda c, s: drift.wasserstein([c, 5.0], [s, 5.0], [0.0, 1.0]),
    "chi-squared": lambda c, s: drift.chi_squared([c, 5.0], [s, 5.0]),
    "drift": lambda c, s: drift.drift([c, 500.0], [s, 500.0], positions=None),
    "memory": lambda c, s: autocorrelation.memory(column(c), 0.1 * column(s), 0.05 * np.abs(column(s))),
    "quantile": lambda c, s: histogram.quantile([c, s, 10.0, 0.0], 0.5),
    "over": lambda c, s: histogram.over([c, s, 10.0], 1),
    "gap growth": lambda c, s: groups.gap_growth(
        [groups.PairedGroups(0.5, cell(c), cell(s), cell(10.0), cell(10.0))]
    ),
    "shortfall": lambda c, s: groups.shortfall([(cell(c), cell(s))], 0.8),
    "ratio growth": lambda c, s: groups.ratio_growth(
        [groups.PairedGroups(0.5, cell(c), cell(s), cell(10.0), cell(10.0))]
    ),
}


def cell(value: float) -> spread.Cell:
    n = column(value)
    return spread.Cell(n, 0.3 * n, 0.3 * np.abs(n))


BROKEN = [
    (NAN, 10.0), (10.0, NAN), (INF, 10.0), (10.0, INF),
    (-INF, 10.0), (10.0, -INF), (NAN, NAN), (-50.0, -50.0),
]  # fmt: skip


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize(("candidate", "stable"), BROKEN)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_statistic_refuses_numbers_that_are_none(name: str, candidate: float, stable: float) -> None:
    got = STATISTICS[name](candidate, stable)
    assert isinstance(got, NotComputable), f"{name}({candidate}, {stable}) = {got}"
    assert got.reason


@pytest.mark.parametrize(
    "empty",
    [
        lambda: mean.mean_statistic([]),
        lambda: mean.mean_statistic([mean.MeanEpoch(0.5, 0.5, 0, 0, 0, 0, 0, 0)]),
        lambda: mean.paired_statistic(0.0, 0.0, 0.0),
        lambda: events.log_e_harm([], 1.2),
        lambda: events.log_e_safe([events.EventEpoch(0.5, 0.0, 0.0)], 1.2),
        lambda: clusters.cluster_estimate([]),
        lambda: clusters.cluster_estimate([cluster_epoch(0.0, 10.0)]),
        lambda: clusters.cluster_estimate([cluster_epoch(10.0, 0.0)]),
        lambda: clusters.batch_estimate(np.zeros(G), np.zeros(G)),
        lambda: asymptotic.log_e_safe(0.0, 0.0, 1.0, v_opt=10.0, level=0.05),
        lambda: sample_ratio.log_e([]),
        lambda: sample_ratio.sticky_log_e(
            [sample_ratio.StickyRatioEpoch(0.5, np.zeros(G), np.zeros(G))], 0.01
        ),
        lambda: distribution.equality_log_e([]),
        lambda: distribution.psi([0, 0], [5, 5]),
        lambda: drift.drift([0, 0], [5, 5], positions=None),
        lambda: autocorrelation.memory(np.zeros(G), np.zeros(G), np.zeros(G)),
        lambda: histogram.quantile([0, 0, 0], 0.5),
        lambda: groups.shortfall([], 0.8),
        lambda: groups.gap_growth([]),
    ],
)
def test_empty_arms_and_no_variance_are_not_computable(empty: Callable[[], Any]) -> None:
    got = empty()
    assert isinstance(got, NotComputable), got


def cluster_epoch(candidate: float, stable: float, length: int = G) -> clusters.ClusterEpoch:
    ours, theirs = np.full(G, candidate), np.full(length, stable)
    return clusters.ClusterEpoch(0.5, ours, 0.3 * ours, theirs, 0.3 * theirs)


@pytest.mark.parametrize(
    "mismatched",
    [
        lambda: clusters.cluster_estimate([cluster_epoch(10.0, 10.0, length=30)]),
        lambda: clusters.batch_estimate(np.full(G, 10.0), np.zeros(G - 1)),
        lambda: sample_ratio.log_e([sample_ratio.RatioEpoch((1.0, 1.0, 1.0), (0.5, 0.5))]),
        lambda: sample_ratio.sticky_log_e(
            [sample_ratio.StickyRatioEpoch(0.5, np.full(G, 9.0), np.full(30, 9.0))], 0.01
        ),
        lambda: distribution.equality_log_e([distribution.ClassEpoch(0.5, (1.0,), (1.0, 2.0))]),
        lambda: drift.drift([500, 500], [500, 500, 500], positions=None),
        lambda: drift.wasserstein([5, 5], [5, 5], [0.0]),
        lambda: autocorrelation.memory(np.ones(G), np.ones(G), np.ones(30)),
    ],
)
def test_mismatched_shapes_are_not_computable(mismatched: Callable[[], Any]) -> None:
    assert isinstance(mismatched(), NotComputable)


@pytest.mark.parametrize(("estimate", "variance", "df"), [
    (NAN, 1.0, 20.0), (INF, 1.0, 20.0), (0.1, NAN, 20.0), (0.1, INF, 20.0), (0.1, 0.0, 20.0),
    (0.1, -1.0, 20.0),
    (0.1, 1.0, NAN), (0.1, 1.0, 0.5), (0.1, 1.0, INF),
])  # fmt: skip
def test_arrays_of_tests_have_no_number_where_one_test_has_none(
    estimate: float, variance: float, df: float
) -> None:
    got = arrays.asymptotic_log_e([estimate, 0.1], [variance, 1.0], 0.0, 10.0, [df, 20.0])
    assert math.isnan(got[0])
    alone = asymptotic.log_e_harm(
        0.1, 1.0, 0.0, v_opt=float(10.0 / arrays.rho(1.0, 0.05)), level=0.05, df=20.0
    )
    assert got[1] == pytest.approx(alone)


@pytest.mark.parametrize("bad", [NAN, INF, -1.0])
@pytest.mark.parametrize(
    "planned",
    [
        lambda bad: planning.mean_weight(0.1, bad, 0.05),
        lambda bad: planning.mean_weight(0.1, 0.1, bad),
        lambda bad: planning.requests_for_weight(100.0, bad),
        lambda bad: planning.requests_for_weight(bad, 0.5),
        lambda bad: planning.information_needed(0.1, bad),
        lambda bad: planning.events_needed(0.5, bad, 2.0, 1.5, 0.05),
        lambda bad: planning.events_needed(0.5, 0.01, bad, 1.5, 0.05),
        lambda bad: planning.events_needed(0.5, 0.01, 2.0, bad, 0.05),
        lambda bad: planning.paired_pairs(0.1, bad, 0.5, 0.05),
        lambda bad: planning.paired_pairs(0.1, 0.1, bad if bad != -1.0 else -1.1, 0.05),
    ],
)
def test_a_plan_from_broken_numbers_is_refused(planned: Callable[[float], float], bad: float) -> None:
    with pytest.raises(ValueError, match="must"):
        planned(bad)


@pytest.mark.parametrize("bad", [NAN, -1.0])
def test_combinations_raise_on_what_is_no_e_value(bad: float) -> None:
    for combine in (closed_e_values, lambda e: e_bh(e, 0.05)):
        with pytest.raises(ValueError, match="E-values"):
            combine([1.0, bad])
    with pytest.raises(ValueError, match="E-values"):
        log_mean_exp([0.0, NAN])
    with pytest.raises(ValueError, match="finite"):
        mixture.normal_log(bad if math.isnan(bad) else INF, 1.0, v_opt=1.0, level=0.05)


GATES: dict[str, dict[str, Any]] = {
    "errors": ERRORS,
    "mean": {**MEAN, "in": "canary"},
    "agreement": {"metric": "prediction.agreement", "min": "90%", "in": "shadow"},
    "latency": {"metric": "latency.p95", "max_ratio": 1.2},
    "distribution": {"metric": "prediction.distribution", "max_shift": "5pp", "in": "canary"},
    "divergence": {"metric": "prediction.divergence", "max_increase": "4pp", "in": "shadow"},
    "rank": {"metric": "prediction.rank", "max_shift": "0.1sd", "in": "canary"},
    "explanation": {"metric": "explanation.agreement", "min": "90%", "in": "shadow"},
    "gap": {"metric": "selection_gap", "by": "sex", "max_increase": "3pp", "in": "canary"},
    "ratio": {"metric": "selection_ratio", "by": "sex", "min": 0.8, "in": "canary"},
    "gap on pairs": {"metric": "selection_gap", "by": "sex", "max_increase": "3pp", "in": "shadow"},
    "ratio on pairs": {"metric": "selection_ratio", "by": "sex", "min": 0.8, "in": "shadow"},
}
GROUPS = {"gap", "ratio", "gap on pairs", "ratio on pairs"}
ON_PAIRS: dict[str, tuple[tuple[ArmKey, str], ...]] = {
    "agreement": (("pair", "agreement"),),
    "divergence": (("pair", "agreement"), ("floor", "agreement")),
    "explanation": (("pair", "explanation"),),
    "gap on pairs": (("pair", "selected"), ("paired_stable", "selected")),
    "ratio on pairs": (("pair", "selected"), ("paired_stable", "selected")),
}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("broken", [NAN, INF, -INF, -1.0, 1e300, "short", "one arm", "empty", "none"])
def test_a_gate_on_broken_or_absent_evidence_never_passes_and_never_fails(
    gate: str, broken: float | str
) -> None:
    scene = Scene(constants=msgspec.structs.replace(CONSTANTS, deviations={"mean|": 0.2, "rank|": 0.3}))
    for number, arm, series, length in _series(gate):
        if broken == "none" or (broken == "one arm" and arm in {"candidate", "pair"}):
            continue
        count = 0.0 if broken == "empty" else 1000.0
        n = [count] * length
        y = [0.5 * count] * length
        if isinstance(broken, float):
            n[0] = broken
        square = y[1:] if broken == "short" else list(y)
        for group in ("sex=female", "sex=male") if gate in GROUPS else ("",):
            scene.put(number, arm, series, list(n), list(y), square, group)
    for verdict in scene.analysis(policy(GATES[gate])).verdicts:
        assert verdict.outcome in {Outcome.INCONCLUSIVE, Outcome.ERROR}, verdict.reason
        assert verdict.reason


def _series(gate: str) -> Sequence[tuple[int, ArmKey, str, int]]:
    if gate in ON_PAIRS:
        return [(1, arm, name, CLUSTERS) for arm, name in ON_PAIRS[gate]]
    names = {
        "errors": ("errors",), "mean": ("mean",), "distribution": ("bin.0", "bin.1"),
        "rank": ("rank",), "gap": ("selected",), "ratio": ("selected",),
        "latency": ("latency.p95.over", "latency.p95.mid", "latency.p95.far"),
    }[gate]  # fmt: skip
    length = CLUSTERS if gate in {"errors", "latency"} else 1
    arms: tuple[ArmKey, ...] = ("candidate", "stable")
    return [(number, arm, name, length) for number in (2, 3) for arm in arms for name in names]


def test_the_same_evidence_unbroken_does_decide() -> None:
    """Else the matrix above would prove nothing."""
    scene = Scene().clustered(3, "errors", (1000, 0.01), (1000, 0.01))
    assert scene.verdict(policy(ERRORS)).outcome is Outcome.PASS
    assert CONSTANTS.requests == 1000
