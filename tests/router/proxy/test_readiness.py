"""Probes: what each protocol is asked, what counts as ready, and who gets traffic meanwhile."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

import msgspec
import pytest
import uvloop

from accede.router.facts import Placed, Table
from accede.router.proxy.reach import Upstreams
from accede.router.proxy.readiness import probe_of
from accede.router.proxy.served import ServedArm
from accede.router.proxy.table import RouteTable
from accede.store.routes import Arm, RouteReadiness, ServiceRoute
from tests.router.conftest import UpstreamProcess, WorkerProcess, exchange, post, route, wait_for

Worker = Callable[..., WorkerProcess]
Answer = tuple[int, Any]  # status, JSON

OFTEN = RouteReadiness(every=0.3, timeout=0.5, unready_after=2)


class ModelServer:
    """Answers GETs as told, and every POST with its name."""

    def __init__(
        self, name: str, answers: dict[str, Answer] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.answers = answers or {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.served = 0
        self.hang = threading.Event()
        self.hang.set()
        server = self

        class Asked(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
                server.hang.wait(10)
                status, value = server.answers.get(self.path, (404, {}))
                self._answer(status, value)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                server.served += 1
                self._answer(200, name)

            def _answer(self, status: int, value: Any) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Asked)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in list(self.asked)]

    def close(self) -> None:
        self.hang.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def start_server() -> Iterator[Callable[..., ModelServer]]:
    started: list[ModelServer] = []

    def start(*given: Any) -> ModelServer:
        started.append(ModelServer(*given))
        return started[-1]

    yield start
    for server in started:
        server.close()


Start = Callable[..., ModelServer]


def probed(protocol: str, path: str = "/v1/models/fraud", **changes: Any) -> ServiceRoute:
    return route("http://a:1", protocol=protocol, path=path, readiness=OFTEN, **changes)


# --- what is asked


@pytest.mark.parametrize(
    ("protocol", "path", "asked"),
    [
        ("tensorflow-serving", "/v1/models/fraud", "/v1/models/fraud"),
        ("tensorflow-serving", "/v1/models/fraud/versions/42:predict", "/v1/models/fraud"),
        ("kserve-v1", "/v1/models/fraud:predict", "/v1/models/fraud"),
        ("open-inference", "/v2/models/fraud", "/v2/models/fraud/versions/42/ready"),
        ("open-inference", "/v2/models/fraud/infer", "/v2/models/fraud/versions/42/ready"),
        ("open-inference", "/", "/v2/health/ready"),
        ("mlflow", "/invocations", "/ping"),
        ("torchserve", "/predictions/fraud", "/ping"),
        ("sagemaker", "/invocations", "/ping"),
        ("bentoml", "/classify", "/readyz"),
        ("openai", "/v1", "/health"),
        ("json", "/v1/models/fraud", None),
        ("tensorflow-serving", "/", None),
        ("kserve-v1", "/v1/models", None),
    ],
)
def test_each_protocol_is_asked_what_it_offers(protocol: str, path: str, asked: str | None) -> None:
    probe = probe_of(probed(protocol, path), "42", "")
    assert (None if probe is None else probe.path) == asked


def test_a_declared_path_comes_first_and_no_probe_means_none() -> None:
    declared = msgspec.structs.replace(OFTEN, path="/healthz")
    for protocol in ("json", "tensorflow-serving"):
        probe = probe_of(msgspec.structs.replace(probed(protocol), readiness=declared), "42", "/base")
        assert probe is not None
        assert (probe.path, probe.protocol) == ("/healthz", "")
    off = RouteReadiness(probe=False)
    assert probe_of(msgspec.structs.replace(probed("mlflow"), readiness=off), "42", "") is None


_ENDED = [("9", "END")] * 1000


def _tensorflow(*versions: tuple[str, str]) -> dict[str, Answer]:
    listed = [{"version": version, "state": state} for version, state in versions]
    return {"/v1/models/m": (200, {"model_version_status": listed})}


@pytest.mark.parametrize(
    ("protocol", "path", "answers", "ready"),
    [
        ("tensorflow-serving", "/v1/models/m", _tensorflow(("43", "AVAILABLE")), True),
        ("tensorflow-serving", "/v1/models/m", _tensorflow(("43", "LOADING")), False),
        ("tensorflow-serving", "/v1/models/m", _tensorflow(("42", "AVAILABLE"), ("43", "END")), False),
        ("tensorflow-serving", "/v1/models/m", {"/v1/models/m": (200, {"error": "what"})}, False),
        ("tensorflow-serving", "/v1/models/m", {"/v1/models/m": (200, [1])}, False),
        ("kserve-v1", "/v1/models/m", {"/v1/models/m": (200, {"name": "m", "ready": True})}, True),
        ("kserve-v1", "/v1/models/m", {"/v1/models/m": (200, {"name": "m", "ready": "True"})}, True),
        ("kserve-v1", "/v1/models/m", {"/v1/models/m": (200, {"name": "m"})}, True),
        ("kserve-v1", "/v1/models/m", {"/v1/models/m": (200, {"name": "m", "ready": False})}, False),
        ("kserve-v1", "/v1/models/m", {"/v1/models/m": (503, {"ready": True})}, False),
        ("open-inference", "/v2/models/m", {"/v2/models/m/versions/43/ready": (200, "")}, True),
        ("open-inference", "/v2/models/m", {"/v2/models/m/versions/43/ready": (400, {"ready": True})}, False),
        ("mlflow", "/invocations", {"/ping": (200, "\n")}, True),
        ("torchserve", "/predictions/m", {"/ping": (500, {"status": "Healthy"})}, False),
        ("bentoml", "/p", {"/readyz": (204, "")}, True),
        ("sagemaker", "/invocations", {}, False),
        ("openai", "/v1", {"/health": (200, "")}, True),
        ("openai", "/v1", {"/v1/models": (200, {"data": []})}, True),
        ("openai", "/v1", {"/health": (503, ""), "/v1/models": (200, {"data": []})}, False),
        ("openai", "/v1", {}, False),
        ("json", "/p", {}, True),
        # Where the status decides, an answer may be of any length; a list that is not read says nothing.
        ("openai", "/v1", {"/v1/models": (200, {"data": ["m" * 2**21]})}, True),
        ("mlflow", "/invocations", {"/ping": (200, "m" * 2**21)}, True),
        ("mlflow", "/invocations", {"/ping": (503, "m" * 2**21)}, False),
        ("kserve-v1", "/v1/models/m", {"/v1/models/m": (200, {"name": "m" * 2**21})}, True),
        ("tensorflow-serving", "/v1/models/m", _tensorflow(*_ENDED * 9, ("43", "AVAILABLE")), True),
        ("tensorflow-serving", "/v1/models/m", _tensorflow(*_ENDED * 50, ("43", "AVAILABLE")), False),
    ],
)  # fmt: skip
def test_what_counts_as_ready(
    start_server: Start, protocol: str, path: str, answers: dict[str, Answer], ready: bool
) -> None:
    server = start_server("candidate", answers)
    told = route("http://127.0.0.1:9", server.url, protocol=protocol, path=path, readiness=OFTEN)
    known = _asked_once(told)
    assert known.ready is ready
    assert known.was_ready is ready


def _asked_once(told: ServiceRoute) -> ServedArm:
    """The candidate's arm after one round of probes."""

    async def run() -> ServedArm:
        upstreams = Upstreams(1.0)
        table = RouteTable(Table(1, (Placed(told, 0),)), upstreams)
        arm = table.services["fraud"].arms[1]
        assert arm.ready is (
            told.protocol == "json"
        )  # nothing is known yet, and where it never will be, it is
        upstreams.probe(monotonic())
        tasks = tuple(upstreams._probes._tasks)
        assert bool(tasks) is (told.protocol != "json")
        await asyncio.gather(*tasks)
        upstreams.close()
        return arm

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def test_probes_are_few_at_one_time_and_scattered() -> None:
    urls = tuple(f"http://127.0.0.1:{port}" for port in range(20_001, 20_041))
    told = route("", arms=(Arm("stable", "42", urls, 10_000),), protocol="mlflow", path="/", readiness=OFTEN)

    async def run() -> None:
        upstreams = Upstreams(1.0)
        table = RouteTable(Table(1, (Placed(told, 0),)), upstreams)
        now = monotonic()
        upstreams.probe(now)
        assert len(upstreams._probes._tasks) == 32
        watches = list(upstreams._probes._watches.values())
        due = [watch.at - now for watch in watches if watch.at]
        assert len(set(due)) > 16, "workers do not ask in step"
        assert all(0.8 * OFTEN.every <= at <= 1.2 * OFTEN.every for at in due)
        await asyncio.gather(*upstreams._probes._tasks)
        upstreams.probe(now)
        assert [watch for watch in watches if not watch.at] == [], "the rest comes next"
        await asyncio.gather(*upstreams._probes._tasks)
        upstreams.close()
        assert table.services

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# --- what follows from it


