"""What is known to be true of a row: a value for each of its instances, and groups, read as feedback is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...controller.labels.feedback import groups_of, value_of
from ...policies.service import ModelService

Sent = bool | float | str


class Label(NamedTuple):
    """`values`: () where none is known. `groups`: `slice=group`, of slices that the request may not tell."""

    values: tuple[float | str, ...] = ()
    groups: tuple[str, ...] = ()


UNKNOWN = Label()


class Truth:
    """Reads labels by what a service declares; None where it declares nothing."""

    def __init__(self, service: ModelService | None) -> None:
        self._outcome = None if service is None else service.outcome
        self._slices = {} if service is None else service.slices

    def read(self, sent: Sent | list[Sent] | None, groups: Mapping[str, str]) -> Label:
        """What is known of a row. Raises ValueError, without the value or the group in it."""
        if sent is None and not groups:
            return UNKNOWN
        if self._outcome is None:
            raise ValueError(
                "has a label, and the service declares no outcome; write outcome: {type: binary} into its "
                "file"
            )
        several = sent if isinstance(sent, list) else [] if sent is None else [sent]
        kind = self._outcome.type
        try:
            return Label(tuple(value_of(kind, one) for one in several), groups_of(groups, self._slices))
        except ValueError as problem:
            raise ValueError(f"its label: {problem}") from None
