"""From sums to something that can be tested: which statistic a comparison uses, and when it falls back.

    errors, missing, latency in the canary    time clusters, P4
    predictions in the canary                 P1; P4 over clusters of units where the plan is sticky
    anything on pairs                         batches of time, P4
    few events, or none that differ           P1 on the absolute margin, shown as such

(Design names: P1 bounded mean, P4 asymptotic mixture.) Time clusters and batches are cyclic over 128: after
128 of them a cluster holds several, far apart in time, and stays one observation of the variance. The open
batch at the end counts with what it has, which a ratio of sums does not mind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt

import numpy as np

from ..stats import asymptotic
from ..stats.clusters import (
    FEWEST_EVENTS,
    FEWEST_EXPECTED,
    ClusterEpoch,
    batch_estimate,
    cluster_estimate,
)
from ..stats.mean import (
    MeanEpoch,
    MeanStatistic,
    at_least_statistic,
    mean_statistic,
    paired_statistic,
)
from ..stats.mixture import gamma_exponential_bound
from ..stats.result import NotComputable
from ..stats.tuning import RANDOMISED, asymptotic_v_opt, mean_v_opt
from .sums import CanaryEpoch, PairEpoch, Sums

FEWEST_BATCHES_THAT_DIFFER = 10

UNLIKE = 0.02  # share of an arm's values that may be missing on one side; half of a 0.1 sd margin at worst
GROSSLY_UNLIKE = 0.5  # where requests of one unit may come together, and events are rare on both sides
BEYOND_CHANCE = 4.5  # standard deviations; read at every look for weeks

BOUNDED = "P1 bounded mean"
FEW = "P1 bounded mean (few events, assumed unclustered)"
TIME = "P4 time clusters (asymptotic)"
UNITS = "P4 clusters of units (asymptotic)"
BATCHES = "P4 batches of pairs (asymptotic)"


@dataclass(frozen=True, slots=True)
class Bounded:
    """A bounded mean, exact at every look. `variance`: of y, frozen, for tuning only."""

    statistic: MeanStatistic
    variance: float
    method: str
    n_candidate: float
    n_stable: float
    harmless: bool = False  # it bounds the effect from above only, so it proves safety and never harm

    @property
    def estimate(self) -> float:
        """Candidate minus stable, in units of y."""
        return self.statistic.estimate

    def harm(self, null: float, gap: float, level: float) -> float | NotComputable:
        """Log E-value against "effect <= null"."""
        if self.harmless:
            return 0.0
        return self.statistic.log_e_harm(null, self._v_opt(gap, level), level)

    def safe(self, null: float, gap: float, level: float) -> float | NotComputable:
        """Log E-value against "effect >= null"."""
        return self.statistic.log_e_safe(null, self._v_opt(gap, level), level)

    def reach(self, gap: float, level: float) -> float:
        """Half the width of the confidence sequence at a level."""
        v_opt = self._v_opt(gap, level)
        return gamma_exponential_bound(self.statistic.Q, v_opt=v_opt, level=level) / self.statistic.W

    def _v_opt(self, gap: float, level: float) -> float:
        # Pairs are tuned to a variance of 0, which has no scale.
        return mean_v_opt(self.variance, gap, level, scale=RANDOMISED)

    def counting(self, share: float) -> Bounded:
        """The same with every observation worth `share` of one."""
        got = self.statistic
        return replace(self, statistic=MeanStatistic(got.S * share, got.Q * share, got.W * share))

    def mirrored(self) -> Bounded:
        """The same with the sign of the effect turned."""
        turned = MeanStatistic(-self.statistic.S, self.statistic.Q, self.statistic.W)
        return replace(self, statistic=turned)


@dataclass(frozen=True, slots=True)
class Asymptotic:
    """An estimate with its variance. `expected`: candidate events if there were no effect (None: no events);
    non-inferiority needs enough of them, and of non-events, at its null. `base`: the rate that a shortfall
    between groups is told in parts of.
    """

    estimate: float
    variance: float
    df: float
    method: str
    n_candidate: float
    n_stable: float
    expected: float | None = None
    base: float = 1.0

    def harm(self, null: float, gap: float, level: float) -> float | NotComputable:
        """Log E-value against "effect <= null"."""
        v_opt = asymptotic_v_opt(gap, level)
        return asymptotic.log_e_harm(self.estimate, self.variance, null, v_opt=v_opt, level=level, df=self.df)

    def safe(self, null: float, gap: float, level: float) -> float | NotComputable:
        """Log E-value against "effect >= null"."""
        if self.expected is not None:
            expected = self.expected + null * self.n_candidate
            if min(expected, self.n_candidate - expected) < FEWEST_EXPECTED:
                return NotComputable(
                    f"{max(0.0, expected):.0f} such requests of the candidate are expected at the margin "
                    f"so far; at least {FEWEST_EXPECTED:g} (and as many others) are needed"
                )
        v_opt = asymptotic_v_opt(gap, level)
        return asymptotic.log_e_safe(self.estimate, self.variance, null, v_opt=v_opt, level=level, df=self.df)

    def reach(self, gap: float, level: float) -> float:
        """Half the width of the confidence sequence at a level; infinite where there is no bound."""
        v_opt = asymptotic_v_opt(gap, level)
        ends = asymptotic.interval(
            self.estimate, self.variance, v_opt=v_opt, level_low=level, level_high=level, df=self.df
        )
        return inf if isinstance(ends, NotComputable) else ends[1] - self.estimate

    def mirrored(self) -> Asymptotic:
        """The same with the sign of the effect turned."""
        expected = None if self.expected is None else self.n_candidate - self.expected
        return replace(self, estimate=-self.estimate, expected=expected)


Measured = Bounded | Asymptotic


def server_outcomes(
    epochs: Sequence[CanaryEpoch], *, ratio: float = 1.0, worst_case: bool = False, absolute: bool = True,
    may_lack: float = 1.0,
) -> Measured | NotComputable:  # fmt: skip
    """Outcomes that depend on the server's state: candidate's rate minus `ratio` times stable's.

    `worst_case`: open candidate requests count as events, open stable ones as none. `absolute`: with few
    events an absolute margin can still be decided (a ratio and a quantile cannot). `may_lack`: the
    share of the candidate's y that may be missing, where not every request has one (see `lacking_share`).
    """
    # Open requests are no events that were seen: they must not make many out of few.
    seen = sum(float(epoch.candidate.y.sum() + epoch.stable.y.sum()) for epoch in epochs)
    if worst_case:
        epochs = [_worst_case(epoch) for epoch in epochs]
    lacking = unlike_weights(epochs, may_lack, candidate_only=True) if may_lack < 1.0 else None
    if lacking is not None:
        return lacking
    got = cluster_estimate([_clusters(epoch) for epoch in epochs], ratio)
    if isinstance(got, NotComputable):
        return got
    if got.variance == 0.0 or seen < FEWEST_EVENTS:
        if not absolute or ratio != 1.0:
            return NotComputable(f"only {seen:.0f} such requests so far, too few to compare by a factor")
        return unlike_weights(epochs, GROSSLY_UNLIKE) or _randomised(epochs, None, FEW)
    return Asymptotic(got.estimate, got.variance, got.df, TIME, got.n_c, got.n_s, got.expected_c)


def unit_outcomes(
    epochs: Sequence[CanaryEpoch], *, sticky: bool, counted: bool, variance: float
) -> Measured | NotComputable:
    """What depends on the request alone: predictions of both arms. `counted`: y is a share of events."""
    if not sticky:
        return unlike_weights(epochs, UNLIKE) or _randomised(epochs, variance, BOUNDED)
    if any(epoch.candidate.n.size == 1 for epoch in epochs):
        return NotComputable("requests of one unit stay together, but their sums were not kept by unit")
    got = unlike_weights(epochs, GROSSLY_UNLIKE) or cluster_estimate([_clusters(epoch) for epoch in epochs])
    if isinstance(got, NotComputable):
        return got
    events = got.events_c + got.events_s
    if got.variance == 0.0 or (counted and min(events, got.n_c + got.n_s - events) < FEWEST_EVENTS):
        few = _randomised(epochs, variance, FEW)
        return few if isinstance(few, NotComputable) else few.counting(_units_per_request(epochs))
    expected = got.expected_c if counted else None
    return Asymptotic(got.estimate, got.variance, got.df, UNITS, got.n_c, got.n_s, expected)


def unit_share(epochs: Sequence[CanaryEpoch], *, least: float, sticky: bool) -> Measured | NotComputable:
    """The candidate's own mean, minus the `least` that is asked for; stable has no part in it."""
    both = pooled([epoch.candidate for epoch in epochs])
    n, y = float(both.n.sum()), float(both.y.sum())
    if not sticky:
        return bounded(at_least_statistic(n, y, float(both.square.sum()), least), n)
    got = batch_estimate(both.n, both.y - least * both.n)
    if isinstance(got, NotComputable):
        return got
    if got.variance == 0.0 or min(n - y, y) < FEWEST_EVENTS:
        few = bounded(at_least_statistic(n, y, float(both.square.sum()), least), n)
        return few if isinstance(few, NotComputable) else few.counting(_units_per_request(epochs))
    return Asymptotic(got.estimate, got.variance, got.df, UNITS, n, n, least * n)


