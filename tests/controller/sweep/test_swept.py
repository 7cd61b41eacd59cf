"""A sweep says of every cell that it knows exactly what the reader says; the others it leaves to it."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import msgspec
import numpy as np
import pytest

from accede.controller.analyse import analyse
from accede.controller.analysis.cells import cells_of
from accede.controller.analysis.reading import Levels, Reader, Reading
from accede.controller.analysis.sums import View
from accede.controller.sweep.program import Programs, program_of
from accede.controller.sweep.swept import Swept, sweep
from accede.policies.policy import RolloutPolicy
from accede.store.evidence import WIRE, ArmCounts, ArmKey, Evidence, Series, SeriesKey
from accede.store.measurement import CLUSTERS
from accede.store.rollouts import EpochRecord, FrozenConstants, Outcome, Phase, RolloutRecord

NOW = 1e6
GROUPS = ("", "sex=f", "sex=m", "sex=x")
WEIGHTS = (0.05, 0.25, 0.5)
RATES = {"errors": 0.02, "missing": 0.004, "client_disconnects": 0.01}
AMOUNTS = ("mean", "rank", "uncertainty", "metrics.revenue")
SCORES = ("outcome.brier", "outcome.calibration")
FOUND = {"outcome.accuracy": 0.85, "outcome.recall": 0.6, "outcome.false_positive_rate": 0.05}
MATURE = (1.0, 0.3, 0.0)  # share of each epoch's requests whose labels have come
LATENCIES = {"over": 0.05, "mid": 0.04, "far": 0.03}

POLICY = RolloutPolicy.model_validate(
    {
        "format": "accede/v1", "kind": "RolloutPolicy", "name": "p",
        "steps": ({"canary": "5%"}, {"canary": "25%"}, {"canary": "50%"}),
        "gates": (
            {"metric": "errors", "max_increase": "0.5pp", "max_ratio": 1.5},
            {"metric": "errors", "by": "sex", "max_increase": "2pp"},
            {"metric": "prediction.missing", "by": "sex", "max_increase": "1pp"},
            {"metric": "client_disconnects", "max_increase": "1pp", "require": "nothing"},
            {"metric": "latency.p95", "max_ratio": 1.2},
            {"metric": "prediction.mean", "by": "sex", "max_shift": "0.1sd"},
            {"metric": "prediction.distribution", "max_shift": "5pp"},
            {"metric": "selection_rate", "by": "sex", "max_shift": "3pp", "require": "no-harm"},
            {"metric": "prediction.rank", "max_shift": "0.1sd"},
            {"metric": "class_share.yes", "max_shift": "3pp"},
            {"metric": "uncertainty.mean", "by": "sex", "max_shift": "0.1sd"},
            {"metric": "metrics.revenue", "by": "sex", "max_shift": 2},
            {"metric": "metrics.clicked", "max_increase": "1pp"},
            {
                "metric": "outcome.accuracy", "by": "sex", "max_decrease": "2pp",
                "labels": {"mature_after": "7d"},
            },
            {"metric": "outcome.recall", "max_decrease": "3pp", "labels": {"mature_after": "7d"}},
            {
                "metric": "outcome.false_positive_rate", "max_increase": "2pp", "require": "no-harm",
                "labels": {"mature_after": "7d"},
            },
            {"metric": "outcome.brier", "by": "sex", "max_increase": 0.01, "labels": {"mature_after": "7d"}},
            {"metric": "outcome.calibration", "max_shift": 0.02, "labels": {"mature_after": "7d"}},
        ),
    }
)  # fmt: skip


def constants(*, sticky: bool, classes: bool = True) -> FrozenConstants:
    rates = {
        **RATES,
        **dict.fromkeys(AMOUNTS + SCORES, 0.4),
        "selected": 0.3,
        "metrics.clicked": 0.2,
        **FOUND,
    }
    keys = [(series, group) for series in rates for group in GROUPS]
    spread = {s: 0.15 if s in AMOUNTS + SCORES else math.sqrt(r * (1 - r)) for s, r in rates.items()}
    return FrozenConstants(
        limits=(0.0, 1.0),
        centres={f"{s}|{g}": rates[s] for s, g in keys} | {f"bin.{k}|": 0.1 for k in range(10)},
        deviations={f"{s}|{g}": spread[s] for s, g in keys},
        quantiles={}, edges=tuple(0.1 * k for k in range(1, 10)), requests=5000,
        classes=("yes", *(f"c{k}" for k in range(1, 10))) if classes else (), spans={"metrics.revenue": 20.0},
        groups={"sex=f": 0.5, "sex=m": 0.4, "sex=x": 0.01}, sticky=sticky,
    )  # fmt: skip


EPOCHS = (
    EpochRecord(0, None, "baseline", 0.0, 0.0, NOW - 4000),
    *(
        EpochRecord(
            k + 1, k, "canary", weight, 0.0, NOW - 3000 + 1000 * k,
            centres={"mean|sex=f": 0.38 + 0.01 * k}, thresholds={"latency.p95": (300, 304, 309)},
        )
        for k, weight in enumerate(WEIGHTS)
    ),
)  # fmt: skip


class World:
    """Random evidence of three epochs. `harm`: added to the candidate's rates."""

    def __init__(self, seed: int, *, sticky: bool = False, load: float = 60.0, harm: float = 0.0) -> None:
        self.draw = np.random.default_rng(seed)
        self.sticky = sticky
        self.evidence: dict[int, Evidence] = {}
        for k, weight in enumerate(WEIGHTS):
            series: dict[SeriesKey, Series] = {}
            arms: tuple[tuple[ArmKey, float], ...] = (("candidate", weight), ("stable", 1 - weight))
            for arm, share in arms:
                extra = harm if arm == "candidate" else 0.0
                for group in GROUPS:
                    size = {"": 1.0, "sex=f": 0.5, "sex=m": 0.4, "sex=x": 0.01}[group] * load * share
                    self._arm(series, arm, group, size, extra)
                    if MATURE[k]:
                        self._labelled(series, arm, group, size * MATURE[k], extra)
            self.evidence[k + 1] = Evidence(
                wire=WIRE, service="s", rollout="r", epoch=k + 1, source="*", published=NOW, watermark=NOW,
                arms={"candidate": ArmCounts(accounted=100), "stable": ArmCounts(accounted=100)},
                series=series,
            )  # fmt: skip

    def _arm(
        self, series: dict[SeriesKey, Series], arm: ArmKey, group: str, size: float, extra: float
    ) -> None:
        draw = self.draw
        n = draw.poisson(size, CLUSTERS).astype(float)
        for metric, rate in RATES.items():
            y = draw.binomial(n.astype(int), min(1.0, rate + extra)).astype(float)
            series[SeriesKey(arm, group, metric)] = Series(n.tolist(), y.tolist(), y.tolist())
        for part, rate in LATENCIES.items():
            y = draw.binomial(n.astype(int), min(1.0, rate + extra)).astype(float)
            series[SeriesKey(arm, group, f"latency.p95.{part}")] = Series(n.tolist(), y.tolist(), y.tolist())
        values: dict[str, tuple[Any, Any]] = {}
        for metric in AMOUNTS:
            y = n * (0.4 + extra) + 0.15 * np.sqrt(n) * draw.standard_normal(n.size)
            y = np.clip(y, 0.0, 0.9 * n)
            values[metric] = y, y * y / np.maximum(n, 1.0) + 0.0225 * n
        for metric, rate in (
            ("selected", 0.3),
            ("metrics.clicked", 0.2),
            *((f"bin.{k}", 0.1) for k in range(10)),
        ):
            y = draw.binomial(n.astype(int), rate).astype(float)
            values[metric] = y, y
        for metric, (y, square) in values.items():
            self._put(series, SeriesKey(arm, group, metric), n, y, square)

    def _labelled(
        self, series: dict[SeriesKey, Series], arm: ArmKey, group: str, size: float, extra: float
    ) -> None:
        """Outcomes, of which true cases are a third. `extra` worsens them."""
        draw = self.draw
        for metric, rate in FOUND.items():
            n = draw.poisson(size / (1.0 if metric == "outcome.accuracy" else 3.0), CLUSTERS).astype(float)
            worse = extra if metric == "outcome.false_positive_rate" else -extra
            y = draw.binomial(n.astype(int), min(1.0, max(0.0, rate + worse))).astype(float)
            self._put(series, SeriesKey(arm, group, metric), n, y, y)
        for metric in SCORES:
            n = draw.poisson(size, CLUSTERS).astype(float)
            y = np.clip(n * (0.4 + extra) + 0.15 * np.sqrt(n) * draw.standard_normal(n.size), 0.0, 0.9 * n)
            self._put(series, SeriesKey(arm, group, metric), n, y, y * y / np.maximum(n, 1.0) + 0.0225 * n)

    def _put(
        self, series: dict[SeriesKey, Series], key: SeriesKey, *columns: np.ndarray[Any, np.dtype[np.float64]]
    ) -> None:
        kept = [column if self.sticky else column.sum(keepdims=True) for column in columns]
        series[key] = Series(*(column.tolist() for column in kept))

    def record(self) -> RolloutRecord:
        return RolloutRecord(
            wire="", id="r", service="s", version=1, stable="1", candidate="2", candidate_digest="",
            policy_name="p", policy="", attempt=0, salt="", policy_hash="", started_by="", started_at=0.0,
            phase=Phase.CANARY, phase_since=0.0, step=2, step_since=0.0, epoch=3, epochs=EPOCHS, reason="",
            constants=constants(sticky=self.sticky),
        )  # fmt: skip

    def compared(self, epochs: tuple[EpochRecord, ...] = EPOCHS) -> tuple[Swept, list[tuple[int, Reading]]]:
        """The sweep, and the reader's word on every cell that it knows."""
        fixed = constants(sticky=self.sticky)
        levels = Levels(0.05, 0.05)
        found = sweep(program_of(POLICY, fixed, levels), epochs, self.evidence)
        assert found is not None
        record = msgspec.structs.replace(self.record(), epochs=epochs)
        reader = Reader(View(record, fixed, self.evidence), POLICY, fixed, levels, intervals=True)
        cells = cells_of(POLICY, fixed)
        return found, [(int(k), reader.read(cells[k])) for k in np.flatnonzero(found.known)]


