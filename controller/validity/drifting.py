"""Drift as information: how far predictions and inputs are apart, with sample sizes. Nothing here decides.

Three comparisons: the candidate with stable (over its epochs, each arm's shares averaged with the weights of
the test of the arms), stable now with its baseline, and the requests with what the training card declares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ...store.evidence import ArmKey, Evidence, SeriesKey
from ...store.rollouts import Drift, DriftBetween, EpochRecord, FrozenConstants, RolloutRecord
from ..analysis.sums import Sums, sums_of
from ..stats.distribution import ClassEpoch, equality_log_e
from ..stats.drift import drift
from ..stats.result import NotComputable
from .arrivals import class_epochs, inputs_of, randomised

Floats = NDArray[np.float64]

UNDECLARED: Final = 0.01
"""Share of requests beyond what the card declares, above which an alert is shown (by three sigma)."""

_RARE: Final = 0.02  # a rarer value of an input is counted with the others
_OUTSIDE: Final = ("below", "above", "new")
_ABSENT: Final = "missing"
_FEWEST: Final = 100.0
_ROUNDING: Final = 1e-6
_STICKY: Final = "equality is not tested: requests of one unit stay together, so they are not independent"
_SEVERAL: Final = "equality is not tested: a request has several predictions"

_CANDIDATE: Final[DriftBetween] = "candidate against stable"
_BASELINE: Final[DriftBetween] = "now against the baseline"
_CARD: Final[DriftBetween] = "requests against the training card"


def drifts(
    record: RolloutRecord, constants: FrozenConstants, evidence: Mapping[int, Evidence]
) -> tuple[Drift, ...]:
    """Everything that can be compared, predictions first, then inputs by name."""
    found = [*_predictions(record, constants, evidence)]
    for name in inputs_of(list(evidence.values())):
        found += _input(name, record, constants, evidence)
    return tuple(found)


def _predictions(
    record: RolloutRecord, constants: FrozenConstants, evidence: Mapping[int, Evidence]
) -> Iterator[Drift]:
    names = _bins(constants)
    if not names:
        return
    at = _positions(constants)
    epochs = [
        (epoch.weight, ours, theirs)
        for epoch in randomised(record)
        if (found := evidence.get(epoch.epoch)) is not None
        and (ours := _columns(found, "candidate", names)) is not None
        and (theirs := _columns(found, "stable", names)) is not None
    ]
    if epochs:
        counted = [
            ClassEpoch(weight, tuple(ours.counts), tuple(theirs.counts)) for weight, ours, theirs in epochs
        ]
        value: float | NotComputable = equality_log_e(counted)
        if constants.sticky:
            value = NotComputable(_STICKY)
        elif not all(ours.whole and theirs.whole for _, ours, theirs in epochs):
            value = NotComputable(_SEVERAL)
        yield _compared("predictions", _CANDIDATE, *_averaged(counted), at, value)
    else:
        paired = [
            pair
            for epoch in record.epochs
            if epoch.place == "shadow"
            and (found := evidence.get(epoch.epoch)) is not None
            and (pair := _pair_counts(found, names)) is not None
        ]
        if paired:
            stable = np.sum([one[0] for one in paired], axis=0)
            yield _compared("predictions", _CANDIDATE, stable, np.sum([one[1] for one in paired], axis=0), at)
    latest = _latest(record, evidence, names)
    if latest is not None and constants.shares:
        before = np.array([constants.shares.get(name, 0.0) for name in names]) * constants.requests
        yield _compared("predictions of stable", _BASELINE, before, latest, at)


class _Columns:
    """Requests per bin of one arm of one epoch. `whole`: each fell into one bin."""

    def __init__(self, columns: Sequence[Sums]) -> None:
        self.counts = np.array([max(0.0, float(one.y.sum())) for one in columns])
        self.whole = all(abs(float((one.y - one.square).sum())) < _ROUNDING for one in columns)


def _columns(found: Evidence, arm: ArmKey, names: Sequence[str]) -> _Columns | None:
    """None where one of the bins is absent or broken: the gate on them says so."""
    columns = [sums_of(found, SeriesKey(arm, "", name)) for name in names]
    good = [one for one in columns if isinstance(one, Sums)]
    return _Columns(good) if len(good) == len(names) else None


def _pair_counts(found: Evidence, names: Sequence[str]) -> tuple[Floats, Floats] | None:
    stable = _columns(found, "paired_stable", names)
    moved = [sums_of(found, SeriesKey("pair", "", name), low=-1.0) for name in names]
    good = [float(one.y.sum()) for one in moved if isinstance(one, Sums)]
    if stable is None or len(good) < len(names):
        return None
    return stable.counts, np.maximum(stable.counts + np.array(good), 0.0)


def _latest(record: RolloutRecord, evidence: Mapping[int, Evidence], names: Sequence[str]) -> Floats | None:
    """Stable's bins in the newest epoch that has them."""
    for epoch in reversed(record.epochs[1:]):
        found = evidence.get(epoch.epoch)
        got = None if found is None else _columns(found, "stable", names)
        if got is not None:
            return got.counts
    return None


def _bins(constants: FrozenConstants) -> tuple[str, ...]:
    if constants.classes:
        return (*(f"bin.{k}" for k in range(len(constants.classes))), "bin.other")
    return tuple(f"bin.{k}" for k in range(len(constants.edges) + 1)) if constants.edges else ()


def _positions(constants: FrozenConstants) -> Floats | None:
    """The middles of the bins in the prediction's own unit; classes have none."""
    if constants.classes or constants.limits is None:
        return None
    ends = np.array([0.0, *constants.edges, 1.0])
    low, high = constants.limits
    return np.asarray(low + (high - low) * 0.5 * (ends[:-1] + ends[1:]))


