"""A glance at many rollouts says of every cell what the sweep of each says, and so what the reader says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pytest

from accede.controller import analyse as analysis
from accede.controller.analyse import analyse, prepare
from accede.controller.analysis.reading import Levels
from accede.controller.evidence.decoding import decode_evidence
from accede.controller.evidence.merging import merged
from accede.controller.sweep import glance as glancing
from accede.controller.sweep.glance import Glances, Looked, glance
from accede.controller.sweep.program import Program, program_of
from accede.controller.sweep.swept import sweep
from accede.store.evidence import Evidence, Series, SeriesKey, encode_evidence
from accede.store.rollouts import EpochRecord, Outcome

from .test_swept import EPOCHS, GROUPS, NOW, POLICY, World, constants

LEVELS = Levels(0.05, 0.05)


def stored(evidence: dict[int, Evidence]) -> dict[int, Evidence]:
    """As it comes from a store."""
    return merged([decode_evidence(encode_evidence(one)) for one in evidence.values()])


def looked(world: World, evidence: dict[int, Evidence], epochs: tuple[EpochRecord, ...] = EPOCHS) -> Looked:
    return Looked(program_of(POLICY, constants(sticky=world.sticky), LEVELS), epochs, evidence)


def assert_as_swept(looks: list[Looked]) -> int:
    """How many cells pass."""
    passed = 0
    for look, mine in zip(looks, glance(looks), strict=True):
        found = sweep(look.program, look.epochs, look.evidence)
        assert mine is not None
        if found is None:  # nothing has begun, so all are open
            assert mine.known.all()
            assert not mine.passed.any()
            continue
        its = found.standing
        # What cannot be computed or is hopeless the sweep leaves to the reader, who finds it open.
        more = mine.known & ~its.known
        assert not (its.known & ~mine.known).any()
        assert not (mine.passed & more).any()
        for name in ("passed", "whole"):
            assert (getattr(mine, name) == getattr(its, name)).all(), name
        assert (mine.last[mine.passed] == its.last[mine.passed]).all()
        passed += int(mine.passed.sum())
    return passed


def worlds(seed: int) -> list[World]:
    draw = np.random.default_rng(seed)
    return [
        World(
            seed * 100 + k,
            sticky=bool(draw.integers(2)),
            load=float(10.0 ** draw.uniform(0.3, 3.7)),
            harm=float(draw.choice([0.0, 0.0, 0.002, 0.01, 0.05])),
        )
        for k in range(8)
    ]


@pytest.mark.parametrize("seed", range(6))
def test_many_rollouts_at_once_stand_as_each_by_itself(seed: int) -> None:
    many = worlds(seed)
    plain = [looked(world, world.evidence) for world in many]
    kept = [looked(world, stored(world.evidence)) for world in many]
    assert assert_as_swept([*plain, *kept]) > 0
    for one, other in zip(glance(plain), glance(kept), strict=True):
        assert one is not None
        assert other is not None
        assert (one.known == other.known).all()
        assert (one.passed == other.passed).all()


@pytest.mark.parametrize("seed", range(3))
def test_rollouts_in_different_steps_and_with_requests_open(seed: int) -> None:
    looks: list[Looked] = []
    for k, world in enumerate(worlds(30 + seed)):
        begun = k % 4
        evidence = {number: one for number, one in world.evidence.items() if number <= begun}
        for one in evidence.values():
            one.open.update(candidate=13 * k, stable=7 * k)
        looks.append(looked(world, stored(evidence) if k % 2 else evidence, EPOCHS[: begun + 1]))
    assert_as_swept(looks)
    assert glance([]) == []


@pytest.mark.parametrize("metric", ["errors", "mean", "metrics.revenue.missing"])
def test_sums_that_cannot_be_right_are_the_readers(metric: str) -> None:
    good, bad = World(41, load=4000.0), World(41, load=4000.0)
    for group in GROUPS:
        key = SeriesKey("candidate", group, metric)
        had = bad.evidence[2].series.get(key) or Series([1.0], [0.0], [0.0])
        bad.evidence[2].series[key] = Series([-1.0, *had.n[1:]], had.sum, had.square)
    looks = [looked(world, world.evidence) for world in (good, bad)]
    assert_as_swept(looks)
    one, other = glance(looks)
    assert one is not None
    assert other is not None
    assert int((other.known & other.whole).sum()) < int((one.known & one.whole).sum())


def test_overdue_requests_are_the_readers() -> None:
    world = World(42, load=500.0)
    for one in world.evidence.values():
        one.latency.update(candidate={300: 100}, stable={300: 10_000_000})
    look = looked(world, stored(world.evidence))
    assert_as_swept([look])
    found = glance([look])[0]
    assert found is not None
    assert not any(found.known[k] for k, cell in enumerate(look.program.cells) if cell.series == "errors")


@dataclass
class Growing:
    """A rollout whose last epoch grows, look by look."""

    world: World
    program: Program
    evidence: dict[int, Evidence] = field(default_factory=dict)

    def grow(self, share: float) -> Looked:
        parts = dict(self.world.evidence)
        parts[3] = msgspec.structs.replace(
            parts[3],
            series={
                key: Series(
                    *([float(int(x * share)) for x in column] for column in (one.n, one.sum, one.square))
                )
                for key, one in parts[3].series.items()
            },
        )
        newest = stored(parts)
        self.evidence = {**newest, **{k: one for k, one in self.evidence.items() if k < 3}}
        return Looked(self.program, EPOCHS, self.evidence)


@pytest.mark.parametrize("sticky", [False, True])
def test_what_is_remembered_of_closed_epochs_changes_nothing(sticky: bool) -> None:
    growing = [
        Growing(world, program_of(POLICY, constants(sticky=sticky), LEVELS))
        for world in (World(50 + k, sticky=sticky, load=900.0, harm=0.001 * k) for k in range(3))
    ]
    for share in (0.1, 0.3, 0.5, 0.9, 1.0):
        looks = [one.grow(share) for one in growing]
        assert_as_swept(looks)
        fresh = [
            looked(one.world, stored(dict(look.evidence))) for one, look in zip(growing, looks, strict=True)
        ]
        for mine, its in zip(glance(looks), glance(fresh), strict=True):
            assert mine is not None
            assert its is not None
            assert (mine.known == its.known).all()
            assert (mine.passed == its.passed).all()


def test_the_same_evidence_is_glanced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = glancing.glance

    def counting(looks: Any) -> Any:
        asked.append(len(looks))
        return real(looks)

    monkeypatch.setattr(glancing, "glance", counting)
    glances = Glances(most=2)
    looks = [looked(world, stored(world.evidence)) for world in (World(60), World(61))]
    glances.prepare(looks)
    first = glances.of(looks[0])
    assert glances.of(looks[0]) is first
    other = Looked(looks[0].program, EPOCHS, stored(dict(looks[0].evidence)))
    assert glances.of(other) is not first
    later = (*EPOCHS[:-1], msgspec.structs.replace(EPOCHS[-1], weight=0.4))
    assert glances.of(Looked(looks[0].program, later, other.evidence)) is not first
    assert asked == [2, 0, 0, 1, 1]
    plain = looked(World(62), World(62).evidence)
    assert glances.of(plain) is not glances.of(plain)  # who holds it may write to it


def test_an_analysis_finds_what_was_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(70, load=4000.0)
    record, evidence = world.record(), stored(world.evidence)
    prepare([(record, POLICY, evidence), (msgspec.structs.replace(record, constants=None), POLICY, {})])
    monkeypatch.setattr(glancing, "glance", lambda looks: [None] * len(looks))
    silent = analyse(record, POLICY, evidence, (), NOW, told=False)
    told = analyse(record, POLICY, evidence, (), NOW)
    assert [one.outcome for one in silent.verdicts] == [one.outcome for one in told.verdicts]
    assert any(one.outcome is Outcome.PASS and not one.findings for one in silent.verdicts)
    assert analysis.prepare is prepare
