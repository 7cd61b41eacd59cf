"""Predictions that wait for labels, from a real observer to a real store: none twice, none lost uncounted."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from accede.router.facts import Body, Drain, Fact, Flush, Pair, encode_flush, encode_message
from accede.store.evidence import Evidence
from accede.store.labels import ARM, MAX_PREDICTIONS, PAIR, Prediction, request_key
from accede.store.measurement import Extraction, SlicePlan
from accede.store.open import open_store
from accede.store.routes import ServiceRoute
from tests.router.observer.alone import PLAN, ROUTE, ObserverProcess, poll

EXTRACTION = Extraction("p", "number", slices=(SlicePlan("sex", "sex", ("f", "m")),))
EVERY = Extraction("p[*]", "number", slices=(SlicePlan("sex", "who[*].sex", ("f", "m")),))


def route(extraction: Extraction = EXTRACTION, stage: Any = "canary") -> ServiceRoute:
    plan = msgspec.structs.replace(
        PLAN, extraction=extraction, stage=stage, labels=True, label_keep=3600.0,
        sliced_metrics={"outcome.accuracy": ("sex",)},
    )  # fmt: skip
    return msgspec.structs.replace(ROUTE, plan=plan)


def asked(number: int) -> tuple[Fact, Body]:
    """A request whose prediction says its number, and whose id says its arm and number."""
    arm = number % 2
    fact = Fact(number, 0, arm, arm, time.time(), 0, 200, 0.01, -1, False, 1, 1, 1)
    return fact, Body(
        number, b'{"sex": "f"}', json.dumps({"p": number / 2**20}).encode(), "", "",
        request_id=f"{arm}-{number}",
    )  # fmt: skip


def sent(several: list[tuple[Fact, Body]], pairs: tuple[Pair, ...] = ()) -> bytes:
    facts, bodies = [fact for fact, _ in several], [body for _, body in several]
    now = time.time()
    return encode_flush(Flush(0, "boot", now, 10**9, now, 10**9, now, [], facts, bodies, list(pairs), []))


class Told:
    """What a store tells after all."""

    def __init__(self, store: Path) -> None:
        handle = open_store(str(store))
        try:
            self.predictions = [one.prediction for one in handle.labels.due("s", "r", 1e12, 10**6).rows]
            found = handle.evidence("s", "r")
        finally:
            handle.close()
        self.evidence: Evidence | None = found[0] if found else None

    def count(self, name: str) -> int:
        return 0 if self.evidence is None else sum(getattr(arm, name) for arm in self.evidence.arms.values())


def write(store: Path, statement: str) -> None:
    """Do to the store's file what no Accede does."""
    with closing(sqlite3.connect(next(store.rglob("*.db")))) as connection, connection:
        connection.execute(statement)


def right(found: list[Prediction], most: int) -> bool:
    """Each is a request that was sent, with its own arm and value, and none is there twice."""
    known = {request_key("s", f"{number % 2}-{number}"): number for number in range(most)}
    numbers = [known[one.request] for one in found]
    values = [one.sides == ((number / 2**20,),) for one, number in zip(found, numbers, strict=True)]
    arms = [one.arm == number % 2 for one, number in zip(found, numbers, strict=True)]
    return len(set(numbers)) == len(numbers) and all(values) and all(arms)


def test_ordinary_and_batched_requests_are_in_the_store_with_their_groups(
    start: Callable[..., ObserverProcess],
) -> None:
    observer = start()
    observer.obey(route=route(EVERY))
    bodies = [
        (b'{"who": [{"sex": "f"}]}', b'{"p": [0.25]}'),
        (b'{"who": [{"sex": "m"}, {"sex": "f"}, {}]}', b'{"p": [0.5, "none", 1]}'),
        (b'{"who": [{"sex": "m"}]}', b'{"p": ["none"]}'),
    ]
    several = [
        (asked(n)[0], Body(n, request, answer, "", "", request_id=f"id {n}"))
        for n, (request, answer) in enumerate(bodies)
    ]
    observer.worker().sendall(sent(several))
    poll(observer.evidence)
    told = Told(observer.store)
    assert told.count("accounted") == 3
    assert told.count("unremembered") == 0
    kept = sorted((one.arm, one.kind, one.request, one.sides, one.groups) for one in told.predictions)
    assert kept == [
        (0, ARM, request_key("s", "id 0"), ((0.25,),), ("sex=f",)),
        (1, ARM, request_key("s", "id 1"), ((0.5, None, 1.0),), (("sex=m", "sex=f", "sex=other"),)),
    ]


def test_pairs_of_a_shadow_are_in_the_store_with_both_sides(start: Callable[..., ObserverProcess]) -> None:
    observer = start()
    observer.obey(route=route(stage="shadow"))
    pair = Pair(
        0, 0, time.time(), 0, 200, 0.1, 0, 200, 0.1, False, b'{"sex": "m"}', b'{"p": 0.5}', b'{"p": 0.75}',
        "", "", "", request_id="a",
    )  # fmt: skip
    failed = msgspec.structs.replace(pair, number=1, shadow_status=500, request_id="b")
    broken = msgspec.structs.replace(pair, number=2, stable_status=500, request_id="c")
    observer.worker().sendall(sent([asked(0)], (pair, failed, broken)))
    poll(observer.evidence)
    kept = {one.request: (one.kind, one.sides, one.groups) for one in Told(observer.store).predictions}
    assert kept == {
        request_key("s", "a"): (PAIR, ((0.5,), (0.75,)), ("sex=m",)),
        request_key("s", "b"): (PAIR, ((0.5,), (None,)), ("sex=m",)),
    }


