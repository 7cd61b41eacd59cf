"""How long outcomes remember: integrated autocorrelation time from sums per batch of time.

Batches that are short against the memory of what they hold are not independent, and a variance between them
is too small (plain tests of AR(.9) differences raise false alarms in 69% of runs). The time is measured from
the same sums that are analysed: how much more the batches scatter than independent outcomes would (Sokal
1997, blocking: Flyvbjerg and Petersen 1989), times the correlation that is left between batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .result import NotComputable

FEWEST_BATCHES = 10
LENGTHS = 10.0
"""A batch lasts at least this many autocorrelation times."""

_SIGMA = 3.0
_LAGS = 4
_FEWEST_BLOCKS = 6
_FEWEST_NEIGHBOURS = 16
_SIGMA_BETWEEN = 2.0  # a shorter memory than is there would be the graver mistake

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Memory:
    """``tau`` = 1 + 2 sum of autocorrelations, in observations: 1 where none is seen beyond chance.

    ``per_batch``: observations in a batch on average.
    """

    tau: float
    per_batch: float

    @property
    def batches_needed(self) -> float:
        """By how much batches must be longer, 1 or less where they are long enough.

        The memory of an observation beyond itself, tau - 1, is compared: independent outcomes that come
        slowly have none, however few are in a batch.
        """
        return LENGTHS * (self.tau - 1.0) / self.per_batch


def memory(n: Floats, y: Floats, square: Floats, *, beside_a_change: bool = False) -> Memory | NotComputable:
    """Autocorrelation of single outcomes from their sums per batch.

    Args:
        n: observations per batch, length G, in the order of time (cyclic: the first follows the last).
        y: sum of the outcomes, length G.
        square: sum of their squares, length G.
        beside_a_change: outcomes that were at one level for a while and at another for the rest have no
            memory by that: the two levels that fit best are taken out. A version that breaks half-way
            looks as if everything remembered everything, and is just what harm looks like.
    """
    n, y, square = (np.asarray(column, dtype=np.float64) for column in (n, y, square))
    if n.ndim != 1 or not n.shape == y.shape == square.shape:
        return NotComputable(f"batches have shapes {n.shape}, {y.shape} and {square.shape}")
    if not np.isfinite(np.concatenate((n, y, square))).all() or (n < 0.0).any() or (square < 0.0).any():
        return NotComputable("sums of a batch are negative or not finite")
    total = float(n.sum())
    mean = np.full(n.size, float(y.sum()) / total if total > 0.0 else 0.0)
    if beside_a_change and total > 0.0:
        levels, whole = _two_levels(n, y)
        # With fewer batches left there is no telling a change from a memory, so it counts as one.
        if int(np.count_nonzero(n * whole)) >= FEWEST_BATCHES:
            mean, n, y, square = levels, n * whole, y * whole, square * whole
            total = float(n.sum())
    filled = n > 0.0
    count = int(np.count_nonzero(filled))
    if count < FEWEST_BATCHES:
        return NotComputable(f"{count} batches, at least {FEWEST_BATCHES} are needed")
    variance = (float(square.sum()) - float(np.dot(n, mean * mean))) / total
    if variance <= 1e-12:
        return NotComputable("outcomes that do not vary have no autocorrelation")
    scattered = np.where(filled, y - mean * n, 0.0) / np.sqrt(np.where(filled, n, 1.0))
    within = float(np.dot(scattered, scattered)) / (count - 1.0) / variance
    if within <= 1.0 + _SIGMA * math.sqrt(2.0 / count):
        within = 1.0
    return Memory(within * _between(scattered, filled), total / count)


def batches_needed(n: Floats, y: Floats, square: Floats) -> Floats:
    """``memory(...).batches_needed`` of many series at once, (R,); 0 where that is not computable.

    Args:
        n, y, square: as there, finite, (R, G).
    """
    filled = n > 0.0
    count = np.count_nonzero(filled, axis=1).astype(np.float64)
    total = np.maximum(n.sum(axis=1), 1.0)
    mean = y.sum(axis=1) / total
    variance = square.sum(axis=1) / total - mean * mean
    known = (count >= FEWEST_BATCHES) & (variance > 1e-12)
    scattered = (y - mean[:, None] * n) / np.sqrt(np.where(filled, n, 1.0))
    power = np.einsum("rg,rg->r", scattered, scattered)
    within = power / np.maximum(count - 1.0, 1.0) / np.where(known, variance, 1.0)
    within = np.where(within <= 1.0 + _SIGMA * np.sqrt(2.0 / np.maximum(count, 1.0)), 1.0, within)
    power = power / np.maximum(count, 1.0)
    tau, rest = np.ones(len(n)), np.flatnonzero(known & (power > 0.0))
    for lag in range(1, n.shape[1] // 4):
        if not rest.size:
            break
        here, there = scattered[rest], filled[rest]
        both = np.count_nonzero(there & np.roll(there, lag, axis=1), axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            correlation = np.einsum("rg,rg->r", here, np.roll(here, lag, axis=1)) / both / power[rest]
            seen = (both >= FEWEST_BATCHES) & (correlation > _SIGMA_BETWEEN / np.sqrt(both))
        rest = rest[seen]
        tau[rest] += 2.0 * correlation[seen]
    return np.asarray(np.where(known, LENGTHS * (within * tau - 1.0) * np.maximum(count, 1.0) / total, 0.0))


def blocked_variance(influence: Floats) -> tuple[float, int]:
    """Variance of a sum of batches' influences that may resemble their neighbours, and the blocks it is from.

    Args:
        influence: of each batch on an estimate, summing to about 0, in the order of time.

    The largest of the variances between blocks of 1, 2, 4, … batches, of 6 blocks at least (Flyvbjerg and
    Petersen 1989): what is correlated over a few batches scatters more in longer blocks.

    Raises:
        ValueError: an influence is not finite. A variance of 0 would be a proof.
    """
    if not np.isfinite(influence).all():
        msg = "the influence of a batch is not finite"
        raise ValueError(msg)
    largest, blocks, length = 0.0, influence.size, 1
    while influence.size // length >= _FEWEST_BLOCKS:
        count = influence.size // length
        sums = influence[: count * length].reshape(count, length).sum(axis=1)
        found = count / (count - 1.0) * float(np.dot(sums, sums)) * influence.size / (count * length)
        if found > largest:
            largest, blocks = found, count
        length *= 2
    return largest, blocks


def resembles_neighbours(influence: Floats, filled: NDArray[np.bool_]) -> float | None:
    """Correlation of a batch with the next; None where neither it nor those of the next batches are seen.

    Two standard deviations: of the correlation with the next, or of the next four together. Batches that are
    independent are taken for correlated in some 4% of looks.

    Raises:
        ValueError: an influence is not finite, or not one for each batch.
    """
    if influence.shape != filled.shape or not np.isfinite(influence).all():
        msg = f"influences of batches are not finite, or {influence.size} of {filled.size}"
        raise ValueError(msg)
    power = float(np.dot(influence, influence)) / max(1.0, float(np.count_nonzero(filled)))
    found: list[tuple[float, float]] = []
    for lag in range(1, _LAGS + 1):
        both = int(np.count_nonzero(filled & np.roll(filled, lag)))
        if both < _FEWEST_NEIGHBOURS or power <= 0.0:
            break
        correlation = float(np.dot(influence, np.roll(influence, lag))) / both / power
        found.append((correlation, correlation * math.sqrt(both)))
    together = sum(z for _, z in found) / math.sqrt(max(1, len(found)))
    seen = found and (found[0][1] > _SIGMA_BETWEEN or together > _SIGMA_BETWEEN)
    return found[0][0] if seen else None


def _two_levels(n: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Mean of every batch, where those of the best stretch have one and all others another.

    Second, 0 for the batches beside either change, which may hold something of both levels, 1 for the others.
    """
    size = n.size
    # Prefix sums over two rounds, so that a stretch may go past the end.
    counts, sums = (np.concatenate(([0.0], np.cumsum(np.tile(column, 2)))) for column in (n, y))
    begin, length = np.arange(size)[:, None], np.arange(1, size)[None, :]
    inside_n, inside_y = (total[begin + length] - total[begin] for total in (counts, sums))
    outside_n, outside_y = float(n.sum()) - inside_n, float(y.sum()) - inside_y
    both = (inside_n > 0.0) & (outside_n > 0.0)
    gain = np.where(both, inside_y**2 / np.where(both, inside_n, 1.0), -np.inf)
    gain = gain + np.where(both, outside_y**2 / np.where(both, outside_n, 1.0), 0.0)
    first, last = np.unravel_index(int(np.argmax(gain)), gain.shape)
    inside = np.zeros(size, dtype=bool)
    inside[(int(first) + np.arange(int(last) + 1)) % size] = True
    whole = (inside == np.roll(inside, 1)) & (inside == np.roll(inside, -1))
    # Levels are those of whole batches too: with something of the other in it, all outcomes of a level that
    # hardly varies would lie on one side of it, alike in every batch.
    levels = [
        float(y[part].sum()) / max(float(n[part].sum()), 1.0) for part in (inside & whole, ~inside & whole)
    ]
    return np.where(inside, levels[0], levels[1]), np.where(whole, 1.0, 0.0)


def _between(scattered: Floats, filled: NDArray[np.bool_]) -> float:
    """1 + 2 sum of the correlations between batches, up to the first that may be chance."""
    power = float(np.dot(scattered, scattered)) / float(np.count_nonzero(filled))
    tau = 1.0
    for lag in range(1, scattered.size // 4):
        both = int(np.count_nonzero(filled & np.roll(filled, lag)))
        if both < FEWEST_BATCHES or power <= 0.0:
            break
        correlation = float(np.dot(scattered, np.roll(scattered, lag))) / both / power
        if correlation <= _SIGMA_BETWEEN / math.sqrt(both):
            break
        tau += 2.0 * correlation
    return tau
