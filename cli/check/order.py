"""The order of a check: units at random with a seed, some held out for the baseline, the rest in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .trial import blocks_of

_HELD_OUT: Final = 5  # one row in so many, but no more than the policy's baseline
_LEAST_HELD_OUT: Final = 100


@dataclass(frozen=True, slots=True)
class Order:
    """Indices of rows, each with its block. `blocks`: of the pairs."""

    baseline: NDArray[np.int64]
    baseline_block: NDArray[np.int64]
    pairs: NDArray[np.int64]
    pair_block: NDArray[np.int64]
    blocks: int


def order_of(units: NDArray[Any], seed: int, wanted: int, together: int) -> Order:
    """Shuffled by unit: rows of one unit stay together, on one side and in one block.

    Args:
        units: a number per row, 0 for a row that is a unit of its own.
        seed: of the order.
        wanted: rows that the policy's baseline asks for.
        together: rows under way at one time.
    """
    rows = units.size
    keys = np.random.default_rng(seed).random(rows)
    _, first, which = np.unique(units, return_index=True, return_inverse=True)
    of_unit = np.where(units == 0, keys, keys[first][which])
    order = np.lexsort((keys, of_unit)).astype(np.int64)
    same = np.concatenate(([False], of_unit[order][1:] == of_unit[order][:-1]))
    held = min(wanted, max(rows // _HELD_OUT, min(_LEAST_HELD_OUT, rows // 2)))
    while held < rows and same[held]:
        held += 1
    blocks = blocks_of(rows - held, together)
    return Order(
        order[:held], _blocks(same[:held], blocks_of(held, together)), order[held:],
        _blocks(same[held:], blocks), blocks,
    )  # fmt: skip


def _blocks(same: NDArray[np.bool_], blocks: int) -> NDArray[np.int64]:
    """Contiguous, of about equal size; a unit belongs to the block of its first row."""
    places = np.arange(same.size)
    begins = np.maximum.accumulate(np.where(same, 0, places)) if same.size else places
    return (begins * blocks // max(1, same.size)).astype(np.int64)