def paired_differences(
    epochs: Sequence[PairEpoch], *, ratio: float = 1.0, counted: bool, autocorrelation: float
) -> Measured | NotComputable:
    """Mean of candidate minus `ratio` times stable over pairs of the same request.

    `counted`: y is 0, 1 or a share of events. `autocorrelation`: pairs that are worth one, when few differ.
    """
    both = pooled([epoch.pair for epoch in epochs])
    n, d, square = both.n, both.y, both.square
    pairs = float(n.sum())
    known = [epoch.stable for epoch in epochs if epoch.stable is not None and epoch.stable.n.size == n.size]
    theirs = pooled(known).y if len(known) == len(epochs) else None
    if ratio != 1.0 and theirs is None:
        return NotComputable("stable's side of the pairs is not in the evidence")
    base = np.zeros_like(n) if theirs is None else theirs
    got = batch_estimate(n, (d + (1.0 - ratio) * base) / ratio)
    if isinstance(got, NotComputable):
        return got
    differ = float(square.sum()) if counted else inf
    few = int(np.count_nonzero(square > 0.0)) < FEWEST_BATCHES_THAT_DIFFER or differ < FEWEST_EVENTS
    if ratio != 1.0:
        events = float(2.0 * base.sum() + d.sum())
        if got.variance == 0.0 or events < FEWEST_EVENTS:
            return NotComputable(f"only {events:.0f} such requests so far, too few to compare by a factor")
        expected = ratio * float(base.sum())
        estimate, variance = got.estimate * ratio, got.variance * ratio**2
        return Asymptotic(estimate, variance, got.df, BATCHES, pairs, pairs, expected)
    if got.variance == 0.0 or few:
        return bounded(
            paired_statistic(pairs, float(d.sum()), float(square.sum()), pairs / autocorrelation), pairs
        )
    return Asymptotic(
        got.estimate, got.variance, got.df, BATCHES, pairs, pairs, float(base.sum()) if counted else None
    )


