"""Pairs in a shadow, and mirrored back: a sweep reads as the reader, and a glance comes to the same."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from accede.controller.analyse import analyse
from accede.controller.analysis.cells import cells_of
from accede.controller.analysis.reading import Levels, Reader, Reading
from accede.controller.analysis.sums import View
from accede.controller.evidence.decoding import decode_evidence
from accede.controller.evidence.merging import merged
from accede.controller.stats.autocorrelation import batches_needed, memory
from accede.controller.stats.result import NotComputable
from accede.controller.sweep.glance import Looked, glance
from accede.controller.sweep.program import program_of
from accede.controller.sweep.swept import Swept, sweep
from accede.policies.policy import RolloutPolicy
from accede.store.evidence import (
    WIRE,
    ArmCounts,
    ArmKey,
    Evidence,
    MirrorCounts,
    Series,
    SeriesKey,
    encode_evidence,
)
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import EpochRecord, FrozenConstants, Outcome, Phase, RolloutRecord

NOW = 1e6
GROUPS = {"": 1.0, "sex=f": 0.5, "sex=m": 0.4, "sex=x": 0.02}
RATES = {"errors": 0.02, "missing": 0.01, "selected": 0.3, "metrics.clicked": 0.2}
LEVELS = Levels(0.05, 0.05)
Floats = NDArray[np.float64]

POLICY = RolloutPolicy.model_validate(
    {
        "format": "accede/v1", "kind": "RolloutPolicy", "name": "p",
        "steps": (
            {"shadow": "10%"}, {"shadow": "100%"}, {"canary": "5%", "mirror_back": "50%"}, {"canary": "50%"},
        ),
        "gates": (
            {"metric": "errors", "max_increase": "0.5pp", "max_ratio": 1.5},
            {"metric": "errors", "by": "sex", "max_increase": "2pp"},
            {"metric": "prediction.missing", "by": "sex", "max_increase": "1pp"},
            {"metric": "prediction.mean", "by": "sex", "max_shift": "0.1sd"},
            {"metric": "selection_rate", "by": "sex", "max_shift": "3pp", "require": "no-harm"},
            {"metric": "metrics.revenue", "by": "sex", "max_shift": 2},
            {"metric": "metrics.clicked", "max_increase": "1pp", "require": "nothing"},
            {"metric": "prediction.agreement", "min": "90%"},
            {"metric": "explanation.agreement", "min": 0.8},
        ),
    }
)  # fmt: skip

EPOCHS = (
    EpochRecord(0, None, "baseline", 0.0, 0.0, NOW - 4000),
    EpochRecord(1, 0, "shadow", 0.0, 0.1, NOW - 3000),
    EpochRecord(2, 1, "shadow", 0.0, 1.0, NOW - 2000),
    EpochRecord(3, 2, "canary", 0.05, 0.0, NOW - 1000, mirror_back=0.5),
)


def constants() -> FrozenConstants:
    centres = {**RATES, "mean": 0.4, "metrics.revenue": 0.4}
    spread = {s: math.sqrt(r * (1 - r)) for s, r in RATES.items()} | {"mean": 0.15, "metrics.revenue": 0.15}
    return FrozenConstants(
        limits=(0.0, 1.0), quantiles={}, requests=5000, edges=tuple(0.1 * k for k in range(1, 10)),
        centres={f"{s}|{g}": r for s, r in centres.items() for g in GROUPS},
        deviations={f"{s}|{g}": r for s, r in spread.items() for g in GROUPS},
        spans={"metrics.revenue": 20.0}, groups={"sex=f": 0.5, "sex=m": 0.4, "sex=x": 0.02},
        autocorrelation_time=1.5,
    )  # fmt: skip


class Pairs:
    """Random pairs in two shadows and in a canary. `slow`: how far differences drift together."""

    def __init__(self, seed: int, *, load: float = 60.0, harm: float = 0.0, slow: float = 0.0) -> None:
        self.draw, self.harm, self.slow = np.random.default_rng(seed), harm, slow
        self.evidence = {k: self._epoch(k, load * share) for k, share in ((1, 0.3), (2, 1.0), (3, 0.5))}

    def _epoch(self, number: int, load: float) -> Evidence:
        series: dict[SeriesKey, Series] = {}
        for group, size in GROUPS.items():
            n = self.draw.poisson(load * size, CLUSTERS).astype(float)
            for metric, rate in RATES.items():
                y = self.draw.binomial(n.astype(int), rate).astype(float)
                self._pair(series, group, metric, n, y, rate)
            for metric in ("mean", "metrics.revenue"):
                drift = self.slow * np.sin(np.arange(CLUSTERS) / 15.0)
                d = n * (self.harm + drift) + 0.05 * np.sqrt(n) * self.draw.standard_normal(n.size)
                d = np.clip(d, -0.9 * n, 0.9 * n)
                y = np.clip(0.4 * n + 0.1 * np.sqrt(n) * self.draw.standard_normal(n.size), 0.0, 0.9 * n)
                square = d * d / np.maximum(n, 1.0) + 0.0025 * n
                self._put(series, "pair", group, metric, n, d, square)
                self._put(series, "paired_stable", group, metric, n, y, y * y / np.maximum(n, 1.0) + 0.02 * n)
            if not group:
                same = n - self.draw.binomial(n.astype(int), 0.05 + self.harm)
                self._put(series, "pair", group, "agreement", n, same, same)
                like = np.clip(n * 0.85 + 0.05 * np.sqrt(n) * self.draw.standard_normal(n.size), 0.0, n)
                self._put(
                    series, "pair", group, "explanation", n, like, like * like / np.maximum(n, 1.0) + 1e-3 * n
                )
        return Evidence(
            wire=WIRE, service="s", rollout="r", epoch=number, source="*", published=NOW, watermark=NOW,
            arms={"candidate": ArmCounts(accounted=1000), "stable": ArmCounts(accounted=1000)}, series=series,
            mirror=MirrorCounts(chosen=1000, sent=1000, paired=1000),
        )  # fmt: skip

    def _pair(
        self, series: dict[SeriesKey, Series], group: str, metric: str, n: Floats, y: Floats, rate: float
    ) -> None:
        """Events that one side alone has."""
        more = self.draw.binomial((n - y).astype(int), min(1.0, 0.1 * rate + self.harm))
        less = self.draw.binomial(y.astype(int), 0.1)
        self._put(series, "pair", group, metric, n, more - less, more + less)
        self._put(series, "paired_stable", group, metric, n, y, y)

    def _put(
        self, series: dict[SeriesKey, Series], arm: ArmKey, group: str, metric: str, *columns: Any
    ) -> None:
        series[SeriesKey(arm, group, metric)] = Series(*(np.asarray(c, float).tolist() for c in columns))

    def record(self) -> RolloutRecord:
        return RolloutRecord(
            wire="", id="r", service="s", version=1, stable="1", candidate="2", candidate_digest="",
            policy_name="p", policy="", attempt=0, salt="", policy_hash="", started_by="", started_at=0.0,
            phase=Phase.CANARY, phase_since=0.0, step=2, step_since=0.0, epoch=3, epochs=EPOCHS, reason="",
            constants=constants(),
        )  # fmt: skip

    def swept(self) -> Swept:
        found = sweep(program_of(POLICY, constants(), LEVELS), EPOCHS, self.evidence)
        assert found is not None
        return found

    def read(self) -> list[Reading]:
        view = View(self.record(), constants(), self.evidence)
        reader = Reader(view, POLICY, constants(), LEVELS, intervals=True)
        return [reader.read(cell) for cell in cells_of(POLICY, constants())]


def assert_as_read(found: Swept, read: list[Reading]) -> int:
    """How many cells the sweep knew."""
    for position in np.flatnonzero(found.known):
        mine, expected = found.reading(int(position), interval=True), read[position]
        for one in fields(Reading):
            a, b = getattr(mine, one.name), getattr(expected, one.name)
            close: Any = pytest.approx(b, rel=1e-7, abs=1e-9) if isinstance(b, float) else b
            assert a == close, (position, one.name, mine, expected)
    return int(found.known.sum())


@pytest.mark.parametrize("load", [3.0, 60.0, 2000.0])
@pytest.mark.parametrize("harm", [0.0, 0.004, 0.03])
def test_every_known_cell_of_pairs_reads_as_by_the_reader(load: float, harm: float) -> None:
    world = Pairs(11, load=load, harm=harm)
    found, read = world.swept(), world.read()
    knew = assert_as_read(found, read)
    if load > 100.0 and harm == 0.0:
        cells = cells_of(POLICY, constants())
        known = {(cells[k].gate.metric, cells[k].place) for k in np.flatnonzero(found.known)}
        assert known >= {(gate.metric, "shadow") for gate in POLICY.gates}
        assert {("prediction.agreement", "canary"), ("explanation.agreement", "canary")} <= known
        assert {
            one.method for one in (found.reading(int(k), interval=False) for k in np.flatnonzero(found.known))
        } >= {"P4 batches of pairs (asymptotic)"}
        assert found.passed.sum() > knew / 2


def test_pairs_that_hardly_differ_are_bounded_as_by_the_reader() -> None:
    world = Pairs(12, load=4.0)
    found = world.swept()
    assert assert_as_read(found, world.read())
    methods = {found.reading(int(k), interval=False).method for k in np.flatnonzero(found.known)}
    assert "P1 bounded mean (few events, assumed unclustered)" in methods


def test_what_remembers_is_left_to_the_reader() -> None:
    world = Pairs(13, load=500.0, slow=0.02)
    found, read = world.swept(), world.read()
    cells = cells_of(POLICY, constants())
    drifting = [k for k, cell in enumerate(cells) if cell.series == "mean" and cell.place == "shadow"]
    assert not found.known[drifting].any()
    assert any("correlated" in read[k].reason for k in drifting)
    assert assert_as_read(found, read)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: Series([math.nan, *s.n[1:]], s.sum, s.square),
        lambda s: Series([-1.0, *s.n[1:]], s.sum, s.square),
        lambda s: Series(s.n, [s.n[0] + 5.0, *s.sum[1:]], s.square),
        lambda s: Series(s.n, [-s.n[0] - 5.0, *s.sum[1:]], s.square),
        lambda s: Series(s.n, s.sum, [0.0] * len(s.n)),
        lambda s: Series(s.n[:-1], s.sum[:-1], s.square[:-1]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("arm", ["pair", "paired_stable"])
def test_pairs_that_cannot_be_right_are_never_known(spoil: Any, arm: ArmKey) -> None:
    world = Pairs(14, load=500.0)
    key = SeriesKey(arm, "", "errors")
    world.evidence[2].series[key] = spoil(world.evidence[2].series[key])
    found, read = world.swept(), world.read()
    if arm == "pair" or len(world.evidence[2].series[key].n) == CLUSTERS:  # of stable's side less is needed
        assert read[0].outcome is Outcome.ERROR
    assert not found.known[0]
    assert assert_as_read(found, read)


@pytest.mark.parametrize("arm", ["pair", "paired_stable"])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_side_that_is_not_there_proves_nothing_more_than_to_the_reader(arm: ArmKey, epoch: int) -> None:
    world = Pairs(15, load=500.0)
    for key in [key for key in world.evidence[epoch].series if key.arm == arm]:
        del world.evidence[epoch].series[key]
    assert_as_read(world.swept(), world.read())


def stored(evidence: dict[int, Evidence]) -> dict[int, Evidence]:
    return merged([decode_evidence(encode_evidence(one)) for one in evidence.values()])


def test_glances_at_many_come_to_what_the_reader_says() -> None:
    """Twice: the second time the answers of the shadow are remembered."""
    worlds = [
        Pairs(20 + k, load=load, harm=harm, slow=slow)
        for k, (load, harm, slow) in enumerate(
            [
                (60.0, 0.0, 0.0),
                (2000.0, 0.0, 0.0),
                (2000.0, 0.004, 0.0),
                (500.0, 0.03, 0.0),
                (500.0, 0.0, 0.02),
                (3.0, 0.0, 0.0),
            ]
        )
    ]
    looks = [Looked(program_of(POLICY, constants(), LEVELS), EPOCHS, stored(one.evidence)) for one in worlds]
    looks.append(
        Looked(program_of(POLICY, constants(), LEVELS), EPOCHS[:2], {1: stored(worlds[0].evidence)[1]})
    )
    looks.append(Looked(program_of(POLICY, constants(), LEVELS), EPOCHS[:1], {}))
    passed = 0
    for _ in range(2):
        for look, mine in zip(looks, glance(looks), strict=True):
            assert mine is not None
            record = msgspec.structs.replace(worlds[0].record(), epochs=tuple(look.epochs))
            view = View(record, constants(), look.evidence)
            reader = Reader(view, POLICY, constants(), LEVELS, intervals=False)
            for position, cell in enumerate(look.program.cells):
                if not mine.known[position]:
                    continue
                expected = reader.read(cell)
                outcome = Outcome.PASS if mine.passed[position] else Outcome.INCONCLUSIVE
                assert expected.outcome is outcome, (position, cell.name, cell.place, expected)
                if mine.passed[position]:
                    assert bool(mine.last[position]) == expected.proven_last
                passed += bool(mine.passed[position])
    assert passed > 50


def test_memories_of_many_series_are_each_ones() -> None:
    draw = np.random.default_rng(5)
    rows = []
    for k in range(60):
        n = draw.poisson(draw.choice([0.3, 3.0, 40.0]), 128).astype(float)
        slow = np.convolve(draw.standard_normal(200), np.ones(1 + k % 30))[:128] * 0.05
        d = np.clip(n * slow + 0.2 * np.sqrt(n) * draw.standard_normal(128), -n, n)
        rows.append((n, d, d * d / np.maximum(n, 1.0) + 0.01 * n * (k % 3)))
    n, d, square = (np.array([row[at] for row in rows]) for at in range(3))
    n[0] = d[0] = square[0] = 0.0
    found = batches_needed(n, d, square)
    seen = 0
    for k in range(60):
        one = memory(n[k], d[k], square[k])
        if isinstance(one, NotComputable):
            assert found[k] == 0.0
            continue
        seen += one.batches_needed > 1.0
        assert found[k] == pytest.approx(one.batches_needed, rel=1e-9, abs=1e-12)
    assert seen > 10


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("load", "harm", "slow"),
    [(2000.0, 0.0, 0.0), (2000.0, 0.004, 0.0), (500.0, 0.03, 0.0), (500.0, 0.0, 0.02), (3.0, 0.1, 0.0)],
)
def test_an_analysis_that_tells_nothing_comes_to_the_same(
    epochs: int, load: float, harm: float, slow: float
) -> None:
    """Before, in and after a shadow; of a candidate that is equal, is worse, or drifts."""
    world = Pairs(40, load=load, harm=harm, slow=slow)
    begun = EPOCHS[:epochs]
    evidence = stored({one.epoch: world.evidence[one.epoch] for one in begun if one.epoch})
    record = msgspec.structs.replace(world.record(), epochs=begun, epoch=epochs - 1)
    told = analyse(record, POLICY, evidence, (), NOW)
    silent = analyse(record, POLICY, evidence, (), NOW, told=False)
    for a, b in zip(told.verdicts, silent.verdicts, strict=True):
        assert (a.gate, a.place, a.outcome) == (b.gate, b.place, b.outcome), (a.reason, b.reason)
        assert (a.on_fail, a.require, a.proven_last_weight) == (b.on_fail, b.require, b.proven_last_weight)
    failed = {verdict.place for verdict in silent.verdicts if verdict.outcome is Outcome.FAIL}
    if harm == 0.0:
        assert not failed
    if harm > 0.01 and epochs > 2:
        assert "shadow" in failed
