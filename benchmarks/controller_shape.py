"""What many rollouts measure: files and records of each, by shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from accede.store.rollouts import EpochRecord, FrozenConstants, Phase

WEIGHTS: Final = (0.05, 0.25, 0.5)
PER_SECOND: Final = 20.0  # requests of one service
BATCH: Final = 5.0  # s
START: Final = 1.8e9
RATES: Final = {"errors": 0.01, "missing": 0.001}
SPREAD: Final = 0.15


@dataclass(frozen=True)
class Shape:
    """What each service measures: four metrics and its `own`, by `slices` of ten groups each.

    `shadow`: whether the policy begins with one: the rollout is in it, or after it in the last canary step.
    """

    slices: int
    own: int
    shadow: Literal["none", "in", "after"] = "none"

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(f"s{k}=g{g}" for k in range(self.slices) for g in range(10))

    @property
    def shares(self) -> tuple[str, ...]:
        return tuple(f"share{k}" for k in range(self.own // 2))

    @property
    def numbers(self) -> tuple[str, ...]:
        return tuple(f"number{k}" for k in range(self.own - self.own // 2))

    @property
    def events(self) -> dict[str, float]:
        """Series of events of single requests, with their rates."""
        return {"selected": 0.3, **{f"metrics.{name}": 0.1 for name in self.shares}}

    @property
    def amounts(self) -> tuple[str, ...]:
        """Series of values of single requests."""
        return ("mean", *(f"metrics.{name}" for name in self.numbers))

    @property
    def weights(self) -> tuple[float, ...]:
        """Of the steps that have begun: 0 in a shadow."""
        return {"none": WEIGHTS, "in": (0.0,), "after": (0.0, *WEIGHTS)}[self.shadow]

    @property
    def phase(self) -> Phase:
        """Where the rollouts are."""
        return Phase.SHADOW if self.shadow == "in" else Phase.CANARY

    @property
    def epochs(self) -> tuple[EpochRecord, ...]:
        """A baseline, closed steps, and the one that goes on."""
        weights = self.weights
        opened = [START - 3600.0 * (len(weights) + 1 - k) for k in range(len(weights) + 1)]
        return (
            EpochRecord(0, None, "baseline", 0.0, 0.0, opened[0]),
            *(
                EpochRecord(k + 1, k, "canary" if weight else "shadow", weight, 0.0 if weight else 1.0, at)
                for k, (weight, at) in enumerate(zip(weights, opened[1:], strict=True))
            ),
        )


_GOAL = "20 metrics by 10 groups"
SHAPES: Final = {
    _GOAL: Shape(1, 16),
    "4 metrics by 5 slices of 10 groups": Shape(5, 0),
    f"{_GOAL}, in a shadow": Shape(1, 16, "in"),
    f"{_GOAL}, after a shadow": Shape(1, 16, "after"),
}


def policy_text(shape: Shape) -> str:
    """Each metric by each slice: 200 cells, in each place."""
    margins = {
        "errors": "max_increase: 0.5pp, max_ratio: 1.5", "prediction.missing": "max_increase: 0.5pp",
        "prediction.mean": "max_shift: 0.05sd", "selection_rate": "max_shift: 3pp",
        **{f"metrics.{name}": "max_shift: 3pp" for name in shape.shares},
        **{f"metrics.{name}": "max_shift: 0.05sd" for name in shape.numbers},
    }  # fmt: skip
    gates = [
        f"{{metric: {metric}, by: s{k}, {margin}}}"
        for metric, margin in margins.items()
        for k in range(shape.slices)
    ]
    first = [] if shape.shadow == "none" else ["{shadow: 100%, until: gates, for: 24h}"]
    steps = [*first, *(f"{{canary: {weight:.0%}, for: 1h}}" for weight in WEIGHTS)]
    steps[-1] = steps[-1].replace("for: 1h", "until: gates, for: 24h")
    return "\n".join(
        ("format: accede/v1", "kind: RolloutPolicy", "name: many", f"batch: {BATCH:g}s", "steps:",
         *(f"  - {step}" for step in steps), "gates:", *(f"  - {gate}" for gate in gates), "")
    )  # fmt: skip


def service_text(name: str, shape: Shape) -> str:
    """A service that declares all that the policy reads."""
    values = ", ".join(f"g{g}" for g in range(10))
    metrics = [f"  {one}: {{path: 'a.{one}', type: share}}" for one in shape.shares]
    metrics += [f"  {one}: {{path: 'a.{one}', type: number, range: [0, 1]}}" for one in shape.numbers]
    return "\n".join(
        ("format: accede/v1", "kind: ModelService", f"name: {name}", f"match: {{path: /v1/models/{name}}}",
         "protocol: json", "versions: {'1': {url: 'http://a:1'}, '2': {url: 'http://b:1'}}", "stable: '1'",
         "policy: many.yaml", "side_effects: none",
         "prediction: {path: score, type: number, range: [0, 1], selected: '>= 0.5'}", "slices:",
         *(f"  s{k}: {{path: 's{k}', values: [{values}]}}" for k in range(shape.slices)),
         *(("metrics:", *metrics) if metrics else ()), "")
    )  # fmt: skip


def constants(shape: Shape) -> FrozenConstants:
    """As a baseline of these services would freeze them."""
    rates = {**RATES, **shape.events}
    centres = {**rates, **dict.fromkeys(shape.amounts, 0.4)}
    spread = {**{s: (p * (1 - p)) ** 0.5 for s, p in rates.items()}, **dict.fromkeys(shape.amounts, SPREAD)}
    everywhere = ("", *shape.groups)
    return FrozenConstants(
        limits=(0.0, 1.0), quantiles={}, requests=100_000, edges=tuple(0.1 * k for k in range(1, 10)),
        centres={f"{s}|{g}": p for s, p in centres.items() for g in everywhere},
        deviations={f"{s}|{g}": p for s, p in spread.items() for g in everywhere},
        spans={f"metrics.{name}": 1.0 for name in shape.numbers},
        groups=dict.fromkeys(shape.groups, 0.1),
    )  # fmt: skip