def paired_agreement(
    epochs: Sequence[PairEpoch], *, least: float, autocorrelation: float
) -> Measured | NotComputable:
    """Share of pairs that agree, minus the `least` that is asked for."""
    both = pooled([epoch.pair for epoch in epochs])
    n, y = both.n, both.y
    pairs = float(n.sum())
    got = batch_estimate(n, y - least * n)
    if isinstance(got, NotComputable):
        return got
    if got.variance == 0.0 or min(pairs - float(y.sum()), float(y.sum())) < FEWEST_EVENTS:
        effective, agreed, squares = (float(column.sum()) / autocorrelation for column in (n, y, both.square))
        return bounded(at_least_statistic(effective, agreed, squares, least), pairs)
    return Asymptotic(got.estimate, got.variance, got.df, BATCHES, pairs, pairs, least * pairs)


def lacking_share(*, sticky: bool) -> float:
    """How many of the candidate's values may be missing before nothing is proven from the others.

    Answers that are too long to be captured have none, so those left may be the harmless ones. Heavy users
    of a sticky service make the arms' counts differ by themselves.
    """
    return GROSSLY_UNLIKE if sticky else UNLIKE


def unlike_weights(
    epochs: Sequence[CanaryEpoch], tolerated: float, *, candidate_only: bool = False
) -> NotComputable | None:
    """Say so where one arm lacks observations that its weight gives it.

    A bounded mean weighs by both arms' counts, so stable's alone would prove a candidate without values; and
    which ones are missing may be what differs. `candidate_only`: stable may lack as many as it likes.
    """
    gap = variance = ours = due = 0.0
    for epoch in epochs:
        n_c, n_s = float(epoch.candidate.n.sum()), float(epoch.stable.n.sum())
        gap += n_c - epoch.weight * (n_c + n_s)
        variance += (n_c + n_s) * epoch.weight * (1.0 - epoch.weight)
        ours += n_c
        due += n_s * epoch.weight / (1.0 - epoch.weight)
    share = abs(ours - due) / max(ours, due, 1.0)
    if share <= tolerated or abs(gap) <= BEYOND_CHANCE * sqrt(variance) or (candidate_only and gap > 0.0):
        return None
    return NotComputable(
        f"{ours:.0f} values of the candidate where stable's are worth {due:.0f} at its weights: "
        f"{share:.0%} of one side are missing, so the two cannot be compared"
    )