def _input(
    name: str, record: RolloutRecord, constants: FrozenConstants, evidence: Mapping[int, Evidence]
) -> Iterator[Drift]:
    what = f"input {name}"
    epochs = [epoch for epoch in randomised(record) if epoch.epoch in evidence]
    counted = _merged(_aligned(epochs, evidence, name))
    if counted:
        value: float | NotComputable = (
            NotComputable(_STICKY)
            if constants.sticky
            else equality_log_e(class_epochs(epochs, evidence, name))
        )
        yield _compared(what, _CANDIDATE, *_averaged(counted), None, value)
    now = _totals(record.epochs[1:], evidence, name)
    before = _totals(record.epochs[:1], evidence, name)
    if now and before:
        labels = sorted({*now, *before})
        both = _merged(
            [
                ClassEpoch(
                    0.5,
                    tuple(now.get(label, 0.0) for label in labels),
                    tuple(before.get(label, 0.0) for label in labels),
                )
            ]
        )[0]
        yield _compared(what, _BASELINE, np.array(both.counts_s), np.array(both.counts_c), None)
    yield from _beyond_card(what, now or before)


def _aligned(epochs: Sequence[EpochRecord], evidence: Mapping[int, Evidence], name: str) -> list[ClassEpoch]:
    """As `class_epochs`, with the same values in all epochs."""
    keys = (f"candidate|{name}", f"stable|{name}")
    labels = sorted(
        {label for epoch in epochs for key in keys for label in evidence[epoch.epoch].inputs.get(key, {})}
    )
    return [
        ClassEpoch(epoch.weight, *(tuple(float(counts.get(label, 0)) for label in labels) for counts in both))
        for epoch in epochs
        if all(both := [evidence[epoch.epoch].inputs.get(key, {}) for key in keys])
    ]


def _merged(epochs: list[ClassEpoch]) -> list[ClassEpoch]:
    """Rare values as one: a guard per bin would otherwise never be met."""
    if not epochs:
        return []
    total = np.sum([np.array(e.counts_c) + np.array(e.counts_s) for e in epochs], axis=0)
    often = total >= _RARE * total.sum()

    def told(counts: tuple[float, ...]) -> tuple[float, ...]:
        column = np.array(counts)
        rest = () if often.all() else (float(column[~often].sum()),)
        return (*(float(x) for x in column[often]), *rest)

    return [ClassEpoch(e.pi, told(e.counts_c), told(e.counts_s)) for e in epochs]


def _totals(epochs: Sequence[EpochRecord], evidence: Mapping[int, Evidence], name: str) -> dict[str, float]:
    total: dict[str, float] = {}
    for epoch in epochs:
        found = evidence.get(epoch.epoch)
        for arm in ("stable", "candidate") if found is not None else ():
            assert found is not None  # noqa: S101
            for label, count in found.inputs.get(f"{arm}|{name}", {}).items():
                total[label] = total.get(label, 0.0) + count
    return total


def _averaged(epochs: Sequence[ClassEpoch]) -> tuple[Floats, Floats]:
    """Stable's and the candidate's counts, shares averaged over epochs with n pi (1 - pi).

    Arms are not pooled: the share of the candidate and the traffic change together.
    """
    shares_s, shares_c = np.zeros(len(epochs[0].counts_s)), np.zeros(len(epochs[0].counts_c))
    weight = n_s = n_c = 0.0
    for e in epochs:
        theirs, ours = np.array(e.counts_s), np.array(e.counts_c)
        if theirs.sum() <= 0.0 or ours.sum() <= 0.0:
            continue
        here = float(theirs.sum() + ours.sum()) * e.pi * (1.0 - e.pi)
        shares_s += here * theirs / theirs.sum()
        shares_c += here * ours / ours.sum()
        weight, n_s, n_c = weight + here, n_s + float(theirs.sum()), n_c + float(ours.sum())
    scale = 1.0 / weight if weight > 0.0 else 0.0
    return np.asarray(shares_s * scale * n_s), np.asarray(shares_c * scale * n_c)


def _compared(
    what: str,
    between: DriftBetween,
    reference: Floats,
    now: Floats,
    positions: Floats | None,
    equality: float | NotComputable | None = None,
) -> Drift:
    log_e = equality if isinstance(equality, float) and isfinite(equality) else None
    notes = [equality.reason] if isinstance(equality, NotComputable) else []
    got = drift(reference, now, positions=positions)
    sizes = float(reference.sum()), float(now.sum())
    if isinstance(got, NotComputable):
        return Drift(what, between, *sizes, int(now.size), log_e=log_e, note="; ".join([got.reason, *notes]))
    return Drift(
        what, between, *sizes, int(now.size),
        psi=got.psi, js=got.js, ks=got.ks, wasserstein=got.wasserstein,
        chi_squared=got.chi_squared.statistic, df=got.chi_squared.df, log_e=log_e, note="; ".join(notes),
    )  # fmt: skip


def _beyond_card(what: str, counts: Mapping[str, float]) -> Iterator[Drift]:
    """Values that the training card does not declare, as a share of the requests that have one."""
    n = sum(count for label, count in counts.items() if label != _ABSENT)
    outside = {label: counts[label] for label in _OUTSIDE if counts.get(label, 0.0) > 0.0}
    if n < _FEWEST:
        return
    share = sum(outside.values()) / n
    alert = share - 3.0 * sqrt(share * (1.0 - share) / n) > UNDECLARED
    parts = ", ".join(f"{count / n:.2%} {label}" for label, count in outside.items())
    yield Drift(
        what,
        _CARD,
        0.0,
        n,
        0,
        note=f"{share:.2%} are not declared{f': {parts}' if parts else ''}",
        alert=alert,
    )
