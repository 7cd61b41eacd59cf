"""Sources that will say no more, and a store that has gone back in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from accede.controller.loop.gone import SILENT, gone_back, gone_reports, gone_sources
from accede.store.closing import CLOSED
from accede.store.evidence import LABELS, WIRE, Evidence
from accede.store.rollouts import Phase, ReplicaReport
from accede.store.routes import Arm, ServiceRoute
from tests.controller.test_loop import House, directory, house  # noqa: F401  (its fixtures)

if TYPE_CHECKING:
    from .conftest import Story

NOW = 10_000.0
ARM = Arm(role="stable", version="1", addresses=("http://h:1",), weight=10_000)
ROUTE = ServiceRoute("accede.route/1", "fraud", 4, "/fraud", None, "json", (ARM,))


def evidence(source: str, published: float = NOW) -> Evidence:
    return Evidence(WIRE, "fraud", "r1", 0, source, published, published)


def report(source: str, at: float = NOW, generation: int = 4) -> ReplicaReport:
    return ReplicaReport(source, source.partition(":")[0], at, generations={"fraud": generation})


@pytest.mark.parametrize(
    ("sources", "reports", "gone"),
    [
        ([("a:x-1", NOW)], [("a:x", NOW)], set()),
        ([("a:x-1", NOW), ("a:x-2", NOW)], [("a:x", NOW)], {"a:x-1"}),
        ([("a:x-9", NOW), ("a:x-10", NOW)], [("a:x", NOW)], {"a:x-9"}),
        ([("a:x-1", NOW), ("a:x-1.1", NOW)], [("a:x", NOW)], {"a:x-1"}),  # it goes on under another name
        ([("a:x-1.9", NOW), ("a:x-1.10", NOW)], [("a:x", NOW)], {"a:x-1.9"}),
        ([("a:x-1.3", NOW), ("a:x-2", NOW)], [("a:x", NOW)], {"a:x-1.3"}),
        ([("a:x-1.", 0.0), ("a:x-1.z", 0.0), ("a:x-.1", 0.0)], [], set()),
        ([("a:x-1", NOW - SILENT - 1)], [("a:x", NOW)], set()),  # a router without traffic
        ([("a:x-1", NOW - SILENT - 1)], [("a:x", NOW - SILENT - 1)], {"a:x-1"}),
        ([("a:x-1", NOW - 1)], [("a:x", NOW - SILENT - 1)], set()),  # its parent cannot report
        ([("a:x-1", NOW - 1), ("a:y-1", NOW)], [("a:y", NOW)], set()),  # perhaps two of one name
        ([(CLOSED, 0.0), (LABELS, 0.0), ("odd", 0.0)], [], set()),
    ],
)
def test_which_sources_are_gone(
    sources: list[tuple[str, float]], reports: list[tuple[str, float]], gone: set[str]
) -> None:
    parts = [evidence(*one) for one in sources]
    assert gone_sources(parts, [report(*one) for one in reports], NOW) == gone


OLD = NOW - SILENT - 1


@pytest.mark.parametrize(
    ("old", "gone"),
    [
        ({}, True),
        ({"at": NOW - SILENT + 1}, False),  # not for long enough
        ({"assigned": {"fraud|r1|0|stable": 7}}, False),  # against which losses are counted
        ({"finished": {"fraud|r1|3|candidate": 7}}, False),
        ({"assigned": {"fraud|r10|0|stable": 7, "credit|r1|0|stable": 7}}, True),  # of others, or ended
        ({"tripped": {"fraud": 4}}, False),
        ({"lapsed": {"fraud": 4}}, False),
        ({"direct": {"fraud": "INC-1"}}, False),
        ({"direct": {"credit": "INC-1"}}, True),
    ],
)
def test_which_reports_nobody_needs(story: Story, old: dict[str, Any], gone: bool) -> None:
    record = story.at(None, id="r1")
    fields = {"at": OLD, "generations": {"fraud": 4}, **old}
    silent = ReplicaReport("a:x", "a", **fields)
    heard = report("b:x")
    assert gone_reports([heard, silent], [record], NOW) == ((silent,) if gone else ())
    assert gone_reports([silent], [record], NOW) == ()  # of nobody else it would be known that all are silent
    if "at" not in old:
        assert gone_reports([silent, heard], [], NOW) == (silent,)


def test_the_report_of_a_dead_router_stays_until_the_rollout_that_it_served_has_ended(
    house: House,  # noqa: F811
) -> None:
    house.rounds(1)
    record = house.acts.start("fraud", "43", "anna", policy="careful")
    long_ago = house.script.now - SILENT
    counts = {f"fraud|{record.id}|0|stable": 500}
    for source, assigned in (("dead:x", counts), ("older:x", {})):
        house.store.publish_report(ReplicaReport(source, "dead", long_ago, assigned=assigned))

    def sources() -> set[str]:
        """After the leader has looked at reports again."""
        house.store.publish_report(ReplicaReport("alive:x", "alive", house.script.now))
        house.rounds(300)
        return {one.source for one in house.store.reports()}

    assert sources() == {"dead:x", "alive:x"}
    house.acts.abort("fraud", "anna", "INC-1")
    assert sources() == {"alive:x"}
    house.store.publish_report(ReplicaReport("dead:x", "dead", house.script.now))
    assert sources() == {"dead:x", "alive:x"}


def test_a_store_behind_its_routers_is_said_with_both_generations() -> None:
    assert gone_back({"fraud": ROUTE}, [report("a:x"), report("b:x", generation=3)], NOW) == {}
    found = gone_back({"fraud": ROUTE}, [report("a:x", generation=6)], NOW)
    assert "router a serves generation 6, the store has 4; restore" in found["fraud"]
    assert "the store has 0" in gone_back({}, [report("a:x")], NOW)["fraud"]
    # What an old report says, the router may not serve any more.
    assert gone_back({"fraud": ROUTE}, [report("a:x", at=NOW - 60, generation=6)], NOW) == {}


def test_a_rollout_on_a_store_that_went_back_is_held_without_a_lease(
    house: House,  # noqa: F811
) -> None:
    house.reach(Phase.SHADOW)
    generation, leases = house.route.generation, house.store.routes().leases
    ahead = ReplicaReport("r1:a", "r1", house.script.now, generations={"fraud": generation + 1})
    house.store.publish_report(ahead)
    house.rounds(8)
    record = house.record
    assert record.hold is not None
    assert record.hold.kind == "error"
    assert "gone back in time: router r1 serves" in record.hold.reason
    assert house.route.generation == generation
    assert house.store.routes().leases == leases
    assert "gone back" in house.loop.problems["fraud"]


def test_observers_that_were_replaced_are_closed_while_their_rollout_runs(
    house: House,  # noqa: F811
) -> None:
    house.reach(Phase.SHADOW)
    for source in ("r1:a-1", "r1:a-2", "r1:a-3"):
        one = evidence(source, house.script.now)
        house.store.publish_evidence(Evidence(WIRE, "fraud", house.record.id, 1, one.source, 1.0, 1.0))
    house.rounds(4, every=30.0)
    sources = {one.source for one in house.store.evidence("fraud", house.record.id) if one.epoch == 1}
    assert sources == {"r1:a-3", CLOSED}
