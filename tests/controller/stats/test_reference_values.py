"""Single values against implementations that share nothing with ours: integrals, urns, enumeration, scipy.

``REFERENCES`` counts them: every case of a parametrised test is one value, whatever it compares.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from scipy import integrate, optimize, stats
from sklearn.metrics import brier_score_loss

from accede.controller.stats.asymptotic import log_e_harm as asymptotic_harm
from accede.controller.stats.asymptotic import log_tail, t_scaled
from accede.controller.stats.clusters import (
    BatchEstimate,
    ClusterEpoch,
    ClusterEstimate,
    batch_estimate,
    cluster_estimate,
)
from accede.controller.stats.distribution import beta_binomial_log_e
from accede.controller.stats.events import EventEpoch, log_e_harm, log_e_safe
from accede.controller.stats.groups import shortfall
from accede.controller.stats.mean import MeanStatistic, at_least_statistic
from accede.controller.stats.mixture import (
    gamma_exponential_bound,
    gamma_exponential_log,
    normal_bound,
    normal_log,
    normal_two_sided_log,
)
from accede.controller.stats.planning import events_needed
from accede.controller.stats.sample_ratio import RatioEpoch, log_e
from accede.controller.stats.spread import Cell, GapEstimate
from accede.controller.stats.tuning import rho, rho_two_sided

# s, v, v_opt, level, c
GAMMA = [
    (10.0, 100.0, 100.0, 0.05, 2.0),
    (0.0, 1.0, 10.0, 0.05, 1.0),
    (5.0, 1.0, 10.0, 0.05, 1.0),
    (5.0, 0.0, 10.0, 0.05, 1.0),
    (30.0, 100.0, 100.0, 0.005, 1.0),
    (-10.0, 100.0, 100.0, 0.05, 1.0),
    (12.0, 30.0, 400.0, 0.001, 1.0),
    (60.0, 900.0, 500.0, 0.025, 1.0),
    (3.0, 2.0, 40.0, 0.01, 0.5),
    (25.0, 64.0, 64.0, 0.0005, 1.5),
]
# s, v, v_opt, level
NORMAL = [
    (10.0, 100.0, 100.0, 0.05),
    (-10.0, 100.0, 100.0, 0.05),
    (35.0, 100.0, 100.0, 0.005),
    (0.0, 50.0, 10.0, 0.01),
    (3.0, 0.5, 2.0, 0.025),
    (200.0, 2500.0, 900.0, 0.001),
]
POLYA = [
    (15, 20, Fraction(1, 2), 1, 1),
    (0, 12, Fraction(1, 100), 1, 99),
    (7, 50, Fraction(1, 4), 25, 75),
    (60, 60, Fraction(1, 2), 50, 50),
    (3, 400, Fraction(1, 50), 2, 98),
]
URNS = [
    ((10, 9), (Fraction(1, 2), Fraction(1, 2)), 10_000),
    ((40, 2), (Fraction(9, 10), Fraction(1, 10)), 10_000),
    ((5, 7, 9), (Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)), 100),
    ((0, 30), (Fraction(1, 2), Fraction(1, 2)), 50),
]
TAILS = [(0.5, 3.0), (1.96, 9.0), (2.5, 19.0), (4.0, 9.0), (8.0, 30.0), (-3.0, 12.0)]
DEEP = [(30.0, 60.0), (200.0, 100.0)]
EVENTS = [
    (((0.5, 3, 5),), 1.0),
    (((0.01, 1, 4), (0.25, 2, 3)), 1.0),
    (((0.5, 6, 6),), 1.5),
    (((0.05, 0, 7), (0.5, 5, 9)), 2.0),
]
SEEDS = [1, 2, 3]
REFERENCES = (
    len(GAMMA) + 2 * len(NORMAL) + len(POLYA) + len(URNS) + len(TAILS) + len(DEEP) + 2 * len(EVENTS)
    + 2 * len(SEEDS)
)  # fmt: skip


def test_there_are_more_than_forty_of_them() -> None:
    assert REFERENCES > 40
    assert len(set(GAMMA)) + len(set(NORMAL)) + len(set(TAILS)) == len(GAMMA) + len(NORMAL) + len(TAILS)


def gamma_integral(s: float, v: float, precision: float, c: float) -> float:
    """ln of the integral of exp(lambda s - psi(lambda) v) over the truncated gamma prior, by quadrature.

    Howard et al. 2021: psi of a sub-exponential process, and the prior of Prop. 9, on [0, 1/c). With
    u = 1 - c lambda the prior's density is proportional to u^(r - 1) e^(-r u), r = precision/c^2.
    """
    r = precision / c**2

    def exponent(u: float) -> float:
        tilt = (1.0 - u) / c
        psi = (-math.log(u) - (1.0 - u)) / c**2
        return tilt * s - psi * v + (r - 1.0) * math.log(u) - r * u

    def prior(u: float) -> float:
        return (r - 1.0) * math.log(u) - r * u

    def log_integral(f: Callable[[float], float], peak: float) -> float:
        at = min(max(peak, 1e-6), 1.0 - 1e-9)
        shift = f(at)
        value = integrate.quad(
            lambda u: math.exp(f(u) - shift), 0.0, 1.0, points=[at], epsabs=0.0, epsrel=1e-12, limit=500
        )[0]
        return math.log(value) + shift

    shape = v / c**2 + r - 1.0
    top = shape / (s / c + v / c**2 + r)  # where the exponent's slope is 0
    return log_integral(exponent, top) - log_integral(prior, (r - 1.0) / r)


def normal_integral(s: float, v: float, precision: float, *, sides: int) -> float:
    """The same for a sub-Gaussian process and a (half-)normal prior of variance 1/precision."""
    top = s / (v + precision)
    spread = 1.0 / math.sqrt(v + precision)

    def exponent(tilt: float) -> float:
        return tilt * s - 0.5 * tilt**2 * (v + precision)

    low = -math.inf if sides == 2 else 0.0
    peak = exponent(top) if sides == 2 or top > 0.0 else 0.0
    far = max(top, 0.0) + 40.0 * spread
    value = integrate.quad(
        lambda x: math.exp(exponent(x) - peak), max(low, top - 40.0 * spread), far, epsabs=0.0, epsrel=1e-12,
        limit=500, points=[max(top, 1e-12 * spread)],
    )[0]  # fmt: skip
    return math.log(value * (2 / sides) * math.sqrt(precision / (2.0 * math.pi))) + peak


@pytest.mark.parametrize(("s", "v", "v_opt", "level", "c"), GAMMA)
def test_the_gamma_exponential_mixture_is_its_integral(
    s: float, v: float, v_opt: float, level: float, c: float
) -> None:
    known = gamma_integral(s, v, rho(v_opt, level), c)
    assert gamma_exponential_log(s, v, v_opt=v_opt, level=level, c=c) == pytest.approx(
        known, rel=1e-6, abs=1e-8
    )


@pytest.mark.parametrize(("s", "v", "v_opt", "level"), NORMAL)
def test_the_one_sided_normal_mixture_is_its_integral(s: float, v: float, v_opt: float, level: float) -> None:
    known = normal_integral(s, v, rho(v_opt, level), sides=1)
    assert normal_log(s, v, v_opt=v_opt, level=level) == pytest.approx(known, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("s", "v", "v_opt", "level"), NORMAL)
def test_the_two_sided_normal_mixture_is_its_integral(s: float, v: float, v_opt: float, level: float) -> None:
    known = normal_integral(s, v, rho_two_sided(v_opt, level), sides=2)
    assert normal_two_sided_log(s, v, v_opt=v_opt, level=level) == pytest.approx(known, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("v", "level"), [(1.0, 0.05), (100.0, 0.005)])
def test_boundaries_are_where_the_integrals_reach_the_threshold(v: float, level: float) -> None:
    precision = rho(100.0, level)
    gamma = optimize.brentq(lambda s: gamma_integral(s, v, precision, 1.0) + math.log(level), 1.0, 200.0)
    assert gamma_exponential_bound(v, v_opt=100.0, level=level) == pytest.approx(gamma, rel=1e-6)
    normal = optimize.brentq(
        lambda s: normal_integral(s, v, precision, sides=1) + math.log(level), 1.0, 200.0
    )
    assert normal_bound(v, v_opt=100.0, level=level) == pytest.approx(normal, rel=1e-6)


@pytest.mark.parametrize(("x", "n", "theta", "alpha", "beta"), POLYA)
def test_the_beta_binomial_is_polyas_urn(x: int, n: int, theta: Fraction, alpha: int, beta: int) -> None:
    """Exact: the successes one after the other, then the failures, each at its share of the urn."""
    urn = Fraction(1)
    for i in range(x):
        urn *= Fraction(alpha + i, alpha + beta + i) / theta
    for i in range(n - x):
        urn *= Fraction(beta + i, alpha + beta + x + i) / (1 - theta)
    ours = beta_binomial_log_e(x, n, float(theta), alpha, beta)
    assert ours == pytest.approx(math.log(urn.numerator) - math.log(urn.denominator), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("counts", "shares", "concentration"), URNS)
def test_the_sample_ratio_is_an_urn(
    counts: tuple[int, ...], shares: tuple[Fraction, ...], concentration: int
) -> None:
    urn, drawn = Fraction(1), 0
    for count, share in zip(counts, shares, strict=True):
        for i in range(count):
            urn *= (concentration * share + i) / (concentration + drawn) / share
            drawn += 1
    known = math.log(urn.numerator) - math.log(urn.denominator)
    ours = log_e([RatioEpoch(tuple(map(float, counts)), tuple(map(float, shares)))], concentration)
    assert ours == pytest.approx(known, rel=1e-6, abs=1e-9)


def test_an_e_value_of_the_sample_ratio_is_1_on_average_over_everything_that_can_happen() -> None:
    shares = (0.5, 0.3, 0.2)
    total = 0.0
    for drawn in itertools.product(range(3), repeat=8):
        counts = tuple(float(drawn.count(arm)) for arm in range(3))
        e = log_e([RatioEpoch(counts, shares)], 7.0)
        assert isinstance(e, float)
        total += math.exp(e) * math.prod(shares[arm] for arm in drawn)
    assert total == pytest.approx(1.0, rel=1e-10)


@pytest.mark.parametrize(("z", "df"), TAILS)
def test_t_scaling_gives_the_normal_quantile_of_students_p(z: float, df: float) -> None:
    assert t_scaled(z, df) == pytest.approx(
        math.copysign(stats.norm.isf(stats.t.sf(abs(z), df)), z), rel=1e-9
    )


@pytest.mark.parametrize(("z", "df"), DEEP)
def test_students_tail_by_quadrature_of_its_density(z: float, df: float) -> None:
    """The density relative to that at z, integrated beyond it."""
    shift = float(stats.t.logpdf(z, df))
    beyond = integrate.quad(
        lambda x: math.exp(float(stats.t.logpdf(x, df)) - shift), z, z * 20.0, epsabs=0.0, epsrel=1e-11,
        limit=500, points=[z * 1.5, z * 4.0],
    )[0]  # fmt: skip
    assert log_tail(z, df) == pytest.approx(shift + math.log(beyond), rel=1e-8)


def one_by_one(epochs: tuple[tuple[float, int, int], ...], r0: float, sign: float) -> float:
    """The mean over the grid of ratios of products of probabilities, event by event, in plain arithmetic."""
    factors = []
    for k in range(32):
        step = math.exp(math.log(0.02) + k / 31 * (math.log(3.0) - math.log(0.02)))
        product = 1.0
        for pi, x, n in epochs:
            odds, null = (pi * r / (1 - pi) for r in (r0 * math.exp(sign * step), r0))
            here, there = odds / (1 + odds), null / (1 + null)
            for event in range(n):
                product *= here / there if event < x else (1 - here) / (1 - there)
        factors.append(product)
    return math.log(sum(factors) / 32)


@pytest.mark.parametrize(("epochs", "ratio"), EVENTS)
def test_event_counts_event_by_event(epochs: tuple[tuple[float, int, int], ...], ratio: float) -> None:
    seen = [EventEpoch(pi, float(x), float(n)) for pi, x, n in epochs]
    assert log_e_harm(seen, ratio) == pytest.approx(one_by_one(epochs, ratio, 1.0), rel=1e-9, abs=1e-9)
    assert log_e_safe(seen, ratio) == pytest.approx(one_by_one(epochs, ratio, -1.0), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("epochs", "ratio"), EVENTS)
def test_an_e_value_of_events_is_1_on_average_over_everything_that_can_happen(
    epochs: tuple[tuple[float, int, int], ...], ratio: float
) -> None:
    total = {1.0: 0.0, -1.0: 0.0}
    for xs in itertools.product(*(range(n + 1) for _, _, n in epochs)):
        seen = [EventEpoch(pi, float(x), float(n)) for x, (pi, _, n) in zip(xs, epochs, strict=True)]
        chance = math.prod(
            float(stats.binom.pmf(x, n, pi * ratio / (pi * ratio + 1 - pi)))
            for x, (pi, _, n) in zip(xs, epochs, strict=True)
        )
        for sign, e in ((1.0, log_e_harm(seen, ratio)), (-1.0, log_e_safe(seen, ratio))):
            assert isinstance(e, float)
            total[sign] += chance * math.exp(e)
    assert total[1.0] == pytest.approx(1.0, rel=1e-9)
    assert total[-1.0] == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_clusters_are_a_regression_with_cluster_robust_errors(seed: int) -> None:
    """Least squares of y on the arm with the sandwich of Liang and Zeger 1986, from single requests."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 40, 3000)
    arm = (rng.random(3000) < 0.3).astype(float)
    y = (rng.random(3000) < np.clip(0.2 + 0.1 * rng.normal(size=40)[cluster], 0, 1)).astype(float)
    design = np.column_stack((np.ones(3000), arm))
    bread = np.linalg.inv(design.T @ design)
    fitted = bread @ design.T @ y
    scores = design * (y - design @ fitted)[:, None]
    meat = sum(np.outer(total, total) for total in (scores[cluster == j].sum(axis=0) for j in range(40)))
    known = 40 / 39 * (bread @ meat @ bread)[1, 1]
    sums = [np.bincount(cluster, w, 40).astype(float) for w in (arm, arm * y, 1 - arm, (1 - arm) * y)]
    got = cluster_estimate([ClusterEpoch(0.3, *sums)])
    assert isinstance(got, ClusterEstimate)
    assert got.estimate == pytest.approx(fitted[1], rel=1e-9)
    assert got.variance == pytest.approx(known, rel=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_equal_batches_are_a_t_test_of_their_means(seed: int) -> None:
    means = np.random.default_rng(10 + seed).normal(0.02, 0.1, 25).clip(-1, 1)
    got = batch_estimate(np.full(25, 40.0), means * 40.0)
    assert isinstance(got, BatchEstimate)
    known = stats.ttest_1samp(means, 0.0)
    assert got.df == pytest.approx(known.df)
    assert got.estimate / math.sqrt(got.variance) == pytest.approx(known.statistic, rel=1e-9)
    # The asymptotic test is the normal mixture of the same p.
    z = float(stats.norm.isf(float(stats.t.sf(float(known.statistic), 24.0))))
    information = 1.0 / got.variance
    ours = asymptotic_harm(got.estimate, got.variance, 0.0, v_opt=500.0, level=0.05, df=got.df)
    through_p = normal_integral(z * math.sqrt(information), information, rho(500.0, 0.05), sides=1)
    assert ours == pytest.approx(through_p, rel=1e-6, abs=1e-8)


def test_the_designs_mann_whitney_and_the_chance_to_be_above() -> None:
    candidate, stable = [19, 22, 16, 29, 24], [20, 11, 17, 12]
    known = stats.mannwhitneyu(candidate, stable, method="exact")
    assert known.statistic == 17.0
    assert known.pvalue == pytest.approx(0.111111, rel=1e-5)
    # The mean of the candidate's ranks among stable's is U/(n m): what prediction.rank averages.
    ranks = [sum(x > y for y in stable) / len(stable) for x in candidate]
    got = at_least_statistic(5.0, sum(ranks), sum(r * r for r in ranks), 0.5)
    assert isinstance(got, MeanStatistic)
    assert got.estimate + 0.5 == pytest.approx(known.statistic / 20)


def test_the_designs_brier_score_is_the_mean_of_a_loss() -> None:
    truth, predicted = [0, 1, 1, 0], [0.1, 0.9, 0.8, 0.3]
    known = brier_score_loss(truth, predicted)
    assert known == pytest.approx(0.0375)
    loss = [(p - t) ** 2 for t, p in zip(truth, predicted, strict=True)]
    got = at_least_statistic(4.0, sum(loss), sum(x * x for x in loss), 0.0)
    assert isinstance(got, MeanStatistic)
    assert got.estimate == pytest.approx(known)


def test_the_variance_of_a_gap_is_that_of_two_means() -> None:
    """Welch's statistic and degrees of freedom, up to the one success and failure that ours adds."""
    one, other = np.repeat([1.0, 0.0], [900, 2100]), np.repeat([1.0, 0.0], [1300, 2700])
    got = shortfall([(Cell.counts(3000.0, 900.0), Cell.counts(4000.0, 1300.0))], 1.0)
    assert isinstance(got, GapEstimate)
    known = stats.ttest_ind(one, other, equal_var=False)
    assert got.estimate / math.sqrt(got.variance) == pytest.approx(known.statistic, rel=2e-3)
    assert got.df == pytest.approx(known.df, rel=2e-3)


def test_planned_events_are_the_information_of_single_requests() -> None:
    """ln(1/a) + 1 over the growth of ln E: summed over what one request can do, at half the traffic."""
    p_c, p_s, growth = 0.02, 0.01, 0.0
    for rate, truth in ((p_c, 2 / 3), (p_s, 1 / 3)):
        growth += 0.5 * rate * math.log(truth / 0.5)
    assert events_needed(0.5, 0.01, 2.0, 1.0, 0.05) == pytest.approx((-math.log(0.05) + 1) / growth, rel=1e-9)
