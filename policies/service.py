"""ModelService: what a team declares about one model it serves.

Values only: quantities parse themselves (`quantities`), what must fit together is in `service_rules`.
The descriptions are what an editor shows; `schema` exports them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema, model_validator

from .network import Balance, Forwarding, Override, Readiness, Tls
from .outcome import Outcome
from .quantities import Duration, Fraction, Size, StatusRange, Value, WrittenComparison, found

Protocol = Literal[
    "tensorflow-serving",
    "kserve-v1",
    "open-inference",
    "mlflow",
    "torchserve",
    "bentoml",
    "sagemaker",
    "openai",
    "json",
]

NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,62}$"
Name = Annotated[str, WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]


class Match(Value):
    """Which requests belong to the service. `path` is whole segments; at least one of both is given."""

    path: str | None = Field(
        default=None,
        description="Path prefix in whole segments: /v1/models/fraud is not /v1/models/fraud-eu.",
        examples=["/v1/models/fraud"],
    )
    host: str | None = Field(default=None, description="Host name of the request, without a port.")


class Version(Value):
    """One version: where it is served, and its training card."""

    url: str | None = Field(
        default=None,
        description="Base URL: http://host:port or https://host:port, nothing after it.",
        examples=["http://tf-a:8501"],
    )
    urls: tuple[str, ...] = Field(
        default=(), description="Instead of url: several base URLs, between which requests are balanced."
    )
    tls: Tls = Field(default=Tls(), description="How https addresses of this version are verified.")
    model: str | None = Field(
        default=None,
        description="openai: the name to put into the request's model field for this version.",
        examples=["support-llm-2026-05"],
    )
    card: dict[str, str] = Field(
        default_factory=dict,
        description="Free text about the version. trained_on goes into its answers' headers, digest names "
        "a candidate that was tried before.",
    )

    @property
    def addresses(self) -> tuple[str, ...]:
        """All base URLs, at least one."""
        return (self.url,) if self.url is not None else self.urls


class Unit(Value):
    """What is assigned: a header's, cookie's or request field's value, or (`unit: request`) every request."""

    header: str | None = Field(
        default=None,
        description="Request header whose value keeps a user on one side.",
        examples=["x-user-id"],
    )
    cookie: str | None = Field(
        default=None, description="Instead of header: the cookie with that value.", examples=["session"]
    )
    path: str | None = Field(
        default=None,
        description="Instead of header: where the value stands in the JSON request. The router then waits "
        "for the whole request before it chooses a version.",
        examples=["user.id"],
    )
    salt: Literal["rollout", "none"] = Field(
        default="rollout",
        description="rollout: every rollout draws its own users; none: the same users each time, as Envoy's "
        "weighted clusters choose them.",
    )
    missing: Literal["stable", "random"] = Field(
        default="stable", description="Where a request without that value goes; it is never analysed."
    )

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: object) -> object:
        if isinstance(value, str):
            if value != "request":
                raise ValueError(
                    f"found {found(value)}; allowed: request, {{header: x-user-id}}, {{cookie: session}} or "
                    "{path: user.id}"
                )
            return {}
        return value

    @property
    def sticky(self) -> bool:
        """True where one unit makes several requests, which are then not independent."""
        return self.header is not None or self.cookie is not None or self.path is not None


class ErrorRule(Value):
    """What counts as an error of the model. 4xx is none unless a status range names it."""

    status: tuple[StatusRange, ...] = Field(
        default=((500, 599),), description="Statuses of the model server that are errors."
    )
    connect: bool = Field(default=True, description="A connection that fails is an error.")
    timeout: bool = Field(default=True, description="An answer that does not come in time is an error.")
    body: None = Field(default=None, description="Errors told in the body come later; only null is allowed.")


class Prediction(Value):
    """Where the prediction is and what it means. `range` holds the frozen limits where declared."""

    path: str | None = Field(
        default=None,
        description="Where the prediction stands in the answer; [*] takes every instance. "
        "The protocol gives a default.",
        examples=["predictions[0].score", "predictions[*]"],
    )
    type: Literal["number", "label", "labels", "vector", "text"] = Field(
        default="number",
        description="What a prediction is: number, label, labels (a set), vector or text. The last three are "
        "compared, by prediction.agreement and prediction.missing, and have no mean or distribution.",
    )
    range: tuple[float, float] | None = Field(
        default=None, description="Limits of the number, low and high; values beyond count as the limit."
    )
    selected: WrittenComparison | None = Field(
        default=None, description="Which predictions count as selected for selection_rate."
    )
    agree_within: float | None = Field(
        default=None,
        ge=0,
        description="Two numbers agree when they differ by no more than this; two vectors when their cosine "
        "distance (0 to 2) is no more than this.",
    )


