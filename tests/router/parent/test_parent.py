"""A whole router as processes: it serves whatever dies around it, and does what store and operator say."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from accede.errors import NotFound, Unreachable, UsageError
from accede.router.parent.admin import admin_call
from accede.router.parent.process import RouterConfig
from accede.store.measurement import Extraction, MeasurementPlan
from accede.store.open import open_store
from accede.store.protocol import Commit
from accede.store.rollouts import ReplicaReport
from accede.store.routes import WIRE, Arm, RouteBreaker, ServiceRoute


def poll(ready: Callable[[], Any], seconds: float = 20.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not happen in time")


class RouterProcess:
    """A router with two workers and its store, both under `folder`."""

    def __init__(self, folder: Path, port: int = 0, **config: Any) -> None:
        self.folder = folder
        self.admin = folder / "router" / "admin.sock"
        settings: dict[str, Any] = {"store": str(folder / "store"), "data": str(folder), "replica": "here"}
        told = RouterConfig(host="127.0.0.1", port=port, workers=2, **{**settings, **config})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "accede.router", msgspec.json.encode(told).decode()],
            stderr=subprocess.PIPE,
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self.said.extend(line.decode() for line in lines)

    def status(self) -> dict[str, Any]:
        try:
            return admin_call(self.admin, {"do": "status"})
        except Unreachable:
            return {}

    def ready(self) -> RouterProcess:
        poll(lambda: self.status().get("ready"))
        return self

    @property
    def port(self) -> int:
        return int(self.status()["listen"].rpartition(":")[2])

    def post(self, path: str = "/p", body: bytes = b'{"p": 0.5}', **headers: str) -> tuple[int, str]:
        """Status and arm of one request, on a connection of its own."""
        return post(self.port, path, body, **headers)

    def arms(self, count: int = 40) -> set[str]:
        port = self.port
        return {post(port)[1] for _ in range(count)}

    def report(self) -> ReplicaReport:
        store = open_store(str(self.folder / "store"))
        try:
            return max(store.reports(), key=lambda one: one.at)
        finally:
            store.close()

    def accounted(self) -> int:
        store = open_store(str(self.folder / "store"))
        try:
            return sum(arm.accounted for one in store.evidence("s", "r") for arm in one.arms.values())
        finally:
            store.close()

    def end(self) -> int:
        """Stop it if it runs; its exit code."""
        self.process.terminate()
        code = self.process.wait(30)
        self._reader.join(10)
        return code


def post(port: int, path: str = "/p", body: bytes = b'{"p": 0.5}', **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(
            "POST", path, body, {key.replace("_", "-"): value for key, value in headers.items()}
        )
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("x-accede-arm") or ""
    finally:
        connection.close()


def route(
    stable: str, candidate: str, weight: int = 5000, generation: int = 1, **changes: Any
) -> ServiceRoute:
    plan = MeasurementPlan(
        rollout="r", epoch=generation, stage="canary", extraction=Extraction("p", "number"), batch=1.0,
        account_after=10.0, limits=(0, 1),
    )  # fmt: skip
    arms = (Arm("stable", "1", (stable,), 10_000 - weight), Arm("candidate", "2", (candidate,), weight))
    settings: dict[str, Any] = {"service": "s", "path": "/p", "host": None, "protocol": "json", "plan": plan}
    return ServiceRoute(wire=WIRE, generation=generation, arms=arms, **{**settings, **changes})


def commit(folder: Path, one: ServiceRoute) -> None:
    store = open_store(str(folder / "store"))
    try:
        store.commit(Commit(one.service, None, 0, one, one.generation - 1))
    finally:
        store.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RouterProcess]]:
    (tmp_path / "store").mkdir()
    started: list[RouterProcess] = []

    def begin(**config: Any) -> RouterProcess:
        started.append(RouterProcess(tmp_path, **config))
        return started[-1]

    yield begin
    for one in started:
        one.end()


@pytest.fixture
def served(start: Callable[..., RouterProcess], tmp_path: Path, stable: Any, candidate: Any) -> RouterProcess:
    commit(tmp_path, route(stable.url, candidate.url))
    return start().ready()


def test_requests_are_split_measured_and_reported(served: RouterProcess) -> None:
    assert served.arms() == {"stable", "candidate"}
    poll(lambda: served.accounted() == 40)
    report = poll(lambda: (one := served.report()).assigned and sum(one.finished.values()) == 40 and one)
    assert report.generations == {"s": 1}
    assert set(report.assigned) == {"s|r|1|stable", "s|r|1|candidate"}
    assert sum(report.assigned.values()) == 40
    assert (report.replica, report.worker_restarts, report.observer_restarts) == ("here", 0, ())
    assert report.admin_socket == str(served.admin)


def test_a_decision_is_in_force_on_every_worker_within_a_second(
    served: RouterProcess, tmp_path: Path, stable: Any, candidate: Any
) -> None:
    commit(tmp_path, route(stable.url, candidate.url, weight=0, generation=2))
    began = time.monotonic()
    poll(lambda: served.status()["generations"] == {"s": 2})
    assert time.monotonic() - began < 5  # a second is the promise; a busy machine gets more
    assert served.arms() == {"stable"}
    poll(lambda: served.report().generations == {"s": 2})


def test_a_broken_route_leaves_the_others_in_force(
    served: RouterProcess, tmp_path: Path, stable: Any, candidate: Any
) -> None:
    commit(tmp_path, route(stable.url, candidate.url, service="t", path="/t"))
    poll(lambda: served.status()["generations"] == {"s": 1, "t": 1})
    with sqlite3.connect(tmp_path / "store" / "accede.db") as database:
        database.execute("UPDATE routes SET body = ? WHERE service = 't'", (b"{",))
    database.close()
    commit(tmp_path, route(stable.url, candidate.url, generation=2))
    poll(lambda: served.status()["generations"] == {"s": 2, "t": 1})
    assert set(served.status()["broken"]) == {"t"}
    assert served.post("/t")[0] == 200


class TestDeath:
    def test_of_a_worker_costs_its_own_requests_only(self, served: RouterProcess) -> None:
        served.arms()
        poll(lambda: served.accounted() == 40)
        port, before = served.port, served.status()["workers"]
        first = psutil.Process(before[0]["pid"])
        first.kill()
        psutil.wait_procs([first], timeout=15)
        assert {post(port)[0] for _ in range(40)} == {200}  # queued on its socket until it is back
        poll(lambda: served.status()["ready"])
        after = served.status()["workers"]
        assert (after[0]["restarts"], after[1]) == (1, before[1])
        poll(lambda: served.accounted() == 80)
        poll(lambda: sum(served.report().assigned.values()) == 80)
        assert served.report().worker_restarts == 1

    def test_of_the_observer_costs_no_request_and_is_reported(self, served: RouterProcess) -> None:
        port = served.port
        for life in (1, 2, 3):
            os.kill(served.status()["observer"]["pid"], signal.SIGKILL)
            assert {post(port)[0] for _ in range(10)} == {200}
            again = {"table": 1, "restarts": life}
            poll(lambda again=again: again.items() <= served.status()["observer"].items())  # type: ignore[misc]
        poll(lambda: len(served.report().observer_restarts) == 3)
        assert all(time.time() - 60 < at <= time.time() for at in served.report().observer_restarts)
        counted = served.accounted()
        served.arms(10)
        poll(lambda: served.accounted() >= counted + 10)

    def test_of_the_parent_ends_its_children_and_frees_the_port(
        self, served: RouterProcess, start: Callable[..., RouterProcess]
    ) -> None:
        port = served.port
        children = psutil.Process(served.process.pid).children()
        assert len(children) == 4, "two workers, the observer, and the nursery"
        served.process.kill()
        served.process.wait()
        _, alive = psutil.wait_procs(children, timeout=15)
        assert alive == []
        assert start(port=port).ready().port == port

    def test_of_the_store_costs_nothing_but_news(self, served: RouterProcess, tmp_path: Path) -> None:
        (tmp_path / "store").rename(tmp_path / "gone")
        (tmp_path / "store").touch()
        poll(lambda: served.status()["store"] != "ok")
        assert served.arms() == {"stable", "candidate"}
        (tmp_path / "store").unlink()
        (tmp_path / "gone").rename(tmp_path / "store")
        poll(lambda: served.status()["store"] == "ok")
        poll(lambda: served.accounted() == 40)


class TestStart:
    def test_without_a_store_the_last_table_is_served(
        self, served: RouterProcess, start: Callable[..., RouterProcess], tmp_path: Path
    ) -> None:
        assert served.end() == 0
        (tmp_path / "blocked").touch()
        again = start(store=str(tmp_path / "blocked" / "accede.db")).ready()
        assert again.arms() == {"stable", "candidate"}
        assert any("serves the last routes it knows" in line for line in again.said)

    def test_without_a_store_and_a_table_it_is_not_ready(
        self, start: Callable[..., RouterProcess], tmp_path: Path
    ) -> None:
        (tmp_path / "blocked").touch()
        router = start(store=str(tmp_path / "blocked" / "accede.db"))
        poll(lambda: router.status().get("store", "ok") != "ok")
        assert router.status()["ready"] is False
        assert router.post()[0] == 503

    def test_what_cannot_be_started_is_one_clear_line_and_disturbs_nobody(
        self, served: RouterProcess, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        good = RouterConfig(
            host="127.0.0.1",
            port=0,
            workers=1,
            store=str(tmp_path / "store"),
            data=str(tmp_path / "new"),
            replica="b",
        )
        changes: dict[str, dict[str, Any]] = {
            f"cannot listen on 127.0.0.1:{served.port}: the port is in use": {"port": served.port},
            "another router uses the data directory": {"data": str(tmp_path)},
            "cannot be used: Not a directory": {"data": str(tmp_path / "file")},
            "at least 1 worker": {"workers": 0},
            "cannot listen on 192.0.2.1:0: ": {"host": "192.0.2.1"},
        }
        for expected, change in changes.items():
            config = msgspec.structs.replace(good, **change)
            done = subprocess.run(
                [sys.executable, "-m", "accede.router", msgspec.json.encode(config).decode()],
                capture_output=True, timeout=30, check=False,
            )  # fmt: skip
            (line,) = done.stderr.decode().splitlines()
            assert expected in line
            assert done.returncode == (2 if "workers" in change else 1)
        assert served.arms() == {"stable", "candidate"}

    def test_a_configuration_that_cannot_be_read_is_one_clear_line(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "accede.router", "{}"], capture_output=True, timeout=30, check=False
        )
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


def test_draining_finishes_what_is_open_and_publishes_all_of_it(served: RouterProcess) -> None:
    served.arms(10)
    port = served.port
    answers: list[tuple[int, str]] = []
    slow = threading.Thread(target=lambda: answers.append(post(port, x_script="slow=1")))
    slow.start()
    poll(lambda: sum(served.report().assigned.values()) == 11)
    assert served.end() == 0
    slow.join()
    assert answers[0][0] == 200
    assert served.accounted() == 11
    with pytest.raises(ConnectionRefusedError):
        post(port)
    assert not served.admin.exists()


class TestAbort:
    def test_it_needs_neither_store_nor_controller_and_outlives_a_restart(
        self, served: RouterProcess, start: Callable[..., RouterProcess], tmp_path: Path
    ) -> None:
        (tmp_path / "store").rename(tmp_path / "gone")
        (tmp_path / "store").touch()
        answer = admin_call(served.admin, {"do": "abort", "service": "s", "reason": "INC-81"})
        assert answer == {"service": "s", "generation": 1, "workers": 2, "of": 2}
        assert served.arms() == {"stable"}
        served.process.kill()
        (tmp_path / "store").unlink()
        (tmp_path / "gone").rename(tmp_path / "store")
        again = start().ready()
        assert again.arms() == {"stable"}
        assert again.status()["held"] == {"s": "aborted here: INC-81"}
        poll(lambda: again.report().direct == {"s": "INC-81"})

    def test_the_controllers_answer_to_it_releases_the_service(
        self, served: RouterProcess, tmp_path: Path, stable: Any, candidate: Any
    ) -> None:
        admin_call(served.admin, {"do": "abort", "service": "s", "reason": "INC-81"})
        commit(tmp_path, route(stable.url, candidate.url, generation=2))  # has not heard of it
        poll(lambda: served.status()["generations"] == {"s": 2})
        assert served.arms() == {"stable"}
        alone = msgspec.structs.replace(
            route(stable.url, candidate.url, generation=3),
            plan=None,
            arms=(Arm("stable", "1", (stable.url,), 10_000),),
        )
        commit(tmp_path, alone)
        poll(lambda: served.status()["generations"] == {"s": 3})
        poll(lambda: served.report().direct == {})
        assert served.status()["held"] == {}

    def test_what_is_no_request_is_refused_in_words(self, served: RouterProcess) -> None:
        with pytest.raises(NotFound, match="it serves s"):
            admin_call(served.admin, {"do": "abort", "service": "x", "reason": "y"})
        for nonsense in ({}, {"do": "abort"}, {"do": "abort", "service": 1, "reason": "y"}):
            with pytest.raises(UsageError, match="a request is"):
                admin_call(served.admin, nonsense)
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(served.admin))
            link.sendall(b"[" * 5000 + b"\n")
            assert json.loads(link.makefile().readline())["kind"] == "UsageError"
        assert served.status()["ready"]

    def test_only_this_user_may_ask(self, served: RouterProcess) -> None:
        for name in ("admin.sock", "observer.sock", "counters"):
            assert (served.admin.parent / name).stat().st_mode & 0o077 == 0

    def test_nobody_there_is_unreachable(self, tmp_path: Path) -> None:
        with pytest.raises(Unreachable, match="no router answers"):
            admin_call(tmp_path / "admin.sock", {"do": "status"})


def test_a_breaker_that_trips_in_one_worker_closes_the_candidate_in_all(
    start: Callable[..., RouterProcess], tmp_path: Path, stable: Any, candidate: Any
) -> None:
    breaker = RouteBreaker(share=0.5, over=10.0, min_requests=5)
    commit(tmp_path, route(stable.url, candidate.url, breaker=breaker))
    router = start().ready()
    port = router.port

    def held_after_another_failure() -> bool:
        post(port, x_script="status=500")
        return bool(router.status()["held"])

    poll(held_after_another_failure)
    assert router.status()["held"]["s"].startswith("breaker: ")
    poll(lambda: router.status()["ready"])
    assert router.arms() == {"stable"}
    poll(lambda: router.report().tripped == {"s": 1})


def test_without_a_lease_stable_serves_alone_and_the_report_says_so(
    start: Callable[..., RouterProcess], tmp_path: Path, stable: Any, candidate: Any
) -> None:
    commit(tmp_path, route(stable.url, candidate.url, unattended=0.5))
    router = start().ready()
    poll(lambda: router.status()["held"])
    poll(lambda: router.status()["ready"])
    assert router.arms() == {"stable"}
    poll(lambda: router.report().lapsed == {"s": 1})
