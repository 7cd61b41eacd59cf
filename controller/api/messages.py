"""What the API takes: bodies of requests, and the list of operations. Bodies of answers are in `shown`."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from ...store.labels import LabelCounts
from ..labels.feedback import FeedbackRequest
from ..plan.assumed import Given
from ..plan.planned import Plan
from .openapi import Operation
from .shown import Controllers, Explained, Health, History, Rollouts, RolloutView, Services

Text = Annotated[str, Field(max_length=1000)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ActRequest(_Request):
    """Who acts and why. Where the API has tokens, whoever the token was given to acts, not `actor`."""

    actor: Annotated[str, Field(max_length=200)] = ""
    reason: Text = ""


class ApproveRequest(ActRequest):
    """`step`: as shown, from 1; what waits in another step is not approved. None: whichever waits."""

    step: Annotated[int, Field(ge=1)] | None = None


class PromoteRequest(ActRequest):
    """`full`: to the end instead of to the next step."""

    full: bool = False


class StartRequest(ActRequest):
    """A start. The policy: its name, or its text with the file it is from, or the one the service names."""

    candidate: Annotated[str, Field(min_length=1, max_length=200)]
    policy: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    policy_text: str | None = None
    policy_file: Text = "policy.yaml"


class PlanRequest(_Request):
    """What to plan. The policy as for a start; `given`: numbers that go before measured ones."""

    policy: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    policy_text: str | None = None
    policy_file: Text = "policy.yaml"
    given: Given = Given()


SERVICE = "/api/v1/services/{service}"
OPERATIONS: Final = (
    Operation("GET", "/api/v1/services", "All services", Services),
    Operation("GET", "/api/v1/controllers", "Who decides, who stands by", Controllers),
    Operation("GET", "/api/v1/rollouts", "All rollouts", Rollouts, query=(("service", "string"),)),
    Operation("POST", f"{SERVICE}/rollouts", "Start a rollout", RolloutView, StartRequest, success=201,
              role="operator"),
    Operation("GET", f"{SERVICE}/rollout", "The newest rollout", RolloutView, query=(("id", "string"),)),
    Operation("POST", f"{SERVICE}/rollout/pause", "Stay, with traffic as it is", RolloutView, ActRequest,
              role="operator"),
    Operation("POST", f"{SERVICE}/rollout/resume", "Go on", RolloutView, ActRequest, role="operator"),
    Operation("POST", f"{SERVICE}/rollout/promote", "Next step, or the end", RolloutView, PromoteRequest,
              role="operator"),
    Operation("POST", f"{SERVICE}/rollout/approve", "Approve the step at hand", RolloutView, ApproveRequest,
              role="approver"),
    Operation("POST", f"{SERVICE}/rollout/abort", "Stable alone at once", RolloutView, ActRequest,
              role="operator"),
    Operation("POST", f"{SERVICE}/plan", "What a rollout would need; nothing changes", Plan, PlanRequest),
    Operation("POST", f"{SERVICE}/feedback", "Labels that came later", LabelCounts, FeedbackRequest,
              role="operator"),
    Operation("GET", f"{SERVICE}/history", "The audit trail", History, query=(("limit", "integer"),)),
    Operation("GET", f"{SERVICE}/explain", "Why", Explained,
              query=(("id", "string"), ("number", "integer"))),
    Operation("GET", "/healthz", "The loop goes on, with or without a store", Health, role=None),
    Operation("GET", "/readyz", "The store answers and the loop runs", Health, role=None),
)  # fmt: skip
