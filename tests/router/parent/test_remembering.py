"""A whole router remembers predictions in its store under the ids that clients know, whoever dies."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from accede.store.labels import PAIR, Joined, Label, request_key
from accede.store.measurement import Extraction
from accede.store.open import open_store
from accede.store.routes import MILLION, MirrorTarget, ServiceRoute
from tests.router.parent.test_parent import RouterProcess, commit, poll, route, start

__all__ = ["start"]

Asked = dict[str, tuple[str, float]]  # request id -> arm that answered, prediction


def remembering(stable: Any, candidate: Any, *, path: str = "p", **changes: Any) -> ServiceRoute:
    made = route(stable.url, candidate.url, **changes)
    assert made.plan is not None
    plan = msgspec.structs.replace(
        made.plan, labels=True, label_keep=3600.0, extraction=Extraction(path, "number")
    )
    return msgspec.structs.replace(made, plan=plan)


@pytest.fixture
def served(start: Callable[..., RouterProcess], tmp_path: Path, stable: Any, candidate: Any) -> RouterProcess:
    commit(tmp_path, remembering(stable, candidate))
    return start().ready()


def ask(port: int, first: int, count: int, asked: Asked) -> None:
    """Requests whose answers echo their number, every other one with an id of the client's own."""
    for number in range(first, first + count):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        named = {"x-request-id": f"client-{number}"} if number % 2 else {}
        connection.request("POST", "/p", json.dumps({"p": float(number)}), named)
        answer = connection.getresponse()
        answer.read()
        known = answer.getheader("x-request-id") or ""
        asked[known] = (answer.getheader("x-accede-arm") or "", float(number))
        connection.close()


def kept(folder: Path) -> tuple[Joined, ...]:
    store = open_store(str(folder / "store"))
    try:
        return store.labels.due("s", "r", 1e12, 10**6).rows
    finally:
        store.close()


def lost(folder: Path) -> int:
    store = open_store(str(folder / "store"))
    try:
        return sum(arm.unremembered for one in store.evidence("s", "r") for arm in one.arms.values())
    finally:
        store.close()


def right(rows: tuple[Joined, ...], asked: Asked) -> bool:
    """Each row is one request that was asked, with the arm and the prediction of its answer."""
    known = {request_key("s", one): told for one, told in asked.items()}
    found = {
        row.prediction.request: (("stable", "candidate")[row.prediction.arm], row.prediction.sides[0][0])
        for row in rows
    }
    return len(found) == len(rows) and all(known[one] == told for one, told in found.items())


def test_every_answer_is_remembered_under_the_id_that_its_client_was_told(
    served: RouterProcess, tmp_path: Path
) -> None:
    asked: Asked = {}
    ask(served.port, 0, 40, asked)
    assert {arm for arm, _ in asked.values()} == {"stable", "candidate"}
    assert "client-1" in asked
    poll(lambda: len(kept(tmp_path)) == 40)
    assert right(kept(tmp_path), asked)
    store = open_store(str(tmp_path / "store"))
    labels = [Label(request_key("s", one), (1.0,)) for one in asked]
    assert store.labels.add_labels("s", labels, 1e12).unknown == 0
    store.close()
    assert all(row.label is not None for row in kept(tmp_path))


def test_every_instance_of_a_batch_is_remembered_and_both_sides_of_a_copy(
    start: Callable[..., RouterProcess], tmp_path: Path, stable: Any, candidate: Any
) -> None:
    made = remembering(
        stable, candidate, path="p[*]", weight=0, mirrors=(MirrorTarget("2", (candidate.url,), MILLION),)
    )
    assert made.plan is not None
    made = msgspec.structs.replace(made, plan=msgspec.structs.replace(made.plan, stage="shadow"))
    commit(tmp_path, msgspec.structs.replace(made, side_effects="none"))
    router = start().ready()
    for _ in range(5):
        assert router.post(body=b'{"p": [0.25, 0.5, null]}')[0] == 200
    rows = poll(lambda: (rows := kept(tmp_path)) and len(rows) == 5 and rows)
    side = (0.25, 0.5, None)
    assert {(row.prediction.kind, row.prediction.sides) for row in rows} == {(PAIR, (side, side))}


def test_while_the_store_is_gone_they_wait(served: RouterProcess, tmp_path: Path) -> None:
    asked: Asked = {}
    (tmp_path / "store").rename(tmp_path / "gone")
    (tmp_path / "store" / "accede.db").mkdir(parents=True)  # what no store can be made of
    poll(lambda: served.status()["store"] != "ok")
    ask(served.port, 0, 40, asked)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "gone").rename(tmp_path / "store")
    poll(lambda: served.accounted() == 40)
    assert lost(tmp_path) + len(kept(tmp_path)) >= 40
    poll(lambda: len(kept(tmp_path)) == 40 and lost(tmp_path) == 0)
    assert right(kept(tmp_path), asked)


def test_what_a_killed_observer_had_read_is_stored_or_in_no_evidence(
    served: RouterProcess, tmp_path: Path
) -> None:
    asked: Asked = {}
    port = served.port
    for life in range(3):
        ask(port, 100 * life, 30, asked)
        os.kill(served.status()["observer"]["pid"], signal.SIGKILL)
        again = {"table": 1, "restarts": life + 1}
        poll(lambda again=again: again.items() <= served.status()["observer"].items())  # type: ignore[misc]
        assert served.accounted() <= len(kept(tmp_path))
    stored = len(kept(tmp_path))
    ask(port, 1000, 20, asked)
    poll(lambda: len(kept(tmp_path)) >= stored + 20)
    assert right(kept(tmp_path), asked)
    assert lost(tmp_path) == 0


def test_what_a_killed_parent_leaves_is_stored_by_the_observer_that_ends(
    served: RouterProcess, tmp_path: Path
) -> None:
    asked: Asked = {}
    ask(served.port, 0, 30, asked)
    children = psutil.Process(served.process.pid).children()
    served.process.kill()
    served.process.wait()
    _, alive = psutil.wait_procs(children, timeout=15)
    assert alive == []
    assert served.accounted() <= len(kept(tmp_path)) <= 30
    assert right(kept(tmp_path), asked)
