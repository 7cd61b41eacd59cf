"""Evidence as arrays: one series' sums over the epochs of one place, checked before anything uses them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ...policies.policy import Place
from ...store.evidence import ArmKey, Evidence, SeriesKey
from ...store.histogram import BINS, GAMMA
from ...store.rollouts import EpochRecord, FrozenConstants, RolloutRecord
from ..evidence.columns import StoredSeries
from .groups import members_of, moment_of

Floats = NDArray[np.float64]

T = TypeVar("T")


FEWEST_FOR_A_QUANTILE = 100

_SHARES = frozenset({"agreement", "explanation"})  # of pairs: how alike; others are differences
ROUNDING = 1e-6
MOST = 2.0**53 / 128  # whole numbers up to here add up exactly over all clusters


@dataclass(frozen=True, slots=True)
class Broken:
    """Sums that cannot be right, and why: nothing may be decided from them, in either direction."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Per cluster (length 1 or G): number of observations, sum of y, sum of y squared."""

    n: Floats
    y: Floats
    square: Floats


@dataclass(frozen=True, slots=True, eq=False)
class CanaryEpoch:
    """Both randomised arms of one epoch. `weight`: the candidate's share. `open_*`: not yet accounted.

    `overdue`: share of the candidate's requests that were accounted while still open, which is no error that
    was seen, beyond stable's own share of those. Known for errors only, else 0.
    """

    step: int
    weight: float
    centre: float
    candidate: Sums
    stable: Sums
    open_candidate: float
    open_stable: float
    overdue: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class PairEpoch:
    """Differences on the same requests, and stable's side of those pairs."""

    step: int
    share: float
    pair: Sums
    stable: Sums | None


@dataclass(frozen=True, slots=True, eq=False)
class GroupsEpoch:
    """Two groups of one randomised epoch."""

    step: int
    group: CanaryEpoch
    against: CanaryEpoch


@dataclass(frozen=True, slots=True, eq=False)
class PairGroupsEpoch:
    """Two groups of one epoch's pairs."""

    step: int
    group: PairEpoch
    against: PairEpoch


