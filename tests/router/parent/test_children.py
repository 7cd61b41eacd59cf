"""How often a child that cannot live is started: time is passed in, and no process is."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
import pytest

from accede.router.parent import children
from accede.router.parent.children import Child
from accede.router.parent.nursery import Program


class _Mayfly(Child):
    """Lives as long as the test says."""

    lives: itertools.chain[float]
    now = 1000.0

    async def _live(self) -> str:
        lasts = next(self.lives, None)
        if lasts is None:
            self.last()
            return "is not begun any more"
        self.now += lasts
        return "ended with 1"


def test_pauses_before_a_new_start_double_up_to_a_bound_and_begin_anew_after_a_steady_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = Program("nothing", "nothing", lambda _: 0)
    child = _Mayfly("worker 0", program, lambda *_: msgspec.Struct(), (), lambda *_: None, lambda: None, None)
    child.lives = itertools.chain([0.0] * 10, [60.0, 0.0])
    pauses: list[float] = []

    async def patient(waits: object, seconds: float) -> None:
        assert asyncio.iscoroutine(waits)
        waits.close()
        pauses.append(seconds)
        raise TimeoutError

    monkeypatch.setattr(children, "monotonic", lambda: child.now)
    monkeypatch.setattr(asyncio, "wait_for", patient)
    asyncio.run(child.keep())
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 0.05, 0.1]
    assert len(child.restarts) == 12
