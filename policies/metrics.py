"""The metrics: what each means, which margins it takes, and where it can be decided.

One table, from which files are checked and the reference is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from .policy import Gate, Place, Step
from .quantities import Margin

MarginKey = Literal["max_increase", "max_decrease", "max_ratio", "max_shift", "min"]
MarginUnit = Literal["pp", "ms", "sd", "plain", "factor", "share"]
MARGIN_KEYS: Final[tuple[MarginKey, ...]] = (
    "max_increase",
    "max_decrease",
    "max_ratio",
    "max_shift",
    "min",
)


@dataclass(frozen=True, slots=True)
class AllowedMargin:
    """One key a gate may give, the units its value may have, and an example as it is written."""

    key: MarginKey
    units: tuple[MarginUnit, ...]
    example: str

    def __str__(self) -> str:
        return f"{self.key}: {self.example}"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `worse`: in which direction a candidate harms (`either`: margins are two-sided).

    `paired`: it compares two answers to one request, so a canary step decides it only with `mirror_back`.
    `between`: it compares groups of a slice with each other, so it needs `by`.
    """

    name: str
    meaning: str
    unit: str
    worse: Literal["higher", "lower", "either"]
    margins: tuple[AllowedMargin, ...]
    places: tuple[Place, ...] = ("shadow", "canary")
    sliced: bool = False
    default: tuple[tuple[MarginKey, Margin | float], ...] = ()
    paired: bool = False
    between: bool = False

    def margin(self, key: MarginKey) -> AllowedMargin | None:
        """What is allowed under one key, or None."""
        return next((allowed for allowed in self.margins if allowed.key == key), None)


def _pp(points: float) -> Margin:
    return Margin(value=points / 100, unit="pp")


_CANARY: Final[tuple[Place, ...]] = ("canary",)

_RATE_INCREASE = (
    AllowedMargin("max_increase", ("pp",), "0.5pp"),
    AllowedMargin("max_ratio", ("factor",), "1.5"),
)
_RATE_DEFAULT: tuple[tuple[MarginKey, Margin | float], ...] = (("max_increase", _pp(0.5)), ("max_ratio", 1.5))
_SHARE_SHIFT = (AllowedMargin("max_shift", ("pp",), "3pp"),)
_AT_LEAST = (AllowedMargin("min", ("share",), "95%"),)
_SCORE_SHIFT = (AllowedMargin("max_shift", ("sd", "plain"), "0.1sd"),)
_PLAIN_INCREASE = (AllowedMargin("max_increase", ("plain",), "0.01"),)
_SHARE_INCREASE = (AllowedMargin("max_increase", ("pp",), "0.5pp"),)
_SHARE_DECREASE = (AllowedMargin("max_decrease", ("pp",), "1pp"),)


def _latency(quantile: str, ratio: float) -> Metric:
    return Metric(
        f"latency.{quantile}",
        f"{quantile} of the time from the last request byte sent to the last answer byte received",
        "ms",
        "higher",
        (AllowedMargin("max_ratio", ("factor",), f"{ratio:g}"),),
        _CANARY,
        default=(("max_ratio", ratio),),
    )


def _first_token(quantile: str, words: str) -> Metric:
    return Metric(
        f"stream.first_token.{quantile}",
        f"{words} from the last request byte sent to the first piece of output, of streams",
        "ms",
        "higher",
        (AllowedMargin("max_ratio", ("factor",), "1.2"),),
        _CANARY,
        default=(("max_ratio", 1.2),),
    )


METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "errors",
        "share of requests that fail, by the service's `errors`",
        "pp",
        "higher",
        _RATE_INCREASE,
        sliced=True,
        default=_RATE_DEFAULT,
    ),
    Metric(
        "client_disconnects",
        "share of requests whose client gave up waiting",
        "pp",
        "higher",
        _RATE_INCREASE,
        _CANARY,
        default=_RATE_DEFAULT,
    ),
    _latency("p50", 1.1),
    _latency("p95", 1.1),
    _latency("p99", 1.2),
    _first_token("p50", "median of the time"),
    _first_token("p95", "p95 of the time"),
    Metric(
        "stream.truncated",
        "share of streams that end early: cut off, or without a word that they are complete",
        "pp",
        "higher",
        _SHARE_INCREASE,
        default=(("max_increase", _pp(0.5)),),
    ),
    Metric(
        "tokens.output",
        "output tokens of an answer",
        "tokens, or sd of stable",
        "either",
        (AllowedMargin("max_shift", ("sd", "plain"), "0.1sd"),),
        default=(("max_shift", Margin(value=0.1, unit="sd")),),
    ),
    Metric(
        "prediction.mean",
        "mean of a numeric prediction",
        "the prediction's own, or sd of stable",
        "either",
        _SCORE_SHIFT,
        sliced=True,
        default=(("max_shift", Margin(value=0.1, unit="sd")),),
    ),
    Metric(
        "prediction.rank",
        "mean rank of a numeric prediction among stable's of the baseline, for heavy tails",
        "rank from 0 to 1, or sd of stable's ranks",
        "either",
        _SCORE_SHIFT,
        default=(("max_shift", Margin(value=0.1, unit="sd")),),
    ),
    Metric(
        "prediction.distribution",
        "share of predictions per decile of stable, or per class",
        "pp",
        "either",
        (AllowedMargin("max_shift", ("pp",), "5pp"),),
    ),
    Metric(
        "prediction.agreement",
        "share of requests on which both versions agree",
        "%",
        "lower",
        _AT_LEAST,
        sliced=True,
        paired=True,
    ),
    Metric(
        "prediction.divergence",
        "share of requests on which both versions disagree, beyond the share on which stable disagrees with "
        "itself",
        "pp",
        "higher",
        (AllowedMargin("max_increase", ("pp",), "2pp"),),
        paired=True,
    ),
    Metric(
        "prediction.missing",
        "share of answers without a usable prediction",
        "pp",
        "higher",
        (AllowedMargin("max_increase", ("pp",), "0.1pp"),),
        sliced=True,
    ),
    Metric(
        "class_share.NAME",
        "share of one class among predicted labels; stable must have shown it in the baseline",
        "pp",
        "either",
        _SHARE_SHIFT,
        sliced=True,
        default=(("max_shift", _pp(3)),),
    ),
    Metric(
        "selection_rate",
        "share of predictions that are `selected`",
        "pp",
        "either",
        _SHARE_SHIFT,
        sliced=True,
        default=(("max_shift", _pp(3)),),
    ),
    Metric(
        "selection_ratio",
        "smallest ratio of selection rates between groups",
        "plain",
        "lower",
        (AllowedMargin("min", ("plain",), "0.8"),),
        sliced=True,
        default=(("min", 0.8),),
        between=True,
    ),
    Metric(
        "selection_gap",
        "largest difference of selection rates between groups, beyond stable's",
        "pp",
        "higher",
        (AllowedMargin("max_increase", ("pp",), "3pp"),),
        sliced=True,
        default=(("max_increase", _pp(3)),),
        between=True,
    ),
    Metric(
        "uncertainty.coverage",
        "share of outcomes inside the stated uncertainty",
        "%",
        "lower",
        _AT_LEAST,
        sliced=True,
    ),
    Metric("outcome.accuracy", "share of correct predictions", "pp", "lower", _SHARE_DECREASE, sliced=True),
    Metric(
        "outcome.brier",
        "mean squared error of probabilities",
        "plain",
        "higher",
        _PLAIN_INCREASE,
        sliced=True,
    ),
    Metric("outcome.recall", "share of true cases found", "pp", "lower", _SHARE_DECREASE, sliced=True),
    Metric(
        "outcome.false_positive_rate",
        "share of false cases flagged",
        "pp",
        "higher",
        _SHARE_INCREASE,
        sliced=True,
    ),
    Metric(
        "outcome.calibration",
        "mean prediction minus mean outcome",
        "plain",
        "either",
        (AllowedMargin("max_shift", ("plain",), "0.01"),),
        sliced=True,
    ),
    Metric(
        "uncertainty.mean",
        "mean of the uncertainty that answers state: a standard deviation, or half an interval",
        "the prediction's own, or sd of stable",
        "either",
        _SCORE_SHIFT,
        default=(("max_shift", Margin(value=0.1, unit="sd")),),
    ),
    Metric(
        "explanation.agreement",
        "how alike both versions rank the features: 1 less Spearman's footrule over its largest value",
        "%",
        "lower",
        (AllowedMargin("min", ("share",), "90%"),),
        paired=True,
    ),
    Metric(
        "metrics.NAME",
        "a metric of the service file's own `metrics`: pp for a share, plain or sd for a number",
        "pp, the number's own, or sd of stable",
        "either",
        (
            AllowedMargin("max_shift", ("pp", "plain", "sd"), "1pp"),
            AllowedMargin("max_increase", ("pp", "plain", "sd"), "1pp"),
        ),
        sliced=True,
    ),
)

NAMES: Final[tuple[str, ...]] = tuple(metric.name for metric in METRICS)
_BY_NAME: Final = {metric.name: metric for metric in METRICS}


def find(name: str) -> Metric | None:
    """The metric of a name as gates write it (`class_share.approve` is `class_share.NAME`), or None."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    family, dot, rest = name.partition(".")
    return _BY_NAME.get(f"{family}.NAME") if dot and rest else None


def metric_of(gate: Gate) -> Metric:
    """The metric of a gate of a checked policy. Raises KeyError for a gate nobody checked."""
    metric = find(gate.metric)
    if metric is None:
        raise KeyError(gate.metric)
    return metric


def places_of(gate: Gate) -> tuple[Place, ...]:
    """Where a gate can be decided: its metric's places, narrowed by `in`."""
    return tuple(place for place in metric_of(gate).places if gate.place in (None, place))


def on_labels(gate: Gate) -> bool:
    """Whether a gate is decided on what feedback tells later."""
    return gate.metric.startswith("outcome.") or gate.metric == "uncertainty.coverage"


def on_pairs(gate: Gate, place: Place) -> bool:
    """Whether a gate is decided on pairs in this place: always in a shadow, there is nothing else."""
    return place == "shadow" or metric_of(gate).paired


def decides(gate: Gate, step: Step) -> bool:
    """Whether a step can decide a gate."""
    there = step.place in places_of(gate)
    return there and (step.place == "shadow" or step.mirror_back is not None or not on_pairs(gate, "canary"))


def deciding_places(gate: Gate, steps: Iterable[Step]) -> tuple[Place, ...]:
    """Where a gate is decided in a policy of these steps, in the order of the table."""
    offered = {step.place for step in steps if decides(gate, step)}
    return tuple(place for place in places_of(gate) if place in offered)


def with_default_margins(gate: Gate) -> Gate:
    """The gate with its metric's default margins where it gives none; unchanged for unknown metrics."""
    metric = find(gate.metric)
    if metric is None or any(getattr(gate, key) is not None for key in MARGIN_KEYS):
        return gate
    return gate.model_copy(update=dict(metric.default))
