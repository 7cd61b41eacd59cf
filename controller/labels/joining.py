"""Predictions and what turned out to be true, joined and turned into sums. Pure.

What a row adds is a function of the row and of what of it is in the sums (COUNTED, VALUED, GROUPED); folding
adds that of the new marks less that of the old ones. So the sums are the same in whatever order a prediction,
its label and its groups came, and however many folds they took.

One request is one observation: its instances are averaged. Series, per arm, overall and per group asked for:

    labelled                    over mature predictions: y = 1 where the label is known
    labelled.selected           the same over predictions of which an instance is selected
    labelled.mismatched         over known labels: y = 1 where it has another number of values than instances
    outcome.accuracy            y = share of instances that were right
    outcome.brier               (p - o)^2
    outcome.recall              over true cases: y = share predicted positive
    outcome.false_positive_rate over false cases: y = share predicted positive
    outcome.calibration         (1 + p - o) / 2
    uncertainty.coverage        y = share of outcomes inside the stated interval
    labelled.bin.K              of binary outcomes whose p is in bin K: (1 + p - o) / 2, for `reported` alone

`pair` holds the candidate's y less stable's on instances where both have one (p_c - p_s for calibration), and
the candidate's own y for coverage and bins; `paired_stable` holds stable's y of those, and its own bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import eq, ge, gt, le, lt, ne
from typing import Any, Final, Literal, TypeVar

import msgspec

from ...store.evidence import LABELS, WIRE, ArmKey, Evidence, Series, SeriesKey
from ...store.labels import COUNTED, GROUPED, PAIR, VALUED, Joined, Prediction, Value
from ...store.measurement import CLUSTERS, Selected
from ..analysis.reference import scaled
from ..stats.calibration import BINS

LABELLED: Final = "labelled"
SELECTED: Final = "labelled.selected"
MISMATCHED: Final = "labelled.mismatched"
INSIDE: Final = "uncertainty.coverage"
CALIBRATION: Final = "outcome.calibration"
_RELIABILITY: Final = "labelled.bin."

_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">=": ge, ">": gt, "<=": le, "<": lt, "==": eq, "!=": ne,
}  # fmt: skip

T = TypeVar("T")
Stated = tuple[float, float] | None
Term = tuple[float, float, float]  # n, sum of y, sum of y squared


@dataclass(frozen=True, slots=True)
class Meaning:
    """How values and labels are read, and which series are kept.

    `limits`: of numbers, which become 0..1 by them. `selected`: what a positive prediction is; without it no
    number is known to be, so that none is right, found or flagged. `sliced`: series -> slices it is also in.
    """

    outcome: Literal["binary", "number", "label"]
    wanted: frozenset[str]
    limits: tuple[float, float] | None = None
    selected: Selected | None = None
    agree_within: float | None = None
    sticky: bool = False
    sliced: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])


def fold(
    service: str, rows: Sequence[Joined], held: Iterable[Evidence], meaning: Meaning, now: float
) -> tuple[tuple[Joined, ...], tuple[Evidence, ...]]:
    """The rows with their new marks, and the sums of every epoch that they change.

    `held`: evidence of the source LABELS as it stands. None of it is changed.
    """
    marked = tuple(msgspec.structs.replace(row, folded=_marks(row)) for row in rows)
    totals = {one.epoch: one for one in held if one.source == LABELS}
    changed: dict[int, Evidence] = {}
    for before, after in zip(rows, marked, strict=True):
        epoch = after.prediction.epoch
        if epoch not in changed:
            changed[epoch] = _copied(service, totals.get(epoch), after.prediction, now)
        _add(changed[epoch], before, after, meaning)
    return marked, tuple(changed.values())


def terms(row: Joined, meaning: Meaning) -> dict[SeriesKey, Term]:
    """What a row adds with the marks that it has."""
    found: dict[SeriesKey, Term] = {}
    if not row.folded & COUNTED:
        return found
    prediction = row.prediction
    values = row.label.values if row.label is not None and row.folded & VALUED else ()
    arm: ArmKey = "pair" if prediction.kind == PAIR else "candidate" if prediction.arm else "stable"
    count = len(prediction.sides[0])
    fits = len(values) == count
    chosen = any(_positive(value, meaning) for side in prediction.sides for value in side)
    for group, instances in _groups(row, count):
        known = 1.0 if values and fits else 0.0
        if _kept(LABELLED, group, meaning):
            found[SeriesKey(arm, group, LABELLED)] = (1.0, known, known)
        if not group and chosen:
            found[SeriesKey(arm, group, SELECTED)] = (1.0, known, known)
        if not group and values and not fits:
            found[SeriesKey(arm, group, MISMATCHED)] = (1.0, 1.0, 1.0)
        if not known:
            continue
        for metric in meaning.wanted:
            if _kept(metric, group, meaning):
                for side, y in _observed(metric, prediction, values, instances, meaning):
                    found[SeriesKey(side, group, metric)] = (1.0, y, y * y)
        if not group and meaning.outcome == "binary":
            found |= _binned(prediction, values, meaning)
    return found


def _marks(row: Joined) -> int:
    label = row.label
    valued = VALUED if label is not None and label.values else 0
    grouped = GROUPED if label is not None and label.groups else 0
    return row.folded | COUNTED | valued | grouped


def _add(into: Evidence, before: Joined, after: Joined, meaning: Meaning) -> None:
    old, nothing = terms(before, meaning), (0.0, 0.0, 0.0)
    prediction = after.prediction
    paired = prediction.kind == PAIR
    for key, new in terms(after, meaning).items():
        n, y, square = (a - b for a, b in zip(new, old.get(key, nothing), strict=True))
        if not (n or y or square):
            continue
        shown = key.metric.startswith(_RELIABILITY)  # and decides nothing, so needs no variance
        clusters = CLUSTERS if (paired or meaning.sticky) and not shown else 1
        at = (prediction.batch if paired else prediction.unit) % clusters
        series = into.series.get(key)
        if series is None:
            series = into.series[key] = Series(*([0.0] * clusters for _ in range(3)))
        series.n[at] += n
        series.sum[at] += y
        series.square[at] += square


def _copied(service: str, held: Evidence | None, like: Prediction, now: float) -> Evidence:
    series = {} if held is None else {
        key: Series(list(one.n), list(one.sum), list(one.square)) for key, one in held.series.items()
    }  # fmt: skip
    return Evidence(
        wire=WIRE, service=service, rollout=like.rollout, epoch=like.epoch,
        source=LABELS, published=now, watermark=now, series=series,
    )  # fmt: skip


def _groups(row: Joined, count: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every group with the instances in it; '' is all. What the request told stands before feedback."""
    everything = tuple(range(count))
    yield "", everything
    told: set[str] = set()
    for one in row.prediction.groups:
        if isinstance(one, str):
            told.add(one.partition("=")[0])
            yield one, everything
            continue
        told.update(name.partition("=")[0] for name in one)
        for group in dict.fromkeys(one):
            yield group, tuple(at for at, name in enumerate(one) if name == group)
    if row.label is not None and row.folded & GROUPED:
        for group in row.label.groups:
            if group.partition("=")[0] not in told:
                yield group, everything