def assert_alike(found: Swept, read: list[tuple[int, Reading]]) -> None:
    for position, expected in read:
        mine = found.reading(position, interval=True)
        for one in fields(Reading):
            a, b = getattr(mine, one.name), getattr(expected, one.name)
            close: Any = pytest.approx(b, rel=1e-7, abs=1e-9) if isinstance(b, float) else b
            assert a == close, (position, one.name, mine, expected)
            assert type(a) is type(b), (position, one.name)


@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("load", [3.0, 60.0, 4000.0])
@pytest.mark.parametrize("harm", [0.0, 0.004, 0.02])
def test_every_known_cell_reads_as_by_the_reader(sticky: bool, load: float, harm: float) -> None:
    found, read = World(11, sticky=sticky, load=load, harm=harm).compared()
    assert_alike(found, read)
    assert load < 60.0 or harm > 0.0 or len(read) > 30
    if load > 100.0 and harm == 0.0:
        cells = cells_of(POLICY, constants(sticky=sticky))
        assert {cells[k].gate.metric for k, _ in read} == {gate.metric for gate in POLICY.gates}
    assert all(one.outcome in {Outcome.PASS, Outcome.INCONCLUSIVE} for _, one in read)


@pytest.mark.parametrize("begun", [1, 2])
def test_steps_that_have_not_begun_are_no_evidence(begun: int) -> None:
    world = World(12, load=500.0)
    for k in range(begun + 1, 4):
        del world.evidence[k]
    found, read = world.compared(EPOCHS[: begun + 1])
    assert_alike(found, read)
    assert read
    assert not any(one.proven_last for _, one in read)


