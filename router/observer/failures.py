"""What counts as an error of the model, by the service's file."""

from __future__ import annotations

from ...store.routes import RouteErrors
from ..facts import Ending

_ANSWERED = int(Ending.ANSWERED)  # comparing with a member of an enumeration takes twice as long
_SUCCESS, _REFUSED = 200, 400


class Failures:
    """Which endings are errors of the model."""

    def __init__(self, errors: RouteErrors) -> None:
        self._statuses = frozenset(code for low, high in errors.ranges for code in range(low, high + 1))
        endings = {Ending.CONNECT: errors.connect, Ending.TIMEOUT: errors.timeout, Ending.TRUNCATED: True}
        self._endings = frozenset(int(ending) for ending, counts in endings.items() if counts)

    def failed(self, ending: int, status: int) -> bool:
        """True where this ending counts as an error."""
        if ending == _ANSWERED:
            return status in self._statuses
        return ending in self._endings

    def fine(self) -> frozenset[int]:
        """Statuses of answers that are neither errors nor refusals."""
        return frozenset(range(_SUCCESS, _REFUSED)) - self._statuses
