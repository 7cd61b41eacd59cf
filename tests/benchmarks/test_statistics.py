"""The campaigns of the statistics: what they compare, against scipy and the product; and their report."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy import stats

from accede.controller.stats import events
from accede.controller.stats.asymptotic import log_e_harm
from accede.controller.stats.clusters import BatchEstimate, batch_estimate, cluster_estimate
from accede.controller.stats.mean import MeanEpoch, MeanStatistic, mean_statistic
from accede.controller.stats.mixture import normal_two_sided_log
from accede.controller.stats.result import NotComputable
from accede.controller.stats.tuning import RANDOMISED, asymptotic_v_opt, mean_v_opt
from benchmarks.statistics import campaign, command, delays, folding, naive, ours, page, peers, plots, scenes
from benchmarks.statistics.results import Measured, Rate

DOCS = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"
GRID = np.array([0.0, 0.25, 0.5, 1.0])


def stored() -> Measured:
    return msgspec.json.decode((DOCS / "statistics.json").read_bytes(), type=Measured)


# --- what others do ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_textbook_tests_decide_as_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = np.array([0.4, 0.3, 0.2, 0.1]) + 0.05 * seed * np.array([-1, -0.5, 0.5, 1]) / 2
    c, s = (
        rng.multinomial(220, weights).astype(float),
        rng.multinomial(300, [0.4, 0.3, 0.2, 0.1]).astype(float),
    )
    one, other = (np.repeat(GRID, counts.astype(int)) for counts in (c, s))
    known = {
        "t": stats.norm.sf(stats.ttest_ind(one, other, equal_var=False).statistic),
        "Mann-Whitney": stats.mannwhitneyu(
            one, other, alternative="greater", use_continuity=False, method="asymptotic"
        ).pvalue,
        "χ²": stats.chi2_contingency(np.stack((c, s)), correction=False).pvalue,
        "two proportions": stats.norm.sf(_z(float(c[2:].sum()), 220, float(s[2:].sum()), 300)),
    }
    for name, p in known.items():
        found = bool(naive.TESTS[name](c[None, None], s[None, None], GRID)[0, 0])
        assert found == (p < 0.05), (name, p)
    z = naive.t_statistic(c[None, None], s[None, None], GRID)[0, 0]
    assert z == pytest.approx(stats.ttest_ind(one, other, equal_var=False).statistic, rel=1e-9)
    d = stats.ks_2samp(one, other, method="asymp").statistic
    assert bool(naive.kolmogorov_smirnov(c[None, None], s[None, None], GRID)[0, 0]) == (
        d * math.sqrt(220 * 300 / 520) > 1.3581015
    )


def _z(x: float, n: float, y: float, m: float) -> float:
    p = (x + y) / (n + m)
    return (x / n - y / m) / math.sqrt(p * (1 - p) * (1 / n + 1 / m))


def test_kayenta_calls_what_scipy_calls_beyond_a_quarter_of_the_shift() -> None:
    """The interval's lower end is above x exactly where the one-sided 1% test rejects a shift of x."""
    rng = np.random.default_rng(5)
    requests = scenes.Requests(scenes.GRID, scenes.STEADY, looks=60, requests=200)
    seen = {True: 0, False: 0}
    for effect in (0.0, 0.004, 0.008, 0.04):
        counts = requests.draw(rng, 30, effect)
        called = naive.kayenta(counts.c, counts.s, counts.grid)[:, 59]
        for run in range(30):
            a, b = (
                (arm[run].reshape(30, 2, -1).sum(axis=1) @ counts.grid) / arm[run].reshape(30, -1).sum(axis=1)
                for arm in (counts.c, counts.s)
            )
            quarter = 0.25 * abs(float(np.median(a[:, None] - b[None, :])))
            p = float(stats.mannwhitneyu(a - quarter, b, alternative="greater").pvalue)
            if not 0.008 < p < 0.0125:  # the rank is rounded
                assert called[run] == (p < 0.01)
                seen[bool(called[run])] += 1
    assert min(seen.values()) > 20


