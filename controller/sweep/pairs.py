"""Both questions of tests on pairs: batches of time, over every tail of the epochs.

The functions are `methods.paired_differences` and `methods.paired_agreement` for many series at once; names
and conditions are the same there. What remembers longer than its batches last is the reader's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from ...store.evidence import Evidence
from ...store.measurement import CLUSTERS
from ...store.rollouts import EpochRecord
from ..analysis.methods import BATCHES, FEW, FEWEST_BATCHES_THAT_DIFFER
from ..stats.autocorrelation import batches_needed
from ..stats.clusters import FEWEST_BATCHES, FEWEST_EVENTS, FEWEST_OBSERVATIONS, ROUNDING
from .gather import epoch_sums, is_stored
from .program import PairQuestions, Tests
from .questions import Asked, Question
from .rows import Rows

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]

_SLACK: Final = 1e-9  # as clusters.batch_estimate
_ANSWERS: Final[WeakKeyDictionary[Rows, tuple[tuple[Evidence, ...], Asked]]] = WeakKeyDictionary()
"""What the same evidence came to: that of a shadow does not change any more once it is over."""


@dataclass(frozen=True, slots=True, eq=False)
class _Batches:
    """`clusters.batch_estimate` of K sums, (K,): estimate, variance, pairs, effective batches."""

    estimate: Floats
    variance: Floats
    pairs: Floats
    effective: Floats
    computable: Bools


@dataclass(frozen=True, slots=True, eq=False)
class _Tail:
    """What one tail of the epochs says about Q questions, (Q,); names as in `Question`."""

    computable: Bools
    bounded: Bools
    estimate: Floats
    variance: Floats
    df: Floats
    expected: Floats
    pairs: Floats
    S: Floats
    Q: Floats
    W: Floats


def ask_pairs(tests: Tests, found: Sequence[tuple[EpochRecord, Evidence]]) -> Asked:
    """Answer both questions; from memory where the evidence is that of the last time."""
    assert tests.pairs is not None  # noqa: S101 (of tests of this kind)
    evidence = tuple(one for _, one in found)
    known = _ANSWERS.get(tests.rows)
    if known is not None and len(known[0]) == len(evidence) and all(map(_same, known[0], evidence)):
        return known[1]
    tails, odd = _tails(tests, evidence)
    harm = _question(tails, tests.harm_row)
    safe = harm if (tests.harm_row == tests.safe_row).all() else _question(tails, tests.safe_row)
    row = tests.pairs.row
    asked = Asked(harm, safe, odd[row[tests.harm_row]] | odd[row[tests.safe_row]])
    if all(map(is_stored, evidence)):
        _ANSWERS[tests.rows] = evidence, asked
    return asked


def _same(one: Evidence, other: Evidence) -> bool:
    return one is other and is_stored(other)


def _tails(tests: Tests, evidence: Sequence[Evidence]) -> tuple[list[_Tail], Bools]:
    """Every tail, from that of all epochs to that of the last alone; rows that are the reader's, (R,)."""
    questions = tests.pairs
    assert questions is not None  # noqa: S101 (as above)
    parts = [epoch_sums(tests.rows, one, CLUSTERS, counts=False) for one in evidence]
    odd = np.logical_or.reduce([one.odd for one in parts])
    for one in parts:  # the two sides of pairs are there together, or the reader says which is not
        odd |= (one.totals[:, 0, 0] > 0.0) != (one.totals[:, 1, 0] > 0.0)
    alone = np.isfinite(questions.least)  # of these stable has no part
    odd[questions.row[alone]] = np.logical_or.reduce([one.odd for one in parts])[questions.row[alone]]
    tails: list[_Tail] = []
    sums: Floats | None = None
    for one in reversed(parts):
        sums = one.sums if sums is None else sums + one.sums
        n, y, square = (sums[:, 0, k] for k in range(3))
        odd |= batches_needed(n, y, square) > 1.0
        tails.append(_tail(questions, n, y, square, sums[:, 1, 1]))
    assert sums is not None  # noqa: S101 (there is an epoch)
    odd |= sums[:, 0, 0].sum(axis=1) <= 0.0
    return tails[::-1], np.asarray(odd)


