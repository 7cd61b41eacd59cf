"""Many simulated rollouts, told as shares with intervals, times and exposed users."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Final

import msgspec
import numpy as np

from ...store.rollouts import Phase
from .play import Played

_Z: Final = 1.959963984540054  # normal quantile of a 95% interval


class Ending(msgspec.Struct, frozen=True):
    """How often rollouts ended in one way: share with a 95% interval (Wilson); times in seconds.

    `exposed`: users whom the candidate had answered until then. None where it never happened.
    """

    count: int
    share: float
    low: float
    high: float
    after_median: float | None = None
    after_p90: float | None = None
    exposed_median: float | None = None
    exposed_p90: float | None = None


class Step(msgspec.Struct, frozen=True):
    """One decision of the first rollout. `after`: seconds since its start."""

    after: float
    act: str
    phase: str
    reason: str
    exposed: int


class Summary(msgspec.Struct, frozen=True):
    """All of it. `compared`: what stood for the candidate. `injected`: the harm, as given."""

    service: str
    policy: str
    compared: str
    injected: tuple[str, ...]
    requests: int
    seconds: float
    runs: int
    looks: int
    seed: int
    promoted: Ending
    rolled_back: Ending
    paused: Ending
    unfinished: Ending
    first: tuple[Step, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def wilson(count: int, runs: int) -> tuple[float, float]:
    """The 95% interval of a share (Wilson 1927). At least one run."""
    share, square = count / runs, _Z * _Z
    centre = (share + square / (2 * runs)) / (1 + square / runs)
    half = _Z / (1 + square / runs) * sqrt(share * (1 - share) / runs + square / (4 * runs * runs))
    # At the ends rounding would leave a share beyond its own interval.
    return (0.0 if count == 0 else max(0.0, centre - half)), (
        1.0 if count == runs else min(1.0, centre + half)
    )


def ending(played: Sequence[Played], *phases: Phase) -> Ending:
    """Of the rollouts that stand in one of these phases."""
    mine = [one for one in played if one.phase in phases]
    low, high = wilson(len(mine), len(played))
    if not mine:
        return Ending(0, 0.0, low, high)
    after = np.quantile([one.after for one in mine], (0.5, 0.9))
    exposed = np.quantile([one.exposed for one in mine], (0.5, 0.9))
    return Ending(
        len(mine), len(mine) / len(played), low, high, float(after[0]), float(after[1]), float(exposed[0]),
        float(exposed[1]),
    )  # fmt: skip


def steps(played: Played) -> tuple[Step, ...]:
    """The decisions of one rollout."""
    return tuple(Step(m.after, m.act, m.phase, m.reason, m.exposed) for m in played.moments)