class Slice(Value):
    """Subgroups for analysis: listed values of a request field, or bins of a number."""

    path: str | None = Field(
        default=None, description="Where the value stands in the request.", examples=["instances[0].sex"]
    )
    source: Literal["request", "labels"] = Field(
        default="request",
        validation_alias="from",
        serialization_alias="from",
        description="labels: only feedback tells the group of a request, so that it enters no router; gates "
        "on outcomes can be by it.",
    )
    values: tuple[str, ...] = Field(default=(), description="The groups, at least two; the rest is `other`.")
    reference: str | None = Field(
        default=None,
        description="The group that selection_ratio and selection_gap compare each other group with; without "
        "it they compare all pairs.",
    )
    bins: tuple[float, ...] = Field(
        default=(), description="Edges of groups of a number: [0, 25] gives 0 to under 25, and 25 and more."
    )
    cross: tuple[str, ...] = Field(
        default=(),
        description="Names of other slices; groups are the combinations of theirs, such as female/[25,40).",
        examples=[["sex", "age_band"]],
    )


class Uncertainty(Value):
    """Where answers state how sure they are."""

    path: str = Field(
        description="Where it stands in the answer: a standard deviation, or an interval {low, high}, in the "
        "prediction's unit.",
        examples=["predictions[0].std"],
    )


class Importances(Value):
    """Where answers explain themselves."""

    path: str = Field(
        description="Where it stands in the answer: a number per feature, as a mapping of names or a list. "
        "Its size says how important the feature was.",
        examples=["explanations[0]"],
    )


class OwnMetric(Value):
    """One metric of the service's own, read from answers."""

    path: str = Field(description="Where it stands in the answer.", examples=["predictions[0].refused"])
    type: Literal["share", "number"] = Field(
        description="share: true, false or a number from 0 to 1; number: any, within `range`."
    )
    range: tuple[float, float] | None = Field(
        default=None, description="Limits of a number, low and high; values beyond count as the limit."
    )


class Limits(Value):
    """Bounds of one request. `deadline` in seconds, `body` in bytes."""

    deadline: Annotated[Duration, Field(gt=0)] = Field(
        default=30.0, description="How long the model server may take for one request."
    )
    first_byte: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None,
        description="How long it may take until its answer begins; without it only the deadline counts.",
    )
    idle: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None,
        description="How long an answer that has begun may pause; without it only the deadline counts.",
    )
    body: Annotated[Size, Field(gt=0)] = Field(default=8 * 2**20, description="The largest request body.")
    per_key_rps: float | None = Field(default=None, gt=0, description="Requests per second of one unit.")


class Capture(Value):
    """How much of an exchange the analysis may see: bytes of each body, share of requests."""

    request: Size = Field(default=64 * 2**10, description="Bytes of a request body that are analysed.")
    response: Size = Field(default=256 * 2**10, description="Bytes of an answer that are analysed.")
    sample: Annotated[Fraction, Field(gt=0)] = Field(
        default=1.0, description="Share of requests whose bodies are analysed."
    )


class Mirror(Value):
    """Bounds of mirroring; what exceeds them is dropped and counted, never queued."""

    max_in_flight: int = Field(default=256, gt=0, description="Mirrored requests at one time.")
    max_bytes: Annotated[Size, Field(gt=0)] = Field(
        default=64 * 2**20, description="Bytes of all mirrored requests at one time."
    )
    max_rps: float | None = Field(default=None, gt=0, description="Mirrored requests per second.")
    min_coverage: Fraction = Field(
        default=0.95, description="Below this share of pairs, gates on the shadow are inconclusive."
    )
    strip: tuple[str, ...] = Field(
        default=(),
        description="Request headers that copies must not carry, such as credentials.",
        examples=[["authorization", "cookie"]],
    )
    noise_floor: Fraction = Field(
        default=0.0,
        description="Share of mirrored requests that also go to stable a second time: how much two answers "
        "of one version differ.",
    )
    warm_up: int = Field(
        default=0,
        ge=0,
        description="So many first copies of every worker warm the candidate up and are not counted.",
    )