@pytest.mark.slow
def test_while_the_store_is_gone_they_wait_and_what_finds_no_room_is_counted(
    start: Callable[..., ObserverProcess], tmp_path: Path
) -> None:
    place = tmp_path / "later"
    place.touch()  # a file, so that no store can be made under it
    observer = start(place / "accede.db")
    observer.obey(route=route(EVERY))
    worker = observer.worker()
    worker.sendall(sent([asked(0)]))
    assert observer.process.stderr is not None
    assert b"cannot publish, trying on" in observer.process.stderr.readline()
    wide = json.dumps({"p": [0.5] * 9000}).encode()  # 90 of them are all that may wait
    for number in range(1, 251):
        fact = asked(number)[0]
        worker.sendall(sent([(fact, Body(number, b"{}", wide, "", "", request_id=f"wide {number}"))]))
    time.sleep(0.5)
    place.unlink()
    place.mkdir()

    def settled() -> bool:
        evidence = observer.evidence()
        assert evidence is not None
        arms = evidence.arms.values()
        with closing(sqlite3.connect(observer.store)) as connection:
            (kept,) = connection.execute("SELECT count(*) FROM predictions").fetchone()
        lost = sum(arm.unremembered for arm in arms)
        # What is not written yet counts as lost, so some must be there. The first is no list.
        return kept > 0 and sum(arm.accounted for arm in arms) == 251 and kept + lost == 250

    poll(observer.store.exists)
    poll(observer.evidence)
    poll(settled, 30.0)
    told = Told(observer.store)
    assert told.evidence is not None
    assert 80 < len(told.predictions) < 190
    lost = [told.evidence.arms[arm].unremembered for arm in ("stable", "candidate")]
    assert abs(lost[0] - lost[1]) <= 2


def test_a_log_that_is_full_is_counted_under_the_arm(
    start: Callable[..., ObserverProcess],
) -> None:
    observer = start()
    observer.obey(route=route())
    worker = observer.worker()
    worker.sendall(sent([asked(0)]))
    poll(observer.evidence)
    write(observer.store, f"UPDATE label_totals SET value = {MAX_PREDICTIONS - 3} WHERE name = 'stored'")
    worker.sendall(sent([asked(number) for number in range(1, 11)]))
    poll(lambda: Told(observer.store).count("unremembered"))
    told = Told(observer.store)
    assert len(told.predictions) == 4
    assert told.count("unremembered") == 7


def test_a_log_that_cannot_be_written_holds_back_no_evidence_which_says_so_meanwhile(
    start: Callable[..., ObserverProcess],
) -> None:
    observer = start()
    observer.obey(route=route())
    worker = observer.worker()
    worker.sendall(sent([asked(0)]))
    poll(observer.evidence)
    write(
        observer.store,
        "CREATE TRIGGER broken BEFORE INSERT ON predictions BEGIN SELECT RAISE(ABORT, 'broken'); END",
    )
    worker.sendall(sent([asked(number) for number in range(1, 11)]))

    def counted() -> tuple[int, int]:
        evidence = observer.evidence()
        assert evidence is not None
        arms = evidence.arms.values()
        return sum(arm.accounted for arm in arms), sum(arm.unremembered for arm in arms)

    poll(lambda: counted() == (11, 10))
    worker.sendall(sent([asked(11)]))
    poll(lambda: counted() == (12, 11))
    write(observer.store, "DROP TRIGGER broken")
    poll(lambda: counted() == (12, 0))
    told = Told(observer.store)
    assert len(told.predictions) == 12
    assert right(told.predictions, 12)


def test_at_the_end_all_are_stored(start: Callable[..., ObserverProcess]) -> None:
    observer = start()
    observer.obey(route=route())
    worker = observer.worker()
    worker.sendall(sent([asked(number) for number in range(3000)]))
    observer.control.sendall(encode_message(Drain()))
    worker.close()
    assert observer.end() == (0, "")
    told = Told(observer.store)
    assert (len(told.predictions), told.count("accounted"), told.count("unremembered")) == (3000, 3000, 0)
    assert right(told.predictions, 3000)


@pytest.mark.parametrize("seed", range(4))
def test_an_observer_that_is_killed_leaves_no_evidence_of_what_is_neither_stored_nor_counted(
    start: Callable[..., ObserverProcess], seed: int
) -> None:
    observer = start()
    observer.obey(route=route())
    worker = observer.worker()
    end = time.monotonic() + random.Random(seed).uniform(0.4, 1.2)
    number = 0
    while time.monotonic() < end:
        worker.sendall(sent([asked(n) for n in range(number, number + 50)]))
        number += 50
    observer.process.kill()
    observer.process.wait()
    told = Told(observer.store)
    assert told.count("accounted") <= len(told.predictions) + told.count("unremembered")
    assert told.count("unremembered") == 0
    assert right(told.predictions, number)