class View:
    """One look at a rollout's evidence. Arrays are made once per series, whoever asks."""

    def __init__(
        self, record: RolloutRecord, constants: FrozenConstants, evidence: Mapping[int, Evidence]
    ) -> None:
        self._epochs = record.epochs
        self._constants = constants
        self._evidence = evidence
        self._arrays: dict[tuple[int, SeriesKey], Sums | Broken | None] = {}

    @property
    def constants(self) -> FrozenConstants:
        """Of the rollout."""
        return self._constants

    def epochs(self, place: Place) -> Iterator[tuple[EpochRecord, int, Evidence]]:
        """The epochs of a place that have evidence, each with its step."""
        for epoch in self._epochs:
            found = self._evidence.get(epoch.epoch)
            if epoch.place == place and epoch.step is not None and found is not None:
                yield epoch, epoch.step, found

    def canary(self, group: str, candidate: str, stable: str) -> list[CanaryEpoch] | Broken:
        """The randomised epochs in which both arms have the series; epochs without traffic are left out."""
        found = self._randomised(group, candidate, stable)
        if isinstance(found, Broken):
            return found
        epochs = list(found.values())
        return _alike(epochs, (sums for epoch in epochs for sums in (epoch.candidate, epoch.stable)))

    def _randomised(self, group: str, candidate: str, stable: str) -> dict[int, CanaryEpoch] | Broken:
        """By number of the epoch."""
        epochs: dict[int, CanaryEpoch] = {}
        for epoch, step, found in self.epochs("canary"):
            ours = self._sums(epoch.epoch, found, "candidate", group, candidate, low=0.0)
            theirs = self._sums(epoch.epoch, found, "stable", group, stable, low=0.0)
            if isinstance(ours, Broken):
                return ours
            if isinstance(theirs, Broken):
                return theirs
            if (ours is None and theirs is None) or not 0.0 < epoch.weight < 1.0:
                continue
            like = ours or theirs
            assert like is not None  # noqa: S101 (one of the two exists)
            epochs[epoch.epoch] = CanaryEpoch(
                step, epoch.weight, self._centre(epoch, candidate, group),
                ours or _nothing(like), theirs or _nothing(like),
                float(found.open.get("candidate", 0)), float(found.open.get("stable", 0)),
                overdue(found) if candidate == "errors" else 0.0,
            )  # fmt: skip
        return epochs

    def pairs(self, place: Place, group: str, series: str) -> list[PairEpoch] | Broken:
        """The epochs of a place in which pairs have the series."""
        found = self._on_pairs(place, group, series)
        if isinstance(found, Broken):
            return found
        return _alike(list(found.values()), (epoch.pair for epoch in found.values()))

    def _on_pairs(self, place: Place, group: str, series: str) -> dict[int, PairEpoch] | Broken:
        """By number of the epoch."""
        low = least_of_pairs(series)
        epochs: dict[int, PairEpoch] = {}
        for epoch, step, found in self.epochs(place):
            pair = self._sums(epoch.epoch, found, "pair", group, series, low=low)
            stable = self._sums(epoch.epoch, found, "paired_stable", group, series, low=0.0)
            if isinstance(pair, Broken):
                return pair
            if isinstance(stable, Broken):
                return stable
            if pair is not None:
                share = epoch.mirrored if place == "shadow" else epoch.mirror_back
                epochs[epoch.epoch] = PairEpoch(step, share, pair, stable)
        return epochs

    def groups(
        self, place: Place, group: str, against: str, series: str
    ) -> list[GroupsEpoch] | list[PairGroupsEpoch] | Broken:
        """Two groups' epochs side by side; those in which either has none are left out."""
        if place == "canary":
            return self._canary_groups(group, against, series)
        return self._paired_groups(place, group, against, series)

    def _canary_groups(self, group: str, against: str, series: str) -> list[GroupsEpoch] | Broken:
        one, other = (self._randomised(name, series, series) for name in (group, against))
        if isinstance(one, Broken):
            return one
        if isinstance(other, Broken):
            return other
        epochs = [GroupsEpoch(one[at].step, one[at], other[at]) for at in one if at in other]
        sides = (side for epoch in epochs for side in (epoch.group, epoch.against))
        return _alike(epochs, (sums for side in sides for sums in (side.candidate, side.stable)))

    def _paired_groups(
        self, place: Place, group: str, against: str, series: str
    ) -> list[PairGroupsEpoch] | Broken:
        one, other = (self._on_pairs(place, name, series) for name in (group, against))
        if isinstance(one, Broken):
            return one
        if isinstance(other, Broken):
            return other
        epochs = [PairGroupsEpoch(one[at].step, one[at], other[at]) for at in one if at in other]
        return _alike(epochs, (side.pair for epoch in epochs for side in (epoch.group, epoch.against)))

    def _centre(self, epoch: EpochRecord, series: str, group: str) -> float:
        for moments in (epoch.centres, self._constants.centres):
            found = moment_of(moments, series, group, self._constants)
            if found is not None:
                return found
        return 0.5

    def beside_noise(self, place: Place, *, failures: bool = False) -> list[PairEpoch] | Broken:
        """The epochs in which candidate and stable were compared; `stable`: stable with itself.

        `failures`: stable that did not answer the second time disagrees with itself, as a candidate does.
        """
        epochs: list[PairEpoch] = []
        for epoch, step, found in self.epochs(place):
            pair = self._sums(epoch.epoch, found, "pair", "", "agreement", low=0.0)
            floor = self._sums(epoch.epoch, found, "floor", "", "agreement", low=0.0)
            if isinstance(pair, Broken):
                return pair
            if isinstance(floor, Broken):
                return floor
            if failures:
                lacking = self._sums(epoch.epoch, found, "floor", "", "missing", low=0.0)
                floor = _disagreeing(floor, lacking)
                if isinstance(floor, Broken):
                    return floor
            if pair is not None:
                share = epoch.mirrored if place == "shadow" else epoch.mirror_back
                epochs.append(PairEpoch(step, share, pair, floor if floor is not None else _nothing(pair)))
        return _alike(epochs, (sums for e in epochs for sums in (e.pair, e.stable) if sums is not None))

    def filled(self, place: Place, group: str, series: str) -> bool:
        """True where the candidate's side has any observation of a series."""
        arm: ArmKey = "pair" if place == "shadow" or series in _SHARES else "candidate"
        names = {series, f"{series}.over"}  # a latency has parts
        return any(
            SeriesKey(arm, member, name) in found.series
            for _, _, found in self.epochs(place)
            for name in names
            for member in members_of(group, self._constants)
        )

    def thresholds(self, metric: str) -> tuple[int, int, int]:
        """Latency bins of the latest epoch that has them: over, mid, far."""
        known = (epoch.thresholds[metric] for epoch in reversed(self._epochs) if metric in epoch.thresholds)
        return next(known, (0, 0, 0))

    def latency_factor(self, metric: str, q: float, place: Place = "canary") -> float | None:
        """Candidate's quantile over stable's in the latest epoch of a place with enough answers of both."""
        arms = ("candidate" if place == "canary" else "pair", "stable")
        for _, _, found in reversed(list(self.epochs(place))):
            histograms = found.latency if metric.startswith("latency.") else found.first_token
            ours, theirs = (_quantile(histograms.get(arm, {}), q) for arm in arms)
            if ours is not None and theirs is not None:
                return float(GAMMA ** (ours - theirs))
        return None

    def _sums(
        self, epoch: int, found: Evidence, arm: ArmKey, group: str, metric: str, *, low: float
    ) -> Sums | Broken | None:
        key = SeriesKey(arm, group, metric)
        place = (epoch, key)
        if place not in self._arrays:
            parts = [
                sums_of(found, SeriesKey(arm, member, metric), low=low)
                for member in members_of(group, self._constants)
            ]
            self._arrays[place] = parts[0] if len(parts) == 1 else _added(parts)
        return self._arrays[place]


