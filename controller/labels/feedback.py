"""Feedback as it comes in: checked by what the service declares, whole or not at all, before any is kept.

No value of a group and no text that was sent stands in an error: it may be what a person is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from ...errors import UsageError
from ...policies.groups import OTHER, groups_of_slice
from ...policies.outcome import OutcomeType
from ...policies.service import ModelService, Slice
from ...store.labels import MOST_INSTANCES, Label, LabelCounts, request_key
from ...store.protocol import Store

MOST_LABELS: Final = 10_000  # of one request
MOST_NAMED: Final = 20  # wrong labels that an error names

Sent = bool | float | str

_BINARY: Final = {"1": 1.0, "0": 0.0, "true": 1.0, "false": 0.0}
_ALLOWED: Final[Mapping[OutcomeType, str]] = {
    "binary": "1, 0, true or false",
    "number": "a number",
    "label": "a text",
}


class SentLabel(BaseModel):
    """What was true for one request: a value, or one for each of its instances.

    `groups`: slice -> group, of attributes that only feedback knows. `at`: what an error calls this label,
    such as the file and line it is from.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: Annotated[str, Field(min_length=1, max_length=1000)]
    value: Sent | Annotated[list[Sent], Field(min_length=1, max_length=MOST_INSTANCES)] | None = None
    groups: Annotated[dict[str, str], Field(max_length=20)] = Field(default_factory=dict)
    at: Annotated[str, Field(max_length=1000)] = ""


class FeedbackRequest(BaseModel):
    """Labels of one service; the same again changes nothing."""

    model_config = ConfigDict(extra="forbid", strict=True)

    labels: Annotated[list[SentLabel], Field(min_length=1, max_length=MOST_LABELS)]


def take(store: Store, service: ModelService, request: FeedbackRequest, now: float) -> LabelCounts:
    """Keep what is new. Raises UsageError naming every wrong label, and nothing is kept."""
    outcome = service.outcome
    if outcome is None:
        raise UsageError(
            f"service {service.name!r} declares no outcome, so no label can be read; "
            "write outcome: {type: binary} into its file"
        )
    labels = read(service.name, outcome.type, service.slices, request.labels)
    return store.labels.add_labels(service.name, labels, now + outcome.keep)


def read(
    service: str, kind: OutcomeType, slices: Mapping[str, Slice], sent: Sequence[SentLabel]
) -> list[Label]:
    """Labels as they are kept. Raises UsageError naming every wrong one, at most MOST_NAMED."""
    labels: list[Label] = []
    wrong: list[str] = []
    for index, one in enumerate(sent):
        try:
            labels.append(_label(service, kind, slices, one))
        except ValueError as problem:
            wrong.append(f"{one.at or f'labels[{index}]'}: {problem}")
    if wrong:
        more = len(wrong) - MOST_NAMED
        told = [*wrong[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])]
        raise UsageError("\n".join(told))
    return labels


def value_of(kind: OutcomeType, sent: Sent) -> float | str:
    """One value as it is kept: binary as 1.0 or 0.0. Raises ValueError with what is allowed."""
    if kind == "label":
        if isinstance(sent, str) and sent:
            return sent
    elif kind == "binary":
        known = _BINARY.get(sent.strip().lower()) if isinstance(sent, str) else float(sent)
        if known in {0.0, 1.0}:
            return float(known == 1.0)
    elif not isinstance(sent, bool):
        try:
            # 1_000 is a number to Python alone.
            number = float("inf") if isinstance(sent, str) and "_" in sent else float(sent)
        except ValueError:
            number = float("inf")
        if isfinite(number):
            return number
    raise ValueError(f"the value is {_kind(sent)}; allowed for an outcome of type {kind}: {_ALLOWED[kind]}")


def _label(service: str, kind: OutcomeType, slices: Mapping[str, Slice], sent: SentLabel) -> Label:
    given = sent.value if isinstance(sent.value, list) else [] if sent.value is None else [sent.value]
    values = tuple(value_of(kind, one) for one in given)
    if not values and not sent.groups:
        raise ValueError("has neither a value nor groups")
    return Label(request_key(service, sent.request_id), values, groups_of(sent.groups, slices))


def groups_of(sent: Mapping[str, str], slices: Mapping[str, Slice]) -> tuple[str, ...]:
    """Groups as they are kept, `slice=group`. Raises ValueError with what is allowed."""
    return tuple(f"{name}={_group(name, group, slices)}" for name, group in sorted(sent.items()))


def _group(name: str, group: str, slices: Mapping[str, Slice]) -> str:
    if name not in slices:
        raise ValueError(f"no slice {name!r}; the service has: {', '.join(slices) or 'none'}")
    known = (*groups_of_slice(name, slices), OTHER)
    if group not in known:
        raise ValueError(f"no such group of slice {name!r}; allowed: {', '.join(known)}")
    return group


def _kind(sent: Sent) -> str:
    if isinstance(sent, bool):
        return "true or false"
    if isinstance(sent, str):
        return "a text" if sent else "empty"
    return f"the number {sent:g}"