def _kept(metric: str, group: str, meaning: Meaning) -> bool:
    return not group or group.partition("=")[0] in meaning.sliced.get(metric, ())


def _observed(
    metric: str,
    prediction: Prediction,
    values: Sequence[float | str],
    instances: Sequence[int],
    meaning: Meaning,
) -> Iterator[tuple[ArmKey, float]]:
    """(arm, y) of a request; nothing where none of its instances has a y."""
    sides = [
        [
            _score(metric, _at(side, at), values[at], _stated(prediction, number, at), meaning)
            for at in instances
        ]
        for number, side in enumerate(prediction.sides)
    ]
    if prediction.kind != PAIR:
        mine = [y for y in sides[0] if y is not None]
        if mine:
            yield "candidate" if prediction.arm else "stable", sum(mine) / len(mine)
        return
    if metric == INSIDE:
        theirs = [y for y in sides[1] if y is not None]
        if theirs:
            yield "pair", sum(theirs) / len(theirs)
        return
    both = [(s, c) for s, c in zip(sides[0], sides[1], strict=True) if s is not None and c is not None]
    if both:
        factor = 2.0 if metric == CALIBRATION else 1.0
        yield "pair", factor * sum(c - s for s, c in both) / len(both)
        yield "paired_stable", sum(s for s, _ in both) / len(both)


