"""Expected evidence: what a look would see after so much traffic, in the mean.

The comparison of a cell is the analysis' own (`comparison.sides_of`): which series, which statistic, with
which nulls. What it would measure is in `expected`; `luck` moves that by so many standard errors, towards
the margin or away from it: a test that is always read decides by the time at which the path of that luck
does (see `luck_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from typing import Any, Final

import numpy as np
from scipy.special import ndtri

from ...policies.policy import Place
from ...store.measurement import is_label_series
from ...store.rollouts import FrozenConstants
from ..analysis.cells import MEANS, Cell, Limit
from ..analysis.comparison import Side, sides_of
from ..analysis.gaps import Compared
from ..analysis.methods import Asymptotic, Bounded
from ..analysis.sums import Broken, CanaryEpoch, GroupsEpoch, PairEpoch, PairGroupsEpoch, Sums, View
from ..labels.joining import CALIBRATION, INSIDE
from ..stats.mean import MeanStatistic
from ..stats.result import NotComputable
from .expected import EXPECTED, ExpectedCanary, ExpectedPair
from .traffic import Moments, Traffic, UnplannedError

_EARLY: Final = 0.26  # standard errors; see luck_of


def luck_of(quantile: float) -> float:
    """Standard errors behind its expectation of the path that decides at a quantile of the deciding times.

    A tuned test that is always read decides by t unless its path was below the bound all the time, which is
    a little rarer than being below it at t: by 0.26 standard errors, at levels from 0.05 to 0.0005 and
    quantiles from 25% to 99% within 0.12 of that (20 000 Brownian paths; repeated in the tests). At the
    median this makes 0.77 to 0.91 of the expected path's time, at 90% 2.3 to 1.7 times the median.
    """
    return float(ndtri(quantile)) - _EARLY


@dataclass(frozen=True, slots=True)
class Span:
    """Traffic of one step: `requests` of the whole service over `seconds`. Shares as in an epoch."""

    step: int
    place: Place
    weight: float
    mirrored: float
    mirror_back: float
    requests: float
    seconds: float


class ExpectedView(View):
    """The epochs that the spans make. `harmed`: the candidate's moments of a series, from stable's."""

    def __init__(
        self, traffic: Traffic, spans: Sequence[Span], harmed: Callable[[str, Moments], Moments] | None = None
    ) -> None:
        self._traffic = traffic
        self._spans = spans
        self._matured = matured(spans, traffic.mature)
        self._harmed = harmed

    def canary(self, group: str, candidate: str, stable: str) -> list[CanaryEpoch] | Broken:
        """As the evidence's."""
        theirs = self._traffic.moments(stable, group)
        ours = self._ours(candidate, self._traffic.moments(candidate, group))
        centre = self._traffic.moments(candidate, group).mean
        epochs: list[CanaryEpoch] = []
        carrying = self._traffic.share(group) * self._traffic.carrying(candidate)
        for start, span in self._of("canary", candidate):
            n = span.requests * carrying
            n_c, n_s = n * span.weight, n * (1.0 - span.weight)
            epochs.append(
                ExpectedCanary(
                    span.step, span.weight, centre, _sums(n_c, ours), _sums(n_s, theirs), 0.0, 0.0, 0.0,
                    start, span.seconds, ours, theirs,
                )
            )  # fmt: skip
        return epochs

    def pairs(self, place: Place, group: str, series: str) -> list[PairEpoch] | Broken:
        """As the evidence's."""
        theirs = self._traffic.moments(series, group)
        ours = self._ours(series, theirs)
        correlation = self._traffic.correlation if series in MEANS or series.startswith("metrics.") else 0.0
        if series == "selected" or series.startswith(("bin.", "outcome.")):
            correlation = self._traffic.correlation
        if series == CALIBRATION:  # of a pair it is the difference of both predictions, whatever is true
            ours, theirs = _predicted(ours, self._traffic), _predicted(theirs, self._traffic)
        difference = _difference(ours, theirs, correlation)
        epochs: list[PairEpoch] = []
        carrying = self._traffic.share(group) * self._traffic.carrying(series)
        for start, span in self._of(place, series):
            share = span.mirrored if place == "shadow" else span.mirror_back * span.weight
            n = span.requests * carrying * share
            share_of = series in {"agreement", "explanation", INSIDE}
            pair = _sums(n, ours if share_of else difference)
            base = None if share_of else _sums(n, theirs)
            epochs.append(
                ExpectedPair(
                    span.step, share, pair, base, start, span.seconds, ours, theirs, correlation
                )
            )  # fmt: skip
        return epochs

    def beside_noise(self, place: Place, *, failures: bool = False) -> list[PairEpoch] | Broken:  # noqa: ARG002
        """Raises UnplannedError: how often stable differs from itself is only known once it was asked."""
        raise UnplannedError(f"how often stable differs from itself is not known before a {place} step")

    def groups(
        self, place: Place, group: str, against: str, series: str
    ) -> list[GroupsEpoch] | list[PairGroupsEpoch] | Broken:
        """As the evidence's. Harm is done to the first group alone."""
        equal = ExpectedView(self._traffic, self._spans)
        if place == "canary":
            one, other = self.canary(group, series, series), equal.canary(against, series, series)
            if isinstance(one, Broken) or isinstance(other, Broken):
                return one if isinstance(one, Broken) else Broken("")
            return [GroupsEpoch(a.step, a, b) for a, b in zip(one, other, strict=True)]
        pairs, others = self.pairs(place, group, series), equal.pairs(place, against, series)
        if isinstance(pairs, Broken) or isinstance(others, Broken):
            return pairs if isinstance(pairs, Broken) else Broken("")
        return [PairGroupsEpoch(a.step, a, b) for a, b in zip(pairs, others, strict=True)]

    def _of(self, place: Place, series: str) -> Sequence[tuple[float, Span]]:
        found: list[tuple[float, Span]] = []
        start = 0.0
        for span in self._matured if is_label_series(series) else self._spans:
            if span.place == place and span.requests > 0.0:
                found.append((start, span))
            start += span.seconds
        return found

    def _ours(self, series: str, same: Moments) -> Moments:
        return same if self._harmed is None else self._harmed(series, same)