def test_open_requests_are_in_the_worst_case() -> None:
    world = World(13, load=500.0)
    calm = {k: r.safe for k, r in world.compared()[1]}
    for one in world.evidence.values():
        one.open.update(candidate=60, stable=40)
    found, read = world.compared()
    assert_alike(found, read)
    assert any(r.safe is not None and r.safe < (calm.get(k) or 0.0) - 0.1 for k, r in read)


def test_requests_overdue_are_left_to_the_reader() -> None:
    world = World(14, load=500.0)
    for one in world.evidence.values():
        one.latency.update(candidate={300: 100}, stable={300: 10_000_000})
    found, read = world.compared()
    assert_alike(found, read)
    errors = [
        k for k, cell in enumerate(cells_of(POLICY, constants(sticky=False))) if cell.series == "errors"
    ]
    assert not found.known[errors].any()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: Series([math.nan, *s.n[1:]], s.sum, s.square),
        lambda s: Series([-1.0, *s.n[1:]], s.sum, s.square),
        lambda s: Series(s.n, [s.n[0] + 5.0, *s.sum[1:]], s.square),
        lambda s: Series(s.n, s.sum, [0.0] * len(s.n)),
        lambda s: Series(s.n[:-1], s.sum[:-1], s.square[:-1]),
        lambda s: Series([2.0**60, *s.n[1:]], s.sum, s.square),
        lambda s: Series(s.n, s.sum[:-1], s.square),
    ],
)  # fmt: skip
def test_sums_that_cannot_be_right_are_never_known(spoil: Any) -> None:
    world = World(15, load=500.0)
    key = SeriesKey("candidate", "", "errors")
    world.evidence[2].series[key] = spoil(world.evidence[2].series[key])
    found, read = world.compared()
    assert_alike(found, read)
    assert not found.known[0]
    verdict = analyse(world.record(), POLICY, world.evidence, (), NOW).verdicts[0]
    assert verdict.outcome is Outcome.ERROR


