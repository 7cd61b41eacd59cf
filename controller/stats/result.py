"""The result of a computation that its data do not permit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NotComputable:
    """Says that the data cannot answer the question, and why.

    A type of its own, so that missing evidence can never be read as "no difference" (p = 1) or slip
    through a comparison (NaN).
    """

    reason: str