def matured(spans: Sequence[Span], age: float) -> tuple[Span, ...]:
    """The spans without what is younger than `age` seconds at their end."""
    kept: list[Span] = []
    for span in reversed(spans):
        young = min(age, span.seconds)
        age -= young
        left = span.seconds - young
        kept.append(replace(span, seconds=left, requests=span.requests * left / max(span.seconds, 1e-12)))
    return tuple(reversed(kept))


def forecast_sides(
    traffic: Traffic, luck: float
) -> Callable[[Cell, Limit, View, FrozenConstants], tuple[Side, Side] | Broken]:
    """`sides_of` on expected evidence. `luck` > 0: nearer to the margin than expected, < 0: farther away.

    Raises UnplannedError for a method that nobody has worked out.
    """

    def sides(cell: Cell, limit: Limit, view: View, constants: FrozenConstants) -> tuple[Side, Side] | Broken:
        found = sides_of(cell, limit, view, constants)
        if isinstance(found, Broken):
            return found
        signed = luck if cell.direction == "up" else -luck
        harmful, harmless = (
            Side(side.epochs, partial(_expected, side.measure, traffic, signed)) for side in found
        )
        return harmful, harmless

    return sides


def _expected(
    measure: Callable[[Any], Any], traffic: Traffic, luck: float, epochs: Sequence[Any]
) -> Compared | NotComputable:
    given = measure.keywords if isinstance(measure, partial) else {}
    method = measure.func if isinstance(measure, partial) else measure
    known = EXPECTED.get(method)
    if known is None:
        raise UnplannedError(f"a plan does not know the method {getattr(method, '__name__', method)!r}")
    got = known(epochs, traffic, given)
    if isinstance(got, Bounded):
        sums = got.statistic
        return replace(got, statistic=MeanStatistic(sums.S + luck * sqrt(sums.Q), sums.Q, sums.W))
    if isinstance(got, Asymptotic):
        return replace(got, estimate=got.estimate + luck * sqrt(got.variance))
    return got


def _predicted(y: Moments, traffic: Traffic) -> Moments:
    """Of a prediction, from (1 + p - o) / 2: without the outcome, which varies as much or more."""
    known = traffic.constants.deviations.get("mean|")
    return Moments(y.mean, 4.0 * y.variance if known is None else known * known)


def _difference(ours: Moments, theirs: Moments, correlation: float) -> Moments:
    shared = 2.0 * correlation * sqrt(ours.variance * theirs.variance)
    return Moments(ours.mean - theirs.mean, max(0.0, ours.variance + theirs.variance - shared))


def _sums(n: float, of: Moments) -> Sums:
    return Sums(np.array([n]), np.array([n * of.mean]), np.array([n * (of.variance + of.mean**2)]))
