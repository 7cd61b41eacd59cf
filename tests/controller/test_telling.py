"""Who is told in full at a round: all where there is time, else the oldest first, and those asked for."""

from __future__ import annotations

from itertools import pairwise

from accede.controller.loop.telling import ASKED_FOR, SAVE_EVERY, Telling

NAMES = [f"s{k:03}" for k in range(100)]


def rounds(telling: Telling, now: float, *, every: float, count: int, cost: float) -> list[list[str]]:
    """Each round tells all that are due; each takes `cost` seconds."""
    told: list[list[str]] = []
    for _ in range(count):
        now += every
        telling.begin(NAMES, now)
        due = [name for name in NAMES if telling.due(name)]
        for name in due:
            telling.took(cost)
            telling.stored(name, now)
        told.append(due)
    return told


def test_where_it_costs_nothing_each_is_stored_about_each_second() -> None:
    told = rounds(Telling(), 1000.0, every=0.25, count=40, cost=1e-4)
    times = [k for k, due in enumerate(told) if "s050" in due]
    assert all(later - earlier == SAVE_EVERY / 0.25 for earlier, later in pairwise(times[3:]))
    assert len(times) >= 8


def test_where_it_costs_much_it_takes_a_share_of_the_time_and_all_have_their_turn() -> None:
    telling = Telling()
    told = rounds(telling, 1000.0, every=1.0, count=60, cost=0.02)
    assert all(1 <= len(due) <= 6 for due in told[20:])
    assert {name for due in told[20:45] for name in due} == set(NAMES)
    one = rounds(Telling(), 1000.0, every=0.25, count=10, cost=5.0)
    assert all(len(due) == 1 for due in one[2:])  # one at least, whatever it costs


def test_who_is_looked_at_comes_first_for_a_while() -> None:
    passed = [0.0]
    telling = Telling(timer=lambda: passed[0])
    rounds(telling, 1000.0, every=1.0, count=30, cost=0.02)
    telling.ask("s077")
    for k in range(5):
        assert "s077" in rounds(telling, 1030.0 + k, every=1.0, count=1, cost=0.02)[0]
    passed[0] += ASKED_FOR + 1.0
    later = [rounds(telling, 1040.0 + k, every=1.0, count=1, cost=0.02)[0] for k in range(4)]
    assert sum("s077" in due for due in later) <= 1


def test_what_is_gone_is_forgotten() -> None:
    telling = Telling()
    telling.stored("a", 1000.0)
    telling.stored("b", 1000.0)
    telling.keep(["b"])
    telling.begin(["a", "b"], 1000.5)
    assert telling.due("a")
    assert not telling.due("b")