def _units_per_request(epochs: Sequence[CanaryEpoch]) -> float:
    """How many units one request of them is worth, at most 1; of the arm where that is less.

    Units are spread over the clusters at random: the fewer carry the requests, the less even the clusters
    are. With a_u requests of unit u, the sum of (n_j - mean)^2 is (1 - 1/G) of the sum of a_u^2 on average.
    """
    worth = 1.0
    for arms in ([epoch.candidate.n for epoch in epochs], [epoch.stable.n for epoch in epochs]):
        n = np.sum(arms, axis=0)
        squares = float(np.square(n - n.mean()).sum()) * n.size / (n.size - 1.0)
        if squares > 0.0:
            worth = min(worth, float(n.sum()) / squares)
    return worth


def _randomised(
    epochs: Sequence[CanaryEpoch], variance: float | None, method: str
) -> Bounded | NotComputable:
    got = mean_statistic([_mean_epoch(epoch) for epoch in epochs])
    if isinstance(got, NotComputable):
        return got
    if variance is None:
        centre = epochs[0].centre
        variance = centre * (1.0 - centre)
    n_candidate = sum(float(epoch.candidate.n.sum()) for epoch in epochs)
    n_stable = sum(float(epoch.stable.n.sum()) for epoch in epochs)
    return Bounded(got, variance, method, n_candidate, n_stable)


def bounded(got: MeanStatistic | NotComputable, pairs: float) -> Bounded | NotComputable:
    """A bounded mean of few events, of so many pairs."""
    return got if isinstance(got, NotComputable) else Bounded(got, 0.0, FEW, pairs, pairs)


def _mean_epoch(epoch: CanaryEpoch) -> MeanEpoch:
    ours, theirs = epoch.candidate, epoch.stable
    return MeanEpoch(
        epoch.weight, epoch.centre,
        float(ours.n.sum()), float(ours.y.sum()), float(ours.square.sum()),
        float(theirs.n.sum()), float(theirs.y.sum()), float(theirs.square.sum()),
    )  # fmt: skip


def _clusters(epoch: CanaryEpoch) -> ClusterEpoch:
    return ClusterEpoch(epoch.weight, epoch.candidate.n, epoch.candidate.y, epoch.stable.n, epoch.stable.y)


def _worst_case(epoch: CanaryEpoch) -> CanaryEpoch:
    """Open requests added in proportion to the clusters: it is not known in which of them they began.

    The candidate's overdue requests are in its sums already, as no events; here they count as some.
    """
    return replace(
        epoch,
        candidate=_with_open(_with_overdue(epoch.candidate, epoch.overdue), epoch.open_candidate, 1.0),
        stable=_with_open(epoch.stable, epoch.open_stable, 0.0),
    )


def _with_open(sums: Sums, count: float, y: float) -> Sums:
    total = float(sums.n.sum())
    if count <= 0.0:
        return sums
    # Where none has ended yet there is no proportion either.
    more = sums.n * (count / total) if total > 0.0 else np.full_like(sums.n, count / sums.n.size)
    return Sums(sums.n + more, sums.y + y * more, sums.square + y * more)


def _with_overdue(sums: Sums, share: float) -> Sums:
    if share <= 0.0:
        return sums
    more = np.minimum(sums.n * share, sums.n - sums.y)
    return Sums(sums.n, sums.y + more, sums.square + more)


def pooled(parts: Sequence[Sums]) -> Sums:
    """Sums of pairs over epochs, cluster by cluster; of arms they must never be pooled."""
    total = parts[0]
    for more in parts[1:]:
        total = Sums(total.n + more.n, total.y + more.y, total.square + more.square)
    return total
