"""What turns out to be true later, and how predictions wait for it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .quantities import Duration, Fraction, Value

OutcomeType = Literal["binary", "number", "label"]


class Outcome(Value):
    """What labels that come later say of a prediction. `keep` in seconds."""

    type: OutcomeType = Field(
        description="binary: 1, 0, true or false; number: as the prediction; label: a text."
    )
    sample: Annotated[Fraction, Field(gt=0)] = Field(
        default=1.0, description="Share of predictions that are kept for labels, the same requests always."
    )
    keep: Annotated[Duration, Field(gt=0)] = Field(
        default=30 * 86400.0, description="How long predictions wait for their labels, and labels for theirs."
    )
