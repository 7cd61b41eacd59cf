"""However it fails, the user gets one clear line and the right exit code, never a stack trace."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def one_line(found: subprocess.CompletedProcess[str]) -> str:
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("accede: ")
    return found.stderr


def test_no_controller_says_how_to_start_one(accede: Run, free_port: Callable[[], int]) -> None:
    found = accede("status", "credit", "--api", f"http://127.0.0.1:{free_port()}")
    assert found.returncode == 1
    assert "start one with `accede serve`" in one_line(found)


def test_an_address_that_is_none_is_a_usage_error(accede: Run) -> None:
    found = accede("list", "--api", "localhost:9090")
    assert found.returncode == 2
    assert "write http://host:port" in one_line(found)


def test_a_controller_that_does_not_answer_is_exit_5(accede: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = accede("list", "--api", f"http://127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.3")
    assert found.returncode == 5
    assert "did not answer within 0.3 s" in one_line(found)


def test_something_else_on_the_port_is_named(
    accede: Run, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    port = free_port()
    command: list[str | Path] = [
        sys.executable,
        "-u",
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "--directory",
        tmp_path,
        str(port),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        server.stdout.readline()
        found = accede("list", "--api", f"http://127.0.0.1:{port}")
        server.terminate()
    assert found.returncode == 1
    assert "no controller of this version (HTTP 404)" in one_line(found)


PROGRAM = """
import sys
from accede.cli import files, main

def broken(*_):
    raise RuntimeError("two\\nlines")

files._file = broken
sys.argv = ["accede", "validate", "x.yaml"]
main.main()
"""


def test_an_unexpected_fault_is_one_line_with_the_way_to_see_more() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True)
    assert found.returncode == 1
    assert one_line(found) == "accede: unexpected RuntimeError: two lines; ACCEDE_DEBUG=1 shows where\n"


def test_closed_streams_do_not_change_how_a_verb_ends(tmp_path: Path) -> None:
    accede = Path(sys.executable).with_name("accede")
    example = Path(__file__).resolve().parents[2] / "examples" / "ci" / "service.yaml"
    for verb, code in ((f"plan {example} --rate 5", 0), ("plan nothing.yaml", 2)):
        for closed in (">&-", "2>&-", ">&- 2>&-"):
            found = subprocess.run(["sh", "-c", f"{accede} {verb} {closed}"], cwd=tmp_path, check=False,
                                   capture_output=True, timeout=60)  # fmt: skip
            assert found.returncode == code, (verb, closed, found.stderr)


def test_debug_shows_where(accede: Run) -> None:
    import os

    environment = {**os.environ, "ACCEDE_DEBUG": "1"}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, check=False, capture_output=True, text=True
    )
    assert found.returncode == 1
    assert "Traceback" in found.stderr
    assert found.stderr.endswith("ACCEDE_DEBUG=1 shows where\n")
