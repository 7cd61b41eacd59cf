"""Which table a router serves: routes come in, holds keep what may not run, the disk remembers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from accede.errors import AccedeError, Conflict, NotFound
from accede.router.counters import ASSIGNED, FIELDS, FINISHED, SLOTS, Counters
from accede.router.parent.disk import ROUTES, RouterFolder, encoded
from accede.router.parent.sync import Memory, RouteKeeper, Slots
from accede.store.measurement import MeasurementPlan
from accede.store.protocol import Routes
from accede.store.routes import WIRE, Arm, MirrorTarget, ServiceRoute

NOW = 1_000_000.0


def route(
    service: str = "s",
    generation: int = 1,
    weight: int = 1000,
    rollout: str | None = "r",
    epoch: int = 1,
    **more: Any,
) -> ServiceRoute:
    plan = None
    if rollout is not None:
        plan = MeasurementPlan(
            rollout=rollout, epoch=epoch, stage="canary", extraction=None, batch=1.0, account_after=10.0
        )
    arms = [Arm("stable", "1", ("http://a",), 10_000 - weight)]
    if rollout is not None:
        arms.append(Arm("candidate", "2", ("http://b",), weight))
    return ServiceRoute(
        wire=WIRE, service=service, generation=generation, path=f"/{service}", host=None, protocol="json",
        arms=tuple(arms), plan=plan, unattended=60.0, **more,
    )  # fmt: skip


def found(
    *routes: ServiceRoute, leases: dict[str, float] | None = None, broken: dict[str, str] | None = None
) -> Routes:
    renewed = {one.service: NOW for one in routes} if leases is None else leases
    return Routes(sum(one.generation for one in routes), routes, broken or {}, renewed)


@pytest.fixture
def counters(tmp_path: Path) -> Iterator[Counters]:
    made = Counters(tmp_path / "counters", 2, create=True)
    yield made
    made.close()


@pytest.fixture
def keeper(counters: Counters) -> RouteKeeper:
    return RouteKeeper(Slots(counters))


def held(keeper: RouteKeeper) -> dict[str, str]:
    assert keeper.table is not None
    return {placed.route.service: placed.held for placed in keeper.table.placed if placed.held}


class TestTables:
    def test_there_is_none_before_anything_is_known(self, keeper: RouteKeeper) -> None:
        assert keeper.look(NOW) is None
        keeper.trust_memory()
        assert keeper.look(NOW) is None

    def test_an_empty_store_makes_an_empty_table(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(), NOW)
        table = keeper.look(NOW)
        assert table is not None
        assert table.placed == ()

    def test_the_same_routes_make_no_new_table(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route()), NOW)
        first = keeper.look(NOW)
        keeper.learn(found(route(), leases={"s": NOW + 5}), NOW + 5)
        assert keeper.look(NOW + 5) is None
        assert keeper.table is first
        keeper.learn(found(route(generation=2)), NOW + 6)
        second = keeper.look(NOW + 6)
        assert first is not None
        assert second is not None
        assert second.number == first.number + 1

    def test_every_epoch_has_a_slot_of_its_own_and_keeps_it(self, keeper: RouteKeeper) -> None:
        slots = []
        for generation, epoch in ((1, 1), (2, 1), (3, 2), (4, 3), (5, 3)):
            keeper.learn(found(route(generation=generation, epoch=epoch), route("t", generation)), NOW)
            table = keeper.look(NOW)
            assert table is not None
            slots.append([placed.slot for placed in table.placed])
        assert slots == [[0, 1], [0, 1], [2, 1], [3, 1], [3, 1]]

    def test_a_service_that_measures_nothing_has_no_slot(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route(rollout=None, weight=0)), NOW)
        table = keeper.look(NOW)
        assert table is not None
        assert table.placed[0].slot == -1

    def test_a_broken_route_leaves_the_one_before_and_all_others_in_force(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route("a"), route("b")), NOW)
        keeper.learn(found(route("b", 2), broken={"a": "cannot be read", "c": "cannot be read"}), NOW)
        table = keeper.look(NOW)
        assert table is not None
        assert {placed.route.service: placed.route.generation for placed in table.placed} == {"a": 1, "b": 2}
        assert set(keeper.broken) == {"a", "c"}

    def test_a_service_that_a_new_process_does_not_find_is_served_no_more(self, keeper: RouteKeeper) -> None:
        keeper.recall(Memory(routes={"a": route("a"), "b": route("b")}))
        keeper.abort("a", "x")
        keeper.learn(found(route("b")), NOW)
        table = keeper.look(NOW)
        assert table is not None
        assert [placed.route.service for placed in table.placed] == ["b"]
        assert keeper.memory.direct == {}


class TestSlots:
    def test_the_oldest_closed_one_is_given_away_empty(self, counters: Counters) -> None:
        slots = Slots(counters)
        for epoch in range(SLOTS):
            assert slots.slot(("s", "r", epoch), set()) == epoch
        cells = counters.cells(1)
        cells[1 * FIELDS + ASSIGNED] = 7
        assert slots.slot(("s", "r", SLOTS), {("s", "r", 0)}) == 1
        assert counters.read(1).assigned == (0, 0)
        cells.release()

    def test_counts_are_summed_over_workers_by_epoch_and_arm(self, counters: Counters) -> None:
        slots = Slots(counters)
        at = slots.slot(("s", "r", 4), set()) * FIELDS
        for worker, cells in ((0, counters.cells(0)), (1, counters.cells(1))):
            cells[at + ASSIGNED] = 10 + worker
            cells[at + FINISHED] = 9
            cells[at + ASSIGNED + 1] = 2
            cells.release()
        assigned, finished = slots.counts()
        assert assigned == {"s|r|4|stable": 21, "s|r|4|candidate": 4}
        assert finished == {"s|r|4|stable": 18, "s|r|4|candidate": 0}


class TestLease:
    def test_without_a_renewal_for_so_long_stable_serves_alone(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route()), NOW)
        keeper.look(NOW + 60)
        assert held(keeper) == {}
        keeper.look(NOW + 61)
        assert held(keeper) == {"s": "lease: no controller has renewed it for 60 s"}
        assert keeper.memory.lapsed["s"].generation == 1

    def test_a_late_renewal_resumes_nothing_but_a_newer_generation_does(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route()), NOW)
        keeper.look(NOW + 61)
        keeper.learn(found(route(), leases={"s": NOW + 62}), NOW + 62)
        keeper.look(NOW + 62)
        assert "s" in held(keeper)
        keeper.learn(found(route(generation=2), leases={"s": NOW + 62}), NOW + 63)
        keeper.look(NOW + 63)
        assert held(keeper) == {}
        assert keeper.memory.lapsed == {}

    def test_a_renewal_counts_from_when_it_is_seen_whatever_the_controllers_clock_says(
        self, keeper: RouteKeeper
    ) -> None:
        keeper.learn(found(route(), leases={"s": NOW - 30}), NOW)
        keeper.learn(found(route(), leases={"s": NOW - 29}), NOW + 20)
        keeper.look(NOW + 79)
        assert held(keeper) == {}
        keeper.look(NOW + 81)
        assert "s" in held(keeper)

    def test_a_lease_that_is_old_at_the_first_reading_is_old(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route(), leases={"s": NOW - 61}), NOW)
        keeper.look(NOW)
        assert "s" in held(keeper)

    def test_a_lease_from_the_future_is_no_older_than_now(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route(), leases={"s": NOW + 10_000}), NOW)
        keeper.look(NOW + 61)
        assert "s" in held(keeper)

    def test_mirroring_needs_somebody_in_charge_and_stable_alone_does_not(self, keeper: RouteKeeper) -> None:
        mirrors = (MirrorTarget("2", ("http://b",), 100),)
        keeper.learn(
            found(
                route("m", weight=0, mirrors=mirrors),
                route("w", weight=0),
                route("i", rollout=None, weight=0),
            ),
            NOW,
        )
        keeper.look(NOW + 1000)
        assert set(held(keeper)) == {"m"}


class TestBreaker:
    def test_a_trip_holds_until_its_rollout_has_ended(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route()), NOW)
        assert keeper.trip("s", 1, "12 of 20 failed")
        assert not keeper.trip("s", 1, "13 of 20 failed")
        keeper.look(NOW)
        assert held(keeper) == {"s": "breaker: 12 of 20 failed"}
        keeper.learn(found(route(generation=2)), NOW)  # a changed file, or a step decided too early
        keeper.look(NOW)
        assert held(keeper) == {"s": "breaker: 12 of 20 failed"}
        keeper.learn(found(route(generation=3, rollout="r2")), NOW)
        keeper.look(NOW)
        assert held(keeper) == {}

    def test_a_trip_of_a_generation_that_is_history_holds_nothing(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route(generation=2)), NOW)
        assert not keeper.trip("s", 1, "late")
        assert not keeper.trip("unknown", 1, "late")


class TestDirectAbort:
    def test_it_holds_at_once(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route(), route("t")), NOW)
        assert keeper.abort("s", "INC-81") == 1
        keeper.look(NOW)
        assert held(keeper) == {"s": "aborted here: INC-81"}

    def test_a_controller_that_has_not_heard_of_it_cannot_move_the_rollout_on(
        self, keeper: RouteKeeper
    ) -> None:
        keeper.learn(found(route()), NOW)
        keeper.abort("s", "INC-81")
        keeper.learn(found(route(generation=2, weight=5000, epoch=2)), NOW)
        keeper.look(NOW)
        assert "s" in held(keeper)

    @pytest.mark.parametrize(
        "after", [route(generation=2, rollout=None, weight=0), route(generation=2, rollout="q")]
    )
    def test_the_end_of_the_rollout_or_another_one_releases_it(
        self, keeper: RouteKeeper, after: ServiceRoute
    ) -> None:
        keeper.learn(found(route()), NOW)
        keeper.abort("s", "INC-81")
        keeper.learn(found(after), NOW)
        keeper.look(NOW)
        assert held(keeper) == {}
        assert keeper.memory.direct == {}

    def test_a_service_that_is_not_served_is_named_with_those_that_are(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route("a"), route("b")), NOW)
        with pytest.raises(NotFound, match="'x'; it serves a, b"):
            keeper.abort("x", "y")


class TestDisk:
    def test_a_start_without_a_store_serves_what_was_known_and_holds_what_was_held(
        self, keeper: RouteKeeper, counters: Counters, tmp_path: Path
    ) -> None:
        keeper.learn(found(route("a"), route("b"), route("c")), NOW)
        keeper.abort("a", "INC-81")
        keeper.trip("b", 1, "12 of 20 failed")
        keeper.look(NOW)
        folder = RouterFolder(str(tmp_path))
        folder.remember(encoded(keeper.memory))
        folder.close()

        folder = RouterFolder(str(tmp_path))
        memory = folder.recall()
        folder.close()
        assert memory is not None
        again = RouteKeeper(Slots(counters))
        again.recall(memory)
        assert again.look(NOW + 10) is None  # a store may still answer
        again.trust_memory()
        again.look(NOW + 10)
        assert held(again) == {"a": "aborted here: INC-81", "b": "breaker: 12 of 20 failed"}
        again.look(NOW + 61)
        assert "c" in held(again)

    def test_holds_survive_a_restart_with_a_store(self, keeper: RouteKeeper, counters: Counters) -> None:
        keeper.learn(found(route()), NOW)
        keeper.look(NOW + 61)
        again = RouteKeeper(Slots(counters))
        again.recall(msgspec.json.decode(encoded(keeper.memory), type=type(keeper.memory)))
        again.learn(found(route(), leases={"s": NOW + 62}), NOW + 62)
        again.look(NOW + 62)
        assert "s" in held(again)

    def test_nothing_is_remembered_before_the_first_time(self, tmp_path: Path) -> None:
        folder = RouterFolder(str(tmp_path))
        assert folder.recall() is None
        folder.close()

    @pytest.mark.parametrize("data", [b"", b"{", b'{"routes": {"s": 1}}', b'{"unknown": 1}', b"\xff"])
    def test_what_cannot_be_read_is_named_and_not_used(self, tmp_path: Path, data: bytes) -> None:
        folder = RouterFolder(str(tmp_path))
        (folder.path / ROUTES).write_bytes(data)
        with pytest.raises(AccedeError, match=r"routes\.json cannot be read and is not used"):
            folder.recall()
        folder.close()

    def test_a_write_that_fails_leaves_what_was_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = RouterFolder(str(tmp_path))
        folder.remember(b"{}")

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            folder.remember(b'{"routes": {}}')
        assert (folder.path / ROUTES).read_bytes() == b"{}"
        folder.close()

    def test_one_router_per_directory(self, tmp_path: Path) -> None:
        folder = RouterFolder(str(tmp_path))
        with pytest.raises(Conflict, match="another router uses the data directory"):
            RouterFolder(str(tmp_path))
        folder.close()
        RouterFolder(str(tmp_path)).close()

    def test_a_directory_that_cannot_be_made_is_one_clear_line(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(AccedeError, match="cannot be used: Not a directory"):
            RouterFolder(str(tmp_path / "file"))

    def test_sockets_of_a_deep_directory_get_a_short_path(self, tmp_path: Path) -> None:
        folder = RouterFolder(str(tmp_path / ("d" * 120)))
        path = folder.fresh("admin.sock")
        assert len(os.fsencode(path)) < 100
        assert path.parent.is_dir()
        folder.close()
        assert not path.parent.exists()


class TestAStoreThatWentBack:
    """Services never leave a store and generations only grow: less than before means another store."""

    @pytest.mark.parametrize("now_has", [(), (route(generation=2, weight=5000),)])
    def test_what_is_in_force_stays_and_says_so(
        self, keeper: RouteKeeper, now_has: tuple[ServiceRoute, ...]
    ) -> None:
        keeper.learn(found(route(generation=7)), NOW)
        before = keeper.look(NOW)
        keeper.learn(found(*now_has), NOW + 1)
        assert before is not None
        assert keeper.look(NOW + 1) is None
        assert keeper.memory.routes["s"].generation == 7
        assert "the store has gone back" in keeper.broken["s"]
        assert "restart the router" in keeper.broken["s"]

    def test_its_lease_is_not_renewed_by_the_other_store(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route(generation=7)), NOW)
        keeper.look(NOW)
        for second in range(1, 62):
            keeper.learn(found(route(generation=2), leases={"s": NOW + second}), NOW + second)
        keeper.look(NOW + 61)
        assert held(keeper)["s"].startswith("lease")

    def test_the_store_that_comes_back_is_taken_again(self, keeper: RouteKeeper) -> None:
        keeper.learn(found(route(generation=7)), NOW)
        keeper.learn(found(), NOW + 1)
        keeper.learn(found(route(generation=8)), NOW + 2)
        assert keeper.memory.routes["s"].generation == 8
        assert keeper.broken == {}

    def test_a_new_process_takes_what_its_store_says_unless_it_is_empty(self, keeper: RouteKeeper) -> None:
        keeper.recall(Memory(routes={"s": route(generation=7)}))
        keeper.learn(found(), NOW)
        assert keeper.memory.routes["s"].generation == 7
        assert keeper.look(NOW) is not None
        keeper.learn(found(route(generation=1)), NOW + 1)
        assert keeper.memory.routes["s"].generation == 1
