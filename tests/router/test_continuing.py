"""Sources that were closed go on under another name: whatever gets lost, each request counts once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from accede.errors import StoreError
from accede.router.continuing import Continuing
from accede.store.closing import CLOSED
from accede.store.evidence import WIRE, ArmCounts, Evidence, Series, SeriesKey, merge
from accede.store.protocol import RouterStore
from accede.store.sqlite import SqliteStore

KEY = SeriesKey("stable", "", "mean")


def totals(requests: int, epoch: int = 1) -> Evidence:
    """As an observer has them after so many requests."""
    series = {KEY: Series([float(requests)], [requests / 4], [requests / 16])}
    arms = {"stable": ArmCounts(accounted=requests)}
    return Evidence(
        WIRE, "s", "r", epoch, "a:b-1", 100.0 + requests, 99.0 + requests, arms=arms, series=series
    )


class Lossy:
    """A real store whose answers, or questions, can get lost."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.answers = self.questions = True

    def publish_evidence(self, evidence: Evidence) -> None:
        if self.questions:
            self.store.publish_evidence(evidence)
        if not (self.answers and self.questions):
            raise StoreError("lost")


class Line:
    """A life of an observer over a store, and what the store has of it."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteStore(path)
        self.lossy = Lossy(self.store)
        self.said: list[str] = []
        self.continuing = Continuing(self.said.append)

    def publish(self, requests: int, epoch: int = 1) -> None:
        wire: RouterStore = self.lossy  # type: ignore[assignment]
        self.continuing.publish(wire, totals(requests, epoch))

    def lose(self, requests: int, what: str) -> None:
        setattr(self.lossy, what, False)
        with pytest.raises(StoreError, match="lost"):
            self.publish(requests)
        setattr(self.lossy, what, True)

    def close(self, *sources: str) -> None:
        self.store.close_sources("s", "r", set(sources or self.sources() - {CLOSED}))

    def sources(self) -> set[str]:
        return {one.source for one in self.store.evidence("s", "r")}

    def count(self, epoch: int = 1) -> tuple[float, ...]:
        total = merge([one for one in self.store.evidence("s", "r") if one.epoch == epoch])
        assert total is not None
        series = total.series[KEY]
        assert total.arms["stable"].accounted == series.n[0]
        return series.n[0], series.sum[0], series.square[0]


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path / "accede.db")
    yield made
    made.store.close()


def exactly(line: Line, requests: int, epoch: int = 1) -> None:
    assert line.count(epoch) == pytest.approx((requests, requests / 4, requests / 16))


def test_nothing_that_was_seen_while_it_was_silent_or_after_is_lost(line: Line) -> None:
    line.publish(10)
    line.close()
    line.publish(25)  # 15 of them while it was silent
    exactly(line, 25)
    line.publish(40)
    exactly(line, 40)
    assert line.sources() == {CLOSED, "a:b-1.1"}
    assert len(line.said) == 1
    assert "'a:b-1' for service 's' was closed" in line.said[0]
    assert line.said[0].endswith("it goes on as 'a:b-1.1'")


@pytest.mark.parametrize("what", ["answers", "questions"])
@pytest.mark.parametrize("before", [0, 10])
def test_a_publication_in_doubt_is_taken_off_if_and_only_if_it_was_closed(
    line: Line, what: str, before: int
) -> None:
    if before:
        line.publish(before)
    line.lose(20, what)
    line.lose(30, "questions")
    line.lose(35, what)
    line.close()
    line.publish(50)
    exactly(line, 50)
    line.publish(60)
    exactly(line, 60)


def test_a_name_that_is_closed_as_well_goes_on_under_a_third(line: Line) -> None:
    line.publish(10)
    line.close()
    line.publish(20)
    line.lose(30, "answers")
    line.close()
    line.publish(45)
    exactly(line, 45)
    line.publish(46)
    exactly(line, 46)
    assert line.sources() == {CLOSED, "a:b-1.2"}


def test_epochs_that_were_not_closed_go_on_and_new_ones_begin_under_the_new_name(line: Line) -> None:
    line.publish(10, epoch=1)
    line.publish(5, epoch=2)
    line.store.close_sources("s", "r", {"a:b-1"})
    line.publish(7, epoch=2)
    line.publish(3, epoch=3)
    assert "a:b-1" not in line.sources()
    line.publish(10, epoch=1)
    for epoch, requests in ((1, 10), (2, 7), (3, 3)):
        exactly(line, requests, epoch)


def test_what_cannot_be_known_is_counted_as_lost_and_said(line: Line) -> None:
    line.publish(10)
    line.close()
    line.continuing.keep(())  # as where the store came back older than what it had acknowledged
    line.publish(30)
    exactly(line, 10)
    assert "up to 30 requests count as lost" in line.said[0]
    line.publish(37)
    exactly(line, 17)


def test_epochs_that_are_over_are_forgotten_unless_in_doubt(line: Line) -> None:
    line.publish(10)
    line.lose(20, "answers")
    line.continuing.keep(())
    line.close()
    line.publish(30)
    exactly(line, 30)