def reliability(k: int) -> str:
    """The series of a bin of probabilities."""
    return f"{_RELIABILITY}{k}"


def _binned(prediction: Prediction, values: Sequence[float | str], meaning: Meaning) -> dict[SeriesKey, Term]:
    """Each arm's mean (1 + p - o) / 2 over the instances in each bin of p."""
    arms: tuple[ArmKey, ...] = ("candidate" if prediction.arm else "stable",)
    if prediction.kind == PAIR:
        arms = ("paired_stable", "pair")
    found: dict[SeriesKey, Term] = {}
    for arm, side in zip(arms, prediction.sides, strict=True):
        bins: dict[int, list[float]] = {}
        for at, outcome in enumerate(values):
            value = _at(side, at)
            error = None if value is None else _error(value, outcome, meaning)
            if error is not None and isinstance(outcome, float):
                bins.setdefault(min(BINS - 1, int((error + outcome) * BINS)), []).append((1.0 + error) / 2.0)
        for k, each in bins.items():
            y = sum(each) / len(each)
            found[SeriesKey(arm, "", reliability(k))] = (1.0, y, y * y)
    return found


def _at(values: Sequence[T], at: int) -> T | None:
    return values[at] if at < len(values) else None


def _stated(prediction: Prediction, side: int, at: int) -> Stated:
    return _at(prediction.stated[side], at) if side < len(prediction.stated) else None


def _score(metric: str, value: Value, outcome: float | str, stated: Stated, meaning: Meaning) -> float | None:
    """One instance's y; None where it has none."""
    if metric == INSIDE:
        if stated is None or isinstance(outcome, str):
            return None
        return float(stated[0] <= outcome <= stated[1])
    if value is None:
        return None
    if metric in {"outcome.brier", CALIBRATION}:
        error = _error(value, outcome, meaning)
        if error is None:
            return None
        return error * error if metric == "outcome.brier" else (1.0 + error) / 2.0
    if metric == "outcome.accuracy":
        return _right(value, outcome, meaning)
    true = outcome == 1.0 if meaning.outcome == "binary" else _positive(outcome, meaning)
    flagged = _positive(value, meaning)
    if true is None or flagged is None or true != (metric == "outcome.recall"):
        return None
    return float(flagged)


def _right(value: float | str, outcome: float | str, meaning: Meaning) -> float | None:
    if meaning.outcome == "label":
        return float(str(value) == str(outcome))
    if meaning.outcome == "binary":
        flagged = _positive(value, meaning)
        return None if flagged is None else float(flagged == (outcome == 1.0))
    if meaning.agree_within is None or isinstance(value, str) or isinstance(outcome, str):
        return None
    return float(abs(value - outcome) <= meaning.agree_within)


def _error(value: float | str, outcome: float | str, meaning: Meaning) -> float | None:
    """Prediction less outcome, of numbers as 0..1."""
    if isinstance(value, str) or isinstance(outcome, str) or meaning.limits is None:
        return None
    true = outcome if meaning.outcome == "binary" else scaled(outcome, meaning.limits)
    return scaled(value, meaning.limits) - true


def _positive(value: Value, meaning: Meaning) -> bool | None:
    """Whether a value is selected; None where nothing says so."""
    rule = meaning.selected
    if value is None or rule is None:
        return None
    if isinstance(value, str) or isinstance(rule.operand, str):
        return _COMPARE[rule.operator](str(value), str(rule.operand))
    return _COMPARE[rule.operator](value, rule.operand)