@pytest.mark.parametrize("arm", ["candidate", "stable"])
def test_a_series_that_one_arm_lacks_is_never_proven(arm: ArmKey) -> None:
    world = World(16, load=500.0)
    for one in world.evidence.values():
        for key in [key for key in one.series if key.arm == arm]:
            del one.series[key]
    found, read = world.compared()
    assert_alike(found, read)
    assert not found.passed.any()


@pytest.mark.parametrize("seed", range(6))
def test_an_analysis_that_tells_nothing_comes_to_the_same_outcomes(seed: int) -> None:
    world = World(20 + seed, load=4000.0, harm=0.004 * (seed % 3), sticky=seed % 2 == 1)
    told = analyse(world.record(), POLICY, world.evidence, (), NOW)
    silent = analyse(world.record(), POLICY, world.evidence, (), NOW, told=False)
    for a, b in zip(told.verdicts, silent.verdicts, strict=True):
        assert (a.gate, a.index, a.place, a.outcome) == (b.gate, b.index, b.place, b.outcome)
        assert (a.on_fail, a.require, a.proven_last_weight) == (b.on_fail, b.require, b.proven_last_weight)
    assert any(verdict.reason == "" for verdict in silent.verdicts)
    assert msgspec.json.decode(msgspec.json.encode(told), type=type(told)) == told


@pytest.mark.parametrize("metric", ["uncertainty", "metrics.revenue"])
@pytest.mark.parametrize(("arm", "outcome"), [("candidate", Outcome.INCONCLUSIVE), ("stable", Outcome.ERROR)])
def test_values_that_one_arm_lacks_hold_an_analysis_that_tells_nothing(
    metric: str, arm: ArmKey, outcome: Outcome
) -> None:
    world = World(30, load=4000.0)
    position = next(k for k, gate in enumerate(POLICY.gates) if gate.metric.startswith(metric))
    free = analyse(world.record(), POLICY, world.evidence, (), NOW, told=False).verdicts[position]
    for one in world.evidence.values():
        for group in GROUPS:
            one.series[SeriesKey(arm, group, f"{metric}.missing")] = Series([5000.0], [2500.0], [2500.0])
    for told in (True, False):
        held = analyse(world.record(), POLICY, world.evidence, (), NOW, told=told).verdicts[position]
        assert held.outcome is outcome
        assert held.reason
    assert (free.outcome, free.reason) == (Outcome.PASS, "")


@pytest.mark.parametrize("metric", AMOUNTS[1:])
@pytest.mark.parametrize("sticky", [False, True])
def test_broken_amounts_are_never_known(metric: str, sticky: bool) -> None:
    world = World(31, load=4000.0, sticky=sticky)
    for group in GROUPS:
        key = SeriesKey("candidate", group, metric)
        good = world.evidence[2].series[key]
        world.evidence[2].series[key] = Series(good.n, [math.nan, *good.sum[1:]], good.square)
    found, read = world.compared()
    assert_alike(found, read)
    cells = cells_of(POLICY, constants(sticky=sticky))
    assert not found.known[[k for k, cell in enumerate(cells) if cell.series == metric]].any()
    assert found.known.any()


def test_a_class_that_was_not_frozen_is_left_to_the_reader() -> None:
    fixed = constants(sticky=False, classes=False)
    found = sweep(program_of(POLICY, fixed, Levels(0.05, 0.05)), EPOCHS, World(32, load=4000.0).evidence)
    assert found is not None
    cells = cells_of(POLICY, fixed)
    classes = [k for k, cell in enumerate(cells) if cell.gate.metric == "class_share.yes"]
    bins = [k for k, cell in enumerate(cells) if cell.gate.metric == "prediction.distribution"]
    assert classes
    assert not found.known[classes].any()
    assert found.known[bins].all()


def test_a_program_is_made_anew_where_what_it_rests_on_changed() -> None:
    programs, fixed, levels = Programs(most=2), constants(sticky=False), Levels(0.05, 0.05)
    first = programs.of("r", POLICY, fixed, levels)
    assert programs.of("r", POLICY, constants(sticky=False), levels) is first  # equal, read anew
    assert programs.of("r", POLICY, constants(sticky=True), levels) is not first
    assert programs.of("r", POLICY, fixed, Levels(0.025, 0.025)).levels.harm == 0.025
    for name in ("a", "b", "c"):
        programs.of(name, POLICY, fixed, levels)
    assert programs.of("r", POLICY, fixed, levels) is not first  # only the last two are remembered
