"""ModelService: what a team declares about one model it serves. Values only; parsing is in `quantities`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from .quantities import Comparison, Duration, Fraction, Size, StatusRange

Protocol = Literal[
    "tensorflow-serving", "kserve-v1", "open-inference", "mlflow", "torchserve", "bentoml", "openai", "json"
]


class Value(BaseModel):
    """Base of everything read from a file: frozen, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class Match(Value):
    """Which requests belong to the service. `path` is whole segments; at least one of both is given."""

    path: str | None = None
    host: str | None = None


class Version(Value):
    """One version: where it is served, and its training card (free text keys, shown and bound to approvals)."""

    url: str | None = None
    urls: tuple[str, ...] = ()
    card: dict[str, str] = Field(default_factory=dict)

    @property
    def addresses(self) -> tuple[str, ...]:
        """All base URLs, at least one."""
        return (self.url,) if self.url is not None else self.urls


class Unit(Value):
    """What is assigned. `header` None: every request is a unit of its own."""

    header: str | None = None
    missing: Literal["stable", "random"] = "stable"

    @property
    def sticky(self) -> bool:
        """True where one unit makes several requests, which are then not independent."""
        return self.header is not None


class ErrorRule(Value):
    """What counts as an error of the model. 4xx is none unless a status range names it."""

    status: tuple[StatusRange, ...] = ((500, 599),)
    connect: bool = True
    timeout: bool = True
    body: None = None


class Prediction(Value):
    """Where the prediction is and what it means. `range` holds the frozen limits where declared."""

    path: str | None = None  # the protocol gives a default
    type: Literal["number", "label", "labels", "vector", "text"] = "number"
    range: tuple[float, float] | None = None
    selected: Comparison | None = None
    agree_within: float | None = Field(default=None, ge=0)


class Slice(Value):
    """Subgroups for analysis: listed values of a request field, or bins of a number."""

    path: str | None = None
    values: tuple[str, ...] = ()
    reference: str | None = None
    bins: tuple[float, ...] = ()
    cross: tuple[str, ...] = ()


class Limits(Value):
    """Bounds of one request. `deadline` in seconds, `body` in bytes."""

    deadline: Duration = 30.0
    body: Size = 8 * 2**20
    per_key_rps: float | None = None


class Capture(Value):
    """How much of an exchange the analysis may see: bytes of each body, share of requests."""

    request: Size = 64 * 2**10
    response: Size = 256 * 2**10
    sample: Fraction = 1.0


class Mirror(Value):
    """Bounds of mirroring; what exceeds them is dropped and counted, never queued."""

    max_in_flight: Annotated[int, Field(gt=0)] = 256
    max_bytes: Size = 64 * 2**20
    max_rps: float | None = Field(default=None, gt=0)
    min_coverage: Fraction = 0.95


class ModelService(Value):
    """One service file."""

    format: Literal["accede/v1"]
    kind: Literal["ModelService"]
    name: str
    match: Match
    protocol: Protocol
    versions: dict[str, Version]
    stable: str
    candidate: str | None = None
    policy: str | None = None
    unit: Unit = Unit()
    side_effects: Literal["none", "shadow-aware", "writes"] = "writes"
    errors: ErrorRule = ErrorRule()
    prediction: Prediction = Prediction()
    slices: dict[str, Slice] = Field(default_factory=dict)
    limits: Limits = Limits()
    capture: Capture = Capture()
    mirror: Mirror = Mirror()
