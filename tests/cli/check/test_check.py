"""`accede check` as CI runs it: the installed command against real HTTP model servers."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[3]
ACCEDE = Path(sys.executable).with_name("accede")
SERVER = ROOT / "tests" / "e2e" / "model_server.py"
SERVICE = """\
format: accede/v1
kind: ModelService
name: credit
match: {path: /v1/models/credit}
protocol: kserve-v1
versions:
  "1": {url: "http://127.0.0.1:STABLE"}
  "2": {url: "http://127.0.0.1:CANDIDATE"}
stable: "1"
policy: policy.yaml
side_effects: none
prediction:
  {path: "predictions[0].score", type: number, range: [0, 1], selected: ">= 0.5", agree_within: 0.05}
slices:
  group: {path: "instances[0].group", values: [a, b]}
limits: {deadline: 500ms}
"""
POLICY = """\
format: accede/v1
kind: RolloutPolicy
name: credit
steps:
  - {shadow: 100%, until: gates}
  - {approve: {group: model-risk, count: 2}}
  - {canary: 50%, until: gates}
gates:
  - {metric: errors, max_increase: 5pp}
  - {metric: latency.p50, max_ratio: 3, in: canary}
  - {metric: prediction.mean, max_shift: 0.3sd}
  - {metric: prediction.agreement, min: 80%, in: shadow}
  - {metric: prediction.distribution, max_shift: 15pp}
  - {metric: selection_rate, by: group, max_shift: 15pp, in: shadow}
