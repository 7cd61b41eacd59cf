"""The traffic of a plan: what was given, else what a baseline of the service measured, else assumptions.

Every number that the plan rests on becomes a `Fact` with its source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import fsum, sqrt
from typing import Final

import msgspec

from ...errors import UsageError
from ...policies.groups import groups_of_slice
from ...policies.label_rules import matures_after
from ...policies.metrics import with_default_margins
from ...policies.policy import RolloutPolicy
from ...policies.quantities import written_duration
from ...policies.service import ModelService
from ...store.evidence import Evidence
from ...store.labels import MAX_PREDICTIONS
from ...store.measurement import is_latency
from ...store.rollouts import EpochRecord, FrozenConstants
from ..analysis.cells import quantile_of, series_of
from ..analysis.freeze import epoch_constants, freeze, references_of, shared_slices
from ..analysis.length import batch_of
from ..analysis.reference import Values
from ..labels.joining import INSIDE
from .assumed import Fact, Given, Source
from .traffic import Traffic, histogram_tail

# Assumptions about a service that nobody has measured. They are printed with every plan that uses them.
RATE: Final = 10.0
ERRORS: Final = 0.01
RARE: Final = 0.001  # answers without a prediction
SELECTED: Final = 0.3
AGREEMENT: Final = 0.98
CORRELATION: Final = 0.9
SPREAD: Final = 0.2  # sd of a score, of its range
UNITS: Final = 10_000.0
WITHIN_UNIT: Final = 0.1
BURSTS: Final = 1.0
HARM: Final = 2.0
LABELLED: Final = 0.9  # of the predictions that are remembered
TRUE_CASES: Final = 0.1
FOUND: Final = {"outcome.accuracy": 0.9, "outcome.recall": 0.7, "outcome.false_positive_rate": 0.05}
ERRORS_OF: Final = {"outcome.brier": (0.08, 0.15), "outcome.calibration": (0.5, 0.15)}  # mean and sd of y
COVERAGE: Final = 0.95  # of stated intervals
_MEDIAN_LATENCY: Final = 0.05
_ROUNDING: Final = 1e-9  # of shares that add up
_OF_CASES: Final = frozenset({"outcome.recall", "outcome.false_positive_rate"})


@dataclass(frozen=True, slots=True)
class Measured:
    """A baseline of an earlier or open rollout: its evidence and how long it was collected."""

    rollout: str
    evidence: Evidence
    seconds: float


def traffic_of(
    policy: RolloutPolicy, service: ModelService, given: Given, measured: Measured | None
) -> Traffic:
    """Traffic for a plan. Raises UsageError where a given slice is none of the service's."""
    return _Made(policy, service, given, measured).traffic()


