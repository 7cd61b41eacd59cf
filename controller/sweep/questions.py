"""The two questions of a sweep's tests, harm and safety, over every tail of the epochs: (T, E) arrays.

Each function here is one of `methods` for many tests; names and conditions are the same there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..analysis.methods import BEYOND_CHANCE, BOUNDED, FEW, GROSSLY_UNLIKE, TIME, UNITS, UNLIKE
from ..stats.arrays import (
    ClusterMoments,
    asymptotic_log_e,
    asymptotic_reach,
    cluster_tails,
    gamma_exponential_bound,
    gamma_exponential_log,
    kappa,
    rho,
    tails,
)
from ..stats.bounds import asymptotic_bounds, gamma_exponential_bounds
from ..stats.clusters import FEWEST_EVENTS, FEWEST_EXPECTED
from ..stats.tuning import RANDOMISED, V_OPT_FLOOR
from .gather import Gathered
from .program import Tests

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """Sums of one question's rows over all clusters, (T, E), open requests counted in."""

    n_c: Floats
    y_c: Floats
    square_c: Floats
    n_s: Floats
    y_s: Floats
    square_s: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One question of T tests over every tail of E epochs.

    Where `bounded`, P1 with S, Q, W, tuned to `variance_of_y`; else P4 with estimate, variance, df, and the
    `expected` events (NaN: none are needed). Neither where not `computable`. `variance_of_y`: also (T, 1).
    """

    computable: Bools
    bounded: Bools
    estimate: Floats
    variance: Floats
    df: Floats
    expected: Floats
    n_c: Floats
    n_s: Floats
    S: Floats
    Q: Floats
    W: Floats
    variance_of_y: Floats
    methods: tuple[str, str]  # of P4, of P1

    def log_e(self, sign: Floats, null: Floats, gap: Floats, level: Floats, *, safe: bool) -> Floats:
        """Log E-value against "effect <= null" (safe: ">= null"), effects turned by `sign`. NaN: none."""
        sign, null, gap, level = (values[:, None] for values in (sign, null, gap, level))
        turn = -1.0 if safe else 1.0
        size = kappa(level)
        with np.errstate(invalid="ignore"):
            v_opt = np.maximum(V_OPT_FLOOR, size * (self.variance_of_y / (RANDOMISED * gap)) ** 2)
            exact = gamma_exponential_log(turn * (sign * self.S - null * self.W), self.Q, rho(v_opt, level))
        precision = rho(size / gap**2, level)
        usual = asymptotic_log_e(turn * sign * self.estimate, self.variance, turn * null, precision, self.df)
        if safe:
            usual = np.where(self._few_expected(sign, null), np.nan, usual)
        return np.where(self.computable, np.where(self.bounded, exact, usual), np.nan)

    def bounds(
        self, sign: Floats, null: Floats, gap: Floats, level: Floats, *, safe: bool
    ) -> tuple[Floats, Floats]:
        """Below (of safety only) and above `log_e`, cheaply. NaN: as there."""
        sign, null, gap, level = (values[:, None] for values in (sign, null, gap, level))
        turn = -1.0 if safe else 1.0
        size = kappa(level)
        unit = rho(1.0, level)  # rho is proportional to v_opt
        exact = usual = None  # of most kinds of tests all are the one, or all are the other
        if self.bounded.any():
            with np.errstate(invalid="ignore"):
                v_opt = np.maximum(V_OPT_FLOOR, size * (self.variance_of_y / (RANDOMISED * gap)) ** 2)
                exact = gamma_exponential_bounds(
                    turn * (sign * self.S - null * self.W), self.Q, v_opt * unit, below=safe
                )
        if not self.bounded.all():
            usual = asymptotic_bounds(
                turn * sign * self.estimate, self.variance, turn * null, unit * size / gap**2, self.df,
                below=safe,
            )  # fmt: skip
        none = ~self.computable
        if safe and usual is not None:
            none |= ~self.bounded & self._few_expected(sign, null)
        pairs = zip(exact or usual or (), usual or exact or (), strict=True)
        low, high = (np.where(none, np.nan, np.where(self.bounded, one, other)) for one, other in pairs)
        return low, high

    def of(self, tests: NDArray[np.intp]) -> Question:
        """The question of some of the tests; or of those whose rows these are."""
        return Question(
            self.computable[tests], self.bounded[tests], self.estimate[tests], self.variance[tests],
            self.df[tests], self.expected[tests], self.n_c[tests], self.n_s[tests], self.S[tests],
            self.Q[tests], self.W[tests], self.variance_of_y[tests], self.methods,
        )  # fmt: skip

    def reach(self, gap: Floats, level: Floats) -> Floats:
        """Half the width of the confidence sequence over all epochs at a level, (T,)."""
        size = kappa(level)
        v_opt = np.maximum(V_OPT_FLOOR, size * (self.variance_of_y[:, 0] / (RANDOMISED * gap)) ** 2)
        exact = gamma_exponential_bound(self.Q[:, 0], rho(v_opt, level), level) / self.W[:, 0]
        usual = asymptotic_reach(self.variance[:, 0], rho(size / gap**2, level), level, self.df[:, 0])
        return np.where(self.bounded[:, 0], exact, usual)

    def _few_expected(self, sign: Floats, null: Floats) -> Bools:
        """Too few events, or others, of the candidate would be expected at the null to prove it wrong."""
        turned = np.where(sign > 0.0, self.expected, self.n_c - self.expected) + null * self.n_c
        with np.errstate(invalid="ignore"):  # NaN: no events, so no number of them is asked for
            return np.asarray(np.minimum(turned, self.n_c - turned) < FEWEST_EXPECTED)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Both questions of a batch of tests. `odd`: tests whose cells the reader must read, (T,)."""

    harm: Question
    safe: Question
    odd: Bools


