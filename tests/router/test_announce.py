"""Lines of the log where nobody takes them: they are lost, and nothing waits or ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SAY = (
    "import sys; from accede.router.announce import announce; [announce('x', 'y' * 2000) for _ in range(200)]"
)
CONTROLLER = (
    "from accede.controller.process import _log_to_stderr, log; _log_to_stderr(); log.error('x', reason='y')"
)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk to write to")
@pytest.mark.parametrize("says", [SAY, CONTROLLER], ids=["router", "controller"])
def test_a_log_on_a_full_disk_ends_nobody(says: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-c", says], stderr=full, timeout=60, check=False)
    assert done.returncode == 0


def test_a_pipe_that_nobody_reads_holds_nobody() -> None:
    with subprocess.Popen([sys.executable, "-c", SAY], stderr=subprocess.PIPE) as said:
        assert said.wait(60) == 0