def test_o_brien_flemings_constant_holds_its_level() -> None:
    rng = np.random.default_rng(6)
    paths = np.cumsum(rng.normal(size=(200_000, 5)), axis=1) / np.sqrt(np.arange(1, 6))
    share = float(peers.group_sequential(paths, 5).any(axis=1).mean())
    assert share == pytest.approx(0.05, abs=0.002)


def test_the_msprt_is_the_two_sided_normal_mixture() -> None:
    gap, information, level = 0.1, 700.0, 0.05
    spread = 2 * -math.log(level)
    v_opt = (spread + math.log1p(spread)) / gap**2
    for z in (2.0, 2.9, 3.2):
        known = normal_two_sided_log(z * math.sqrt(information), information, v_opt=v_opt, level=level)
        called = peers.mixture(np.array([[z]]), np.array([[information]]), gap, level)[0, 0]
        assert called == (known >= -math.log(level))


# --- our own methods over arrays ----------------------------------------------------------------------


def test_shares_are_moved_by_exactly_the_effect() -> None:
    moved = scenes.shifted(scenes.bell(np.array([0.3, 0.6]), 0.2), np.array(scenes.GRID), 0.02)
    before = scenes.bell(np.array([0.3, 0.6]), 0.2)
    assert moved @ np.array(scenes.GRID) - before @ np.array(scenes.GRID) == pytest.approx(0.02)
    assert moved.sum(axis=1) == pytest.approx(1.0)
    assert (moved >= 0).all()
    with pytest.raises(ValueError, match="no room"):
        scenes.shifted(before, np.array(scenes.GRID), 0.06)


def test_sums_and_e_values_of_means_are_the_products() -> None:
    counts = campaign.DRIFT.draw(np.random.default_rng(1), 3, 0.02)
    seen = ours.sums(counts)
    for run, look in ((0, 30), (2, 99)):
        epochs = []
        for step in range(int(counts.step[look]) + 1):
            span = np.flatnonzero(counts.step[: look + 1] == step)
            arms = [counts.c[run, span].sum(axis=0), counts.s[run, span].sum(axis=0)]
            sums = [float(arm @ counts.grid**k) for arm in arms for k in (0, 1, 2)]
            epochs.append(MeanEpoch(scenes.STEPS[step], float(counts.centre[span[0]]), *sums))
        known = mean_statistic(epochs)
        assert isinstance(known, MeanStatistic)
        assert (seen.s[run, look], seen.q[run, look], seen.w[run, look]) == pytest.approx(
            (known.S, known.Q, known.W), rel=1e-9
        )
        e = ours.mean(seen, 0.01, 0.02, 0.02, 0.05)
        v_opt = mean_v_opt(0.02, 0.02, 0.05, scale=RANDOMISED)
        assert e.harm[run, look] == pytest.approx(known.log_e_harm(0.01, v_opt, 0.05), rel=1e-7, abs=1e-7)
        assert e.safe[run, look] == pytest.approx(known.log_e_safe(0.01, v_opt, 0.05), rel=1e-7, abs=1e-7)


def test_events_over_arrays_are_the_products() -> None:
    pi = np.array([0.05, 0.05, 0.5])
    x, n = np.array([[1.0, 0.0, 9.0]]), np.array([[7.0, 4.0, 11.0]])
    e = ours.events(pi, x, n, 1.3)
    known = [events.EventEpoch(0.05, 1.0, 11.0), events.EventEpoch(0.5, 9.0, 11.0)]
    assert e.harm[0, 2] == pytest.approx(events.log_e_harm(known, 1.3))
    assert e.safe[0, 2] == pytest.approx(events.log_e_safe(known, 1.3))


@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_clusters_over_arrays_are_the_products_at_every_look(ratio: float) -> None:
    rng = np.random.default_rng(2)
    looks = list(
        scenes.time_cluster_run(
            rng, (0.05, 0.5), stall=(0.2, 20.0), rate=40.0, base=0.01, ratio=ratio, batches=60
        )
    )
    e = ours.between_clusters(ours.clustered(looks, ratio), 0.02, 0.05)
    v_opt, compared = asymptotic_v_opt(0.02, 0.05), 0
    for look, seen in enumerate(looks):
        known = cluster_estimate(seen, ratio=ratio)
        for side, values in zip(("log_e_harm", "log_e_safe"), e, strict=True):
            one = known if isinstance(known, NotComputable) else getattr(known, side)(0.0, v_opt, 0.05)
            if isinstance(one, NotComputable):
                assert math.isnan(values[look])
            else:
                assert values[look] == pytest.approx(one, rel=1e-6, abs=1e-8)
                compared += 1
    assert compared > 20


