"""Races, stopped clocks and damaged stores: nothing goes on as if nothing had happened."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accede.controller.loop.loop import Loop
from accede.errors import AccedeError, Conflict
from accede.store.rollouts import Analysis, Phase, ReplicaReport
from tests.controller.test_loop import House, directory, house  # noqa: F401  (its fixtures)


def says(house: House, **fields: Any) -> None:  # noqa: F811
    """A router's report."""
    house.store.publish_report(ReplicaReport("r1:a", "r1", house.script.now, **fields))


@pytest.fixture
def patient(directory: Path) -> None:  # noqa: F811
    """A policy that answers a lapse with a pause."""
    file = directory / "careful.yaml"
    file.write_text(file.read_text() + "unattended: {action: pause, after: 60s}\n")


class TestAfterALongAbsence:
    def test_it_decides_before_it_goes_on(self, house: House, directory: Path) -> None:  # noqa: F811
        """No router has said yet that it lapsed, and a changed file waits: a new generation would resume."""
        house.reach(Phase.CANARY)
        file = directory / "fraud.yaml"
        file.write_text(file.read_text().replace("8501", "8600"))
        house.rounds(1, every=901.0)
        assert house.record.phase is Phase.ROLLED_BACK
        assert "no controller looked after it for 901 s" in house.record.reason
        assert house.route.candidate is None

    def test_within_the_lease_it_goes_on(self, house: House) -> None:  # noqa: F811
        house.reach(Phase.CANARY)
        house.rounds(1, every=200.0)
        assert house.record.phase is Phase.CANARY

    def test_a_baseline_has_nothing_to_fall_back_from(self, house: House) -> None:  # noqa: F811
        house.rounds(1)
        house.acts.start("fraud", "43", "anna", policy="careful")
        house.rounds(2)
        house.rounds(1, every=1000.0)
        assert house.record.phase is Phase.BASELINE

    @pytest.mark.usefixtures("patient")
    def test_a_changed_file_resumes_nothing(self, house: House, directory: Path) -> None:  # noqa: F811
        house.reach(Phase.CANARY)
        generation = house.route.generation
        says(house, lapsed={"fraud": generation})
        file = directory / "fraud.yaml"
        file.write_text(file.read_text().replace("8502", "8602"))
        house.rounds(8, every=1.0)
        assert house.record.phase is Phase.PAUSED
        assert house.route.generation == generation
        house.acts.resume("fraud", "anna", "seen")
        house.rounds(2, every=1.0)
        assert house.route.generation == generation + 2  # resumed, then the file
        assert house.route.arms[1].addresses == ("http://127.0.0.1:8602",)

    def test_a_round_that_was_stopped_for_longer_than_the_lease_decides_nothing(
        self, house: House  # noqa: F811
    ) -> None:  # fmt: skip
        record = house.reach(Phase.SHADOW)
        analyse = house.script.analyse

        def stopped(*seen: Any) -> Analysis:
            house.script.now += 1000.0
            return analyse(*seen)

        engine = replace(house.script.engine, analyse=stopped)
        loop = Loop(house.store, house.files, engine, clock=lambda: house.script.now)
        house.script.now += 60.0  # the step is done
        lease = house.store.routes().leases["fraud"]
        loop.tick()
        assert house.record == record
        assert house.store.routes().leases["fraud"] == lease
        house.rounds(1)
        assert house.record.phase is Phase.ROLLED_BACK


def test_a_trip_is_not_forgotten_over_a_newer_generation(house: House, directory: Path) -> None:  # noqa: F811
    house.reach(Phase.CANARY)
    tripped = house.route.generation
    file = directory / "fraud.yaml"
    file.write_text(file.read_text().replace("8501", "8600"))
    house.rounds(1, every=2.0)
    assert house.route.generation == tripped + 1
    says(house, tripped={"fraud": tripped})
    house.rounds(1)
    assert house.record.phase is Phase.ROLLED_BACK


