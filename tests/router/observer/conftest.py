"""Observers that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.router.observer.alone import ObserverProcess


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ObserverProcess]]:
    started: list[ObserverProcess] = []

    def begin(store: Path = tmp_path / "store", address: str = "") -> ObserverProcess:
        started.append(ObserverProcess(tmp_path, store, address))
        return started[-1]

    yield begin
    for one in started:
        for worker in one.workers:
            worker.close()
        one.control.close()
        one.process.kill()
        one.process.communicate()
