"""Advice on latency from a shadow: what it says of pairs, and that it decides nothing.

The campaigns draw pairs whose sides share what their request costs, under load that swings, on two servers
that stall by themselves; each run is looked at eight times, and one wrong word is enough.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from accede.cli.informing import advice_lines
from accede.controller.analyse import analyse
from accede.controller.analysis.reading import Levels
from accede.controller.analysis.shadow_latency import advise, advised
from accede.controller.rollout.conditions import failing, unready_to_promote
from accede.policies.policy import RolloutPolicy
from accede.store.evidence import ArmKey, Evidence, MirrorCounts, Series, SeriesKey
from accede.store.histogram import GAMMA
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import Advice, EpochRecord, Outcome, Phase, RolloutRecord
from tests.controller.test_analysis import CONSTANTS, NOW, policy

Floats = NDArray[np.float64]

P95: dict[str, Any] = {"metric": "latency.p95", "max_ratio": 1.2}
GATES = policy(P95, {"metric": "errors", "max_increase": "1pp", "in": "shadow"})
BINS = (500, 504, 509)
LEVELS = Levels(0.05, 0.05)
LOOKS = (12, 16, 24, 32, 48, 64, 96, 128)
PER_BATCH = 200


def record() -> RolloutRecord:
    epochs = (
        EpochRecord(0, None, "baseline", 0.0, 0.0, NOW - 4000),
        EpochRecord(1, 0, "shadow", 0.0, 1.0, NOW - 3000, thresholds={"latency.p95": BINS}),
    )
    return RolloutRecord(
        wire="", id="r", service="s", version=1, stable="1", candidate="2", candidate_digest="",
        policy_name="p", policy="", attempt=0, salt="", policy_hash="", started_by="", started_at=0.0,
        phase=Phase.SHADOW, phase_since=0.0, step=0, step_since=0.0, epoch=1, epochs=epochs, reason="",
        constants=CONSTANTS,
    )  # fmt: skip


def shadow(n: Floats, theirs: Floats, mid: tuple[Floats, Floats], far: tuple[Floats, Floats]) -> Evidence:
    """Pairs per batch, stable's over its quantile, and sums and squares of both differences."""
    found = Evidence(wire="", service="s", rollout="r", epoch=1, source="*", published=NOW, watermark=NOW)
    pairs = int(n.sum())
    found.mirror = MirrorCounts(chosen=pairs, sent=pairs, paired=pairs)
    for part, (d, square) in (("mid", mid), ("far", far)):
        for arm, y, y2 in (("pair", d, square), ("paired_stable", theirs, theirs)):
            key: ArmKey = arm  # type: ignore[assignment]
            series = Series(n.tolist(), y.tolist(), y2.tolist())
            found.series[SeriesKey(key, "", f"latency.p95.{part}")] = series
    return found


def even(over: float, mid: float, far: float, batches: int = 40, ripple: float = 0.1) -> Evidence:
    """Every batch much like every other: so many of 200 over each threshold, no pair with both sides."""
    at = np.arange(CLUSTERS)
    inside = (at < batches).astype(np.float64)
    wave = 1.0 + ripple * (-1.0) ** at
    theirs, ours = over * wave * inside, [count * wave[::-1] * inside for count in (mid, far)]
    return shadow(PER_BATCH * inside, theirs, *((one - theirs, one + theirs) for one in ours))


def said(evidence: Evidence, given: RolloutPolicy = GATES) -> Advice:
    (one,) = analyse(record(), given, {1: evidence}, (), NOW).advice
    return one


def test_a_slower_candidate_is_named() -> None:
    one = said(even(over=10.0, mid=20.0, far=15.0))
    assert (one.outcome, one.reason) == (Outcome.FAIL, "slower here, beyond half the margin")
    assert (one.index, one.gate, one.pairs) == (0, "latency.p95 max_ratio 1.2", 40 * PER_BATCH)
    assert one.margin == pytest.approx(GAMMA**9)


def test_an_equal_candidate_is_within_the_margin() -> None:
    one = said(even(over=10.0, mid=6.0, far=3.0))
    assert (one.outcome, one.reason) == (Outcome.PASS, "within the margin here")


def test_what_is_shown_has_its_numbers_and_says_that_it_decides_nothing() -> None:
    ((name, told),) = advice_lines([said(even(over=10.0, mid=20.0, far=15.0))])
    assert name == "advice"
    assert told.plain == (
        "latency.p95 max_ratio 1.2, shadow: slower here, beyond half the margin "
        "(margin ×1.195, n = 8000 pairs; decides nothing)"
    )


def test_it_decides_nothing() -> None:
    found = analyse(record(), GATES, {1: even(over=10.0, mid=30.0, far=25.0)}, (), NOW)
    assert found.advice[0].outcome is Outcome.FAIL
    assert not [verdict for verdict in found.verdicts if verdict.gate.startswith("latency")][1:]
    assert all(verdict.place == "canary" for verdict in found.verdicts if "latency" in verdict.gate)
    assert not failing(GATES, found, "rollback")
    assert any("latency.p95" in reason for reason in unready_to_promote(GATES, found))
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found


def test_a_glance_leaves_it_out() -> None:
    assert not analyse(record(), GATES, {1: even(10.0, 6.0, 3.0)}, (), NOW, intervals=False).advice


