"""`accede serve`: one line when it cannot start, both planes while it runs, nothing left when it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ACCEDE = Path(sys.executable).with_name("accede")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def refused(found: subprocess.CompletedProcess[str], code: int) -> str:
    assert found.returncode == code, found.stderr
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    assert "Traceback" not in found.stderr
    return found.stderr


class TestRefusals:
    @pytest.fixture
    def serve(self, accede: Run, tmp_path: Path, free_port: Callable[[], int]) -> Run:
        def run(**flags: str | Path | int) -> subprocess.CompletedProcess[str]:
            given = {
                "services": EXAMPLES / "demo",
                "data": tmp_path / "data",
                "port": free_port(),
                "api-port": free_port(),
                **flags,
            }
            return accede("serve", *(f"--{name}={value}" for name, value in given.items()))

        return run

    @pytest.mark.parametrize("flag", ["port", "api-port"])
    def test_a_port_in_use(self, serve: Run, tmp_path: Path, flag: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            assert f"127.0.0.1:{port} cannot be listened on" in refused(serve(**{flag: port}), 1)
        assert not (tmp_path / "data").exists()

    def test_one_port_for_both(self, serve: Run) -> None:
        assert "both 7000" in refused(serve(**{"port": 7000, "api-port": 7000}), 2)

    def test_a_data_directory_that_cannot_be_made(self, serve: Run, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        assert "choose another with --data" in refused(serve(data=tmp_path / "file" / "data"), 1)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_read_only_data_directory(self, serve: Run, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir(mode=0o500)
        refused(serve(), 1)

    def test_a_bad_service_file(self, serve: Run, tmp_path: Path) -> None:
        services = tmp_path / "services"
        services.mkdir()
        text = (EXAMPLES / "demo" / "service.yaml").read_text().replace("policy: policy.yaml\n", "")
        (services / "service.yaml").write_text(text.replace("side_effects: none", "side_effects: some"))
        assert "service.yaml:" in refused(serve(services=services), 2)
        assert not (tmp_path / "data").exists()

    def test_no_service_at_all(self, serve: Run, tmp_path: Path) -> None:
        (tmp_path / "services").mkdir()
        assert "no service file" in refused(serve(services=tmp_path / "services"), 2)
        assert "no such directory" in refused(serve(services=tmp_path / "nowhere"), 2)


@contextmanager
def served(tmp_path: Path, port: int, api_port: int) -> Iterator[subprocess.Popen[str]]:
    command: list[str | Path] = [
        ACCEDE, "serve", "--services", EXAMPLES / "demo", "--data", tmp_path / "data",
        "--port", str(port), "--api-port", str(api_port),
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        assert lines == [
            f"ready: controller at http://127.0.0.1:{api_port}\n",
            f"ready: proxy at http://127.0.0.1:{port} (1 worker)\n",
        ], (tmp_path / "log").read_text()
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def eventually(condition: Callable[[], bool], what: str, within: float = 30.0) -> None:
    until = time.monotonic() + within
    while not condition():
        assert time.monotonic() < until, f"within {within} s: {what}"
        time.sleep(0.05)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


class TestServing:
    def test_both_planes_answer_a_killed_one_comes_back_and_ctrl_c_ends_all(
        self, tmp_path: Path, free_port: Callable[[], int]
    ) -> None:
        port, api_port = free_port(), free_port()
        with served(tmp_path, port, api_port) as process:
            assert process.stdout is not None
            family = psutil.Process(process.pid).children(recursive=True)
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/models/progression:predict", json={})
            assert answer.status_code in {502, 503}  # no model server runs behind it
            assert answer.headers["x-accede-version"] == "1"
            (controller,) = (one for one in family if "controller" in one.cmdline())
            controller.kill()
            assert "controller ended (signal 9)" in process.stdout.readline()
            assert process.stdout.readline() == "controller is back\n"
            assert httpx.get(f"http://127.0.0.1:{api_port}/readyz").status_code == 200
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert process.stdout.readline() == "stopped\n"
            assert gone(family)

    def test_killed_itself_it_leaves_no_process_behind(
        self, tmp_path: Path, free_port: Callable[[], int]
    ) -> None:
        with served(tmp_path, free_port(), free_port()) as process:
            mine = psutil.Process(process.pid)
            # Controller, router, worker, observer, which may come a moment after the first answer.
            eventually(lambda: len(mine.children(recursive=True)) >= 4, "all processes run")
            family = mine.children(recursive=True)
            process.kill()
            process.wait()
            eventually(lambda: gone(family), "every process is gone")
