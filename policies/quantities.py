"""The written quantities: durations, shares, sizes, margins. Each parses one text into one plain value."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict

Duration = Annotated[float, "seconds; written 500ms, 2s, 10m, 24h, 7d"]
Fraction = Annotated[float, "0..1; written 5%"]
Size = Annotated[int, "bytes; written 64KiB, 8MiB"]
StatusRange = tuple[int, int]  # inclusive; written 500-599 or 503


class Margin(BaseModel):
    """A margin with its unit. pp: value is a fraction (0.5pp -> 0.005); ms: seconds; sd: multiples; plain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    unit: Literal["pp", "ms", "sd", "plain"]


class Comparison(BaseModel):
    """What `selected` means: `>= 0.5` on a number, `== approve` on a label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator: Literal[">=", ">", "<=", "<", "==", "!="]
    operand: float | str


class Clock(BaseModel):
    """What happens when a hold has lasted `after` seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["rollback", "pause"]
    after: float