def test_a_weight_without_its_record_is_not_kept_alive(house: House, tmp_path: Path) -> None:  # noqa: F811
    house.reach(Phase.CANARY)
    with contextlib.closing(sqlite3.connect(tmp_path / "accede.db")) as damaged, damaged:
        damaged.execute("DELETE FROM rollouts")
    lease = house.store.routes().leases["fraud"]
    house.rounds(20, every=1.0)
    assert house.store.routes().leases["fraud"] == lease
    assert "does not have open" in house.loop.problems["fraud"]


def test_a_refused_start_keeps_no_rollout_alive(house: House) -> None:  # noqa: F811
    house.reach(Phase.CANARY)
    lease = house.store.routes().leases["fraud"]
    house.script.now += 500.0
    with pytest.raises(Conflict, match="already has the rollout"):
        house.acts.start("fraud", "44", "anna", policy="careful")
    assert house.store.routes().leases["fraud"] == lease


def test_a_storm_of_acts_leaves_one_consistent_history(house: House) -> None:  # noqa: F811
    """Operators who pause, resume, promote, abort and start at once, over a loop that decides as well."""
    house.rounds(1)
    house.acts.start("fraud", "43", "anna", policy="careful")
    house.traffic()
    stop = threading.Event()
    broken: list[str] = []

    def loops() -> None:
        while not stop.is_set():
            house.script.now += 1.0
            house.loop.tick()

    def acts(seed: int) -> None:
        rng = random.Random(seed)
        known: dict[str, Callable[[], object]] = {
            "pause": lambda: house.acts.pause("fraud", "anna", "storm"),
            "resume": lambda: house.acts.resume("fraud", "anna", "storm"),
            "promote": lambda: house.acts.promote("fraud", "anna", "storm"),
            "full": lambda: house.acts.promote("fraud", "anna", "storm", full=True),
            "abort": lambda: house.acts.abort("fraud", "anna", "storm"),
            "start": lambda: house.acts.start(
                "fraud", rng.choice(("42", "43", "44")), "anna", policy="careful"
            ),
        }
        for _ in range(60):
            try:
                known[rng.choice(sorted(known))]()
            except AccedeError:
                pass
            except Exception as problem:  # noqa: BLE001
                broken.append(repr(problem))

    threads = [threading.Thread(target=acts, args=(seed,)) for seed in range(4)]
    looping = threading.Thread(target=loops)
    for thread in (looping, *threads):
        thread.start()
    for thread in threads:
        thread.join(60)
    stop.set()
    looping.join(60)
    assert broken == []
    records = house.store.rollouts("fraud")
    assert len(records) > 3
    assert sum(not record.phase.ended for record in records) <= 1
    stable = "42"
    for record in records:
        assert record.stable == stable
        decisions = house.store.decisions(record.id)
        ends = [one.act for one in decisions if one.act in {"abort", "rollback", "promote"}]
        assert ends == ([decisions[-1].act] if record.phase.ended else [])
        if record.phase is Phase.PROMOTED:
            stable = record.candidate
    with contextlib.suppress(Conflict):
        house.acts.abort("fraud", "anna")
    newest = house.record
    assert house.route.candidate is None
    assert house.route.stable.version == (
        newest.candidate if newest.phase is Phase.PROMOTED else newest.stable
    )
    house.rounds(20)
    assert house.route.candidate is None


def test_of_simultaneous_starts_one_begins(house: House) -> None:  # noqa: F811
    house.rounds(1)
    begun: list[str] = []
    refused: list[str] = []
    ready = threading.Barrier(4)

    def start(candidate: str) -> None:
        ready.wait(10)
        try:
            begun.append(house.acts.start("fraud", candidate, "anna", policy="careful").id)
        except Conflict as problem:
            refused.append(str(problem))

    threads = [threading.Thread(target=start, args=(version,)) for version in ("43", "44", "43", "44")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (begun, len(refused)) == (["fraud-1"], 3)
    assert len(house.store.rollouts("fraud")) == 1


def test_a_clock_that_goes_back_neither_advances_nor_gives_up(house: House) -> None:  # noqa: F811
    record = house.reach(Phase.CANARY)
    house.script.now -= 7200.0
    house.rounds(40)
    assert (house.record.phase, house.record.step) == (Phase.CANARY, record.step)
    lease = house.store.routes().leases["fraud"]
    assert lease <= house.script.now