@dataclass(slots=True)
class _Made:
    policy: RolloutPolicy
    service: ModelService
    given: Given
    measured: Measured | None
    facts: list[Fact] = field(default_factory=list[Fact])

    def traffic(self) -> Traffic:
        rate = self._rate()
        constants, frozen = self._constants()
        source: Source = "measured" if frozen else "assumed"
        constants = self._overridden(constants, source)
        _, thresholds = epoch_constants(self.policy, constants, None)
        tails = {metric: tail for metric in thresholds if frozen and (tail := self._tail(metric)) is not None}
        if thresholds:
            known: Source = "measured" if len(tails) == len(thresholds) else "assumed"
            shape = "stable's histogram" if known == "measured" else "log-normal, p99 3.2 times the median"
            self._fact("latency", shape, known)
        bursts = self._choose(
            "burstiness of errors", self.given.burstiness,
            constants.autocorrelation_time if frozen else None, BURSTS,
        )  # fmt: skip
        pairs = any(step.place == "shadow" or step.mirror_back for step in self.policy.steps)
        agreement = self.given.agreement or AGREEMENT
        correlation = CORRELATION if self.given.correlation is None else self.given.correlation
        if pairs:
            self._choose("agreement of pairs", self.given.agreement, None, AGREEMENT)
            self._choose("correlation of pairs", self.given.correlation, None, CORRELATION)
        units, within = self._units(constants)
        mature, labelled, true_cases = self._labels(rate)
        return Traffic(
            constants, rate, batch_of(self.policy, constants), tuple(self.facts), thresholds, tails,
            agreement, correlation, bursts, units, within, self.given.harm or HARM, self.given.attempt or 0,
            mirrors=self.service.side_effects in {"none", "shadow-aware"},
            mature=mature, labelled=labelled, true_cases=true_cases,
        )  # fmt: skip

    def _rate(self) -> float:
        counts = None if self.measured is None else self.measured.evidence.arms.get("stable")
        seen = None
        if (
            self.measured is not None
            and counts is not None
            and self.measured.seconds > 0.0
            and counts.accounted
        ):
            seen = counts.accounted / self.measured.seconds
        return self._choose("requests a second", self.given.rate, seen, RATE)

    def _constants(self) -> tuple[FrozenConstants, bool]:
        if self.measured is not None:
            # A baseline that is too short for a rollout may still be the best there is for a plan.
            least = self.policy.baseline.model_copy(update={"requests": 1})
            got = freeze(
                self.policy.model_copy(update={"baseline": least}), self.service, self.measured.evidence
            )
            if isinstance(got, FrozenConstants):
                note = f"the baseline of rollout {self.measured.rollout}, {got.requests} requests"
                self._fact("stable's rates and scales", note, "measured")
                return got, True
            self._fact("stable's rates and scales", f"not measured: it lacks {got.reason}", "assumed")
        return self._imagined(), False

    def _imagined(self) -> FrozenConstants:
        gates = [with_default_margins(gate) for gate in self.policy.gates]
        groups = self._groups()
        centres: dict[str, float] = {}
        deviations: dict[str, float] = {}
        numeric = self.service.prediction.type == "number"
        edges = tuple(k / 10 for k in range(1, 10)) if numeric else ()
        named = tuple(dict.fromkeys(m[12:] for g in gates if (m := g.metric).startswith("class_share.")))
        classes = named if numeric else (*named, "a", "b")
        bins = {f"bin.{k}": 0.1 for k in range(max(10, len(named)))}
        if not numeric:
            bins = {f"bin.{k}": 0.99 / len(classes) for k in range(len(classes))} | {"bin.other": 0.01}
        rates = {"errors": ERRORS, "client_disconnects": ERRORS, "stream.truncated": ERRORS, "missing": RARE,
                 "selected": SELECTED, **FOUND, **bins}  # fmt: skip
        owned = [gate.metric for gate in gates if gate.metric.startswith("metrics.")]
        spans = {
            f"metrics.{name}": own.range[1] - own.range[0]
            for name, own in self.service.metrics.items()
            if own.range is not None
        }
        rates |= dict.fromkeys((own for own in owned if own not in spans), SELECTED)
        for group in ("", *groups):
            # Ranks of stable's own values are as good as uniform.
            centres[f"rank|{group}"], deviations[f"rank|{group}"] = 0.5, sqrt(1.0 / 12.0)
            for series, rate in rates.items():
                centres[f"{series}|{group}"], deviations[f"{series}|{group}"] = (
                    rate,
                    sqrt(rate * (1.0 - rate)),
                )
            for series in ("mean", "tokens.output", "uncertainty", *(own for own in owned if own in spans)):
                centres[f"{series}|{group}"], deviations[f"{series}|{group}"] = 0.5, SPREAD
            for series, (mean, sd) in ERRORS_OF.items():
                centres[f"{series}|{group}"], deviations[f"{series}|{group}"] = mean, sd
        latencies = {gate.metric for gate in gates if is_latency(gate.metric)}
        return FrozenConstants(
            limits=self.service.prediction.range or (0.0, 1.0), centres=centres, deviations=deviations,
            quantiles=dict.fromkeys(latencies, _MEDIAN_LATENCY * 2), edges=edges, classes=classes,
            shares=bins, requests=self.policy.baseline.requests, groups=groups,
            sticky=self.service.unit.sticky, tokens=1000.0, spans=spans,
            references=references_of(self.service),
            shared=shared_slices(self.service),
        )  # fmt: skip

    def _groups(self) -> dict[str, float]:
        groups: dict[str, float] = {}
        for name in dict.fromkeys(gate.by for gate in self.policy.gates if gate.by is not None):
            named = [f"{name}={one}" for one in groups_of_slice(name, self.service.slices)]
            groups |= dict.fromkeys(named, 1.0 / max(1, len(named)))
        return groups

    def _overridden(self, constants: FrozenConstants, source: Source) -> FrozenConstants:
        """Given numbers in place of measured or assumed ones; what the policy's gates look at is told."""
        centres, deviations = dict(constants.centres), dict(constants.deviations)
        wanted = {series_of(gate.metric) for gate in self.policy.gates}
        for series, name, rate in (
            ("errors", "error rate", self.given.error_rate),
            ("selected", "selection rate", self.given.selection_rate),
            ("client_disconnects", "client disconnects", None),
            ("missing", "answers without a prediction", None),
            ("stream.truncated", "truncated streams", None),
        ):
            if rate is not None:
                for key in [key for key in centres if key.startswith(f"{series}|")]:
                    centres[key], deviations[key] = rate, sqrt(rate * (1.0 - rate))
            if series in wanted:
                shown = centres.get(f"{series}|", 0.0)
                self._fact(name, f"{shown:.3%}", "given" if rate is not None else source)
        for series in sorted(wanted.intersection({*FOUND, *ERRORS_OF, INSIDE})):
            if series == INSIDE:  # nothing of it is known before a label has come
                sd = sqrt(COVERAGE * (1.0 - COVERAGE))
                for key in (f"{INSIDE}|", *(f"{INSIDE}|{group}" for group in constants.groups)):
                    centres[key], deviations[key] = COVERAGE, sd
            self._fact(
                f"{series}, {'of stated intervals' if series == INSIDE else 'of stable'}",
                f"{centres.get(f'{series}|', 0.5):.3g}, sd {deviations.get(f'{series}|', 0.5):.3g}",
                "assumed" if series == INSIDE else source,
            )
        if "mean" in wanted:
            low, high = constants.limits or (0.0, 1.0)
            if self.given.sd is not None:
                sd = min(0.5, self.given.sd / (high - low))
                deviations |= {key: sd for key in deviations if key.startswith("mean|")}
            shown = deviations.get("mean|", SPREAD) * (high - low)
            self._fact(
                "sd of the prediction", f"{shown:.4g}", "given" if self.given.sd is not None else source
            )
        return msgspec.structs.replace(
            constants, centres=centres, deviations=deviations, groups=self._shares(constants, source)
        )

    def _shares(self, constants: FrozenConstants, source: Source) -> dict[str, float]:
        groups = constants.groups
        unknown = [name for name in self.given.slices if name not in groups]
        if unknown:
            known = ", ".join(groups) or "none, since no gate is by slice"
            raise UsageError(
                f"no group {unknown[0]!r} in service {self.service.name!r}; groups with gates: {known}"
            )
        shares = {**groups, **self.given.slices}
        for slice_ in {name.partition("=")[0] for name in self.given.slices} - {*constants.shared}:
            own = [name for name in groups if name.partition("=")[0] == slice_]
            given = fsum(self.given.slices.get(name, 0.0) for name in own)
            if given > 1.0 + _ROUNDING:
                raise UsageError(
                    f"the groups of slice {slice_!r} are given {given:.3%} of the traffic together; "
                    "at most 100%, as a request is in one of them"
                )
            # The others share what is left as they did: 98% for one group leave no half for the next.
            before = 1.0 - fsum(groups[name] for name in own if name in self.given.slices)
            for name in own:
                if name not in self.given.slices and before > _ROUNDING:
                    shares[name] = max(_ROUNDING, groups[name] * (1.0 - given) / before)
        for name, share in shares.items():
            self._fact(f"share of {name}", f"{share:.2%}", "given" if name in self.given.slices else source)
        return shares

    def _tail(self, metric: str) -> Callable[[float], float] | None:
        assert self.measured is not None  # noqa: S101 (there was something to freeze)
        evidence = self.measured.evidence
        histograms = evidence.latency if metric.startswith("latency.") else evidence.first_token
        return histogram_tail(histograms.get("stable", {}), quantile_of(metric))

    def _units(self, constants: FrozenConstants) -> tuple[float, float]:
        if not constants.sticky:
            return UNITS, 0.0
        units = self._choose("users or sessions that come back", self.given.units, None, UNITS)
        within = self._choose("correlation within one of them", self.given.within_unit, None, WITHIN_UNIT)
        return units, within

    def _labels(self, rate: float) -> tuple[float, float, float]:
        """Age at which labels count, share of requests that get one, share of those that are true cases."""
        mature, outcome = matures_after(self.policy), self.service.outcome
        if mature is None or outcome is None:
            return 0.0, 1.0, 0.5
        self._fact("labels count after", written_duration(mature), "given")
        kept = rate * outcome.sample * min(outcome.keep, self.policy.max_duration)
        least = MAX_PREDICTIONS / kept * outcome.sample
        room = f", room for {MAX_PREDICTIONS}: write outcome.sample: {least:.1%}"
        self._fact(
            "predictions kept", f"{kept:.3g}{room if kept > MAX_PREDICTIONS else ''}", self.facts[0].source
        )
        labelled = self._choose("predictions that get a label", self.given.labelled, None, LABELLED)
        true_cases = 0.5
        if any(gate.metric in _OF_CASES for gate in self.policy.gates):
            true_cases = self._choose("true cases", self.given.true_cases, self._predicted(), TRUE_CASES)
        return mature, labelled * outcome.sample, true_cases

    def _predicted(self) -> float | None:
        """Mean of stable's probabilities, which is the share of true cases if it is calibrated."""
        values = None if self.measured is None else Values.of(self.measured.evidence)
        if values is None or not values.total:
            return None
        mean = sum(v * n for v, n in zip(values.value, values.count, strict=True)) / values.total
        return mean if 0.0 < mean < 1.0 else None

    def _choose(self, name: str, given: float | None, measured: float | None, assumed: float) -> float:
        value, source = next(
            (one, source)
            for one, source in ((given, "given"), (measured, "measured"), (assumed, "assumed"))
            if one is not None
        )
        self.facts.append(Fact(name, f"{value:.4g}", source))  # type: ignore[arg-type]
        return value

    def _fact(self, name: str, value: str, source: Source) -> None:
        self.facts.append(Fact(name, value, source))


def baseline_of(
    rollout: str, epochs: tuple[EpochRecord, ...], evidence: Mapping[int, Evidence]
) -> Measured | None:
    """What a rollout's baseline measured; None where it has not begun to."""
    found = evidence.get(0)
    if found is None or len(epochs) == 0 or "stable" not in found.arms:
        return None
    until = epochs[1].opened_at if len(epochs) > 1 else found.published
    seconds = until - epochs[0].opened_at
    return Measured(rollout, found, seconds) if seconds > 0.0 else None