def joined(parts: Sequence[Asked]) -> Asked:
    """Answers to tests of one kind of several rollouts, one after another."""
    return Asked(
        _end_to_end([one.harm for one in parts]), _end_to_end([one.safe for one in parts]),
        np.concatenate([one.odd for one in parts]),
    )  # fmt: skip


def _end_to_end(parts: Sequence[Question]) -> Question:
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(one, name) for one in parts])
        for name in Question.__slots__
        if name != "methods"
    }
    return Question(**columns, methods=parts[0].methods)


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """What the epochs fix for each of R rows: the candidate's share, open requests of both arms, and the
    centres, (R, E).
    """

    pi: Floats
    open_c: Floats
    open_s: Floats
    centres: Floats


def ask(tests: Tests, sums: Gathered, traffic: Traffic) -> Asked:
    """Answer both questions of tests of one kind from the sums of their rows."""
    odd = sums.odd[tests.harm_row] | sums.odd[tests.safe_row]
    if tests.kind == "requests":
        # Of rows first: most have two tests, one in each direction.
        of_rows = _bounded(_totals(sums), traffic.pi, traffic.centres, traffic.pi, UNLIKE, BOUNDED)
        question = of_rows.of(tests.harm_row)
        question = replace(question, variance_of_y=tests.variance[:, None])
        return Asked(question, question, odd)
    moments = sums.moments
    assert moments is not None  # noqa: S101 (gathered for tests of this kind)
    if tests.kind == "units":
        question, few = _units(tests, _of_rows(moments, tests.harm_row))
        totals, pi = _totals(sums, tests.harm_row), traffic.pi[tests.harm_row]
        few |= _unlike(totals, pi, GROSSLY_UNLIKE, candidate_only=False).any(1)
        return Asked(question, question, odd | few)
    # Where an arm has no clusters yet over which open requests could be spread, they are all there is.
    unspread = sums.present & (
        ((traffic.open_c > 0.0) & (sums.n_c <= 0.0)) | ((traffic.open_s > 0.0) & (sums.n_s <= 0.0))
    )
    odd = odd | unspread[tests.harm_row].any(axis=1) | unspread[tests.safe_row].any(axis=1)
    harm = _server(tests, tests.harm_row, tests.harm_ratio, moments, sums, traffic, safe=False)
    safe = _server(tests, tests.safe_row, tests.safe_ratio, moments, sums, traffic, safe=True)
    return Asked(harm, safe, odd)


def _server(
    tests: Tests,
    rows: NDArray[np.intp],
    ratio: Floats,
    moments: ClusterMoments,
    sums: Gathered,
    traffic: Traffic,
    *,
    safe: bool,
) -> Question:
    """`methods.server_outcomes`. For safety open requests count: events of the candidate, none of stable."""
    totals = _totals(sums, rows)
    pi, open_c, open_s = traffic.pi[rows], traffic.open_c[rows], traffic.open_s[rows]
    seen = tails(totals.y_c + totals.y_s)
    more_c = more_s = np.ones_like(totals.n_c)
    if safe:
        present = sums.present[rows]
        more_c = np.where(present, 1.0 + open_c / np.maximum(totals.n_c, 1.0), 1.0)
        more_s = np.where(present, 1.0 + open_s / np.maximum(totals.n_s, 1.0), 1.0)
        added = totals.n_c * (more_c - 1.0)
        totals = Totals(
            totals.n_c + added, totals.y_c + added, totals.square_c + added,
            totals.n_s * more_s, totals.y_s, totals.square_s,
        )  # fmt: skip
    got = cluster_tails(_of_rows(moments, rows), ratio, more_c, more_s)
    centres = traffic.centres[rows]
    centre = np.take_along_axis(centres, _first_present(sums.present[rows]), axis=1)
    rare = _bounded(totals, pi, centres, centre * (1.0 - centre), GROSSLY_UNLIKE, FEW)
    few = (got.variance == 0.0) | (seen < FEWEST_EVENTS)
    decidable = (tests.absolute & (ratio == 1.0))[:, None]
    computable = got.computable & np.where(few, rare.computable & decidable, True)
    if safe:
        lacking = _unlike(totals, pi, tests.may_lack[:, None], candidate_only=True)
        computable &= ~(lacking & (tests.may_lack < 1.0)[:, None])
    return Question(
        computable, few, np.where(few, rare.estimate, got.estimate), got.variance, got.df,
        np.where(few, np.nan, got.expected_c),
        np.where(few, rare.n_c, got.n_c), np.where(few, rare.n_s, got.n_s),
        rare.S, rare.Q, rare.W, rare.variance_of_y, (TIME, FEW),
    )  # fmt: skip