def _candidate(stable: str, *urls: str, generation: int = 1, **changes: Any) -> ServiceRoute:
    arms = (Arm("stable", "42", (stable,), 0), Arm("candidate", "43", urls, 10_000))
    settings = {"protocol": "mlflow", "path": "/", "arms": arms, "readiness": OFTEN, "generation": generation}
    return route(stable, **{**settings, **changes})


def _who(worker: WorkerProcess) -> str:
    answer = exchange(worker.port, post("/invocations"))
    assert answer.status == 200, answer
    return str(json.loads(answer.body))


def test_a_candidate_gets_traffic_once_it_is_ready_and_no_more_when_it_is_not(
    start_worker: Worker, start_server: Start
) -> None:
    stable = start_server("stable", {"/ping": (200, "")})
    candidate = start_server("candidate", {"/ping": (503, "")})
    worker = start_worker(Placed(_candidate(stable.url, candidate.url), 0))
    wait_for(lambda: len(candidate.asked) >= 2)
    assert {_who(worker) for _ in range(5)} == {"stable"}
    assert candidate.served == 0
    candidate.answers["/ping"] = (200, "")
    wait_for(lambda: _who(worker) == "candidate")
    candidate.answers["/ping"] = (500, "")
    wait_for(lambda: _who(worker) == "stable")
    served = candidate.served
    assert {_who(worker) for _ in range(5)} == {"stable"}
    assert candidate.served == served
    said = [json.loads(line)["message"] for line in worker.stop().splitlines()]
    at = f"worker 0: version 43 of fraud: {candidate.url.removeprefix('http://')} is"
    assert [line.removeprefix(at).partition(",")[0] for line in said] == [
        " not ready", " ready again", " not ready"
    ]  # fmt: skip
    assert [line.rpartition(": ")[2] for line in said[::2]] == ["status 503", "status 500"]


