"""The step `approve`: how many people have to say yes before a rollout goes on, and who they are."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field, WithJsonSchema

from .quantities import Duration, Value, found, written_duration
from .service import NAME_PATTERN

MOST: Final = 20  # approvals of one step: each is a person, and all stand in the record


def parse_group(value: object) -> str:
    """The name of a group, as other names are. Raises ValueError."""
    if not isinstance(value, str) or re.fullmatch(NAME_PATTERN, value) is None:
        raise ValueError(
            f"found {found(value)}; allowed: lower-case letters, digits and hyphens, such as model-risk, "
            "at most 63"
        )
    return value


Group = Annotated[
    str, BeforeValidator(parse_group), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})
]


class Approve(Value):
    """Who has to approve. Traffic stays as the step before leaves it."""

    group: Group | None = Field(
        default=None,
        description="Approvals of this group of the token file count; without it those of every approver.",
        examples=["model-risk"],
    )
    count: int = Field(default=1, ge=1, le=MOST, description="So many different people have to approve.")
    not_starter: bool = Field(
        default=True, description="Whoever started the rollout does not count. false: they may approve too."
    )
    valid_for: Annotated[Duration, Field(gt=0)] = Field(
        default=86400.0, description="An approval is void when it is this old.", examples=["24h"]
    )

    @property
    def who(self) -> str:
        """As in `2 of model-risk, not the starter`."""
        whose = f"{self.count} of {self.group}" if self.group else f"{self.count} of any group"
        return f"{whose}, not the starter" if self.not_starter else whose

    @property
    def text(self) -> str:
        """The step in a table: `approve by 2 of model-risk, not the starter, valid for 24h`."""
        return f"approve by {self.who}, valid for {written_duration(self.valid_for)}"