def _units(tests: Tests, moments: ClusterMoments) -> tuple[Question, Bools]:
    """`methods.unit_outcomes` of a sticky service; those with few events are the reader's, (T,)."""
    got = cluster_tails(moments)
    events, n = tails(moments.y_c + moments.y_s), got.n_c + got.n_s
    rare = tests.counted[:, None] & (np.minimum(events, n - events) < FEWEST_EVENTS)
    few = got.computable & ((got.variance == 0.0) | rare)
    nothing = np.zeros_like(got.n_c)
    question = Question(
        got.computable, np.zeros_like(got.computable), got.estimate, got.variance, got.df,
        np.where(tests.counted[:, None], got.expected_c, np.nan), got.n_c, got.n_s,
        nothing, nothing, nothing + 1.0, nothing, (UNITS, FEW),
    )  # fmt: skip
    return question, few.any(axis=1)


def _bounded(
    totals: Totals, pi: Floats, centres: Floats, variance: Floats, tolerated: float, method: str
) -> Question:
    """A bounded mean of randomised requests; none where the arms' counts are unlike their weights."""
    scale = np.maximum(pi, 1.0 - pi) * np.maximum(centres, 1.0 - centres)  # as stats.mean.scale
    one, other = (1.0 - pi) / scale, pi / scale
    s = one * (totals.y_c - centres * totals.n_c) - other * (totals.y_s - centres * totals.n_s)
    q = one**2 * _centred(totals.n_c, totals.y_c, totals.square_c, centres)
    q = q + other**2 * _centred(totals.n_s, totals.y_s, totals.square_s, centres)
    S, Q, W = tails(s), tails(q), tails((totals.n_c + totals.n_s) * pi * one)  # noqa: N806 (the paper's letters)
    n_c, n_s = tails(totals.n_c), tails(totals.n_s)
    computable = (n_c > 0.0) & (n_s > 0.0) & (W > 0.0) & ~_unlike(totals, pi, tolerated, candidate_only=False)
    nothing = np.zeros_like(S)
    return Question(
        computable, np.ones_like(computable), S / np.where(W > 0.0, W, 1.0), nothing, nothing,
        nothing * np.nan, n_c, n_s, S, Q, W, variance, (TIME, method),
    )  # fmt: skip


def _unlike(totals: Totals, pi: Floats, tolerated: Floats | float, *, candidate_only: bool) -> Bools:
    """`methods.unlike_weights`: one arm lacks observations that its weight gives it, beyond chance."""
    both = totals.n_c + totals.n_s
    gap, variance = tails(totals.n_c - pi * both), tails(both * pi * (1.0 - pi))
    ours, due = tails(totals.n_c), tails(totals.n_s * pi / (1.0 - pi))
    share = np.abs(ours - due) / np.maximum(np.maximum(ours, due), 1.0)
    beyond = (share > tolerated) & (np.abs(gap) > BEYOND_CHANCE * np.sqrt(variance))
    return np.asarray(beyond & (gap <= 0.0) if candidate_only else beyond)


def _centred(n: Floats, y: Floats, square: Floats, centre: Floats) -> Floats:
    return np.maximum(0.0, square - 2.0 * centre * y + n * centre * centre)


def _totals(sums: Gathered, rows: NDArray[np.intp] | None = None) -> Totals:
    of_arms = (sums.n_c, sums.y_c, sums.square_c, sums.n_s, sums.y_s, sums.square_s)
    return Totals(*(column if rows is None else column[rows] for column in of_arms))


def _of_rows(moments: ClusterMoments, rows: NDArray[np.intp]) -> ClusterMoments:
    return ClusterMoments(
        moments.pi[rows], moments.n_c[rows], moments.y_c[rows], moments.n_s[rows], moments.y_s[rows],
        moments.cc[rows], moments.cs[rows], moments.ss[rows], moments.nn[rows], moments.seen[rows],
    )  # fmt: skip


def _first_present(present: Bools) -> NDArray[np.intp]:
    """From each epoch on, the first one that has the series; the last one where none has."""
    last = present.shape[1] - 1
    here: NDArray[np.intp] = np.full(present.shape, last)
    here[present] = np.nonzero(present)[1]
    return np.asarray(np.flip(np.minimum.accumulate(np.flip(here, 1), axis=1), 1))