@pytest.mark.parametrize(
    ("evidence", "outcome", "words"),
    [
        (even(10.0, 6.0, 3.0, batches=5), Outcome.INCONCLUSIVE, "at least 10"),
        (even(10.0, 9.0, 9.0, batches=12), Outcome.INCONCLUSIVE, "neither"),
        (even(0.1, 0.1, 0.05), Outcome.INCONCLUSIVE, "differ"),
        (even(0.0, 0.0, 0.0, ripple=0.0), Outcome.INCONCLUSIVE, "differ"),
    ],
)
def test_too_little_is_inconclusive(evidence: Evidence, outcome: Outcome, words: str) -> None:
    one = said(evidence)
    assert one.outcome is outcome
    assert words in one.reason


def test_broken_sums_are_an_error() -> None:
    evidence = even(10.0, 6.0, 3.0)
    evidence.series[SeriesKey("pair", "", "latency.p95.far")].sum[3] = float("nan")
    assert said(evidence).outcome is Outcome.ERROR


def test_copies_without_a_pair_are_not_passed_over() -> None:
    evidence = even(10.0, 6.0, 3.0)
    evidence.mirror.chosen = evidence.mirror.sent = 2 * evidence.mirror.paired
    one = said(evidence)
    assert one.outcome is Outcome.INCONCLUSIVE
    assert "copies" in one.reason


def test_only_latencies_of_whole_answers_are_advised_on() -> None:
    gates = policy(P95, {"metric": "stream.first_token.p95", "max_ratio": 1.2})
    assert [gate.metric for _, gate in advised(gates)] == ["latency.p95"]


def test_nothing_is_said_before_there_is_a_shadow() -> None:
    assert analyse(record(), GATES, {}, (), NOW).advice == ()


class Servers:
    """Pairs of one run: log-normal times, of which a part is the request's own; two servers that stall."""

    def __init__(self, rng: np.random.Generator, factor: float, stall: tuple[float, float]) -> None:
        batches = np.arange(CLUSTERS)
        phase, period = rng.random() * 6.0, 3.0 + 20.0 * rng.random()
        load = 1.0 + 0.3 * np.sin(batches / period + phase)
        self.n = rng.poisson(PER_BATCH * load).astype(np.float64)
        size = int(self.n.max())
        slower = 0.05 * np.sin(batches / period + phase)[:, None]  # both wait longer under load
        request = rng.normal(0.0, 0.3, (CLUSTERS, size)) + slower
        over = 1.645 * math.hypot(0.3, 0.3)
        k = math.log(GAMMA)
        stable = request + rng.normal(0.0, 0.3, request.shape)
        candidate = request + rng.normal(0.0, 0.3, request.shape) + math.log(factor)
        inside = np.arange(size) < self.n[:, None]
        struck = [self._struck(rng, inside, stall) for _ in range(2)]
        theirs = inside & ((stable >= over) | struck[0])
        ours = [inside & ((candidate >= over + (bin_ - BINS[0]) * k) | struck[1]) for bin_ in BINS[1:]]
        self.theirs = theirs.sum(axis=1) * 1.0
        self.parts = [
            ((one.sum(axis=1) - self.theirs) * 1.0, (one ^ theirs).sum(axis=1) * 1.0) for one in ours
        ]

    @staticmethod
    def _struck(
        rng: np.random.Generator, inside: NDArray[np.bool_], stall: tuple[float, float]
    ) -> NDArray[np.bool_]:
        lasts, every = stall
        share = np.clip(rng.poisson(5.0 / every, CLUSTERS) * lasts / 5.0, 0.0, 1.0)
        found: NDArray[np.bool_] = inside & (rng.random(inside.shape) < share[:, None])
        return found

    def until(self, batches: int) -> Evidence:
        kept = (np.arange(CLUSTERS) < batches) * 1.0
        return shadow(self.n * kept, self.theirs * kept, *((d * kept, s * kept) for d, s in self.parts))


def words(
    factor: float, runs: int, seed: int, stall: tuple[float, float] = (0.2, 20.0)
) -> dict[Outcome, float]:
    """Share of runs in which each was ever said, and print it."""
    rng, gates, here = np.random.default_rng(seed), advised(GATES), record()
    ever = dict.fromkeys(Outcome, 0)
    for _ in range(runs):
        servers = Servers(rng, factor, stall)
        seen = {advise(gates, here, CONSTANTS, {1: servers.until(k)}, LEVELS, ())[0].outcome for k in LOOKS}
        for outcome in seen:
            ever[outcome] += 1
    shares = {outcome: count / runs for outcome, count in ever.items()}
    print(
        f"factor {factor:.3f}, stalls {stall}: {runs} runs, ever "
        + str({k.value: v for k, v in shares.items()})
    )
    return shares


def allowed(level: float, runs: int) -> float:
    return level + 3.0 * math.sqrt(level * (1.0 - level) / runs)


AT_HARM, AT_MARGIN = GAMMA ** (BINS[1] - BINS[0]), GAMMA ** (BINS[2] - BINS[0])


def test_quick_words_on_equal_and_slow_candidates() -> None:
    equal, slow = words(1.0, 15, 1), words(1.5, 15, 2)
    assert equal[Outcome.FAIL] == 0.0
    assert equal[Outcome.PASS] > 0.8
    assert slow[Outcome.PASS] == 0.0
    assert slow[Outcome.FAIL] > 0.8


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("stall", [(0.05, 60.0), (0.2, 20.0), (2.0, 300.0)], ids=str)
def test_false_words_stay_at_their_levels(stall: tuple[float, float]) -> None:
    runs = 1000
    assert words(AT_HARM, runs, 11, stall)[Outcome.FAIL] <= allowed(0.05, runs)
    assert words(AT_MARGIN, runs, 12, stall)[Outcome.PASS] <= allowed(0.05, runs)
