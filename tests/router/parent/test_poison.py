"""Bodies that kill or hold the observer, and what is kept beside the sums, over a whole router.

No body is known that kills Python's parsers, so the observer gets a reader that a certain word kills.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from accede.store.evidence import Evidence
from accede.store.measurement import InputPlan, MeasurementPlan
from accede.store.open import open_store
from accede.store.routes import RouteRecording
from tests.router.conftest import UpstreamProcess
from tests.router.parent.test_parent import RouterProcess, commit, poll, route

FATAL = """
import os, pathlib, sys, time
import msgspec
made = msgspec.json.Decoder
def observing():
    comm = pathlib.Path("/proc/self/comm")
    named = comm.exists() and "accede-observer" in comm.read_text()
    return named or "accede.router.observer.process" in " ".join(sys.orig_argv)
class Decoder:
    def __init__(self, *arguments):
        self._decoder = made(*arguments)
    def decode(self, body):
        if isinstance(body, bytes):
            if b"POISON" in body and observing():
                os.abort()
            if b"HANG" in body and observing():
                time.sleep(3600)
        return self._decoder.decode(body)
if {"router", "accede.router"} & set(sys.orig_argv) or "accede.router.observer.process" in sys.orig_argv:
    msgspec.json.Decoder = Decoder
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., RouterProcess]]:
    running: list[RouterProcess] = []
    upstreams = [UpstreamProcess("1"), UpstreamProcess("2")]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FATAL)
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep + inherited if inherited else ''}")

    def start(**changes: Any) -> RouterProcess:
        (tmp_path / "store").mkdir()
        commit(tmp_path, route(upstreams[0].url, upstreams[1].url, **changes))
        router = RouterProcess(tmp_path)
        running.append(router)
        return router.ready()

    yield start
    for router in running:
        router.end()
    for upstream in upstreams:
        upstream.kill()


def evidence(router: RouterProcess) -> tuple[Evidence, ...]:
    store = open_store(str(router.folder / "store"))
    try:
        return store.evidence("s", "r")
    finally:
        store.close()


def reports(router: RouterProcess) -> list[dict[str, Any]]:
    found = (router.folder / "router" / "poison").glob("poison-*.json")
    return [json.loads(path.read_bytes()) for path in found]


def test_a_body_that_kills_the_observer_is_named_kept_and_counted_as_lost(
    started: Callable[..., RouterProcess],
) -> None:
    router = started()
    assert router.post(body=b'{"p": 0.25}')[0] == 200
    poll(lambda: router.accounted() == 1)
    assert router.post(body=b'{"p": "POISON Ann 42"}')[0] == 200, "its client has its answer"
    (report,) = poll(lambda: reports(router))
    assert report["request"]["shape"] == '{"x": "xxxxxx xxx 00"}'
    assert report["arm"] in {"stable", "candidate"}
    assert "POISON" not in json.dumps(report)
    poll(lambda: any("died reading the exchange" in line for line in router.said))
    assert router.post(body=b'{"p": 0.75}')[0] == 200
    poll(lambda: router.accounted() == 2)
    poll(lambda: len(router.report().observer_restarts) == 1)
    assigned = poll(lambda: sum(router.report().assigned.values()) == 3 and router.report().assigned)
    assert sum(assigned.values()) - router.accounted() == 1, (
        "the poisonous exchange is missing, and seen to be"
    )


@pytest.mark.slow
def test_an_observer_that_one_body_holds_is_ended_and_the_next_one_says_which(
    started: Callable[..., RouterProcess],
) -> None:
    router = started()
    assert router.post(body=b'{"p": "HANG"}')[0] == 200
    began = time.monotonic()
    poll(lambda: reports(router), 40)
    assert time.monotonic() - began >= 5, "an observer that works must not be ended"
    assert any("it is ended" in line for line in router.said)
    assert router.post(body=b'{"p": 0.75}')[0] == 200
    poll(lambda: router.accounted() == 1)


def test_inputs_are_counted_and_allowed_fields_recorded(started: Callable[..., RouterProcess]) -> None:
    plan = MeasurementPlan(
        "r", 1, "canary", None, 1.0, 10.0, inputs=(InputPlan("amount", "amount", range=(0, 100)),)
    )
    router = started(plan=plan, recording=RouteRecording(sample=1.0, request=("amount",)))
    for amount in (5, 15, 15):
        body = json.dumps({"amount": amount, "card": "4111"}).encode()
        assert router.post(body=body, x_request_id=f"id-{amount}")[0] == 200
    poll(lambda: router.accounted() == 3)

    def counts() -> dict[str, int]:
        total: dict[str, int] = {}
        for one in evidence(router):
            for labels in one.inputs.values():
                for label, count in labels.items():
                    total[label] = total.get(label, 0) + count
        return total

    poll(lambda: counts() == {"0": 1, "1": 2})
    lines = [
        json.loads(line)
        for path in (router.folder / "router" / "recordings" / "s").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert sorted((line["request"]["amount"], line["request_id"]) for line in lines) == [
        (5, "id-5"), (15, "id-15"), (15, "id-15"),
    ]  # fmt: skip
    assert "4111" not in json.dumps(lines)