def _lists(*states: str) -> Answer:
    return 200, {"model_version_status": [{"version": "43", "state": state} for state in states]}


@pytest.mark.parametrize(
    ("protocol", "answer", "why"),
    [
        ("tensorflow-serving", _lists("LOADING"), "its answer names no available version"),
        ("kserve-v1", (200, {"ready": False}), "its answer says that it is not"),
        ("mlflow", (418, ""), "status 418"),
    ],
)
def test_the_log_says_why_an_address_is_not_ready(
    start_server: Start, protocol: str, answer: Answer, why: str
) -> None:
    server = start_server("candidate", {"/ping": answer, "/v1/models/m": answer})
    assert _told_of(server.url, protocol).endswith(f" times in a row: {why}")


def test_the_log_says_that_nobody_answers(start_server: Start) -> None:
    hung = start_server("candidate", {"/ping": (200, "")})
    hung.hang.clear()
    assert _told_of(hung.url, "mlflow").endswith(" times in a row: no answer within 0.5 s")
    assert "Connection refused" in _told_of("http://127.0.0.1:9", "mlflow")


def _told_of(url: str, protocol: str) -> str:
    """The line of the log about an address that is not ready."""
    lines: list[str] = []
    at_once = msgspec.structs.replace(OFTEN, unready_after=1)
    path = "/v1/models/m" if protocol != "mlflow" else "/p"

    async def run() -> None:
        upstreams = Upstreams(1.0, tell=lines.append)
        told = route("http://127.0.0.1:9", url, protocol=protocol, path=path, readiness=at_once)
        table = RouteTable(Table(1, (Placed(told, 0),)), upstreams)
        upstreams.probe(monotonic())
        await asyncio.gather(*upstreams._probes._tasks)
        upstreams.close()
        assert table.services

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    (line,) = [line for line in lines if "version 43" in line]
    return line


