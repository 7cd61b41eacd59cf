"""What all tests share: free ports, Hypothesis' settings, and which tests need the machine to themselves."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

HERE = Path(__file__).parent
MEASURING = {HERE / "e2e", HERE / "benchmarks"}

# No deadline: the machine is shared, and no test of ours asserts how long something took.
hypothesis.settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End-to-end rollouts judge latency, benchmarks CPU, so each gets the machine to itself."""
    for item in items:
        if MEASURING.intersection(item.path.parents):
            item.add_marker("alone")


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that names a TCP port on 127.0.0.1 that nobody listens on; a new one at every call."""
    seen: set[int] = set()

    def find() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in seen:
                seen.add(port)
                return port

    return find