def _tail(questions: PairQuestions, n: Floats, y: Floats, square: Floats, base: Floats) -> _Tail:
    """n, Σy and Σy² of the pairs and Σy of stable's side by batch, each (R, G)."""
    row, ratio, least, tau = questions.row, questions.ratio, questions.least, questions.tau
    total_y, total_square, total_base = (column.sum(axis=1)[row] for column in (y, square, base))
    got = _of(_batches(n, y), row)
    share, factor = np.isfinite(least), ratio != 1.0
    special: tuple[tuple[Bools, Callable[[Indices, Indices], Floats]], ...] = (
        (share, lambda at, its: y[its] - least[at, None] * n[its]),
        (factor, lambda at, its: (y[its] + (1.0 - ratio[at, None]) * base[its]) / ratio[at, None]),
    )
    for which, values in special:
        at = np.flatnonzero(which)
        if at.size:
            its = row[at]
            _put(got, at, _batches(n[its], np.where(n[its] > 0.0, values(at, its), 0.0)))
    pairs = got.pairs
    differ = np.count_nonzero(square > 0.0, axis=1)[row] < FEWEST_BATCHES_THAT_DIFFER
    differ |= questions.counted & (total_square < FEWEST_EVENTS)
    nothing: Bools = got.variance == 0.0
    of_share: Bools = np.minimum(pairs - total_y, total_y) < FEWEST_EVENTS
    few = (share & of_share) | (~share & differ) | nothing
    too_few = factor & (nothing | (2.0 * total_base + total_y < FEWEST_EVENTS))
    bounded = few & ~factor
    floor = np.where(share, least, 0.0)
    S = (total_y - floor * pairs) / tau  # noqa: N806 (the paper's letters, as in Question)
    Q = np.maximum(0.0, total_square - 2.0 * floor * total_y + pairs * floor**2) / tau  # noqa: N806
    W = np.maximum(pairs, 1.0) / tau  # noqa: N806
    expected = np.where(questions.counted | factor, ratio * total_base, np.nan)
    expected = np.where(share, least * pairs, expected)
    return _Tail(
        got.computable & ~too_few, bounded, np.where(bounded, S / W, got.estimate * ratio),
        got.variance * ratio**2, got.effective - 1.0, np.where(bounded, np.nan, expected), pairs, S, Q, W,
    )  # fmt: skip


def _batches(n: Floats, d: Floats) -> _Batches:
    pairs = n.sum(axis=1)
    some = np.maximum(pairs, 1.0)
    square = np.einsum("rg,rg->r", n, n)
    effective = pairs**2 / np.where(square > 0.0, square, 1.0)
    estimate = d.sum(axis=1) / some
    psi = d - estimate[:, None] * n
    filled = np.count_nonzero(n > 0.0, axis=1)
    variance = filled / np.maximum(filled - 1.0, 1.0) * np.einsum("rg,rg->r", psi, psi) / some**2
    inside = (np.abs(d) <= n * (1.0 + _SLACK) + _SLACK).all(axis=1)
    computable = inside & (effective >= FEWEST_BATCHES) & (pairs >= FEWEST_OBSERVATIONS)
    return _Batches(estimate, np.where(variance > ROUNDING**2, variance, 0.0), pairs, effective, computable)


def _columns(one: _Batches) -> Iterator[NDArray[np.float64] | Bools]:
    yield from (one.estimate, one.variance, one.pairs, one.effective, one.computable)


def _of(one: _Batches, rows: NDArray[np.intp]) -> _Batches:
    return _Batches(
        one.estimate[rows], one.variance[rows], one.pairs[rows], one.effective[rows], one.computable[rows]
    )


def _put(into: _Batches, at: NDArray[np.intp], values: _Batches) -> None:
    for mine, its in zip(_columns(into), _columns(values), strict=True):
        mine[at] = its


def _question(tails: Sequence[_Tail], which: NDArray[np.intp]) -> Question:
    def column(name: str) -> NDArray[np.float64]:
        return np.stack([getattr(tail, name)[which] for tail in tails], axis=1)

    pairs = column("pairs")
    return Question(
        column("computable").astype(bool), column("bounded").astype(bool), column("estimate"),
        column("variance"), column("df"), column("expected"), pairs, pairs,
        column("S"), column("Q"), column("W"), np.zeros((which.size, 1)), (BATCHES, FEW),
    )  # fmt: skip