def test_one_failed_probe_is_not_enough(start_worker: Worker, start_server: Start) -> None:
    stable = start_server("stable", {"/ping": (200, "")})
    candidate = start_server("candidate", {"/ping": (200, "")})
    patient = RouteReadiness(every=0.3, unready_after=1000)
    worker = start_worker(Placed(_candidate(stable.url, candidate.url, readiness=patient), 0))
    wait_for(lambda: _who(worker) == "candidate")
    candidate.answers["/ping"] = (500, "")
    asked = len(candidate.asked)
    wait_for(lambda: len(candidate.asked) >= asked + 3)
    assert _who(worker) == "candidate"


def test_a_probe_without_an_answer_in_time_has_failed(start_worker: Worker, start_server: Start) -> None:
    stable = start_server("stable", {"/ping": (200, "")})
    candidate = start_server("candidate", {"/ping": (200, "")})
    worker = start_worker(Placed(_candidate(stable.url, candidate.url), 0))
    wait_for(lambda: _who(worker) == "candidate")
    candidate.hang.clear()
    wait_for(lambda: _who(worker) == "stable")
    candidate.hang.set()
    wait_for(lambda: _who(worker) == "candidate")


def test_stable_gets_its_traffic_whatever_its_probes_say(start_worker: Worker, start_server: Start) -> None:
    stable = start_server("stable", {"/ping": (503, "")})
    worker = start_worker(Placed(_candidate(stable.url, "http://127.0.0.1:9"), 0))
    wait_for(lambda: len(stable.asked) >= 4)
    assert {_who(worker) for _ in range(5)} == {"stable"}


def test_a_url_that_is_not_ready_is_left_out_while_another_is(
    start_worker: Worker, start_server: Start
) -> None:
    one, two = (start_server(name, {"/ping": (200, "")}) for name in ("one", "two"))
    arms = (Arm("stable", "42", (one.url, two.url), 10_000),)
    told = route(one.url, arms=arms, protocol="mlflow", path="/", readiness=OFTEN)
    worker = start_worker(Placed(told, 0))
    wait_for(lambda: _who(worker) == "two")
    two.answers["/ping"] = (503, "")
    asked = len(two.asked)
    wait_for(lambda: len(two.asked) >= asked + 4)
    served = two.served
    assert {_who(worker) for _ in range(20)} == {"one"}
    assert two.served == served
    one.answers["/ping"] = (503, "")  # now neither is: both are all there is
    wait_for(lambda: _who(worker) == "two")


def test_a_new_table_keeps_what_is_known_of_an_address(start_worker: Worker, start_server: Start) -> None:
    stable = start_server("stable", {"/ping": (200, "")})
    candidate = start_server("candidate", {"/ping": (200, "")})
    worker = start_worker(Placed(_candidate(stable.url, candidate.url), 0))
    wait_for(lambda: _who(worker) == "candidate")
    candidate.hang.clear()  # nothing new can be learnt
    worker.apply(Placed(_candidate(stable.url, candidate.url, generation=2, deadline=9.0), 0))
    assert _who(worker) == "candidate"


def test_probes_end_with_the_route_and_never_use_the_connections_of_clients(
    start_worker: Worker, start_server: Start, stable: UpstreamProcess
) -> None:
    server = start_server("stable", {"/ping": (200, "")})
    told = _candidate(server.url, server.url, host="models", path=None)
    worker = start_worker(Placed(told, 0))
    wait_for(lambda: len(server.asked) >= 3)
    _, headers = server.asked[-1]
    assert headers["host"] == "models"
    assert headers["connection"] == "close"
    assert headers["user-agent"] == "accede-probe"
    worker.apply(Placed(route(stable.url, generation=2), 0))

    def silent() -> bool:
        asked = len(server.asked)
        deadline = monotonic() + 0.8
        wait_for(lambda: monotonic() > deadline or len(server.asked) > asked)
        return len(server.asked) == asked

    wait_for(silent)