class Input(Value):
    """One input feature whose distribution is compared between the arms and with the training card."""

    path: str = Field(description="Where the value stands in the request.", examples=["instances[*].amount"])
    type: Literal["number", "category"] = Field(default="number", description="What kind of value it is.")
    range: tuple[float, float] | None = Field(
        default=None, description="Expected limits of a number, low and high; others are counted as outside."
    )
    values: tuple[str, ...] = Field(default=(), description="Expected categories; others are counted as new.")


class Recording(Value):
    """A sampled and redacted copy of traffic on disk, for simulations and audits. Nothing by default."""

    sample: Fraction = Field(default=0.0, description="Share of prediction calls that are recorded.")
    request: tuple[str, ...] = Field(
        default=(), description="Request fields to keep; everything else is dropped.", examples=[["amount"]]
    )
    response: tuple[str, ...] = Field(default=(), description="Answer fields to keep.")
    hashed: tuple[str, ...] = Field(
        default=(),
        description="Of these fields only a keyed hash is written; the key is the router's own.",
    )
    max_bytes: Annotated[Size, Field(gt=0)] = Field(
        default=256 * 2**20, description="All recorded files of the service together; the oldest go first."
    )


class ModelService(Value):
    """One service file: a model, its versions, and how to read its requests and answers."""

    format: Literal["accede/v1"] = Field(description="The version of this language.")
    kind: Literal["ModelService"] = Field(description="What this file declares.")
    name: Name = Field(description="The name used in commands.", examples=["fraud"])
    match: Match = Field(description="Which requests belong to the service.")
    protocol: Protocol = Field(description="How the model server speaks.")
    versions: dict[str, Version] = Field(
        description="The versions by name; quote names that look like numbers."
    )
    stable: str = Field(description="The version that serves until the first rollout; later the store knows.")
    candidate: str | None = Field(
        default=None, description="Optional: changing it in Git starts a rollout by `policy`."
    )
    policy: str | None = Field(
        default=None,
        description="The rollout policy: a file, or the name of one that ships with Accede.",
        examples=["policies/guarded.yaml", "guarded"],
    )
    unit: Unit = Field(default=Unit(), description="What is assigned to a side: every request, or a user.")
    side_effects: Literal["none", "shadow-aware", "writes"] = Field(
        default="writes",
        description="What a mirrored request could do; writes: never mirror, retry or fall back.",
    )
    errors: ErrorRule = Field(default=ErrorRule(), description="What counts as an error.")
    prediction: Prediction = Field(
        default=Prediction(), description="Where the prediction is and what it means."
    )
    uncertainty: Uncertainty | None = Field(
        default=None, description="Where answers state how sure they are, where they do."
    )
    explanation: Importances | None = Field(
        default=None, description="Where answers explain themselves, where they do."
    )
    outcome: Outcome | None = Field(
        default=None, description="What turns out to be true later: labels, as `accede feedback` sends them."
    )
    metrics: dict[str, OwnMetric] = Field(
        default_factory=dict, description="Metrics of your own, read from answers, at most 16."
    )
    slices: dict[str, Slice] = Field(default_factory=dict, description="Subgroups for analysis, at most 20.")
    limits: Limits = Field(default=Limits(), description="Bounds of one request.")
    capture: Capture = Field(default=Capture(), description="How much of an exchange the analysis sees.")
    mirror: Mirror = Field(default=Mirror(), description="Bounds of mirroring.")
    fallback: bool = Field(
        default=True,
        description="Stable answers where the candidate cannot (side_effects: none only); it still counts "
        "against the candidate.",
    )
    balance: Balance = Field(default=Balance(), description="Balancing between several URLs of a version.")
    readiness: Readiness = Field(default=Readiness(), description="Probes of the model servers.")
    forwarding: Forwarding = Field(default=Forwarding(), description="Headers that the router adds.")
    override: Override | None = Field(
        default=None, description="Lets callers with a token choose the version; never analysed."
    )
    inputs: dict[str, Input] = Field(
        default_factory=dict, description="Input features to compare between the arms, at most 32."
    )
    recording: Recording = Field(default=Recording(), description="A sampled copy of traffic on disk.")
