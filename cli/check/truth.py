"""What is known to be true of a row: a value for each of its instances, read as feedback is."""

from __future__ import annotations

from ...controller.labels.feedback import value_of
from ...policies.outcome import Outcome

Sent = bool | float | str
Label = tuple[float | str, ...]


class Truth:
    """Reads labels by what a service declares; None where it declares nothing."""

    def __init__(self, outcome: Outcome | None) -> None:
        self._outcome = outcome

    def read(self, sent: Sent | list[Sent] | None) -> Label:
        """The values; () where none is known. Raises ValueError, without the value in it."""
        if sent is None:
            return ()
        if self._outcome is None:
            raise ValueError(
                "has a label, and the service declares no outcome; write outcome: {type: binary} into its "
                "file"
            )
        several = sent if isinstance(sent, list) else [sent]
        kind = self._outcome.type
        try:
            return tuple(value_of(kind, one) for one in several)
        except ValueError as problem:
            raise ValueError(f"its label: {problem}") from None
