"""The stored form of services and policies: JSON with every value, defaults included.

A decision is replayed from the policy it was made under, so the form says everything and does not
depend on what a later version takes as default.
"""

from __future__ import annotations

import hashlib
import json
from typing import TypeVar

from pydantic import ValidationError

from ..errors import WireError
from .policy import RolloutPolicy
from .quantities import Value
from .service import ModelService

_Model = TypeVar("_Model", bound=Value)


def canonical(value: ModelService | RolloutPolicy) -> str:
    """JSON with sorted keys and no spaces; equal values give equal text. Seconds, shares in 0..1, bytes."""
    plain = value.model_dump(mode="json", by_alias=True)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def policy_hash(policy: RolloutPolicy) -> str:
    """SHA-256 over the canonical form, 64 hexadecimal digits: equal exactly where all values are equal."""
    return hashlib.sha256(canonical(policy).encode()).hexdigest()


def policy_from_canonical(text: str) -> RolloutPolicy:
    """The policy of a canonical form. Raises WireError."""
    return _from(RolloutPolicy, text)


def service_from_canonical(text: str) -> ModelService:
    """The service of a canonical form. Raises WireError."""
    return _from(ModelService, text)


def _from(model: type[_Model], text: str) -> _Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        count = problem.error_count()
        raise WireError(
            f"a stored {model.__name__} cannot be read: {count} wrong value(s), first {place}"
        ) from None
