"""Gaps between groups, and how the candidate changes them, for requests that are independent units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .result import NotComputable

FEWEST_PER_GROUP = 30.0
FEWEST_PER_KIND = 10.0


@dataclass(frozen=True, slots=True)
class GroupSums:
    """n, sum y and sum y^2 of one group in one arm, y in [0, 1]."""

    n: float
    sum_y: float
    sq_y: float


@dataclass(frozen=True, slots=True)
class GapEpoch:
    """One epoch: candidate share and the sums of groups g and h in both arms (c candidate, s stable)."""

    pi: float
    g_c: GroupSums
    g_s: GroupSums
    h_c: GroupSums
    h_s: GroupSums


@dataclass(frozen=True, slots=True)
class GapEstimate:
    """An estimate for the asymptotic tests."""

    estimate: float
    variance: float


def gap(g: GroupSums, h: GroupSums, ratio: float = 1.0) -> GapEstimate | NotComputable:
    """Mean of g minus ``ratio`` times mean of h, one arm; four-fifths is ratio 0.8."""
    problem = _problem("g", g) or _problem("h", h)
    if problem is not None:
        return NotComputable(problem)
    return GapEstimate(
        g.sum_y / g.n - ratio * h.sum_y / h.n, _mean_variance(g) + ratio**2 * _mean_variance(h)
    )


def gap_growth(epochs: Sequence[GapEpoch]) -> GapEstimate | NotComputable:
    """How much the gap g - h grew: sum of omega_e [(r_cg - r_sg) - (r_ch - r_sh)].

    Epochs with an empty cell have no weight; the sizes required hold for the sums over the other epochs.
    """
    estimate = variance = total = 0.0
    pooled = {name: GroupSums(0.0, 0.0, 0.0) for name in ("g_c", "g_s", "h_c", "h_s")}
    for position, e in enumerate(epochs):
        cells = {"g_c": e.g_c, "g_s": e.g_s, "h_c": e.h_c, "h_s": e.h_s}
        for name, cell in cells.items():
            problem = _broken(cell)
            if problem is not None:
                return NotComputable(f"epoch {position}, {name}: {problem}")
        if not 0.0 <= e.pi <= 1.0:
            return NotComputable(f"epoch {position} has a candidate share of {e.pi!r}, allowed is 0 to 1")
        weight = sum(cell.n for cell in cells.values()) * e.pi * (1.0 - e.pi)
        # A variance needs two observations; such an epoch is a few requests old.
        if weight <= 0.0 or min(cell.n for cell in cells.values()) < 2.0:
            continue
        growth = (e.g_c.sum_y / e.g_c.n - e.g_s.sum_y / e.g_s.n) - (
            e.h_c.sum_y / e.h_c.n - e.h_s.sum_y / e.h_s.n
        )
        estimate += weight * growth
        variance += weight**2 * sum(_mean_variance(cell) for cell in cells.values())
        total += weight
        pooled = {
            name: GroupSums(p.n + cells[name].n, p.sum_y + cells[name].sum_y, p.sq_y + cells[name].sq_y)
            for name, p in pooled.items()
        }
    if total <= 0.0:
        return NotComputable("no epoch has observations of both groups in both arms")
    for name, cell in pooled.items():
        problem = _problem(name, cell)
        if problem is not None:
            return NotComputable(problem)
    return GapEstimate(estimate / total, variance / total**2)


def _mean_variance(cell: GroupSums) -> float:
    mean = cell.sum_y / cell.n
    return max(0.0, cell.sq_y / cell.n - mean * mean) / max(cell.n - 1.0, 1.0)


def _broken(cell: GroupSums) -> str | None:
    if not (math.isfinite(cell.n) and math.isfinite(cell.sum_y) and math.isfinite(cell.sq_y)):
        return "sums are not finite"
    slack = 1e-9 * (1.0 + cell.n)
    if cell.n < 0.0 or not -slack <= cell.sq_y <= cell.sum_y + slack or cell.sum_y > cell.n + slack:
        return (
            "sums do not belong to values in [0, 1] "
            f"(n={cell.n:g}, sum={cell.sum_y:g}, squares={cell.sq_y:g})"
        )
    return None


def _problem(name: str, cell: GroupSums) -> str | None:
    broken = _broken(cell)
    if broken is not None:
        return f"{name}: {broken}"
    if cell.n < FEWEST_PER_GROUP:
        return f"{name}: {cell.n:g} observations, at least {FEWEST_PER_GROUP:g} are needed"
    if min(cell.sum_y, cell.n - cell.sum_y) < FEWEST_PER_KIND:
        return (
            f"{name}: {cell.sum_y:g} successes in {cell.n:g}, "
            f"at least {FEWEST_PER_KIND:g} successes and failures are needed"
        )
    return None