def _disagreeing(agreed: Sums | None, lacking: Sums | Broken | None) -> Sums | Broken | None:
    """Agreement with requests added that do not agree."""
    if lacking is None or isinstance(lacking, Broken):
        return lacking or agreed
    none = Sums(lacking.n, np.zeros_like(lacking.n), np.zeros_like(lacking.n))
    return _added((agreed, none))


def _added(parts: Iterable[Sums | Broken | None]) -> Sums | Broken | None:
    """The sums of several groups together; None where none of them has any."""
    total: Sums | None = None
    for part in parts:
        if isinstance(part, Broken):
            return part
        if part is not None and total is not None:
            if part.n.size != total.n.size:
                return Broken("groups that are judged together have different numbers of clusters")
            part = Sums(total.n + part.n, total.y + part.y, total.square + part.square)  # noqa: PLW2901
        total = part or total
    return total


def least_of_pairs(series: str) -> float:
    """The least y that a pair can have: most are differences."""
    return 0.0 if series in _SHARES or series == "uncertainty.coverage" else -1.0


def sums_of(evidence: Evidence, key: SeriesKey, *, low: float = 0.0) -> Sums | Broken | None:
    """One series as arrays, None where it does not exist, Broken where no y in [low, 1] has such sums."""
    series = evidence.series.get(key)
    if series is None:
        return None
    name = f"{key.arm} {key.metric}{f' of {key.slice}' if key.slice else ''}"
    if not len(series.n) == len(series.sum) == len(series.square) or not len(series.n):
        lengths = f"{len(series.n)}, {len(series.sum)} and {len(series.square)}"
        return Broken(f"the sums of {name} have unequal lengths ({lengths})")
    columns = np.array((series.n, series.sum, series.square), float)
    sums = Sums(*columns)
    beyond = np.abs(columns).max()
    if not np.isfinite(beyond):
        return Broken(f"the sums of {name} are not finite")
    if beyond > MOST:
        return Broken(f"the sums of {name} are beyond what can be counted")
    if sums.n.min() < 0.0:
        return Broken(f"the sums of {name} have a negative count")
    most = sums.n + ROUNDING
    if (sums.y > most).any() or (sums.y < low * most - ROUNDING).any() or (sums.square > most).any():
        return Broken(f"the sums of {name} cannot come from values between {low:g} and 1")
    if (np.abs(sums.y) > np.sqrt(np.maximum(sums.square, 0.0) * sums.n) + ROUNDING * most).any():
        return Broken(f"the sums of {name} contradict each other")
    return sums


def totals_of(evidence: Evidence, key: SeriesKey) -> tuple[float, float] | Broken | None:
    """n and Σy of one series over all clusters, as `sums_of` says."""
    if isinstance(evidence.series, StoredSeries):
        counted = evidence.series.counted(key)
        if counted is not None:
            return counted
    sums = sums_of(evidence, key)
    return (float(sums.n.sum()), float(sums.y.sum())) if isinstance(sums, Sums) else sums


def overdue(found: Evidence) -> float:
    """The candidate's share of requests accounted while still open, beyond stable's.

    Each request of an arm has failed, was left by its client, has a latency, or was still open. 0 where no
    latency is known.
    """
    if not found.latency.get("stable"):
        return 0.0
    shares: list[float] = []
    for arm in ("candidate", "stable"):
        errors, left = (
            totals_of(found, SeriesKey(arm, "", metric)) for metric in ("errors", "client_disconnects")
        )
        if errors is None or isinstance(errors, Broken) or isinstance(left, Broken) or errors[0] <= 0.0:
            return 0.0
        ended = errors[1] + (left[1] if left is not None else 0.0)
        ended += sum(found.latency.get(arm, {}).values())
        shares.append(min(1.0, max(0.0, 1.0 - ended / errors[0])))
    return max(0.0, shares[0] - shares[1])


def _quantile(counts: Mapping[int, int], q: float) -> int | None:
    """Bin of a quantile of one arm's times; None with too few to say."""
    total = sum(counts.values())
    if total < FEWEST_FOR_A_QUANTILE:
        return None
    seen = 0
    for index in sorted(counts):
        seen += counts[index]
        if seen >= q * total:
            return min(max(index, 0), BINS - 1)
    return None


def _nothing(like: Sums) -> Sums:
    zero = np.zeros_like(like.n)
    return Sums(zero, zero, zero)


def _alike(epochs: list[T], sums: Iterable[Sums]) -> list[T] | Broken:
    lengths = {one.n.size for one in sums}
    if len(lengths) > 1:
        return Broken(f"a series has {' and '.join(map(str, sorted(lengths)))} clusters in different places")
    return epochs