"""


class Bench:
    """Two model servers, and the files of a check between them."""

    def __init__(self, folder: Path, ports: tuple[int, int]) -> None:
        self.folder = folder
        self.ports = ports
        service = SERVICE.replace("STABLE", str(ports[0])).replace("CANDIDATE", str(ports[1]))
        (folder / "service.yaml").write_text(service)
        (folder / "policy.yaml").write_text(POLICY)
        self.rows(900)

    def rows(self, count: int, secret: str = "") -> None:
        chance = random.Random(7)
        lines = [f"{chance.random():.4f},{chance.choice('ab')}" for _ in range(count)]
        (self.folder / "rows.csv").write_text("\n".join(["x,group", *lines]) + "\n")

    def behave(self, of: int = 1, **changes: object) -> None:
        url = f"http://127.0.0.1:{self.ports[of]}/behaviour"
        assert httpx.put(url, json=changes, trust_env=False).status_code == 200

    def command(self, *more: str | Path) -> list[str | Path]:
        return [ACCEDE, "check", "service.yaml", "-c", "2", *more]

    def check(self, *more: str | Path, data: str = "rows.csv") -> subprocess.CompletedProcess[str]:
        return self.run(self.command("-d", data, *more))

    def run(self, command: list[str | Path]) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ACCEDE_")}
        return subprocess.run(
            command, cwd=self.folder, env=clean, check=False, capture_output=True, text=True, timeout=90
        )  # fmt: skip


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[int, int]]:
    ports: list[int] = []
    children: list[subprocess.Popen[str]] = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
        given = json.dumps({"port": ports[-1], "delay": 0.001})
        child = subprocess.Popen(
            [sys.executable, SERVER, given], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "ACCEDE_PARENT": str(os.getpid())},
        )  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline().strip() == "ready"
        children.append(child)
    yield ports[0], ports[1]
    for child in children:
        child.terminate()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


@pytest.fixture
def bench(tmp_path: Path, servers: tuple[int, int]) -> Iterator[Bench]:
    made = Bench(tmp_path, servers)
    yield made
    made.behave(of=0, errors=0.0)
    made.behave(shift=0.0, group_shift=0.0, errors=0.0, hang=False, drop=False, field="score")


class TestVerdicts:
    def test_equal_versions_pass_and_every_report_says_so(self, bench: Bench) -> None:
        found = bench.check("--junit", "j.xml", "--markdown", "m.md", "--html", "p.html", "-o", "json")
        assert found.returncode == 0, found.stdout + found.stderr
        told = json.loads(found.stdout)
        assert (told["verdict"], told["rows"], told["baseline"], told["pairs"]) == ("passed", 900, 180, 720)
        words = {gate["gate"]: (gate["decided"], gate["outcome"]) for gate in told["gates"]}
        assert words.pop("latency.p50 max_ratio 3") == (False, "inconclusive")
        assert set(words.values()) == {(True, "pass")}
        suite = ET.parse(bench.folder / "j.xml").getroot()[0]
        names = [case.get("name") or "" for case in suite.findall("testcase")]
        assert "selection_rate by group max_shift 15pp [group=a]" in names
        assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (
            str(len(names)),
            "0",
            "1",
        )
        assert told["notes"] == ["approve steps of the policy are not asked here: people approve a rollout"]
        markdown = (bench.folder / "m.md").read_text()
        assert "| prediction.mean max_shift 0.3sd |" in markdown
        assert f"- {told['notes'][0]}" in markdown
        page = (bench.folder / "p.html").read_text()
        assert page.count("<svg") == 2
        assert "<script" not in page
        assert "src=" not in page

    def test_a_harmful_candidate_fails(self, bench: Bench) -> None:
        bench.behave(group_shift=0.3)
        found = bench.check("--junit", "j.xml", "-o", "json")
        assert found.returncode == 3, found.stdout + found.stderr
        failed = {g["gate"] for g in json.loads(found.stdout)["gates"] if g["outcome"] == "fail"}
        assert "selection_rate by group max_shift 15pp" in failed
        suite = ET.parse(bench.folder / "j.xml").getroot()[0]
        cases = {case.get("name"): [child.tag for child in case] for case in suite.findall("testcase")}
        assert cases["selection_rate by group max_shift 15pp [group=b]"] == ["failure"]
        assert cases["selection_rate by group max_shift 15pp [group=a]"] == []

    @pytest.mark.slow
    def test_require_all_does_not_let_an_undecided_gate_by(self, bench: Bench) -> None:
        found = bench.check("--require-all")
        assert found.returncode == 4, found.stdout
        assert "latency.p50 max_ratio 3: not decided" in found.stdout

    @pytest.mark.slow
    def test_few_rows_are_inconclusive(self, bench: Bench) -> None:
        bench.rows(60)
        assert bench.check().returncode == 4
        bench.rows(1)
        found = bench.check()
        assert found.returncode == 4
        assert "too few rows" in found.stdout


class TestFaults:
    def test_errors_of_the_candidate_fail(self, bench: Bench) -> None:
        bench.behave(errors=1.0)
        assert bench.check().returncode == 3

    @pytest.mark.slow
    def test_dropped_connections_fail(self, bench: Bench) -> None:
        bench.behave(drop=True)
        assert bench.check().returncode == 3

    @pytest.mark.slow
    def test_predictions_that_are_not_found_never_pass(self, bench: Bench) -> None:
        bench.behave(field="value")
        assert bench.check().returncode in {3, 4}

    @pytest.mark.slow
    def test_a_hanging_candidate_times_out(self, bench: Bench) -> None:
        bench.behave(hang=True)
        bench.rows(2000)
        found = bench.check("--timeout", "3")
        assert found.returncode == 5, found.stdout + found.stderr
        assert "timed out: --timeout ended it after" in found.stdout

    def test_a_stable_that_answers_nothing_ends_it_at_once(self, bench: Bench) -> None:
        for version in (0, 1):  # alike: no gate on errors would say anything
            bench.behave(of=version, errors=1.0)
        found = bench.check()
        assert found.returncode == 1
        told = "version 1: none of the first 20 rows was answered with success (status 500); look at"
        assert told in found.stderr

    def test_a_server_that_is_down_is_named(self, bench: Bench, free_port: Callable[[], int]) -> None:
        found = bench.check("-c", f"http://127.0.0.1:{free_port()}")
        assert found.returncode == 1
        assert "version candidate: http://127.0.0.1" in found.stderr

    @pytest.mark.slow
    def test_a_server_that_speaks_garbage_fails(self, bench: Bench) -> None:
        listener = socket.create_server(("127.0.0.1", 0))

        def babble() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(b"\x00\xff nonsense\r\n\r\n")

        thread = threading.Thread(target=babble)
        thread.start()
        found = bench.check("-c", f"http://127.0.0.1:{listener.getsockname()[1]}")
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
        assert found.returncode == 3, found.stdout + found.stderr

    def test_ctrl_c_leaves_a_partial_report(self, bench: Bench) -> None:
        bench.behave(hang=True)
        bench.rows(3000)
        process = subprocess.Popen(
            bench.command("-d", "rows.csv", "-o", "json", "--junit", "j.xml"), cwd=bench.folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        counts = f"http://127.0.0.1:{bench.ports[1]}/counts"
        before = httpx.get(counts, trust_env=False).json()["asked"]
        until = time.monotonic() + 30
        while httpx.get(counts, trust_env=False).json()["asked"] == before:
            assert time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        assert json.loads(out)["state"] == "interrupted"
        suite = ET.parse(bench.folder / "j.xml").getroot()[0]
        assert int(suite.get("errors") or 0) >= 1

    @pytest.mark.parametrize(
        ("name", "text", "told"),
        [
            ("rows.jsonl", '{"instances": []}\nnot json\n', "rows.jsonl:2:1: is no JSON"),
            ("rows.jsonl", "", "holds no row"),
            ("rows.jsonl", "[1]\n", "is no object but a list"),
            ("rows.csv", "x,group\n1\n", "has 1 fields where the first line names 2 columns"),
            ("rows.csv", "x,x\n1,2\n", "must name the columns, each once"),
            (
                "rows.jsonl",
                '{"id": "SECRET", "request": {}}\n{"id": "SECRET", "request": {}}\n',
                "rows.jsonl:2:1: the id of line 1 again",
            ),
        ],
    )
    def test_bad_rows_are_named_and_nothing_is_sent(
        self, bench: Bench, name: str, text: str, told: str
    ) -> None:
        (bench.folder / name).write_text(text)
        found = bench.check(data=name)
        assert found.returncode == 2
        assert told in found.stderr
        assert "SECRET" not in found.stderr

    @pytest.mark.slow
    def test_a_full_disk_is_said(self, bench: Bench) -> None:
        found = bench.check("--html", "/dev/full")
        assert found.returncode == 1
        assert "/dev/full: cannot be written: No space left on device" in found.stderr

    def test_bodies_and_values_stay_out_of_every_report(self, bench: Bench) -> None:
        bench.behave(shift=0.2)
        rows = [{"instances": [{"x": 0.3, "group": "GROUPSECRET", "note": "BODYSECRET"}]} for _ in range(300)]
        (bench.folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        found = bench.check("--junit", "j", "--markdown", "m", "--html", "p", "-o", "json", data="rows.jsonl")
        texts = [found.stdout, found.stderr, *((bench.folder / name).read_text() for name in "jmp")]
        assert "SECRET" not in "".join(texts)

    @pytest.mark.slow
    def test_rows_beyond_capture_lower_the_coverage(self, bench: Bench) -> None:
        rows = [
            {"instances": [{"x": 0.3, "group": "a", "pad": "y" * 70_000 * (n % 3 == 0)}]} for n in range(600)
        ]
        (bench.folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        found = bench.check(data="rows.jsonl")
        assert found.returncode == 4, found.stdout
        assert "beyond the service's capture limits" in found.stdout


class TestRecorded:
    def answers(self, folder: Path, name: str, shift: float, *, requests: bool, keep: float = 1.0) -> None:
        chance = random.Random(3)
        lines: list[str] = []
        for number in range(1200):
            x, group = chance.random(), chance.choice("ab")
            line = {"id": number, "response": {"predictions": [{"score": min(1.0, x + shift)}]}}
            if requests:
                line["request"] = {"instances": [{"x": x, "group": group}]}
            if number < keep * 1200:
                lines.append(json.dumps(line))
        (folder / name).write_text("\n".join(lines))

    def check(self, bench: Bench) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ACCEDE, "check", "service.yaml", "--stable-answers", "s.jsonl", "--candidate-answers",
             "c.jsonl"],
            cwd=bench.folder, check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    @pytest.mark.parametrize(("shift", "code"), [(0.0, 0), (0.2, 3)])
    def test_two_files_are_judged(self, bench: Bench, shift: float, code: int) -> None:
        self.answers(bench.folder, "s.jsonl", 0.0, requests=True)
        self.answers(bench.folder, "c.jsonl", shift, requests=False)
        found = self.check(bench)
        assert found.returncode == code, found.stdout + found.stderr
        assert "say nothing about latency" in found.stdout

    def test_missing_answers_are_inconclusive(self, bench: Bench) -> None:
        self.answers(bench.folder, "s.jsonl", 0.0, requests=True)
        self.answers(bench.folder, "c.jsonl", 0.0, requests=False, keep=0.7)
        found = self.check(bench)
        assert found.returncode == 4, found.stdout
        assert "they lower the coverage" in found.stdout
