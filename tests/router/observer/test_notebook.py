"""Predictions wait within bounds, and what is lost is counted under its arm and epoch."""

from __future__ import annotations

from accede.router.observer.notebook import AT_ONCE, LEAST, Notebook
from accede.store.labels import ARM, MOST_INSTANCES, Prediction, Value

HERE = ("fraud", "r", 3)


def prediction(arm: int = 0, values: tuple[Value, ...] = (0.5,), *, epoch: int = 3) -> Prediction:
    return Prediction(b"k" * 16, ARM, "r", epoch, 1.0, 2.0, arm, 0, 0, (values,))


def test_all_that_waits_is_handed_out_once_in_parts_by_service() -> None:
    notebook = Notebook()
    for _ in range(AT_ONCE + 5):
        notebook.add(("fraud", "r"), prediction())
    notebook.add(("credit", "r"), prediction())
    assert [(service, len(part)) for service, part in notebook.hand_out()] == [
        ("fraud", AT_ONCE), ("fraud", 5), ("credit", 1),
    ]  # fmt: skip
    assert not list(notebook.hand_out())
    assert notebook.lost(unwritten=True) == {}


def test_what_finds_no_room_is_lost_under_its_arm_and_epoch_until_there_is_room_again() -> None:
    notebook = Notebook(3 * LEAST)
    for arm in (0, 1, 0, 1, 1, 0):
        notebook.add(("fraud", "r"), prediction(arm))
    notebook.add(("fraud", "r"), prediction(1, epoch=4))
    assert notebook.lost(unwritten=False) == {HERE: (1, 2), ("fraud", "r", 4): (0, 1)}
    assert sum(len(part) for _, part in notebook.hand_out()) == 3
    notebook.add(("fraud", "r"), prediction())
    assert notebook.lost(unwritten=False)[HERE] == (1, 2)
    notebook.forget(HERE)
    assert HERE not in notebook.lost(unwritten=False)


def test_large_requests_weigh_more_and_those_that_no_label_can_be_sent_for_are_lost() -> None:
    notebook = Notebook(100 * LEAST)
    notebook.add(("fraud", "r"), prediction(0, (0.5,) * 2000))  # too much for what is there
    notebook.add(("fraud", "r"), prediction(0, ("x" * 20_000,)))
    notebook.add(("fraud", "r"), prediction(0, (0.5,) * 200))
    assert notebook.lost(unwritten=False) == {HERE: (2, 0)}
    wide = Notebook()
    wide.add(("fraud", "r"), prediction(1, (0.5,) * (MOST_INSTANCES + 1)))
    assert wide.lost(unwritten=False) == {HERE: (0, 1)}


def test_what_is_not_written_yet_counts_as_lost_where_that_is_asked() -> None:
    notebook = Notebook()
    notebook.add(("fraud", "r"), prediction(0))
    handed = list(notebook.hand_out())
    notebook.add(("fraud", "r"), prediction(1))
    assert notebook.lost(unwritten=False) == {}
    assert notebook.lost(unwritten=True) == {HERE: (1, 1)}
    notebook.refuse(*handed[0])
    assert notebook.lost(unwritten=False) == {HERE: (1, 0)}