def test_batches_over_arrays_are_the_products_at_every_look() -> None:
    rng = np.random.default_rng(3)
    d = scenes.correlated(rng, 4000).reshape(1, 20, 200).sum(axis=2)
    n = np.full(d.shape, 200.0)
    e = ours.between_batches(n, d, 0.03, 0.05)
    assert np.isnan(e.harm[0, :9]).all()
    for k in range(10, 21):
        known = batch_estimate(n[0, :k], d[0, :k])
        assert isinstance(known, BatchEstimate)
        one = log_e_harm(
            known.estimate, known.variance, 0.0, v_opt=asymptotic_v_opt(0.03, 0.05), level=0.05, df=known.df
        )
        assert e.harm[0, k - 1] == pytest.approx(one, rel=1e-6, abs=1e-8)


def test_a_fixed_sample_has_the_power_that_is_said() -> None:
    setting = delays.settings()[0]
    counts = scenes.Requests(scenes.GRID, scenes.STEADY, looks=1, requests=round(setting.fixed)).draw(
        np.random.default_rng(7), 20_000, 0.1 * delays.SD
    )
    power = float((naive.t_statistic(counts.c, counts.s, counts.grid) > stats.norm.isf(0.05)).mean())
    assert power == pytest.approx(0.8, abs=0.015)


def test_a_campaign_that_is_wrong_too_often_is_called_so() -> None:
    wrong = Rate("s", "m", "ours", "harm", 0.05, 140, 2000)
    assert not wrong.held
    assert Rate("s", "m", "ours", "harm", 0.05, 120, 2000).held
    assert wrong.interval == pytest.approx((0.0592, 0.0821), abs=2e-4)


# --- volume and report --------------------------------------------------------------------------------


def test_observations_become_sums_and_sizes_stay_below_what_was_said() -> None:
    folded = folding.folded(200_000)
    assert folded.observations == 200_000
    assert "scores -" in folded.read
    for size in folding.sizes():
        assert 0 < size.encoded <= size.estimated <= size.limit


def test_the_command_measures_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["ties", "score +0.2 sd where 0.1 sd was planned", "intervals"]
    assert command.main(["--only", *chosen, "--runs", "40", "--out", str(tmp_path)], tmp_path) == 0
    assert "held    ties: P1 bounded mean, harm at 0.05" in capsys.readouterr().out
    made = msgspec.json.decode((tmp_path / "statistics.json").read_bytes(), type=Measured)
    again = campaign.measure("ties", campaign.SCENES["ties"], 40)
    assert made.rates == again  # the seed makes it so
    text = (tmp_path / "statistics.md").read_text()
    assert "| ties | P1 bounded mean | 5.0% |" in text
    for name in plots.plots(made):
        assert f"({name}.svg)" in text
        assert (tmp_path / f"{name}.svg").read_text().endswith("</svg>\n")
    assert command.main(["--page", "--out", str(tmp_path)], tmp_path) == 0
    assert (tmp_path / "statistics.md").read_text() == text


def test_the_report_is_what_was_measured_and_nothing_else() -> None:
    made = stored()
    assert (DOCS / "statistics.md").read_text() == page.text(made)
    for name, drawn in plots.plots(made).items():
        assert (DOCS / f"{name}.svg").read_text() == drawn


def test_the_report_is_whole_and_every_level_held() -> None:
    made = stored()
    assert set(made.scenes) == set(campaign.SCENES)
    assert {row.setting for row in made.delays} == {setting.name for setting in delays.settings()}
    mine = [rate for rate in made.rates if rate.kind == "ours"]
    assert {rate.scene for rate in mine} == set(campaign.SCENES)
    assert {rate.side for rate in mine} == {"harm", "safe"}
    assert all(rate.runs >= 2000 for rate in made.rates)
    assert [rate for rate in mine if not rate.held] == []
    assert made.folded[0].observations == 10_000_000
    assert made.folded[0].folding + made.folded[0].analysis < 10.0
